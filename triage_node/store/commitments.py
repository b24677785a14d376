"""What was SENT and is not yet CONFIRMED, and the asking for it: storage commitment, or C-FIND where there is none.

A transaction of storage commitment is written down before it is sent, so that a report finds it whatever was killed
meanwhile. A C-FIND is answered at once, and only counted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from triage_node.domain import OUTBOX_TRANSITIONS, CommitmentReport, OutboxState, Proof
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
NO_SUCH_OBJECT: Final = 0x0112


@dataclass(frozen=True, kw_only=True)
class Request:
    """One storage commitment request, as it stands in the database."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    """(SOP Class UID, SOP Instance UID)."""
    asks: int
    """How often the object that was asked for most often was; this one included."""


@dataclass(frozen=True, kw_only=True)
class Sought:
    """One object that is looked for at its destination."""

    id: int
    sop_uid: str
    study_uid: str
    series_uid: str
    """Of results, not the analysed one."""
    asks: int
    """How often it was looked for, this time included."""


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What an answer changed."""

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


def give_up(
    database: Database, destination: str, *, now: datetime, attempts: int, lacks: str = "storage commitment"
) -> int:
    """SENT -> DEAD for what is due after `attempts` requests and still `lacks` an answer; returns how many."""
    values = {"state": _from_sent(OutboxState.DEAD), "commitment_due": None}
    statement = (
        outbox.update()
        .where(*_due(destination, now), outbox.c.commitment_asks >= attempts)
        .values(error=f"sent, but no {lacks} after {attempts} request(s)", **values)
    )
    with database.transaction() as connection:
        return connection.execute(statement).rowcount


def seek(
    database: Database, destination: str, *, now: datetime, ask_again_at: datetime, slack_s: float = 0.0
) -> list[Sought]:
    """What is to be looked for at a destination now, or within `slack_s`; again at `ask_again_at` if none is noted."""
    columns = (outbox.c.id, outbox.c.sop_uid, result.c.study_uid, result.c.result_series_uid.label("series_uid"))
    chosen = (
        sa.select(*columns, (outbox.c.commitment_asks + 1).label("asks"))
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .where(*_due(destination, now + timedelta(seconds=slack_s)))
        .order_by(outbox.c.id)
        .limit(LIMIT)
    )
    with database.transaction() as connection:
        sought = [Sought(**row._mapping) for row in connection.execute(chosen.with_for_update(of=outbox))]
        values = {"commitment": None, "commitment_due": ask_again_at, "commitment_asks": outbox.c.commitment_asks + 1}
        connection.execute(outbox.update().where(outbox.c.id.in_([one.id for one in sought])).values(**values))
    return sought


def put_off(database: Database, sought: Sequence[Sought], *, error: str, ask_again_at: datetime | None) -> None:
    """They could not be looked for: again then, or never (SENT -> DEAD)."""
    values: dict[str, object] = {"error": error[:400], "commitment_due": ask_again_at}
    if ask_again_at is None:
        values["state"] = _from_sent(OutboxState.DEAD)
    still_sent = sa.and_(outbox.c.id.in_([one.id for one in sought]), outbox.c.state == OutboxState.SENT.value)
    with database.transaction() as connection:
        connection.execute(outbox.update().where(still_sent).values(**values))


def sent_in_series(database: Database, destination: str, series_uid: str) -> int:
    """How many objects of a series of results a destination was sent."""
    there = (OutboxState.SENT.value, OutboxState.CONFIRMED.value)
    query = (
        sa.select(sa.func.count())
        .select_from(outbox.join(result, result.c.sop_uid == outbox.c.sop_uid))
        .where(result.c.result_series_uid == series_uid)
        .where(outbox.c.destination == destination, outbox.c.state.in_(there))
    )
    with database.reading() as connection:
        count: int = connection.execute(query).scalar_one()
        return count


def note_looked_up(
    database: Database,
    destination: str,
    sought: Sequence[Sought],
    *,
    found: Collection[str],
    now: datetime,
    attempts: int,
    send_again_at: Callable[[int], datetime],
) -> Noted:
    """SENT -> CONFIRMED for those of `sought` whose SOP Instance UIDs were `found`; the others are sent again, as by
    `note_report`."""
    with database.transaction() as connection:
        rows = [row for one in sought if (row := _sent(connection, one.sop_uid, destination))]
        here = [row for row in rows if row["sop_uid"] in found]
        absent = _Failure(error="sent, but not found there by C-FIND", proof=Proof.MISSING)
        _confirm(connection, here, Proof.FOUND)
        fates = [_fail(connection, row, absent, attempts, send_again_at) for row in rows if row["sop_uid"] not in found]
        close_delivered(connection, sorted({row["revision_id"] for row in rows}), now)
    return _noted(destination, len(here), fates)


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
        _confirm(connection, confirmed, Proof.COMMITTED)
        fates = [_fail(connection, row, _failure(reason), attempts, send_again_at) for row, reason in failed]
        connection.execute(
            commitment.update()
            .where(commitment.c.transaction_uid == report.transaction_uid)
            .values(answered_at=sa.func.coalesce(commitment.c.answered_at, sa.literal(now, Moment)))
        )
        close_delivered(
            connection, sorted({row["revision_id"] for row in [*confirmed, *(row for row, _ in failed)]}), now
        )
    return _noted(destination, len(confirmed), fates)


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
    columns = ("id", "sop_uid", "revision_id", "commitment_asks", "commitment")
    query = sa.select(*(outbox.c[name] for name in columns)).where(
        outbox.c.sop_uid == sop_uid, outbox.c.destination == destination, outbox.c.state == OutboxState.SENT.value
    )
    return connection.execute(query.with_for_update()).mappings().first()


def _noted(destination: str, confirmed: int, fates: Sequence[OutboxState]) -> Noted:
    again, dead = (fates.count(state) for state in (OutboxState.PENDING, OutboxState.DEAD))
    return Noted(destination=destination, confirmed=confirmed, again=again, dead=dead)


def _confirm(connection: sa.Connection, rows: Sequence[sa.RowMapping], proof: Proof) -> None:
    values = {"state": _from_sent(OutboxState.CONFIRMED), "commitment_due": None, "error": None, "proof": proof.value}
    for row in rows:
        connection.execute(outbox.update().where(outbox.c.id == row["id"]).values(**values))


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Why an object is not confirmed."""

    error: str
    proof: Proof | None
    hopeless: bool = False


def _failure(reason: int) -> _Failure:
    """By its FailureReason."""
    return _Failure(
        error=f"sent, but not committed: 0x{reason:04X} {HOPELESS.get(reason, '')}".strip(),
        proof=Proof.MISSING if reason == NO_SUCH_OBJECT else None,
        hopeless=reason in HOPELESS,
    )


def _fail(
    connection: sa.Connection,
    row: sa.RowMapping,
    failure: _Failure,
    attempts: int,
    send_again_at: Callable[[int], datetime],
) -> OutboxState:
    if _is_superseded(connection, row["revision_id"]):
        new = OutboxState.CANCELLED
    elif failure.hopeless or row["commitment_asks"] >= attempts:
        new = OutboxState.DEAD
    else:
        new = OutboxState.PENDING
    values = {
        "state": _from_sent(new),
        "commitment_due": None,
        "not_before": send_again_at(row["commitment_asks"]),
        "error": failure.error,
        "proof": failure.proof,
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
