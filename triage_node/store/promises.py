"""Storage commitment as a provider: what sources asked us to keep, and how far they were told.

A request is a row before it is answered, so that a restart forgets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from triage_node.domain import CommitmentRequest
from triage_node.store.database import Database, insert_into
from triage_node.store.schema import instance, promise, quarantined, series

KEPT: Final = timedelta(days=30)
"""How long a request that was reported stays."""
ASKED_TOGETHER: Final = 500

# FailureReason (PS3.3 C.14.1.1)
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One request that is to be reported on."""

    id: int
    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    attempts: int
    """This one included."""
    again_at: datetime
    """When it is due unless something is noted."""


def enter(
    database: Database, calling_ae: str, request: CommitmentRequest, *, now: datetime, report_at: datetime
) -> None:
    """Write a request down. One that comes again is reported again."""
    row = {
        "calling_ae": calling_ae,
        "transaction_uid": request.transaction_uid,
        "objects": [list(pair) for pair in request.references],
        "asked_at": now,
        "report_at": report_at,
        "attempts": 0,
    }
    added = insert_into(database.engine.dialect.name, promise)
    again = {name: added.excluded[name] for name in row if name not in ("calling_ae", "transaction_uid")}
    statement = added.on_conflict_do_update(index_elements=["calling_ae", "transaction_uid"], set_=again)
    with database.transaction() as connection:
        connection.execute(promise.delete().where(promise.c.asked_at < now - KEPT, promise.c.report_at.is_(None)))
        connection.execute(statement, row)


def next_due(database: Database, calling_ae: str, *, now: datetime, again_at: datetime) -> Promise | None:
    """The request of a source to report on now, counted as tried, and due `again_at` unless something is noted."""
    due = (promise.c.calling_ae == calling_ae, promise.c.report_at <= now)
    with database.reading() as connection:  # so that idling takes no write lock
        row = connection.execute(sa.select(promise).where(*due).order_by(promise.c.report_at).limit(1)).first()
    if row is None:
        return None
    with database.transaction() as connection:
        taken = promise.update().where(promise.c.id == row.id, promise.c.report_at == row.report_at)
        if not connection.execute(taken.values(report_at=again_at, attempts=promise.c.attempts + 1)).rowcount:
            return None
    return Promise(
        id=row.id,
        transaction_uid=row.transaction_uid,
        references=tuple((sop_class_uid, sop_uid) for sop_class_uid, sop_uid in row.objects),
        attempts=row.attempts + 1,
        again_at=again_at,
    )


def note(database: Database, one: Promise, *, report_at: datetime | None) -> None:
    """It was reported, or given up (None), or is to be reported again from then on."""
    with database.transaction() as connection:
        unasked = (promise.c.id == one.id, promise.c.report_at == one.again_at)  # else it was asked for once more
        connection.execute(promise.update().where(*unasked).values(report_at=report_at))


def failures(database: Database, references: Sequence[tuple[str, str]]) -> dict[str, int]:
    """FailureReason by SOP Instance UID, of those that cannot be promised: they never came, under another SOP class,
    with different bytes, or are to be removed."""
    held = {uid: found for some in _together(references) for uid, found in _held(database, some).items()}
    reasons = {}
    for sop_class_uid, sop_uid in references:
        if sop_uid not in held:
            reasons[sop_uid] = NO_SUCH_OBJECT
        elif held[sop_uid].sop_class_uid != sop_class_uid:
            reasons[sop_uid] = CLASS_CONFLICT
        elif held[sop_uid].ambiguous:  # which of them is meant nobody knows
            reasons[sop_uid] = PROCESSING_FAILURE
    return reasons


@dataclass(frozen=True, kw_only=True)
class _Held:
    sop_class_uid: str
    ambiguous: bool


def _held(database: Database, references: Sequence[tuple[str, str]]) -> dict[str, _Held]:
    going = sa.exists().where(series.c.series_uid == instance.c.series_uid, series.c.removal_at.is_not(None))
    other = sa.exists().where(quarantined.c.sop_uid == instance.c.sop_uid)
    query = sa.select(instance.c.sop_uid, instance.c.sop_class_uid, other.label("ambiguous")).where(
        instance.c.sop_uid.in_([uid for _, uid in references]), instance.c.removed_at.is_(None), ~going
    )
    with database.reading() as connection:
        return {
            row.sop_uid: _Held(sop_class_uid=row.sop_class_uid, ambiguous=bool(row.ambiguous))
            for row in connection.execute(query)
        }


def _together(references: Sequence[tuple[str, str]]) -> list[Sequence[tuple[str, str]]]:
    return [references[first : first + ASKED_TOGETHER] for first in range(0, len(references), ASKED_TOGETHER)]
