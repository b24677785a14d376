"""What was received: one row an object, for ever. The listener writes through one thread with group commit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from triage_node.domain import Instance, InstanceOutcome, SeriesState, require_transition
from triage_node.store.database import Database
from triage_node.store.schema import instance, quarantined, result, revision, series

MAX_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """One object to enter: stored and durable in the spool already."""

    instance: Instance
    quarantined: bool = False
    """The SOP Instance UID was there with other bytes: noted beside the ledger, changes nothing in it."""


def record(database: Database, arrivals: Sequence[Arrived]) -> None:
    """Enter objects in one transaction. Entering the same object again changes nothing."""
    with database.transaction() as connection:
        # by series: every transaction locks its rows in one order
        for arrived in sorted(arrivals, key=lambda arrived: arrived.instance.series_uid):
            if arrived.quarantined:
                _note_quarantined(connection, arrived.instance)
            elif not _enter_instance(connection, arrived.instance):
                _note_stored_again(connection, arrived.instance)
            elif arrived.instance.outcome == InstanceOutcome.SERIES:
                if _grow_series(connection, arrived.instance):
                    _open_revision(connection, arrived.instance)
                else:
                    _note_late(connection, arrived.instance)


def record_all_but_refused(database: Database, arrivals: Sequence[Arrived]) -> list[Arrived]:
    """Enter objects; returns those that the database cannot take, which must not keep out the others.

    Raises OperationalError of SQLAlchemy where the database itself is in trouble.
    """
    try:
        record(database, arrivals)
    except sa.exc.OperationalError:
        raise
    except Exception:  # noqa: BLE001 - drivers raise their own errors for values that they cannot encode
        if len(arrivals) <= 1:
            return list(arrivals)
        return [refused for arrived in arrivals for refused in record_all_but_refused(database, [arrived])]
    return []


def released(database: Database, association: str, at: datetime) -> None:
    """An association ended: the series whose last image it brought are released at `at`."""
    with database.transaction() as connection:
        connection.execute(series.update().where(series.c.association == association).values(released_at=at))


def is_own_result(database: Database, sop_uid: str) -> bool:
    """Whether we issued this SOP Instance UID."""
    with database.reading() as connection:
        return connection.execute(sa.select(result.c.sop_uid).where(result.c.sop_uid == sop_uid)).first() is not None


def unknown(database: Database, sop_uids: Sequence[str]) -> set[str]:
    """Those of `sop_uids` that have no row."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(instance.c.sop_uid).where(instance.c.sop_uid.in_(sop_uids)))
        return set(sop_uids) - {row.sop_uid for row in rows}


def newest(database: Database) -> datetime | None:
    """When the newest object was received."""
    with database.reading() as connection:
        newest_at: datetime | None = connection.execute(sa.select(sa.func.max(instance.c.received_at))).scalar()
        return newest_at


class LedgerWriter:
    """Group commit: objects that arrive while a commit runs share the next one.

    `enter` returns when the row is durable. Raises OSError when the database refuses.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[tuple[Arrived, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def enter(self, arrived: Arrived) -> None:
        """Write one row and wait until it is committed."""
        done: Future[None] = Future()
        self._queue.put((arrived, done))
        done.result()

    def close(self) -> None:
        """Write what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            stop = False
            while len(batch) < MAX_BATCH and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    stop = True
                    break
                batch.append(item)
            self._commit(batch)
            if stop:
                return

    def _commit(self, batch: Sequence[tuple[Arrived, Future[None]]]) -> None:
        """Every waiting association gets an answer; the error's own message would quote values."""
        try:
            refused = record_all_but_refused(self._database, [arrived for arrived, _ in batch])
            why = "the database cannot take the object"
        except Exception as error:  # noqa: BLE001 - thread boundary: the writer must go on
            refused = [arrived for arrived, _ in batch]
            why = f"the database refused ({type(error).__name__})"
        for arrived, done in batch:
            if any(arrived is one for one in refused):
                done.set_exception(OSError(why))
            else:
                done.set_result(None)


# ---------------------------------------------------------------- steps of record


