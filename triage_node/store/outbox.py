"""Result objects on their way: one row for an object and a destination, claimed with a lease, retried with backoff."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import NAMESPACE_OID, uuid5

import sqlalchemy as sa

from triage_node.domain import MessageKind, OutboxState, Outcome, SeriesState
from triage_node.store.claims import close_delivered
from triage_node.store.database import Database
from triage_node.store.schema import OPEN_STATES, outbox, result, revision, series, study
from triage_node.store.studies import newest_ended, replaces_what_was_told

_URGENCY: Final = {MessageKind.ESCALATION: 0, MessageKind.READ: 3}
"""That something was read raises no alarm: it goes behind what was not."""
UNSENT: Final = (OutboxState.PENDING.value, OutboxState.SENDING.value)
_THERE_OR_ON_ITS_WAY: Final = {*UNSENT, OutboxState.SENT.value, OutboxState.CONFIRMED.value}


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One claimed outbox row."""

    id: int
    token: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    kind: str
    study_uid: str
    path: str
    """Relative to the spool."""
    revision_id: int
    attempts: int
    """This one included."""


def claim_parcels(
    database: Database, destination: str, *, now: datetime, lease_s: float, limit: int = 16
) -> list[Parcel]:
    """Take what is due for a destination, most urgent first."""
    token = secrets.token_hex(16)
    due = sa.or_(
        sa.and_(outbox.c.state == OutboxState.PENDING.value, outbox.c.not_before <= now),
        sa.and_(outbox.c.state == OutboxState.SENDING.value, outbox.c.lease_until < now),
    )
    chosen = (
        sa.select(outbox.c.id)
        .where(outbox.c.destination == destination, outbox.c.state.in_(UNSENT), due, ~_notice_of_open_study())
        .order_by(outbox.c.urgency, outbox.c.id)
        .limit(limit)
    )
    if database.engine.dialect.name == "postgresql":
        chosen = chosen.with_for_update(skip_locked=True)
    values = {
        "state": OutboxState.SENDING.value,
        "token": token,
        "lease_until": now + timedelta(seconds=lease_s),
        "attempts": outbox.c.attempts + 1,
        "tried_at": now,
    }
    columns = ("sop_uid", "sop_class_uid", "transfer_syntax_uid", "kind", "study_uid", "path")
    query = (
        sa.select(outbox.c.id, outbox.c.revision_id, outbox.c.attempts, *(result.c[name] for name in columns))
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .where(outbox.c.destination == destination, outbox.c.state == OutboxState.SENDING.value)
        .where(outbox.c.token == token)
        .order_by(outbox.c.urgency, outbox.c.id)
    )
    with database.transaction() as connection:
        if not connection.execute(outbox.update().where(outbox.c.id.in_(chosen)).values(**values)).rowcount:
            return []
        return [Parcel(token=token, **row._mapping) for row in connection.execute(query)]


def has_due(database: Database, destination: str, *, now: datetime) -> bool:
    """Whether anything waits for a destination; a read, so that idling takes no write lock."""
    query = sa.select(outbox.c.id).where(
        outbox.c.destination == destination,
        outbox.c.state.in_(UNSENT),
        outbox.c.not_before <= now,
        ~_notice_of_open_study(),
    )
    with database.reading() as connection:
        return connection.execute(query.limit(1)).first() is not None


def mark_sent(
    database: Database, parcel: Parcel, *, status: int, now: datetime, commitment_due: datetime | None = None
) -> None:
    """SENDING -> SENT; the revision is DELIVERED with its last row.

    With `commitment_due`, only once the destination, asked from then on, has confirmed each: see `commitments`.
    """
    with database.transaction() as connection:
        values = {"sent_at": now, "commitment": None, "commitment_due": commitment_due, "proof": None}
        _finish(connection, parcel, OutboxState.SENT, status=status, error=None, **values)
        close_delivered(connection, [parcel.revision_id], now)


def mark_failed(database: Database, parcel: Parcel, *, status: int | None, error: str, not_before: datetime) -> None:
    """SENDING -> PENDING, to be tried again from `not_before` on."""
    with database.transaction() as connection:
        _finish(connection, parcel, OutboxState.PENDING, status=status, error=error[:400], not_before=not_before)


def mark_dead(database: Database, parcel: Parcel, *, status: int | None, error: str) -> None:
    """SENDING -> DEAD: only `triage-node retry` moves it again."""
    with database.transaction() as connection:
        _finish(connection, parcel, OutboxState.DEAD, status=status, error=error[:400])


