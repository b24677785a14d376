"""Revisions of series: complete, claim, heartbeat, publish.

A claim is one UPDATE ... RETURNING. It holds a token and a lease; every later statement names the token, so a worker
that was taken for dead cannot finish what another one took over.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import sqlalchemy as sa

from triage_node.domain import (
    TELLING,
    NotAnalyzedReason,
    ObjectKind,
    OutboxState,
    Outcome,
    Priority,
    ResultObject,
    SeriesState,
    require_transition,
)
from triage_node.errors import LeaseLost
from triage_node.store.database import Database
from triage_node.store.schema import OPEN_STATES, Moment, instance, outbox, result, revision, series

URGENCY = {Priority.STAT: 0, Priority.HIGH: 1, Priority.NONE: 2, Priority.ROUTINE: 3}
"""Order of the outbox under backlog; a notice goes before routine results."""


@dataclass(frozen=True, kw_only=True)
class Receiving:
    """A series that still comes in."""

    revision_id: int
    series_uid: str
    calling_ae: str
    images: int
    first_image_at: datetime
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
    attempts: int
    """This one included."""
    token: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What publishing makes public: outcome, result.json, objects and where they go."""

    outcome: Outcome
    reason: str | None
    detail: str | None
    priority: Priority
    result: Mapping[str, Any]
    objects: Sequence[tuple[ResultObject, str]]
    """Each with its path relative to the spool."""
    deliveries: Sequence[tuple[str, str]]
    """(SOP Instance UID, destination name)."""
    not_before: datetime
    """Deliver from this moment on (a notice waits for the rest of the study)."""
    rivals: Sequence[str] = ()
    """Series of the same acquisition: of them and this one, one is published as ANALYZED."""


class Publication(Enum):
    """What came of publishing."""

    PUBLISHED = "PUBLISHED"
    GREW = "GREW"
    """An image came since the claim: the series is open again."""
    YIELDED = "YIELDED"
    """A rival was published meanwhile: the series is READY again, to end as its duplicate."""


@dataclass(frozen=True, kw_only=True)
class Sibling:
    """Another series of the study, by its newest revision."""

    series_uid: str
    state: SeriesState
    analyzed: bool
    """Whether its newest published revision is ANALYZED."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where the images of a series lie, as far as their headers say."""

    sop_uids: tuple[str, ...]
    """Lowest, middle and highest image along the normal; any three where no place is known."""
    positions_mm: tuple[float, ...]
    """Of all images along the normal, growing."""


# ---------------------------------------------------------------- completeness


