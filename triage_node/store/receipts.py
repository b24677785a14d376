"""The ledger as people read it: every object ever received, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from triage_node.domain import InstanceOutcome, OutboxState
from triage_node.store.database import Database
from triage_node.store.schema import instance, outbox, revision

CHUNK: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One received object, and how its series ended."""

    received_at: datetime
    calling_ae: str
    sop_uid: str
    series_uid: str
    study_uid: str
    outcome: str
    """What it was taken for: an InstanceOutcome; for an image of a series what became of that: the state of its newest
    revision while it is open, then ANALYZED, NOT_ANALYZED or FAILED."""
    reason: str | None
    priority: str | None
    results: str
    """How many results of its series are where: "SENT 3"; empty where none is to be sent."""
    removed_at: datetime | None
    """When its file was removed from the disk."""


def receipts(
    database: Database, *, since: datetime | None = None, study_uid: str | None = None, sop_uid: str | None = None
) -> Iterator[Receipt]:
    """Receipts in the order of arrival, of all objects or of those that are asked for."""
    columns = ("received_at", "calling_ae", "sop_uid", "series_uid", "study_uid", "outcome", "removed_at")
    query = sa.select(*(instance.c[name] for name in columns)).order_by(instance.c.received_at, instance.c.sop_uid)
    for column, wanted in ((instance.c.study_uid, study_uid), (instance.c.sop_uid, sop_uid)):
        query = query if wanted is None else query.where(column == wanted)
    if since is not None:
        query = query.where(instance.c.received_at >= since)
    with database.reading() as connection:
        ended: dict[str, _Ended] = {}
        for row in connection.execution_options(yield_per=CHUNK).execute(query):
            if row.outcome == InstanceOutcome.SERIES and row.series_uid not in ended:
                ended[row.series_uid] = _ended(connection, row.series_uid)
            end = ended[row.series_uid] if row.outcome == InstanceOutcome.SERIES else _Ended(outcome=row.outcome)
            yield Receipt(**{**row._mapping, **vars(end)})


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
        sa.select(outbox.c.state, sa.func.count())
        .where(outbox.c.revision_id == newest.id, outbox.c.state != OutboxState.CANCELLED.value)
        .group_by(outbox.c.state)
        .order_by(outbox.c.state)
    )
    return _Ended(
        outcome=newest.outcome or newest.state,
        reason=newest.reason,
        priority=newest.priority,
        results=", ".join(f"{state} {count}" for state, count in counts),
    )