def mark_not_accepted(
    database: Database, parcel: Parcel, *, instead: str | None, status: int | None, error: str, now: datetime
) -> OutboxState:
    """SENDING -> NOT_ACCEPTED; the destination gets the objects of kind `instead`, if it does not anyway.

    Where it has no object of the revision, and none is on its way, all of them are DEAD: nobody would see that the
    result is not there. Returns the new state.
    """
    with database.transaction() as connection:
        if not _finish(connection, parcel, OutboxState.NOT_ACCEPTED, status=status, error=error[:400]):
            return OutboxState.CANCELLED
        # so that of two senders the second sees what became of the first; after its row, as all others lock them
        lock = sa.select(revision.c.id).where(revision.c.id == parcel.revision_id).with_for_update()
        connection.execute(lock).all()
        query = sa.select(outbox.c.destination, outbox.c.urgency).where(outbox.c.id == parcel.id)
        row = connection.execute(query).one()
        here = sa.and_(outbox.c.revision_id == parcel.revision_id, outbox.c.destination == row.destination)
        if instead is not None:
            _add(connection, parcel.revision_id, instead, here, {**row._mapping, "not_before": now})
        states = set(connection.execute(sa.select(outbox.c.state).where(here)).scalars())
        if states.isdisjoint(_THERE_OR_ON_ITS_WAY):
            refused = outbox.c.state == OutboxState.NOT_ACCEPTED.value
            connection.execute(outbox.update().where(here, refused).values(state=OutboxState.DEAD.value))
            return OutboxState.DEAD
        close_delivered(connection, [parcel.revision_id], now)
        return OutboxState.NOT_ACCEPTED


def _add(
    connection: sa.Connection,
    revision_id: int,
    kind: str,
    here: sa.ColumnElement[bool],
    values: Mapping[str, object],
) -> None:
    """Rows for the objects of a kind that have none `here` yet."""
    have = sa.select(outbox.c.sop_uid).where(here)
    wanted = sa.select(result.c.sop_uid).where(
        result.c.revision_id == revision_id, result.c.kind == kind, result.c.sop_uid.not_in(have)
    )
    state = OutboxState.PENDING.value
    for sop_uid in connection.execute(wanted).scalars().all():
        row = {"sop_uid": sop_uid, "revision_id": revision_id, "state": state, "attempts": 0, **values}
        connection.execute(outbox.insert().values(**row))


def announce(
    connection: sa.Connection,
    revision_id: int,
    destinations: Sequence[str],
    now: datetime,
    *,
    kind: MessageKind = MessageKind.ESCALATION,
) -> None:
    """Tell destinations of an ESCALATION, before anything else, or of READ: an object with the file of the RESULT.

    Its UID follows from that of the RESULT. Nothing where the revision has none, or where it was announced before.
    """
    told = sa.select(result).where(result.c.revision_id == revision_id, result.c.kind == MessageKind.RESULT.value)
    found = connection.execute(told).mappings().first()
    if found is None:
        return
    sop_uid = f"2.25.{uuid5(NAMESPACE_OID, '|'.join((found['sop_uid'], kind.value))).int}"
    row = {**found, "kind": kind.value, "sop_uid": sop_uid}
    if connection.execute(sa.select(result.c.kind).where(result.c.sop_uid == row["sop_uid"])).first() is not None:
        return
    connection.execute(result.insert().values(**row))
    values = {"sop_uid": sop_uid, "revision_id": revision_id, "state": OutboxState.PENDING.value}
    values["urgency"] = _URGENCY[kind]
    for destination in destinations:
        connection.execute(outbox.insert().values(destination=destination, attempts=0, not_before=now, **values))
    _reopen(connection, [revision_id])


def announce_read(connection: sa.Connection, study_uid: str, destinations: Sequence[str], now: datetime) -> None:
    """Tell those of the destinations that are told of results of a study that it was marked as read.

    Once more each time: that may have been taken back meanwhile.
    """
    told = (
        sa.select(outbox.c.revision_id, outbox.c.destination)
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .where(outbox.c.revision_id.in_(newest_ended(study_uid, revision.c.id)))
        .where(outbox.c.destination.in_(destinations), result.c.kind == MessageKind.RESULT.value)
        .where(outbox.c.state != OutboxState.CANCELLED.value)
        .order_by(outbox.c.revision_id)
    )
    heard: dict[int, list[str]] = {}
    for each in connection.execute(told):
        heard.setdefault(each.revision_id, []).append(each.destination)
    for revision_id, names in heard.items():
        announce(connection, revision_id, names, now, kind=MessageKind.READ)
    of_kind = sa.select(result.c.sop_uid).where(result.c.kind == MessageKind.READ.value)
    ended = (OutboxState.SENT.value, OutboxState.CANCELLED.value)
    again = sa.and_(
        outbox.c.sop_uid.in_(of_kind.where(result.c.revision_id.in_(heard))),
        outbox.c.destination.in_(destinations),
        outbox.c.state.in_(ended),
    )
    touched = connection.execute(sa.select(outbox.c.revision_id).where(again).distinct()).scalars().all()
    values = {"state": OutboxState.PENDING.value, "attempts": 0, "not_before": now}
    connection.execute(outbox.update().where(again).values(**values))
    _reopen(connection, touched)


