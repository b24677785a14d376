"""Results as workitems (PS3.4 CC) that worklist clients claim: the worklist's rows, and who has which in hand.

A workitem stands for the result that the row of a study shows. Only claims have rows of their own; everything else
follows from result and row, so that the two lists cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from triage_node.domain import MessageKind, NotAnalyzedReason, Outcome, Patient, Priority, Reference, StepState
from triage_node.store import opinions
from triage_node.store.database import Database, alone
from triage_node.store.schema import result as result_table
from triage_node.store.schema import revision, series, study, workitem
from triage_node.store.worklist import PATIENT, RANK, UNKNOWN

FINAL: Final = (StepState.COMPLETED, StepState.CANCELED)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A workitem that somebody claimed."""

    uid: str
    number: int
    state: StepState
    """As the claimer left it: IN PROGRESS, COMPLETED or CANCELED."""
    transaction_uid: str
    calling_ae: str
    performed: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One workitem, claimed or not."""

    study_id: int
    study_uid: str
    series_uid: str
    revision_id: int
    revision: int
    result_uid: str | None
    """Of its RESULT; None where no destination was told of it."""
    number: int
    """Of the workitems of this result: one that ended while the study is unread is followed by another one."""
    state: StepState
    outcome: Outcome
    priority: Priority
    detail: str
    patient: Patient
    last_image_at: datetime
    reported_at: datetime
    read_at: datetime | None
    claimed: Claimed | None


def tasks(database: Database, *, since: datetime) -> list[Task]:
    """Every workitem of studies with an image since then, or in somebody's hands; what is read first in front."""
    claimed = sa.select(workitem.c.revision_id).where(workitem.c.state == StepState.IN_PROGRESS.value)
    in_hand = sa.and_(study.c.read_at.is_(None), study.c.revision_id.in_(claimed))
    with database.reading() as connection:
        return _tasks(connection, sa.or_(study.c.last_image_at >= since, in_hand))


def claim(database: Database, task: Task, uid: str, *, transaction_uid: str, calling_ae: str, now: datetime) -> bool:
    """SCHEDULED -> IN PROGRESS, and the flag has been seen; returns whether it was still SCHEDULED."""
    values = {"uid": uid, "revision_id": task.revision_id, "number": task.number, "state": StepState.IN_PROGRESS.value}
    values |= {"transaction_uid": transaction_uid, "calling_ae": calling_ae, "claimed_at": now}
    with database.transaction() as connection:
        if _locked(connection, task) is not StepState.SCHEDULED:
            return False
        connection.execute(workitem.insert().values(**values))
    opinions.acknowledge(database, task.study_id, user=_name(calling_ae), now=now)
    return True


def keep_performed(database: Database, task: Task, performed: Mapping[str, Any]) -> bool:
    """What the claimer says of an IN PROGRESS workitem; returns whether it was still that."""
    assert task.claimed is not None
    with database.transaction() as connection:
        if _locked(connection, task) is not StepState.IN_PROGRESS:
            return False
        connection.execute(
            workitem.update().where(workitem.c.uid == task.claimed.uid).values(performed=dict(performed))
        )
        return True


def end(database: Database, task: Task, state: StepState, *, now: datetime, tell: Sequence[str] = ()) -> bool:
    """IN PROGRESS -> COMPLETED, and the study is read, or CANCELED; returns whether it was still IN PROGRESS."""
    assert task.claimed is not None
    with database.transaction() as connection:
        if _locked(connection, task) is not StepState.IN_PROGRESS:
            return False
        ended = workitem.update().where(workitem.c.uid == task.claimed.uid)
        connection.execute(ended.values(state=state.value, ended_at=now))
        if state is StepState.COMPLETED:
            user = _name(task.claimed.calling_ae)
            opinions.note_read(connection, task.study_uid, user=user, now=now, tell=tell)
    if state is StepState.COMPLETED:  # what was claimed is; unless the listener was killed in between
        opinions.acknowledge(database, task.study_id, user=_name(task.claimed.calling_ae), now=now)
    return True


def created(database: Database, revision_id: int) -> list[Reference]:
    """The DICOM objects that were made of a revision."""
    query = (
        sa.select(result_table.c.result_series_uid, result_table.c.sop_class_uid, result_table.c.sop_uid)
        .where(result_table.c.revision_id == revision_id, result_table.c.sop_class_uid != "")
        .order_by(result_table.c.sop_uid)
    )
    with database.reading() as connection:
        return [(row.result_series_uid, row.sop_class_uid, row.sop_uid) for row in connection.execute(query)]


