"""The ledger as people read it: every object ever received, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa

from triage_node.domain import InstanceOutcome, OutboxState, Proof, delivery_text
from triage_node.store.database import Database
from triage_node.store.schema import instance, not_taken, outbox, quarantined, revision

CHUNK: Final = 1000
REFUSED: Final = "REFUSED"
QUARANTINED: Final = "QUARANTINED"
OTHER_BYTES: Final = "the same SOP Instance UID came with other bytes; the first stays"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One received object, and how its series ended."""

    received_at: datetime | None
    """None of what never arrived, see `pipeline.reconciling`."""
    calling_ae: str
    sop_uid: str
    series_uid: str
    """Empty, as the study, of what was refused: that is not read."""
    study_uid: str
    outcome: str
    """What it was taken for: an InstanceOutcome; for an image of a series what became of that: the state of its newest
    revision while it is open, then ANALYZED, NOT_ANALYZED or FAILED. REFUSED where it was never taken, QUARANTINED
    where it came with the SOP Instance UID of another one."""
    reason: str | None
    priority: str | None
    results: str
    """How many results of its series are where, by destination: "pacs: 3 confirmed by commitment, 1 sent; ris: 1 sent".
    Empty where none is to be sent."""
    removed_at: datetime | None
    """When its file was removed from the disk."""


def receipts(
    database: Database, *, since: datetime | None = None, study_uid: str | None = None, sop_uid: str | None = None
) -> Iterator[Receipt]:
    """Receipts in the order of arrival, of all objects or of those that are asked for."""
    wanted = {"study_uid": study_uid, "sop_uid": sop_uid}
    with database.reading() as connection:
        connection.execution_options(yield_per=CHUNK)
        parts = [_taken(connection, wanted, since), _quarantined(connection, wanted, since)]
        if study_uid is None:
            parts.append(_refused(connection, sop_uid, since))
        yield from merge(*parts, key=lambda receipt: (receipt.received_at, receipt.sop_uid))


def refusals_of(database: Database, sop_uids: Sequence[str]) -> dict[str, str]:
    """By SOP Instance UID, why the objects of `sop_uids` that were refused were."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(not_taken).where(not_taken.c.sop_uid.in_(sop_uids)))
        return {row.sop_uid: _why(row) for row in rows}


# ---------------------------------------------------------------- steps


def _taken(connection: sa.Connection, wanted: dict[str, str | None], since: datetime | None) -> Iterator[Receipt]:
    columns = ("received_at", "calling_ae", "sop_uid", "series_uid", "study_uid", "outcome", "removed_at")
    query = sa.select(*(instance.c[name] for name in columns)).order_by(instance.c.received_at, instance.c.sop_uid)
    conditions = _conditions(wanted, instance.c.received_at, since)
    ended: dict[str, _Ended] = {}
    for row in connection.execute(query.where(*conditions)):
        if row.outcome == InstanceOutcome.SERIES and row.series_uid not in ended:
            ended[row.series_uid] = _ended(connection, row.series_uid)
        end = ended[row.series_uid] if row.outcome == InstanceOutcome.SERIES else _Ended(outcome=row.outcome)
        yield Receipt(**{**row._mapping, **vars(end)})


def _quarantined(connection: sa.Connection, wanted: dict[str, str | None], since: datetime | None) -> Iterator[Receipt]:
    columns = (quarantined.c.received_at, quarantined.c.calling_ae, quarantined.c.sop_uid)
    query = (
        sa.select(*columns, instance.c.series_uid, instance.c.study_uid)
        .join(instance, instance.c.sop_uid == quarantined.c.sop_uid)
        .where(*_conditions(wanted, quarantined.c.received_at, since))
        .order_by(quarantined.c.received_at, quarantined.c.sop_uid)
    )
    end = _Ended(outcome=QUARANTINED, reason=OTHER_BYTES)
    for row in connection.execute(query):
        yield Receipt(**row._mapping, **vars(end), removed_at=None)


def _refused(connection: sa.Connection, sop_uid: str | None, since: datetime | None) -> Iterator[Receipt]:
    taken = sa.exists().where(instance.c.sop_uid == not_taken.c.sop_uid)  # when it was sent again
    query = sa.select(not_taken).where(~taken).order_by(not_taken.c.last_at, not_taken.c.sop_uid)
    query = query if sop_uid is None else query.where(not_taken.c.sop_uid == sop_uid)
    query = query if since is None else query.where(not_taken.c.last_at >= since)
    for row in connection.execute(query):
        yield Receipt(
            received_at=row.last_at,
            calling_ae=row.calling_ae,
            sop_uid=row.sop_uid,
            series_uid="",
            study_uid="",
            removed_at=None,
            **vars(_Ended(outcome=REFUSED, reason=_why(row))),
        )


def _why(row: Any) -> str:
    return f"0x{row.status:04X} {row.reason}"


def _conditions(
    wanted: dict[str, str | None], received_at: sa.ColumnElement[datetime], since: datetime | None
) -> list[sa.ColumnElement[bool]]:
    conditions = [instance.c[name] == value for name, value in wanted.items() if value is not None]
    return conditions if since is None else [*conditions, received_at >= since]


@dataclass(frozen=True, kw_only=True)
class _Ended:
    outcome: str
    reason: str | None = None
    priority: str | None = None
    results: str = ""


def _ended(connection: sa.Connection, series_uid: str) -> _Ended:
    newest = connection.execute(
        sa.select(revision).where(revision.c.series_uid == series_uid).order_by(revision.c.revision.desc()).limit(1)
    ).one()
    counts = connection.execute(
        sa.select(outbox.c.destination, outbox.c.state, outbox.c.proof, sa.func.count().label("objects"))
        .where(outbox.c.revision_id == newest.id, outbox.c.state != OutboxState.CANCELLED.value)
        .group_by(outbox.c.destination, outbox.c.state, outbox.c.proof)
        .order_by(outbox.c.destination, outbox.c.state, outbox.c.proof)
    ).all()
    return _Ended(
        outcome=newest.outcome or newest.state,
        reason=newest.reason,
        priority=newest.priority,
        results="; ".join(f"{name}: {_told(group)}" for name, group in groupby(counts, lambda row: row.destination)),
    )


def _told(counts: Iterable[Any]) -> str:
    texts = (
        f"{row.objects} {delivery_text(OutboxState(row.state), Proof(row.proof) if row.proof else None)}"
        for row in counts
    )
    return ", ".join(texts)
