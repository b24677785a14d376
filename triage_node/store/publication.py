"""The end of a revision becomes public in one transaction: outcome, objects, outbox rows, what it supersedes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import sqlalchemy as sa

from triage_node.domain import (
    TELLING,
    NotAnalyzedReason,
    OutboxState,
    Outcome,
    Patient,
    Priority,
    ResultObject,
    SeriesState,
    require_transition,
)
from triage_node.errors import LeaseLost
from triage_node.store import worklist
from triage_node.store.claims import Claim, close_delivered, held_by
from triage_node.store.database import Database
from triage_node.store.schema import OPEN_STATES, outbox, result, revision, series
from triage_node.store.studies import analyzed_before, analyzed_in, newest_ended, replaces_what_was_told

URGENCY = {Priority.STAT: 0, Priority.HIGH: 1, Priority.NONE: 2, Priority.ROUTINE: 3}
"""Order of the outbox under backlog; a notice goes before routine results."""


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
    corrections: Sequence[tuple[str, str]] = ()
    """The same, of destinations that would not be told of this result by itself: they are where they may have heard of
    an older revision, and would go on believing it."""
    not_before: datetime
    """Deliver from this moment on (a notice waits for the rest of the study)."""
    though_it_grew: bool = False
    """Publish although an image came since the claim, which then opens the next revision."""
    rivals: Sequence[str] = ()
    """Series of the same acquisition: of them and this one, one is published as ANALYZED."""
    patient: Patient | None = None
    """Whose study it is; None where the images do not say."""


class Publication(Enum):
    """What came of publishing."""

    PUBLISHED = "PUBLISHED"
    GREW = "GREW"
    """An image came since the claim: the series is open again."""
    YIELDED = "YIELDED"
    """A rival was published meanwhile, or lost its analysis: the series is READY again, to be looked at once more."""


def publish(database: Database, held: Claim, report: Report, *, now: datetime) -> Publication:
    """Make a result public, in one transaction: outcome, objects, outbox rows, the supersession of older ones.

    Where an image came since the claim, or a rival was published, nothing becomes public and the revision is open
    again. Raises LeaseLost when another worker holds the claim.
    """
    with database.transaction() as connection:
        grew = _lock_study(connection, held)[held.series_uid] != held.images
        if grew and not report.though_it_grew:
            _open_again(connection, held, SeriesState.RECEIVING)
            return Publication.GREW
        if _yields(connection, held, report):
            _open_again(connection, held, SeriesState.READY)
            return Publication.YIELDED
        _finish(connection, held, report, now)
        withdraws = not _is_duplicate(report) and _supersede(connection, held)
        _insert_results(connection, held, report, now if withdraws else report.not_before)
        if withdraws and report.outcome != Outcome.ANALYZED:
            _reopen_duplicates(connection, held, now)
        else:
            _reconcile_notices(connection, held, report, now)
        worklist.refresh(connection, held.study_uid, report.patient)
        close_delivered(connection, _revisions_of(connection, held.series_uid), now)
        if grew:
            _open_next(connection, held)
        return Publication.PUBLISHED


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
    if connection.execute(held_by(held).values(**values)).rowcount != 1:
        raise LeaseLost("another worker took this series over")


def _open_next(connection: sa.Connection, held: Claim) -> None:
    values = {"series_uid": held.series_uid, "revision": held.revision + 1, "attempts": 0}
    connection.execute(revision.insert().values(state=SeriesState.RECEIVING.value, **values))


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
    if connection.execute(held_by(held).values(**values)).rowcount != 1:
        raise LeaseLost("another worker took this series over")


def _supersede(connection: sa.Connection, held: Claim) -> bool:
    """What older revisions of this series have not sent yet is not sent any more. Whether one was ANALYZED: what
    follows then replaces what people have seen, and does not wait.

    Not of a duplicate, which sends nothing: a withdrawal that is on its way must arrive.
    """
    older = sa.select(revision.c.id).where(
        revision.c.series_uid == held.series_uid, revision.c.revision < held.revision
    )
    _cancel(connection, outbox.c.revision_id.in_(older))
    return connection.execute(analyzed_before(held).limit(1)).first() is not None


def _yields(connection: sa.Connection, held: Claim, report: Report) -> bool:
    """Whether a rival of what was analysed is published by now, or none any more of what is a duplicate."""
    if report.outcome != Outcome.ANALYZED and not _is_duplicate(report):
        return False
    analyzed = set(connection.execute(analyzed_in(held.study_uid)).scalars())
    return analyzed.isdisjoint(report.rivals) == _is_duplicate(report)


def _is_duplicate(report: Report) -> bool:
    return report.reason == NotAnalyzedReason.DUPLICATE_RECONSTRUCTION


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
    urgency = _urgency(connection, held, report)
    for sop_uid, destination in [*report.deliveries, *_heard_otherwise(connection, held, report)]:
        connection.execute(
            outbox.insert().values(
                sop_uid=sop_uid,
                destination=destination,
                revision_id=held.revision_id,
                state=OutboxState.PENDING.value,
                urgency=urgency,
                attempts=0,
                not_before=not_before,
            )
        )


def _urgency(connection: sa.Connection, held: Claim, report: Report) -> int:
    """What takes something back is as urgent as that was."""
    tried = (
        sa.select(sa.func.min(outbox.c.urgency))
        .join(revision, revision.c.id == outbox.c.revision_id)
        .where(revision.c.series_uid == held.series_uid, outbox.c.tried_at.is_not(None))
    )
    before: int | None = connection.execute(tried).scalar()
    own = URGENCY[report.priority]
    return own if before is None else min(own, before)


def _heard_otherwise(connection: sa.Connection, held: Claim, report: Report) -> list[tuple[str, str]]:
    """What was tried once may have arrived, whatever became of the answer."""
    tried = (
        sa.select(outbox.c.destination)
        .join(revision, revision.c.id == outbox.c.revision_id)
        .where(revision.c.series_uid == held.series_uid, outbox.c.tried_at.is_not(None))
        .distinct()
    )
    heard = set(connection.execute(tried).scalars()) if report.corrections else set()
    return [(sop_uid, destination) for sop_uid, destination in report.corrections if destination in heard]


def _reconcile_notices(connection: sa.Connection, held: Claim, report: Report, now: datetime) -> None:
    """`Not analysed` is said of a study once, by its most telling notice, and only where nothing was analysed.

    A notice that replaces a result which people have seen is sent whatever became of the rest.
    """
    heard = sa.exists().where(
        outbox.c.revision_id == revision.c.id, outbox.c.state != OutboxState.CANCELLED.value
    )  # a notice that was cancelled for a more telling one is not sent any more: it must not silence others
    columns = (revision.c.id, revision.c.reason, heard.label("heard"))
    ended = newest_ended(held.study_uid, *columns).where(revision.c.outcome == Outcome.NOT_ANALYZED.value)
    not_analyzed = ended.where(~replaces_what_was_told())
    notices = sorted(connection.execute(not_analyzed).all(), key=lambda row: (_telling(row.reason), row.id))
    analyzed = connection.execute(analyzed_in(held.study_uid).limit(1)).first() is not None
    prior = any(row.reason == NotAnalyzedReason.PRIOR_STUDY for row in notices)
    unsaid = {NotAnalyzedReason.LOCALIZER} if prior else set()  # a scout often has no date of its own
    candidates = [row for row in notices if row.heard]
    told = [] if analyzed else [row.id for row in candidates if row.reason not in unsaid][:1]
    silenced = [row.id for row in candidates if row.id not in told]
    _cancel(connection, outbox.c.revision_id.in_(silenced))
    close_delivered(connection, silenced, now)
    said = outbox.c.revision_id.in_(told)
    waiting = sa.and_(outbox.c.state == OutboxState.PENDING.value, outbox.c.not_before < report.not_before)
    connection.execute(outbox.update().where(said, waiting).values(not_before=report.not_before))


def _telling(reason: str | None) -> int:
    return next((place for place, telling in enumerate(TELLING) if telling == reason), len(TELLING))


def _reopen_duplicates(connection: sa.Connection, held: Claim, now: datetime) -> None:
    """What was left to this series is looked at again, now that it has no analysis any more."""
    columns = (revision.c.series_uid, revision.c.revision)
    duplicates = newest_ended(held.study_uid, *columns).where(
        revision.c.reason == NotAnalyzedReason.DUPLICATE_RECONSTRUCTION.value,
        revision.c.series_uid.not_in(sa.select(revision.c.series_uid).where(revision.c.state.in_(OPEN_STATES))),
        revision.c.series_uid.not_in(
            sa.select(series.c.series_uid).where(series.c.study_uid == held.study_uid, series.c.removal_at.is_not(None))
        ),
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
