"""What was received: one row an object, for ever. The listener writes with group commit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import mul
from typing import Any

import sqlalchemy as sa

from triage_node.domain import Instance, InstanceOutcome, SeriesState, require_transition
from triage_node.store.database import Database, Insert, insert_into
from triage_node.store.schema import Moment, instance, quarantined, result, revision, series, study
from triage_node.store.worklist import UNKNOWN, searchable

MAX_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """One object to enter: stored and durable in the spool already."""

    instance: Instance
    quarantined: bool = False
    """The SOP Instance UID was there with other bytes: noted beside the ledger, changes nothing in it."""


def record(database: Database, arrivals: Sequence[Arrived]) -> None:
    """Enter objects in one transaction. Entering the same object again changes nothing."""
    # in one order, so that listener and web role do not lock each other out with the same images
    by_series = sorted(arrivals, key=lambda arrived: (_series_uid(arrived), arrived.instance.sop_uid))
    grown: list[list[Instance]] = []
    with database.transaction() as connection:
        for _, group in groupby(by_series, key=_series_uid):
            images = [arrived.instance for arrived in group if _enter(connection, arrived)]
            if not images:
                continue
            images.sort(key=lambda image: image.received_at)
            if _grow_series(connection, images):
                _open_revision(connection, images[0].series_uid)
                grown.append(images)
            else:
                _note_late(connection, images)
        for images in sorted(grown, key=lambda images: images[0].study_uid):  # the order of locks, see database
            _grow_study(connection, images)


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


def count_of_series(database: Database, series_uid: str) -> int:
    """How many objects of a series were received."""
    query = sa.select(sa.func.count()).where(instance.c.series_uid == series_uid)
    with database.reading() as connection:
        count: int = connection.execute(query).scalar_one()
        return count


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
        self._waiting: deque[tuple[Arrived, Future[None]]] = deque()
        self._committing = threading.Lock()

    def enter(self, arrived: Arrived) -> None:
        """Write one row and wait until it is committed."""
        done: Future[None] = Future()
        self._waiting.append((arrived, done))
        with self._committing:
            while not done.done():  # else the one before us committed ours with its own
                self._commit([self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))])
        done.result()

    def _commit(self, batch: Sequence[tuple[Arrived, Future[None]]]) -> None:
        """Every waiting association gets an answer; the error's own message would quote values."""
        try:
            refused = record_all_but_refused(self._database, [arrived for arrived, _ in batch])
            why = "the database cannot take the object"
        except Exception as error:  # noqa: BLE001 - boundary of the others' threads: each must hear of it
            refused = [arrived for arrived, _ in batch]
            why = f"the database refused ({type(error).__name__})"
        for arrived, done in batch:
            if any(arrived is one for one in refused):
                done.set_exception(OSError(why))
            else:
                done.set_result(None)


# ---------------------------------------------------------------- steps of record


