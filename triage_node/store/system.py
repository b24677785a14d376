"""What the administrator's page shows of the database. No identity leaves through here, only numbers of studies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from triage_node.domain import OutboxState, Outcome
from triage_node.store.database import Database
from triage_node.store.outbox import UNSENT
from triage_node.store.schema import OPEN_STATES, outbox, quarantined, result, revision, role, series, study

LETTERS: Final = 50
"""Dead letters that are shown."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The series in one state of the queue."""

    series: int
    since: datetime | None
    """The oldest is ready since then, or, while it still comes in, had its first image then."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Result objects of one destination."""

    destination: str
    waiting: int
    sent: int
    """Those that it confirmed are not among them."""
    confirmed: int
    unconfirmed: int
    """Those that were sent and are to be confirmed yet."""
    dead: int
    not_accepted: int
    """Those that it does not take; it has others of the same results."""
    last_sent_at: datetime | None
    error: str | None
    """The newest one of what is not there yet."""
    failed_at: datetime | None
    """When the try began that ended so; None where an older version of the node made it."""


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A dead letter."""

    id: int
    study_id: int
    destination: str
    kind: str
    attempts: int
    status: int | None
    """DIMSE status of the last try."""
    error: str | None
    tried_at: datetime | None


def last_seen(database: Database) -> dict[str, datetime]:
    """By kind, when a process that is running, or did not end in order, was last seen."""
    query = sa.select(role.c.kind, sa.func.max(role.c.seen_at).label("at")).group_by(role.c.kind)
    with database.reading() as connection:
        return {found.kind: found.at for found in connection.execute(query)}


def queue(database: Database) -> dict[str, Stage]:
    """By state, what is not finished."""
    since = sa.func.min(sa.func.coalesce(revision.c.ready_at, series.c.first_image_at))
    query = (
        sa.select(revision.c.state, sa.func.count(), since)
        .join(series, series.c.series_uid == revision.c.series_uid)
        .where(revision.c.state.in_(OPEN_STATES))
        .group_by(revision.c.state)
    )
    empty = dict.fromkeys(OPEN_STATES, Stage(series=0, since=None))
    with database.reading() as connection:
        return empty | {state: Stage(series=count, since=at) for state, count, at in connection.execute(query)}


def outcomes(database: Database, since: datetime) -> dict[str, int]:
    """How many series ended how since a moment."""
    query = (
        sa.select(revision.c.outcome, sa.func.count())
        .where(revision.c.reported_at >= since)
        .group_by(revision.c.outcome)
    )
    with database.reading() as connection:
        return dict.fromkeys(Outcome, 0) | {Outcome(name): count for name, count in connection.execute(query)}


def newest_bundle(database: Database) -> dict[str, Any] | None:
    """Name, version and sha256 of the bundle that made the newest result."""
    query = (
        sa.select(revision.c.result["bundle"])
        .where(revision.c.reported_at.is_not(None), revision.c.outcome == Outcome.ANALYZED.value)
        .order_by(revision.c.reported_at.desc())
        .limit(1)
    )
    with database.reading() as connection:
        found: dict[str, Any] | None = connection.execute(query).scalar()
        return found


def count_quarantined(database: Database) -> int:
    """Objects that came with the SOP Instance UID of another one."""
    with database.reading() as connection:
        count: int = connection.execute(sa.select(sa.func.count()).select_from(quarantined)).scalar_one()
        return count


def traffic(database: Database, configured: Collection[str]) -> list[Traffic]:
    """Of each destination that is configured, then of each that rows wait for although it is not."""
    counting = sa.select(outbox.c.destination, outbox.c.state, sa.func.count())
    counts: dict[str, dict[str, int]] = {name: {} for name in configured}
    with database.reading() as connection:
        for name, state, count in connection.execute(counting.group_by(outbox.c.destination, outbox.c.state)):
            counts.setdefault(name, {})[state] = count
        shown = [name for name, states in counts.items() if name in configured or states.keys() & _NOT_THERE]
        return [_traffic(connection, name, counts[name]) for name in shown]


def letters(database: Database) -> list[Letter]:
    """The newest dead letters."""
    columns = ("id", "destination", "attempts", "status", "error", "tried_at")
    query = (
        sa.select(*(outbox.c[name] for name in columns), result.c.kind, study.c.id.label("study_id"))
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .join(study, study.c.study_uid == result.c.study_uid)
        .where(outbox.c.state == OutboxState.DEAD.value, outbox.c.error.is_not(None))  # so it finds its index
        .order_by(*_NEWEST_TRY)
        .limit(LETTERS)
    )
    with database.reading() as connection:
        return [Letter(**row._mapping) for row in connection.execute(query)]


# ---------------------------------------------------------------- steps

_NOT_THERE: Final = {*UNSENT, OutboxState.DEAD.value}
_OVER: Final = (OutboxState.CANCELLED.value, OutboxState.NOT_ACCEPTED.value)
_NEWEST_TRY: Final = (outbox.c.tried_at.desc().nulls_last(), outbox.c.id.desc())


def _traffic(connection: sa.Connection, destination: str, states: dict[str, int]) -> Traffic:
    here = outbox.c.destination == destination
    error = (
        sa.select(outbox.c.error, outbox.c.tried_at)
        .where(here, outbox.c.error.is_not(None), outbox.c.state.not_in(_OVER))
        .order_by(*_NEWEST_TRY)
        .limit(1)
    )
    failed = connection.execute(error).first()
    return Traffic(
        destination=destination,
        waiting=sum(states.get(state, 0) for state in UNSENT),
        sent=states.get(OutboxState.SENT, 0),
        confirmed=states.get(OutboxState.CONFIRMED, 0),
        unconfirmed=connection.execute(
            sa.select(sa.func.count()).where(here, outbox.c.commitment_due.is_not(None))
        ).scalar_one(),
        dead=states.get(OutboxState.DEAD, 0),
        not_accepted=states.get(OutboxState.NOT_ACCEPTED, 0),
        last_sent_at=connection.execute(sa.select(sa.func.max(outbox.c.sent_at)).where(here)).scalar(),
        error=failed.error if failed else None,
        failed_at=failed.tried_at if failed else None,
    )
