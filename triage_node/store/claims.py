"""Revisions of series: complete, claim, heartbeat.

A claim is one UPDATE ... RETURNING. It holds a token and a lease; every later statement names the token, so a worker
that was taken for dead cannot finish what another one took over.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from triage_node.domain import (
    ObjectKind,
    OutboxState,
    Reference,
    SeriesState,
    require_transition,
)
from triage_node.errors import LeaseLost
from triage_node.store.database import Database
from triage_node.store.schema import Moment, instance, outbox, result, revision, series


@dataclass(frozen=True, kw_only=True)
class Receiving:
    """A series that still comes in."""

    revision_id: int
    series_uid: str
    study_uid: str
    calling_ae: str
    images: int
    open_since: datetime
    """When the first image of this revision came."""
    last_image_at: datetime
    released_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A revision that this worker, and no other, may analyse."""

    revision_id: int
    series_uid: str
    study_uid: str
    revision: int
    images: int
    """How many the series had at the claim; a result of fewer is not published."""
    claimed_at: datetime
    """The clock of the results; the same at every attempt."""
    received_at: datetime
    """When its first image came: the age of a study is measured from here, so that no backlog makes it a prior. For
    a series that was entered anew from the spool the claim counts: a lost database must not analyse old studies."""
    ready_at: datetime
    """When it was complete."""
    ready_because: str
    """Why it was taken for complete."""
    attempts: int
    """This one included."""
    token: str


# ---------------------------------------------------------------- completeness


def receiving(database: Database) -> list[Receiving]:
    """All series in RECEIVING."""
    older = revision.alias()
    published_at = sa.select(sa.func.max(older.c.reported_at)).where(older.c.series_uid == series.c.series_uid)
    newer = sa.select(sa.func.min(instance.c.received_at)).where(
        instance.c.series_uid == series.c.series_uid,
        instance.c.received_at > sa.func.coalesce(published_at.scalar_subquery(), 0.0),
    )
    open_since = sa.func.coalesce(newer.scalar_subquery(), published_at.scalar_subquery(), series.c.first_image_at)
    query = (
        sa.select(
            revision.c.id.label("revision_id"),
            *(series.c[name] for name in ("series_uid", "study_uid", "calling_ae", "images")),
            open_since.label("open_since"),
            *(series.c[name] for name in ("last_image_at", "released_at")),
        )
        .join(series, series.c.series_uid == revision.c.series_uid)
        .where(revision.c.state == SeriesState.RECEIVING.value)
    )
    with database.reading() as connection:
        return [Receiving(**row._mapping) for row in connection.execute(query)]


def positions_mm(database: Database, series_uid: str) -> list[float]:
    """Distance of each image of a series along the slice normal, mm."""
    query = sa.select(instance.c.along_normal_mm).where(
        instance.c.series_uid == series_uid, instance.c.along_normal_mm.is_not(None)
    )
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def holds_class(database: Database, series_uid: str, sop_class_uids: Collection[str]) -> bool:
    """Whether a series holds an object of one of these SOP Classes."""
    query = sa.select(instance.c.sop_uid).where(
        instance.c.series_uid == series_uid, instance.c.sop_class_uid.in_(sop_class_uids)
    )
    with database.reading() as connection:
        return connection.execute(query.limit(1)).first() is not None


def set_ready(database: Database, waiting: Receiving, because: str, at: datetime) -> bool:
    """RECEIVING -> READY, unless an image came since `waiting` was read."""
    require_transition(SeriesState.RECEIVING, SeriesState.READY)
    unchanged = sa.select(series.c.images).where(series.c.series_uid == waiting.series_uid).scalar_subquery()
    statement = (
        revision.update()
        .where(revision.c.id == waiting.revision_id, revision.c.state == SeriesState.RECEIVING.value)
        .where(unchanged == waiting.images)
        .values(state=SeriesState.READY.value, ready_because=because, ready_at=at)
    )
    with database.transaction() as connection:
        return connection.execute(statement).rowcount == 1


# ---------------------------------------------------------------- claim and heartbeat


def has_claimable(database: Database, *, now: datetime) -> bool:
    """Whether a claim would find something; a read, so that idling takes no write lock."""
    with database.reading() as connection:
        return connection.execute(sa.select(revision.c.id).where(_claimable(now)).limit(1)).first() is not None


def claim(database: Database, *, now: datetime, lease_s: float) -> Claim | None:
    """Take the oldest revision that is READY, or ANALYZING under a lease that ran out."""
    token = secrets.token_hex(16)
    waits_since = sa.func.coalesce(revision.c.not_before, revision.c.ready_at)  # who was given back queues up again
    due = sa.select(revision.c.id).where(_claimable(now)).order_by(waits_since, revision.c.id).limit(1)
    if database.engine.dialect.name == "postgresql":
        due = due.with_for_update(skip_locked=True)
    statement = (
        revision.update()
        .where(revision.c.id == due.scalar_subquery())
        .values(
            state=SeriesState.ANALYZING.value,
            token=token,
            lease_until=now + timedelta(seconds=lease_s),
            claimed_at=sa.func.coalesce(revision.c.claimed_at, sa.literal(now, Moment)),
            attempts=revision.c.attempts + 1,
        )
        .returning(
            *(
                revision.c[name]
                for name in ("id", "series_uid", "revision", "claimed_at", "ready_at", "ready_because", "attempts")
            )
        )
    )
    with database.transaction() as connection:
        row = connection.execute(statement).first()
        if row is None:
            return None
        owner = connection.execute(
            sa.select(series.c.study_uid, series.c.images, series.c.first_image_at, series.c.association).where(
                series.c.series_uid == row.series_uid
            )
        ).one()
    return Claim(
        revision_id=row.id,
        series_uid=row.series_uid,
        study_uid=owner.study_uid,
        revision=row.revision,
        images=owner.images,
        claimed_at=row.claimed_at,
        received_at=owner.first_image_at if owner.association else row.claimed_at,
        ready_at=row.ready_at,
        ready_because=row.ready_because,
        attempts=row.attempts,
        token=token,
    )