def retry_dead(
    database: Database, *, destination: str | None = None, ids: Collection[int] | None = None, now: datetime
) -> int:
    """DEAD -> PENDING, all of them, those of one destination or those of these ids; returns how many."""
    dead = _dead(destination, ids)
    with database.transaction() as connection:
        touched = connection.execute(sa.select(outbox.c.revision_id).where(dead).distinct()).scalars().all()
        values = {"state": OutboxState.PENDING.value, "attempts": 0, "commitment_asks": 0, "not_before": now}
        count = connection.execute(outbox.update().where(dead).values(**values)).rowcount
        _reopen(connection, touched)
        return count


def give_up(
    database: Database, *, destination: str | None = None, ids: Collection[int] | None = None, now: datetime
) -> int:
    """DEAD -> CANCELLED, those of one destination or those of these ids; returns how many. What nobody can mend."""
    dead = _dead(destination, ids)
    with database.transaction() as connection:
        touched = connection.execute(sa.select(outbox.c.revision_id).where(dead).distinct()).scalars().all()
        count = connection.execute(outbox.update().where(dead).values(state=OutboxState.CANCELLED.value)).rowcount
        close_delivered(connection, touched, now)
        return count


def recall(database: Database, study_id: int, *, now: datetime) -> None:
    """An ESCALATION of a study that has not arrived yet is not told any more: somebody has seen the flag."""
    calls = (
        sa.select(outbox.c.id, outbox.c.revision_id)
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .join(study, study.c.study_uid == result.c.study_uid)
        .where(study.c.id == study_id, result.c.kind == MessageKind.ESCALATION.value)
        .where(outbox.c.state.in_((*UNSENT, OutboxState.DEAD.value)))
    )
    with database.transaction() as connection:
        found = connection.execute(calls).all()
        unarrived = outbox.c.state.in_((*UNSENT, OutboxState.DEAD.value))  # still: it may have arrived meanwhile
        which = sa.and_(outbox.c.id.in_([each.id for each in found]), unarrived)
        connection.execute(outbox.update().where(which).values(state=OutboxState.CANCELLED.value))
        close_delivered(connection, [each.revision_id for each in found], now)


def _dead(destination: str | None, ids: Collection[int] | None) -> sa.ColumnElement[bool]:
    dead: sa.ColumnElement[bool] = outbox.c.state == OutboxState.DEAD.value
    if destination is not None:
        dead = sa.and_(dead, outbox.c.destination == destination)
    return dead if ids is None else sa.and_(dead, outbox.c.id.in_(ids))


def _reopen(connection: sa.Connection, revision_ids: Sequence[int]) -> None:
    """DELIVERED -> REPORTED: there are rows to send again."""
    connection.execute(
        revision.update()
        .where(revision.c.id.in_(revision_ids), revision.c.state == SeriesState.DELIVERED.value)
        .values(state=SeriesState.REPORTED.value, delivered_at=None)
    )


def _notice_of_open_study() -> sa.ColumnElement[bool]:
    """`Not analysed` waits as long as another series of the study comes in or is analysed."""
    own_series, other_series, other = series.alias(), series.alias(), revision.alias()
    return sa.exists().where(
        revision.c.id == outbox.c.revision_id,
        revision.c.outcome == Outcome.NOT_ANALYZED.value,
        own_series.c.series_uid == revision.c.series_uid,
        other_series.c.study_uid == own_series.c.study_uid,
        other.c.series_uid == other_series.c.series_uid,
        other.c.state.in_(OPEN_STATES),
        ~replaces_what_was_told(),  # a withdrawal waits for nobody
    )


def _finish(connection: sa.Connection, parcel: Parcel, state: OutboxState, **values: object) -> bool:
    # SENDING, or CANCELLED while it was under way: then only its arrival still counts
    arrived = state is OutboxState.SENT
    legal = [OutboxState.SENDING.value, OutboxState.CANCELLED.value] if arrived else [OutboxState.SENDING.value]
    # guarded by the token: a sender whose lease ran out changes nothing
    done = connection.execute(
        outbox.update()
        .where(outbox.c.id == parcel.id, outbox.c.token == parcel.token, outbox.c.state.in_(legal))
        .values(state=state.value, token=None, **values)
    )
    return done.rowcount == 1


def dead_letters(database: Database) -> int:
    """How many rows are DEAD."""
    query = sa.select(sa.func.count()).where(outbox.c.state == OutboxState.DEAD.value)
    with database.reading() as connection:
        count: int = connection.execute(query).scalar_one()
        return count


def destinations_in_use(database: Database) -> Sequence[str]:
    """Names of destinations that unsent or uncommitted rows wait for; one that left the configuration shows up here."""
    states = (*UNSENT, OutboxState.DEAD.value)
    waits = sa.or_(outbox.c.state.in_(states), outbox.c.commitment_due.is_not(None))
    query = sa.select(outbox.c.destination).where(waits).distinct()
    with database.reading() as connection:
        return sorted(connection.execute(query).scalars())