@cache  # a statement with 14 values takes 0.6 ms to build, 0.05 ms to execute again
def _insert_or_ignore(dialect_name: str, table: sa.Table) -> Insert:
    # an INSERT's row count is lost on PostgreSQL (-1) unless it is asked for
    return insert_into(dialect_name, table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


@cache
def _insert_or_grow_series(dialect_name: str) -> Insert:
    insert = insert_into(dialect_name, series)
    return insert.on_conflict_do_update(
        index_elements=[series.c.series_uid],
        where=series.c.removal_at.is_(None),
        set_={
            "association": insert.excluded.association,
            "images": series.c.images + insert.excluded.images,
            "last_image_at": insert.excluded.last_image_at,
            "released_at": None,
        },
    ).execution_options(preserve_rowcount=True)


@cache
def _insert_or_grow_study(dialect_name: str) -> Insert:
    insert = insert_into(dialect_name, study)
    return insert.on_conflict_do_update(
        index_elements=[study.c.study_uid], set_={"last_image_at": insert.excluded.last_image_at}
    )


@cache
def _grow_study_there() -> sa.Update:
    return (
        study.update()
        .where(study.c.study_uid == sa.bindparam("of_study"))
        .values(last_image_at=sa.bindparam("last", type_=Moment))
    )


@cache
def _latest_revision() -> sa.Select[Any]:
    return (
        sa.select(revision.c.id, revision.c.revision, revision.c.state)
        .where(revision.c.series_uid == sa.bindparam("of_series"))
        .order_by(revision.c.revision.desc())
        .limit(1)
    )


def _series_uid(arrived: Arrived) -> str:
    return arrived.instance.series_uid


def _enter(connection: sa.Connection, arrived: Arrived) -> bool:
    """Enter one object; returns whether it is a new image of its series."""
    if arrived.quarantined:
        _insert_new(connection, quarantined, _quarantined_row(arrived.instance))
        return False
    if not _insert_new(connection, instance, _instance_row(arrived.instance)):
        _note_stored_again(connection, arrived.instance)
        return False
    return arrived.instance.outcome == InstanceOutcome.SERIES


def _insert_new(connection: sa.Connection, table: sa.Table, row: dict[str, object]) -> bool:
    """Insert a row unless a unique constraint has it already; returns whether it was new."""
    return connection.execute(_insert_or_ignore(connection.dialect.name, table), row).rowcount == 1


def _quarantined_row(arrived: Instance) -> dict[str, object]:
    return {
        "sop_uid": arrived.sop_uid,
        "sha256": arrived.sha256,
        "calling_ae": arrived.calling_ae,
        "received_at": arrived.received_at,
    }


def _instance_row(arrived: Instance) -> dict[str, object]:
    along_normal_mm = None
    if arrived.position_mm is not None and arrived.normal is not None:
        along_normal_mm = sum(map(mul, arrived.position_mm, arrived.normal))
    return {
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


def _note_stored_again(connection: sa.Connection, arrived: Instance) -> None:
    """Its file may have been removed and is there again: it will be removed again."""
    stored = instance.c.sop_uid == arrived.sop_uid
    if connection.execute(
        instance.update().where(stored, instance.c.removed_at.is_not(None)).values(removed_at=None)
    ).rowcount:
        connection.execute(series.update().where(series.c.series_uid == arrived.series_uid).values(removed_at=None))


def _note_late(connection: sa.Connection, images: Sequence[Instance]) -> None:
    """Their series ended, and its images were removed: alone they would only contradict its result."""
    late = instance.update().where(instance.c.sop_uid.in_([image.sop_uid for image in images]))
    connection.execute(late.values(outcome=InstanceOutcome.LATE.value))


def _grow_series(connection: sa.Connection, images: Sequence[Instance]) -> bool:
    """The series counts new images, in the order of their arrival; not, False, when those it had are removed."""
    first, last = images[0], images[-1]
    row = {
        "series_uid": first.series_uid,
        "study_uid": first.study_uid,
        "calling_ae": first.calling_ae,
        "association": last.association,
        "images": len(images),
        "first_image_at": first.received_at,
        "last_image_at": last.received_at,
    }
    return connection.execute(_insert_or_grow_series(connection.dialect.name), row).rowcount == 1


def _grow_study(connection: sa.Connection, images: Sequence[Instance]) -> None:
    """Its row of the worklist. On PostgreSQL an INSERT that meets its row has used up a number all the same."""
    first, last = images[0], images[-1]
    there = {"of_study": first.study_uid, "last": last.received_at}
    if connection.execute(_grow_study_there(), there).rowcount:
        return
    row = {
        "study_uid": first.study_uid,
        "calling_ae": first.calling_ae,
        "first_image_at": first.received_at,
        "last_image_at": last.received_at,
        "searched": searchable(first.calling_ae),
        "rank": UNKNOWN,
    }
    connection.execute(_insert_or_grow_study(connection.dialect.name), row)


def _open_revision(connection: sa.Connection, series_uid: str) -> None:
    """A new image belongs to the open revision, or opens the next one when all were published."""
    latest = connection.execute(_latest_revision(), {"of_series": series_uid}).first()
    if latest is None or latest.state in (SeriesState.REPORTED, SeriesState.DELIVERED):
        number = 1 if latest is None else latest.revision + 1
        connection.execute(
            revision.insert().values(
                series_uid=series_uid, revision=number, state=SeriesState.RECEIVING.value, attempts=0
            )
        )
    elif latest.state == SeriesState.READY:
        require_transition(SeriesState.READY, SeriesState.RECEIVING)
        connection.execute(
            revision.update().where(revision.c.id == latest.id).values(state=SeriesState.RECEIVING.value)
        )
    # RECEIVING: goes on. ANALYZING: publishing will see the new image and go back to RECEIVING.