def heartbeat(database: Database, held: Claim, *, now: datetime, lease_s: float) -> None:
    """Extend the lease. Raises LeaseLost when another worker holds it."""
    statement = held_by(held).values(lease_until=now + timedelta(seconds=lease_s))
    with database.transaction() as connection:
        if connection.execute(statement).rowcount != 1:
            raise LeaseLost("another worker took this series over")


def give_back(database: Database, held: Claim, *, not_before: datetime, counted: bool = True) -> None:
    """ANALYZING -> READY after a failure that another try may cure; `counted` as an attempt or not."""
    require_transition(SeriesState.ANALYZING, SeriesState.READY)
    attempts = held.attempts if counted else held.attempts - 1
    values = {"state": SeriesState.READY.value, "token": None, "not_before": not_before, "attempts": attempts}
    with database.transaction() as connection:
        connection.execute(held_by(held).values(**values))


def growth(database: Database, series_uid: str) -> tuple[int, datetime]:
    """How many images a series has, and when the newest one came."""
    query = sa.select(series.c.images, series.c.last_image_at).where(series.c.series_uid == series_uid)
    with database.reading() as connection:
        row = connection.execute(query).one()
        return row.images, row.last_image_at


def sop_uids(database: Database, series_uid: str) -> list[str]:
    """SOP Instance UIDs of the images of a series, sorted."""
    query = sa.select(instance.c.sop_uid).where(instance.c.series_uid == series_uid).order_by(instance.c.sop_uid)
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def references(database: Database, series_uid: str) -> list[Reference]:
    """The images of a series, sorted by SOP Instance UID."""
    query = (
        sa.select(instance.c.series_uid, instance.c.sop_class_uid, instance.c.sop_uid)
        .where(instance.c.series_uid == series_uid)
        .order_by(instance.c.sop_uid)
    )
    with database.reading() as connection:
        return [(row.series_uid, row.sop_class_uid, row.sop_uid) for row in connection.execute(query)]


def previous_sr(database: Database, held: Claim) -> tuple[str, str] | None:
    """(SOP Class UID, SOP Instance UID) of the SR that this revision supersedes."""
    query = (
        sa.select(result.c.sop_class_uid, result.c.sop_uid)
        .join(revision, revision.c.id == result.c.revision_id)
        .where(revision.c.series_uid == held.series_uid, revision.c.revision < held.revision)
        .where(result.c.kind == ObjectKind.SR.value)
        .order_by(revision.c.revision.desc())
        .limit(1)
    )
    with database.reading() as connection:
        row = connection.execute(query).first()
        return None if row is None else (row.sop_class_uid, row.sop_uid)


def _claimable(now: datetime) -> sa.ColumnElement[bool]:
    due = sa.or_(revision.c.not_before.is_(None), revision.c.not_before <= now)
    abandoned = sa.and_(revision.c.state == SeriesState.ANALYZING.value, revision.c.lease_until < now)
    return sa.or_(sa.and_(revision.c.state == SeriesState.READY.value, due), abandoned)


def held_by(held: Claim) -> sa.Update:
    """An update of the claimed revision that touches nothing once another worker holds it."""
    return revision.update().where(
        revision.c.id == held.revision_id,
        revision.c.token == held.token,
        revision.c.state == SeriesState.ANALYZING.value,
    )


def close_delivered(connection: sa.Connection, revision_ids: Sequence[int], now: datetime) -> None:
    """REPORTED -> DELIVERED for revisions of which no row is open or dead, or waits for storage commitment.

    Under lock, so that of two destinations that end at the same moment the second sees what became of the first.
    """
    require_transition(SeriesState.REPORTED, SeriesState.DELIVERED)
    chosen = revision.c.id.in_(revision_ids)
    connection.execute(sa.select(revision.c.id).where(chosen).order_by(revision.c.id).with_for_update()).all()
    unfinished = (OutboxState.PENDING.value, OutboxState.SENDING.value, OutboxState.DEAD.value)
    uncommitted = sa.and_(outbox.c.state == OutboxState.SENT.value, outbox.c.commitment_due.is_not(None))
    open_rows = sa.exists().where(
        outbox.c.revision_id == revision.c.id, sa.or_(outbox.c.state.in_(unfinished), uncommitted)
    )
    connection.execute(
        revision.update()
        .where(chosen, revision.c.state == SeriesState.REPORTED.value, ~open_rows)
        .values(state=SeriesState.DELIVERED.value, delivered_at=now)
    )