# ---------------------------------------------------------------- steps


def _name(calling_ae: str) -> str:
    """Who read a study, where that was done by a worklist client."""
    return f"{calling_ae} (UPS)"


def _locked(connection: sa.Connection, task: Task) -> StepState | None:
    """The state of a workitem that nobody else changes meanwhile; None where it is not there any more."""
    alone(connection, "workitem")
    opinions.lock_study(connection, task.study_id)
    found = _tasks(connection, study.c.id == task.study_id)
    same = (each.state for each in found if (each.revision_id, each.number) == (task.revision_id, task.number))
    return next(same, None)


def _tasks(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[Task]:
    claims: dict[int, list[Claimed]] = {}
    shown, of_shown = revision.alias(), study.c.revision_id == revision.c.id
    superseded = sa.and_(shown.c.series_uid == revision.c.series_uid, shown.c.revision > revision.c.revision)
    told = sa.and_(result_table.c.revision_id == revision.c.id, result_table.c.kind == MessageKind.RESULT.value)
    was_claimed = sa.exists().where(workitem.c.revision_id == revision.c.id)
    of_study = [study.c[name] for name in ("study_uid", "last_image_at", "read_at", *PATIENT)]
    names = ("id", "series_uid", "revision", "outcome", "priority", "detail", "reported_at")
    query = (
        sa.select(*of_study, study.c.id.label("study_id"), of_shown.label("is_shown"))
        .add_columns(*(revision.c[name] for name in names), result_table.c.sop_uid.label("result_uid"))
        .join(series, series.c.study_uid == study.c.study_uid)
        .join(revision, revision.c.series_uid == series.c.series_uid)
        .join(shown, shown.c.id == study.c.revision_id)
        .outerjoin(result_table, told)
        .where(which, revision.c.outcome.is_not(None), sa.or_(of_shown, superseded, was_claimed))
        .where(sa.func.coalesce(revision.c.reason, "") != NotAnalyzedReason.PRIOR_STUDY.value)
    )
    rows = connection.execute(query).all()
    of_these = workitem.c.revision_id.in_([row.id for row in rows])
    for each in connection.execute(sa.select(workitem).where(of_these).order_by(workitem.c.number)):
        claims.setdefault(each.revision_id, []).append(_claimed(each))
    found = [task for row in rows for task in _of_revision(row, claims.get(row.id, []))]
    return sorted(found, key=lambda task: (_rank(task), task.last_image_at, task.study_id, task.revision, task.number))


def _claimed(row: Any) -> Claimed:
    return Claimed(
        uid=row.uid,
        number=row.number,
        state=StepState(row.state),
        transaction_uid=row.transaction_uid,
        calling_ae=row.calling_ae,
        performed=row.performed,
    )


def _of_revision(row: Any, claims: Sequence[Claimed]) -> Iterator[Task]:
    """Those that were claimed, and the one that waits for somebody, or nobody claimed in time."""
    for claimed in claims:
        yield _task(row, claimed.number, _state_of(claimed, row), claimed)
    last = claims[-1].state if claims else None
    taken = last is StepState.IN_PROGRESS or (last is StepState.COMPLETED and row.read_at is not None)
    if row.is_shown and not taken:
        yield _task(row, len(claims), StepState.COMPLETED if row.read_at else StepState.SCHEDULED, None)
    elif not row.is_shown and not claims:
        yield _task(row, 0, StepState.CANCELED, None)


def _state_of(claimed: Claimed, row: Any) -> StepState:
    if claimed.state in FINAL:
        return claimed.state
    if not row.is_shown:
        return StepState.CANCELED
    return StepState.COMPLETED if row.read_at is not None else StepState.IN_PROGRESS


def _task(row: Any, number: int, state: StepState, claimed: Claimed | None) -> Task:
    return Task(
        study_id=row.study_id,
        study_uid=row.study_uid,
        series_uid=row.series_uid,
        revision_id=row.id,
        revision=row.revision,
        result_uid=row.result_uid,
        number=number,
        state=state,
        outcome=Outcome(row.outcome),
        priority=Priority(row.priority),
        detail=row.detail or "",
        patient=Patient(**{name: getattr(row, name) for name in PATIENT}),
        last_image_at=row.last_image_at,
        reported_at=row.reported_at,
        read_at=row.read_at,
        claimed=claimed,
    )


def _rank(task: Task) -> int:
    return RANK.get(task.priority, UNKNOWN)
