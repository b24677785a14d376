"""What people try on the page for it: waiting, claimed by a worker, ended, removed.

One table, which no other refers to: nothing of a trial is in the ledger, on the worklist or in the outbox. A claim
holds a token and a lease as that of a series does (claims.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from triage_node.domain import TrialKind, TrialState
from triage_node.errors import LeaseLost
from triage_node.store.database import Database, alone
from triage_node.store.schema import trial

WAITING_AT_MOST: Final = 3
"""Trials of one user that have not ended."""
_OPEN: Final = (TrialState.WAITING.value, TrialState.RUNNING.value)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One of them."""

    id: str
    user: str
    made_at: datetime
    kind: TrialKind
    files: int
    """That are used."""
    passed_over: int
    """Files that are neither CT images nor a picture."""
    size_bytes: int
    state: TrialState
    stage: str | None
    """How far it is, in words."""
    started_at: datetime | None
    ended_at: datetime | None
    detail: str | None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this worker, and no other, may run."""

    id: str
    kind: TrialKind
    attempts: int
    """This one included."""
    token: str


_COLUMNS: Final = [trial.c[name] for name in Trial.__dataclass_fields__]

# ---------------------------------------------------------------- who tries


def add(
    database: Database,
    trial_id: str,
    *,
    user: str,
    kind: TrialKind,
    files: int,
    passed_over: int,
    size_bytes: int,
    now: datetime,
) -> bool:
    """A trial that waits. False, and nothing is added, where the user has WAITING_AT_MOST of them."""
    values = {"kind": kind.value, "files": files, "passed_over": passed_over, "size_bytes": size_bytes}
    with database.transaction() as connection:
        alone(connection, f"trials of {user}")
        if connection.execute(_open_count(user)).scalar_one() >= WAITING_AT_MOST:
            return False
        state = TrialState.WAITING.value
        connection.execute(trial.insert().values(id=trial_id, user=user, made_at=now, state=state, **values))
    return True


def may_add(database: Database, user: str) -> bool:
    """Whether `add` would."""
    with database.reading() as connection:
        return bool(connection.execute(_open_count(user)).scalar_one() < WAITING_AT_MOST)


def get(database: Database, trial_id: str) -> Trial | None:
    """One trial; None where there is none of this id."""
    with database.reading() as connection:
        found = connection.execute(sa.select(*_COLUMNS).where(trial.c.id == trial_id)).first()
    return None if found is None else _trial(found)


def of_user(database: Database, user: str) -> list[Trial]:
    """All of one user, newest first."""
    query = sa.select(*_COLUMNS).where(trial.c.user == user).order_by(trial.c.made_at.desc(), trial.c.id)
    with database.reading() as connection:
        return [_trial(found) for found in connection.execute(query)]


def result(database: Database, trial_id: str) -> list[dict[str, Any]]:
    """What came out, by series; empty before the end."""
    with database.reading() as connection:
        return list(connection.execute(sa.select(trial.c.result).where(trial.c.id == trial_id)).scalar() or ())


def ahead(database: Database, waiting: Trial) -> int:
    """How many trials come before one that waits."""
    query = sa.select(sa.func.count()).where(trial.c.state.in_(_OPEN), trial.c.made_at < waiting.made_at)
    with database.reading() as connection:
        return int(connection.execute(query).scalar_one())


# ---------------------------------------------------------------- who runs it


def has_claimable(database: Database, *, now: datetime) -> bool:
    """Whether a claim would find something; a read, so that idling takes no write lock."""
    with database.reading() as connection:
        return connection.execute(sa.select(trial.c.id).where(_claimable(now)).limit(1)).first() is not None


def claim(database: Database, *, now: datetime, lease_s: float) -> Claim | None:
    """Take the oldest one that waits, or runs under a lease that ran out."""
    token = secrets.token_hex(16)
    due = sa.select(trial.c.id).where(_claimable(now)).order_by(trial.c.made_at, trial.c.id).limit(1)
    if database.engine.dialect.name == "postgresql":
        due = due.with_for_update(skip_locked=True)
    values = {
        "state": TrialState.RUNNING.value,
        "stage": "reading",
        "token": token,
        "lease_until": now + timedelta(seconds=lease_s),
        "started_at": now,
        "attempts": trial.c.attempts + 1,
    }
    taking = trial.update().where(trial.c.id == due.scalar_subquery()).values(**values)
    with database.transaction() as connection:
        taken = connection.execute(taking.returning(trial.c.id, trial.c.kind, trial.c.attempts)).first()
    if taken is None:
        return None
    return Claim(id=taken.id, kind=TrialKind(taken.kind), attempts=taken.attempts, token=token)


def heartbeat(database: Database, held: Claim, *, now: datetime, lease_s: float) -> None:
    """Extend the lease. Raises LeaseLost when another worker holds it, or the trial was removed."""
    _update(database, held, lease_until=now + timedelta(seconds=lease_s))


def note_stage(database: Database, held: Claim, stage: str) -> None:
    """How far it is. Raises LeaseLost as `heartbeat`."""
    _update(database, held, stage=stage[:64])


def finish(database: Database, held: Claim, results: Sequence[dict[str, Any]], *, now: datetime) -> None:
    """RUNNING -> DONE. Raises LeaseLost as `heartbeat`."""
    _update(database, held, state=TrialState.DONE.value, stage=None, result=list(results), ended_at=now)


def fail(database: Database, held: Claim, detail: str, *, now: datetime) -> None:
    """RUNNING -> FAILED, with a sentence for who tried. Raises LeaseLost as `heartbeat`."""
    _update(database, held, state=TrialState.FAILED.value, stage=None, detail=detail[:400], ended_at=now)


def give_back(database: Database, held: Claim) -> None:
    """RUNNING -> WAITING, and the try does not count: the worker stops. Raises LeaseLost as `heartbeat`."""
    _update(database, held, state=TrialState.WAITING.value, stage=None, token=None, attempts=trial.c.attempts - 1)


# ---------------------------------------------------------------- removal


def remove(database: Database, trial_id: str) -> None:
    """Its row goes; whoever runs it loses it. The files are the caller's to remove."""
    with database.transaction() as connection:
        connection.execute(trial.delete().where(trial.c.id == trial_id))