def receiving(database: Database) -> list[Receiving]:
    """All series in RECEIVING."""
    query = (
        sa.select(
            revision.c.id.label("revision_id"),
            *(series.c[name] for name in ("series_uid", "calling_ae", "images")),
            *(series.c[name] for name in ("first_image_at", "last_image_at", "released_at")),
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
            *(revision.c[name] for name in ("id", "series_uid", "revision", "claimed_at", "ready_at", "attempts"))
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
        attempts=row.attempts,
        token=token,
    )


def heartbeat(database: Database, held: Claim, *, now: datetime, lease_s: float) -> None:
    """Extend the lease. Raises LeaseLost when another worker holds it."""
    statement = _held(held).values(lease_until=now + timedelta(seconds=lease_s))
    with database.transaction() as connection:
        if connection.execute(statement).rowcount != 1:
            raise LeaseLost("another worker took this series over")


def give_back(database: Database, held: Claim, *, not_before: datetime, counted: bool = True) -> None:
    """ANALYZING -> READY after a failure that another try may cure; `counted` as an attempt or not."""
    require_transition(SeriesState.ANALYZING, SeriesState.READY)
    attempts = held.attempts if counted else held.attempts - 1
    values = {"state": SeriesState.READY.value, "token": None, "not_before": not_before, "attempts": attempts}
    with database.transaction() as connection:
        connection.execute(_held(held).values(**values))


def growth(database: Database, series_uid: str) -> tuple[int, datetime]:
    """How many images a series has, and when the newest one came."""
    query = sa.select(series.c.images, series.c.last_image_at).where(series.c.series_uid == series_uid)
    with database.reading() as connection:
        row = connection.execute(query).one()
        return row.images, row.last_image_at


def siblings(database: Database, held: Claim) -> list[Sibling]:
    """The other series of the study."""
    newer = revision.alias()
    superseded = sa.exists().where(newer.c.series_uid == revision.c.series_uid, newer.c.revision > revision.c.revision)
    query = (
        sa.select(series.c.series_uid, revision.c.state)
        .join(revision, revision.c.series_uid == series.c.series_uid)
        .where(series.c.study_uid == held.study_uid, series.c.series_uid != held.series_uid)
        .where(~superseded)
        .order_by(series.c.series_uid)
    )
    with database.reading() as connection:
        analyzed = set(connection.execute(_analyzed_in(held.study_uid)).scalars())
        return [
            Sibling(series_uid=row.series_uid, state=SeriesState(row.state), analyzed=row.series_uid in analyzed)
            for row in connection.execute(query)
        ]


def extent(database: Database, series_uid: str) -> Extent:
    """Where the images of a series lie."""
    query = (
        sa.select(instance.c.sop_uid, instance.c.along_normal_mm)
        .where(instance.c.series_uid == series_uid)
        .order_by(instance.c.along_normal_mm, instance.c.sop_uid)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
    placed = [row for row in rows if row.along_normal_mm is not None]
    looked_at = placed or rows
    sample = dict.fromkeys(looked_at[index].sop_uid for index in (0, len(looked_at) // 2, -1)) if looked_at else ()
    return Extent(sop_uids=tuple(sample), positions_mm=tuple(row.along_normal_mm for row in placed))


def was_analyzed(database: Database, held: Claim) -> bool:
    """Whether an older revision of this series was published as ANALYZED."""
    with database.reading() as connection:
        return connection.execute(_analyzed_before(held).limit(1)).first() is not None


def sop_uids(database: Database, series_uid: str) -> list[str]:
    """SOP Instance UIDs of the images of a series, sorted."""
    query = sa.select(instance.c.sop_uid).where(instance.c.series_uid == series_uid).order_by(instance.c.sop_uid)
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


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


# ---------------------------------------------------------------- publish


def publish(database: Database, held: Claim, report: Report, *, now: datetime) -> Publication:
    """Make a result public, in one transaction: outcome, objects, outbox rows, the supersession of older ones.

    Where an image came since the claim, or a rival was published, nothing becomes public and the revision is open
    again. Raises LeaseLost when another worker holds the claim.
    """
    with database.transaction() as connection:
        if _lock_study(connection, held)[held.series_uid] != held.images:
            _open_again(connection, held, SeriesState.RECEIVING)
            return Publication.GREW
        if _rival_was_published(connection, held, report):
            _open_again(connection, held, SeriesState.READY)
            return Publication.YIELDED
        _finish(connection, held, report, now)
        withdraws = _supersede(connection, held)
        _insert_results(connection, held, report, now if withdraws else report.not_before)
        if withdraws and report.outcome != Outcome.ANALYZED:
            _reopen_duplicates(connection, held, now)
        else:
            _reconcile_notices(connection, held, report, now)
        close_delivered(connection, _revisions_of(connection, held.series_uid), now)
        return Publication.PUBLISHED


def _claimable(now: datetime) -> sa.ColumnElement[bool]:
    due = sa.or_(revision.c.not_before.is_(None), revision.c.not_before <= now)
    abandoned = sa.and_(revision.c.state == SeriesState.ANALYZING.value, revision.c.lease_until < now)
    return sa.or_(sa.and_(revision.c.state == SeriesState.READY.value, due), abandoned)


def _held(held: Claim) -> sa.Update:
    return revision.update().where(
        revision.c.id == held.revision_id,
        revision.c.token == held.token,
        revision.c.state == SeriesState.ANALYZING.value,
    )


def _lock_study(connection: sa.Connection, held: Claim) -> dict[str, int]:
    """Number of images by series of the study, under lock (on SQLite the whole database is).

    No image can slip in between, and two series of one study are published one after the other, so that each sees how
    the other ended.
    """
    rows = connection.execute(
        sa.select(series.c.series_uid, series.c.images)
        .where(series.c.study_uid == held.study_uid)
        .order_by(series.c.series_uid)
        .with_for_update()
    )
    return {row.series_uid: row.images for row in rows}


def _revisions_of(connection: sa.Connection, series_uid: str) -> list[int]:
    return list(connection.execute(sa.select(revision.c.id).where(revision.c.series_uid == series_uid)).scalars())


def _open_again(connection: sa.Connection, held: Claim, state: SeriesState) -> None:
    require_transition(SeriesState.ANALYZING, state)
    values = {"state": state.value, "token": None, "attempts": 0, "claimed_at": None}
    if connection.execute(_held(held).values(**values)).rowcount != 1:
        raise LeaseLost("another worker took this series over")


def _finish(connection: sa.Connection, held: Claim, report: Report, now: datetime) -> None:
    require_transition(SeriesState.ANALYZING, SeriesState.REPORTED)
    values = {
        "state": SeriesState.REPORTED.value,
        "token": None,
        "outcome": report.outcome.value,
        "reason": report.reason,
        "detail": report.detail,
        "priority": report.priority.value,
        "result": dict(report.result),
        "reported_at": now,
    }
    if connection.execute(_held(held).values(**values)).rowcount != 1:
        raise LeaseLost("another worker took this series over")


def _analyzed_before(held: Claim) -> sa.Select[tuple[int]]:
    return sa.select(revision.c.id).where(
        revision.c.series_uid == held.series_uid,
        revision.c.revision < held.revision,
        revision.c.outcome == Outcome.ANALYZED.value,
    )


def _supersede(connection: sa.Connection, held: Claim) -> bool:
    """What older revisions of this series have not sent yet is not sent any more. Whether one was ANALYZED: what
    follows then replaces what people have seen, and does not wait."""
    older = sa.select(revision.c.id).where(
        revision.c.series_uid == held.series_uid, revision.c.revision < held.revision
    )
    _cancel(connection, outbox.c.revision_id.in_(older))
    return connection.execute(_analyzed_before(held).limit(1)).first() is not None


def _rival_was_published(connection: sa.Connection, held: Claim, report: Report) -> bool:
    if report.outcome != Outcome.ANALYZED or not report.rivals:
        return False
    analyzed = set(connection.execute(_analyzed_in(held.study_uid)).scalars())
    return not analyzed.isdisjoint(report.rivals)


def _insert_results(connection: sa.Connection, held: Claim, report: Report, not_before: datetime) -> None:
    for made, path in report.objects:
        connection.execute(
            result.insert().values(
                sop_uid=made.sop_uid,
                revision_id=held.revision_id,
                study_uid=held.study_uid,
                kind=made.kind.value,
                sop_class_uid=made.sop_class_uid,
                transfer_syntax_uid=made.transfer_syntax_uid,
                result_series_uid=made.series_uid,
                path=path,
                sha256=made.sha256,
            )
        )
    for sop_uid, destination in report.deliveries:
        connection.execute(
            outbox.insert().values(
                sop_uid=sop_uid,
                destination=destination,
                revision_id=held.revision_id,
                state=OutboxState.PENDING.value,
                urgency=URGENCY[report.priority],
                attempts=0,
                not_before=not_before,
            )
        )


def _newest_ended(study_uid: str, *columns: sa.Column[Any]) -> sa.Select[Any]:
    """`columns` of the newest published revision of each series of a study."""
    newer = revision.alias()
    superseded = sa.exists().where(
        newer.c.series_uid == revision.c.series_uid,
        newer.c.revision > revision.c.revision,
        newer.c.outcome.is_not(None),
    )
    in_study = sa.select(series.c.series_uid).where(series.c.study_uid == study_uid)
    return sa.select(*columns).where(revision.c.series_uid.in_(in_study), revision.c.outcome.is_not(None), ~superseded)


def _analyzed_in(study_uid: str) -> sa.Select[tuple[str]]:
    """Series of a study that count as analysed, as their newest published revisions say."""
    return _newest_ended(study_uid, revision.c.series_uid).where(revision.c.outcome == Outcome.ANALYZED.value)


def _reconcile_notices(connection: sa.Connection, held: Claim, report: Report, now: datetime) -> None:
    """`Not analysed` is said of a study once, by its most telling notice, where nothing was analysed; not of a prior.

    A notice that replaces a result which people have seen is sent whatever became of the rest.
    """
    older = revision.alias()
    replaces = sa.exists().where(
        older.c.series_uid == revision.c.series_uid,
        older.c.revision < revision.c.revision,
        older.c.outcome == Outcome.ANALYZED.value,
    )
    columns = (revision.c.id, revision.c.reason)
    ended = _newest_ended(held.study_uid, *columns).where(revision.c.outcome == Outcome.NOT_ANALYZED.value)
    not_analyzed = ended.where(~replaces)
    notices = sorted(connection.execute(not_analyzed).all(), key=lambda row: (_telling(row.reason), row.id))
    analyzed = connection.execute(_analyzed_in(held.study_uid).limit(1)).first() is not None
    prior = any(row.reason == NotAnalyzedReason.PRIOR_STUDY for row in notices)
    silenced = [row.id for row in notices[0 if analyzed or prior else 1 :]]
    _cancel(connection, outbox.c.revision_id.in_(silenced))
    close_delivered(connection, silenced, now)
    said = outbox.c.revision_id.in_([row.id for row in notices[:1]])
    waiting = outbox.c.state == OutboxState.PENDING.value
    connection.execute(outbox.update().where(said, waiting).values(not_before=report.not_before))


def _telling(reason: str | None) -> int:
    return next((place for place, telling in enumerate(TELLING) if telling == reason), len(TELLING))


def _reopen_duplicates(connection: sa.Connection, held: Claim, now: datetime) -> None:
    """What was left to this series is looked at again, now that it has no analysis any more."""
    columns = (revision.c.series_uid, revision.c.revision)
    duplicates = _newest_ended(held.study_uid, *columns).where(
        revision.c.reason == NotAnalyzedReason.DUPLICATE_RECONSTRUCTION.value,
        revision.c.series_uid.not_in(sa.select(revision.c.series_uid).where(revision.c.state.in_(OPEN_STATES))),
    )
    for row in connection.execute(duplicates).all():
        connection.execute(
            revision.insert().values(
                series_uid=row.series_uid,
                revision=row.revision + 1,
                state=SeriesState.READY.value,
                ready_because="the series that was analysed in its place has no analysis any more",
                ready_at=now,
                attempts=0,
            )
        )


def _cancel(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """What is under way may still arrive and is SENT then; if it fails it is not tried again."""
    unsent = (OutboxState.PENDING.value, OutboxState.SENDING.value, OutboxState.DEAD.value)
    connection.execute(
        outbox.update().where(which, outbox.c.state.in_(unsent)).values(state=OutboxState.CANCELLED.value)
    )


def close_delivered(connection: sa.Connection, revision_ids: Sequence[int], now: datetime) -> None:
    """REPORTED -> DELIVERED for revisions of which no row is open or dead."""
    require_transition(SeriesState.REPORTED, SeriesState.DELIVERED)
    unfinished = (OutboxState.PENDING.value, OutboxState.SENDING.value, OutboxState.DEAD.value)
    open_rows = sa.exists().where(outbox.c.revision_id == revision.c.id, outbox.c.state.in_(unfinished))
    connection.execute(
        revision.update()
        .where(revision.c.id.in_(revision_ids), revision.c.state == SeriesState.REPORTED.value, ~open_rows)
        .values(state=SeriesState.DELIVERED.value, delivered_at=now)
    )