def insert_or_ignore(connection: sa.Connection, table: sa.Table, values: dict[str, object]) -> bool:
    """Insert a row unless a unique constraint has it already; returns whether it was new."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return connection.execute(dialect.insert(table).values(**values).on_conflict_do_nothing()).rowcount == 1


def _note_quarantined(connection: sa.Connection, arrived: Instance) -> None:
    values = {
        "sop_uid": arrived.sop_uid,
        "sha256": arrived.sha256,
        "calling_ae": arrived.calling_ae,
        "received_at": arrived.received_at,
    }
    insert_or_ignore(connection, quarantined, values)


def _enter_instance(connection: sa.Connection, arrived: Instance) -> bool:
    along_normal_mm = None
    if arrived.position_mm is not None and arrived.normal is not None:
        along_normal_mm = float(np.dot(arrived.position_mm, arrived.normal))
    values: dict[str, object] = {
        "sop_uid": arrived.sop_uid,
        "sop_class_uid": arrived.sop_class_uid,
        "transfer_syntax_uid": arrived.transfer_syntax_uid,
        "study_uid": arrived.study_uid,
        "series_uid": arrived.series_uid,
        "modality": arrived.modality,
        "sha256": arrived.sha256,
        "size_bytes": arrived.size_bytes,
        "along_normal_mm": along_normal_mm,
        "calling_ae": arrived.calling_ae,
        "source_address": arrived.source_address,
        "association": arrived.association,
        "received_at": arrived.received_at,
        "outcome": arrived.outcome.value,
    }
    return insert_or_ignore(connection, instance, values)


def _note_stored_again(connection: sa.Connection, arrived: Instance) -> None:
    """Its file may have been removed and is there again: it will be removed again."""
    stored = instance.c.sop_uid == arrived.sop_uid
    if connection.execute(
        instance.update().where(stored, instance.c.removed_at.is_not(None)).values(removed_at=None)
    ).rowcount:
        connection.execute(series.update().where(series.c.series_uid == arrived.series_uid).values(removed_at=None))


def _note_late(connection: sa.Connection, arrived: Instance) -> None:
    """Its series ended, and its images were removed: alone it would only contradict their result."""
    late = instance.update().where(instance.c.sop_uid == arrived.sop_uid)
    connection.execute(late.values(outcome=InstanceOutcome.LATE.value))


def _grow_series(connection: sa.Connection, arrived: Instance) -> bool:
    """Whether the series takes images; not when those that it had are removed."""
    first: dict[str, object] = {
        "series_uid": arrived.series_uid,
        "study_uid": arrived.study_uid,
        "calling_ae": arrived.calling_ae,
        "association": arrived.association,
        "images": 1,
        "first_image_at": arrived.received_at,
        "last_image_at": arrived.received_at,
    }
    if insert_or_ignore(connection, series, first):
        return True
    grown = (
        series.update()
        .where(series.c.series_uid == arrived.series_uid, series.c.removal_at.is_(None))
        .values(
            association=arrived.association,
            images=series.c.images + 1,
            last_image_at=arrived.received_at,
            released_at=None,
        )
    )
    return connection.execute(grown).rowcount == 1


def _open_revision(connection: sa.Connection, arrived: Instance) -> None:
    """A new image belongs to the open revision, or opens the next one when all were published."""
    latest = connection.execute(
        sa.select(revision.c.id, revision.c.revision, revision.c.state)
        .where(revision.c.series_uid == arrived.series_uid)
        .order_by(revision.c.revision.desc())
        .limit(1)
    ).first()
    if latest is None or latest.state in (SeriesState.REPORTED, SeriesState.DELIVERED):
        number = 1 if latest is None else latest.revision + 1
        connection.execute(
            revision.insert().values(
                series_uid=arrived.series_uid, revision=number, state=SeriesState.RECEIVING.value, attempts=0
            )
        )
    elif latest.state == SeriesState.READY:
        require_transition(SeriesState.READY, SeriesState.RECEIVING)
        connection.execute(
            revision.update().where(revision.c.id == latest.id).values(state=SeriesState.RECEIVING.value)
        )
    # RECEIVING: goes on. ANALYZING: publishing will see the new image and go back to RECEIVING.