def give_up(database: Database, before: datetime, *, now: datetime) -> int:
    """What was made before a moment and is run by nobody ends as FAILED, and says so; returns how many."""
    values = {"state": TrialState.FAILED.value, "stage": None, "token": None, "ended_at": now}
    waiting = trial.update().where(trial.c.made_at < before, _claimable(now))
    with database.transaction() as connection:
        return connection.execute(waiting.values(detail="No worker took it. Is one running?", **values)).rowcount


def older(database: Database, before: datetime) -> list[str]:
    """Those that ended before a moment."""
    with database.reading() as connection:
        return list(connection.execute(sa.select(trial.c.id).where(trial.c.ended_at < before)).scalars())


def ended(database: Database) -> list[str]:
    """Those that have ended, oldest first."""
    query = sa.select(trial.c.id).where(trial.c.ended_at.is_not(None)).order_by(trial.c.made_at)
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def ids(database: Database) -> set[str]:
    """All of them."""
    with database.reading() as connection:
        return set(connection.execute(sa.select(trial.c.id)).scalars())


# ---------------------------------------------------------------- steps


def _open_count(user: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(trial.c.user == user, trial.c.state.in_(_OPEN))


def _claimable(now: datetime) -> sa.ColumnElement[bool]:
    abandoned = sa.and_(trial.c.state == TrialState.RUNNING.value, trial.c.lease_until < now)
    return sa.or_(trial.c.state == TrialState.WAITING.value, abandoned)


def _update(database: Database, held: Claim, **values: Any) -> None:
    ours = (trial.c.id == held.id, trial.c.token == held.token, trial.c.state == TrialState.RUNNING.value)
    with database.transaction() as connection:
        if connection.execute(trial.update().where(*ours).values(**values)).rowcount != 1:
            raise LeaseLost("another worker took this trial over, or it was removed")


def _trial(found: sa.Row[Any]) -> Trial:
    values = dict(found._mapping)
    return Trial(**values | {"kind": TrialKind(values["kind"]), "state": TrialState(values["state"])})
