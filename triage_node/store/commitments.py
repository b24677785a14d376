"""Storage commitment: what was SENT and is not yet CONFIRMED, and the transactions that ask for it.

A transaction is written down before it is sent, so that a report finds it whatever was killed meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from triage_node.domain import OUTBOX_TRANSITIONS, CommitmentReport, OutboxState
from triage_node.store.claims import close_delivered
from triage_node.store.database import Database
from triage_node.store.schema import Moment, commitment, outbox, result, revision

LIMIT: Final = 500
"""Objects of one request at most."""
KEPT: Final = timedelta(days=30)
"""How long a report of a transaction is still known as one of ours."""
HOPELESS: Final = {
    0x0119: "class/instance conflict",
    0x0122: "SOP class not supported",
}
"""FailureReasons (PS3.3 C.14.1.1) that sending again does not cure."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One storage commitment request, as it stands in the database."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    """(SOP Class UID, SOP Instance UID)."""
    asks: int
    """How often the object that was asked for most often was; this one included."""


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What a report changed."""

    destination: str
    confirmed: int
    again: int
    """To be sent again."""
    dead: int


def has_due(database: Database, destination: str, *, now: datetime) -> bool:
    """Whether a destination is to be asked; a read, so that idling takes no write lock."""
    with database.reading() as connection:
        return connection.execute(sa.select(outbox.c.id).where(*_due(destination, now)).limit(1)).first() is not None


def open_request(
    database: Database, destination: str, *, now: datetime, ask_again_at: datetime, slack_s: float = 0.0
) -> Request | None:
    """Write down one request for all that is due at a destination, or will be within `slack_s`; None for nothing."""
    transaction_uid = f"2.25.{uuid.uuid4().int}"
    chosen = (
        sa.select(outbox.c.id, outbox.c.sop_uid, outbox.c.commitment_asks, result.c.sop_class_uid)
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .where(*_due(destination, now + timedelta(seconds=slack_s)))
        .order_by(outbox.c.id)
        .limit(LIMIT)
    )
    with database.transaction() as connection:
        rows = connection.execute(chosen.with_for_update(of=outbox)).all()
        if not rows:
            return None
        connection.execute(commitment.delete().where(commitment.c.requested_at < now - KEPT))
        values = {"transaction_uid": transaction_uid, "destination": destination, "requested_at": now}
        connection.execute(commitment.insert().values(**values))
        connection.execute(
            outbox.update()
            .where(outbox.c.id.in_([row.id for row in rows]))
            .values(
                commitment=transaction_uid,
                commitment_due=ask_again_at,
                commitment_asks=outbox.c.commitment_asks + 1,
            )
        )
    references = tuple((row.sop_class_uid, row.sop_uid) for row in rows)
    asks = max(row.commitment_asks for row in rows) + 1
    return Request(transaction_uid=transaction_uid, references=references, asks=asks)


def is_answered(database: Database, transaction_uid: str) -> bool:
    """Whether the report of a transaction was noted."""
    query = sa.select(commitment.c.answered_at).where(commitment.c.transaction_uid == transaction_uid)
    with database.reading() as connection:
        return connection.execute(query).scalar() is not None


def refuse(database: Database, request: Request, *, error: str, ask_again_at: datetime | None) -> None:
    """The destination did not take the request: ask again, or never (SENT -> DEAD)."""
    values: dict[str, object] = {"error": error[:400], "commitment_due": ask_again_at}
    if ask_again_at is None:
        values["state"] = _from_sent(OutboxState.DEAD)
    with database.transaction() as connection:
        connection.execute(outbox.update().where(_asked_by(request.transaction_uid, request)).values(**values))


def give_up(database: Database, destination: str, *, now: datetime, attempts: int) -> int:
    """SENT -> DEAD for what is due after `attempts` requests; returns how many."""
    values = {"state": _from_sent(OutboxState.DEAD), "commitment_due": None}
    statement = (
        outbox.update()
        .where(*_due(destination, now), outbox.c.commitment_asks >= attempts)
        .values(error=f"sent, but no storage commitment after {attempts} request(s)", **values)
    )
    with database.transaction() as connection:
        return connection.execute(statement).rowcount


def forgo(database: Database, destination: str, *, now: datetime) -> None:
    """Commitment is not asked of this destination any more: SENT is the end again."""
    waiting = sa.and_(outbox.c.destination == destination, outbox.c.commitment_due.is_not(None))
    with database.transaction() as connection:
        touched = connection.execute(sa.select(outbox.c.revision_id).where(waiting).distinct()).scalars().all()
        connection.execute(outbox.update().where(waiting).values(commitment_due=None))
        close_delivered(connection, touched, now)


def note_report(
    database: Database,
    report: CommitmentReport,
    *,
    destinations: Sequence[str],
    now: datetime,
    attempts: int,
    send_again_at: Callable[[int], datetime],
) -> Noted | None:
    """SENT -> CONFIRMED for what is committed, however old the request; the revision is DELIVERED with its last row.

    What failed is sent again, at `send_again_at` of its number of requests, unless a newer revision superseded it
    (CANCELLED) or asking leads nowhere (DEAD).
    Returns None where none of `destinations` was asked by this transaction. A repeated report changes nothing more.
    """
    with database.transaction() as connection:
        destination: str | None = connection.execute(
            sa.select(commitment.c.destination)
            .where(commitment.c.transaction_uid == report.transaction_uid, commitment.c.destination.in_(destinations))
            .with_for_update()
        ).scalar()
        if destination is None:
            return None
        ours = _sent_to(connection, destination)
        confirmed = [row for uid in sorted(report.committed & ours) if (row := _sent(connection, uid, destination))]
        failed = [
            (row, reason)
            for uid, reason in sorted(report.failed.items())
            if uid in ours
            and (row := _sent(connection, uid, destination))
            and row["commitment"] == report.transaction_uid
        ]
        for row in confirmed:
            values = {"state": _from_sent(OutboxState.CONFIRMED), "commitment_due": None, "error": None}
            connection.execute(outbox.update().where(outbox.c.id == row["id"]).values(**values))
        fates = [_fail(connection, row, reason, attempts, send_again_at) for row, reason in failed]
        connection.execute(
            commitment.update()
            .where(commitment.c.transaction_uid == report.transaction_uid)
            .values(answered_at=sa.func.coalesce(commitment.c.answered_at, sa.literal(now, Moment)))
        )
        close_delivered(
            connection, sorted({row["revision_id"] for row in [*confirmed, *(row for row, _ in failed)]}), now
        )
    return Noted(
        destination=destination,
        confirmed=len(confirmed),
        again=fates.count(OutboxState.PENDING),
        dead=fates.count(OutboxState.DEAD),
    )


# ---------------------------------------------------------------- rows


def _due(destination: str, now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        outbox.c.destination == destination,
        outbox.c.commitment_due <= now,
        outbox.c.state == OutboxState.SENT.value,
    )


def _sent_to(connection: sa.Connection, destination: str) -> set[str]:
    """What waits for confirmation: a report may name a hundred thousand others, and each look-up holds the lock."""
    sent = sa.and_(outbox.c.destination == destination, outbox.c.state == OutboxState.SENT.value)
    return set(connection.execute(sa.select(outbox.c.sop_uid).where(sent)).scalars())


def _from_sent(new: OutboxState) -> str:
    assert new in OUTBOX_TRANSITIONS[OutboxState.SENT]
    return new.value


def _asked_by(transaction_uid: str, request: Request) -> sa.ColumnElement[bool]:
    return sa.and_(
        outbox.c.sop_uid.in_([sop_uid for _, sop_uid in request.references]),
        outbox.c.commitment == transaction_uid,
        outbox.c.state == OutboxState.SENT.value,
    )


def _sent(connection: sa.Connection, sop_uid: str, destination: str) -> sa.RowMapping | None:
    query = sa.select(outbox.c.id, outbox.c.revision_id, outbox.c.commitment_asks, outbox.c.commitment).where(
        outbox.c.sop_uid == sop_uid, outbox.c.destination == destination, outbox.c.state == OutboxState.SENT.value
    )
    return connection.execute(query.with_for_update()).mappings().first()


def _fail(
    connection: sa.Connection,
    row: sa.RowMapping,
    reason: int,
    attempts: int,
    send_again_at: Callable[[int], datetime],
) -> OutboxState:
    if _is_superseded(connection, row["revision_id"]):
        new = OutboxState.CANCELLED
    elif reason in HOPELESS or row["commitment_asks"] >= attempts:
        new = OutboxState.DEAD
    else:
        new = OutboxState.PENDING
    error = f"sent, but not committed: 0x{reason:04X} {HOPELESS.get(reason, '')}".strip()
    values = {
        "state": _from_sent(new),
        "commitment_due": None,
        "not_before": send_again_at(row["commitment_asks"]),
        "error": error,
    }
    connection.execute(outbox.update().where(outbox.c.id == row["id"]).values(**values))
    return new


def _is_superseded(connection: sa.Connection, revision_id: int) -> bool:
    newer, own = revision.alias(), revision.alias()
    query = (
        sa.select(newer.c.id)
        .join(own, own.c.series_uid == newer.c.series_uid)
        .where(own.c.id == revision_id, newer.c.revision > own.c.revision, newer.c.outcome.is_not(None))
    )
    return connection.execute(query.limit(1)).first() is not None
