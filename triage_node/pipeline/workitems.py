"""The node's results as workitems (PS3.4 CC), for callers who query, claim and end them.

What state a workitem is in follows from the database: see `store.workitems`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from pydicom.dataset import Dataset

from triage_node.config import UpsDestination
from triage_node.deliver.statement import sentence
from triage_node.deliver.ups import SUPERSEDED, first_archive
from triage_node.domain import DISCLAIMER, PROCEDURE_STEP_LABEL, WORKLIST_LABEL, Reference, StepState
from triage_node.peers import ups
from triage_node.peers.workitem import Workitem, dataset, moment, performed, scheduled
from triage_node.pipeline.parts import Parts
from triage_node.receive.workitems import INVALID_ARGUMENT, PROCESSING_FAILURE, RESOURCE_LIMITATION, Offered
from triage_node.store import claims
from triage_node.store import workitems as store
from triage_node.store.workitems import FINAL, Task

ONLY_MADE_SCHEDULED: Final = 0xC303
ALREADY: Final = {StepState.COMPLETED: ups.ALREADY_COMPLETED, StepState.CANCELED: ups.ALREADY_CANCELED}
IGNORED: Final = 0x0001
"""Warning: requested optional attributes are not supported."""
SETTABLE: Final = ("UnifiedProcedureStepPerformedProcedureSequence", "ProcedureStepProgressInformationSequence")
PERFORMED: Final = (
    "PerformedStationNameCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedProcedureStepEndDateTime",
    "PerformedWorkitemCodeSequence",
)
"""What a workitem must say before it may be COMPLETED (PS3.4 table CC.2.5-3)."""
MOST_PERFORMED: Final = 200_000
"""Characters of what a claimer may set, as JSON."""


class NodeWorklist:
    """The receive.workitems.Worklist of this node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def offered(self) -> Sequence[Offered]:
        """In the order of the page."""
        return [self._offered(task) for task in self._tasks()]

    def find(self, uid: str) -> Offered | None:
        """One of them."""
        task = self._task(uid)
        return None if task is None else self._offered(task)

    def change_state(self, uid: str, state: str, transaction_uid: str, calling_ae: str) -> int:
        """SCHEDULED -> IN PROGRESS -> COMPLETED or CANCELED, by the one who claimed it."""
        if state not in set(StepState) or (transaction_uid == "" and state != StepState.SCHEDULED):
            return INVALID_ARGUMENT if transaction_uid else ups.NOT_YOURS
        wanted = StepState(state)
        if wanted is StepState.SCHEDULED:
            return ONLY_MADE_SCHEDULED
        task = self._task(uid)
        if task is None:
            return ups.UNKNOWN
        if task.state in FINAL:
            return ALREADY[task.state] if task.state is wanted else ups.FINAL
        if wanted is StepState.IN_PROGRESS:
            return self._claim(task, uid, transaction_uid, calling_ae)
        return self._end(task, wanted, transaction_uid)

    def request_cancel(self, uid: str) -> int:
        """Nobody is asked: there are no event reports. Who has claimed it may cancel it."""
        task = self._task(uid)
        if task is None:
            return ups.UNKNOWN
        answers = {StepState.COMPLETED: ups.CANNOT_CANCEL_COMPLETED, StepState.CANCELED: ups.ALREADY_CANCELED}
        answers |= {StepState.IN_PROGRESS: ups.PERFORMER_OUT_OF_REACH, StepState.SCHEDULED: ups.PERFORMER_REFUSES}
        return answers[task.state]

    def change(self, uid: str, modified: Dataset) -> int:
        """What was performed, and how far it is; the rest is the node's to say."""
        task = self._task(uid)
        if task is None:
            return ups.UNKNOWN
        refusal = _refusal(task, str(modified.get("TransactionUID") or ""))
        if refusal is not None:
            return refusal
        assert task.claimed is not None
        said = dataset(**{name: modified[name].value for name in SETTABLE if name in modified}).to_json_dict()
        whole = {**(task.claimed.performed or {}), **said}
        if len(json.dumps(whole)) > MOST_PERFORMED:
            return RESOURCE_LIMITATION
        if not store.keep_performed(self._parts.database, task, whole):
            return PROCESSING_FAILURE
        others = {element.keyword for element in modified} - {*SETTABLE, "TransactionUID", "SpecificCharacterSet"}
        return IGNORED if others else ups.SUCCESS

    # ------------------------------------------------------------ steps

    def _claim(self, task: Task, uid: str, transaction_uid: str, calling_ae: str) -> int:
        if task.state is StepState.IN_PROGRESS:
            return ups.ALREADY_IN_PROGRESS
        now = self._parts.clock()
        claim = partial(store.claim, self._parts.database, task, uid)
        claimed = claim(transaction_uid=transaction_uid, calling_ae=calling_ae, now=now)
        return ups.SUCCESS if claimed else ups.ALREADY_IN_PROGRESS

    def _end(self, task: Task, wanted: StepState, transaction_uid: str) -> int:
        refusal = _refusal(task, transaction_uid)
        if refusal is not None:
            return refusal
        if wanted is StepState.COMPLETED and not _is_performed(task):
            return 0xC304
        tell = [each.name for each in self._parts.config.destinations if isinstance(each, UpsDestination)]
        ended = store.end(self._parts.database, task, wanted, now=self._parts.clock(), tell=tell)
        return ups.SUCCESS if ended else PROCESSING_FAILURE

    def _tasks(self) -> list[Task]:
        since = self._parts.clock() - timedelta(hours=self._parts.config.web.list_h)
        return store.tasks(self._parts.database, since=since)

    def _task(self, uid: str) -> Task | None:
        return next((task for task in self._tasks() if self._uid(task) == uid), None)

    def _uid(self, task: Task) -> str:
        """The first workitem of a result is known by the same UID here and at every [[destination]] of kind ups."""
        if task.claimed is not None:
            return task.claimed.uid
        scope = self._parts.config.uid_scope
        first = task.result_uid or _derived(scope, task.series_uid, str(task.revision))
        return _derived(first, str(task.number)) if task.number else first

    def _offered(self, task: Task) -> Offered:
        return Offered(uid=self._uid(task), attributes=partial(self._attributes, task))

    def _attributes(self, task: Task, inputs: bool) -> Dataset:
        attributes = scheduled(self._workitem(task, self._inputs(task) if inputs else ()))
        del attributes.TransactionUID
        attributes.update(
            dataset(
                SOPClassUID=ups.PUSH,
                SOPInstanceUID=self._uid(task),
                ProcedureStepState=task.state.value,
                ScheduledProcedureStepModificationDateTime=moment(task.reported_at.astimezone()),
            )
        )
        if task.state is StepState.CANCELED:
            why = "" if task.claimed and task.claimed.state is StepState.CANCELED else SUPERSEDED
            attributes.ProcedureStepProgressInformationSequence = [dataset(ReasonForCancellation=why)]
        if task.claimed is not None and task.claimed.performed:
            attributes.update(Dataset.from_json(dict(task.claimed.performed)))
        elif task.state is StepState.COMPLETED:
            attributes.update(self._read_on_the_page(task))
        return attributes

    def _workitem(self, task: Task, inputs: Sequence[Reference]) -> Workitem:
        return Workitem(
            uid=self._uid(task),
            study_uid=task.study_uid,
            created_at=task.reported_at.astimezone(),
            priority=task.priority,
            worklist_label=WORKLIST_LABEL,
            label=PROCEDURE_STEP_LABEL,
            comment=f"{sentence(task.outcome, task.detail)} {DISCLAIMER}",
            patient=task.patient,
            order=None,
            inputs=inputs,
            replaces=(),
            retrieve_ae=first_archive(self._parts.config),
        )

    def _inputs(self, task: Task) -> list[Reference]:
        received = claims.references(self._parts.database, task.series_uid)
        return [*received, *store.created(self._parts.database, task.revision_id)]

    def _read_on_the_page(self, task: Task) -> Dataset:
        assert task.read_at is not None
        return performed(
            study_uid=task.study_uid,
            station=self._parts.config.node.ae_title,
            retrieve_ae=first_archive(self._parts.config),
            outputs=store.created(self._parts.database, task.revision_id),
            began_at=task.reported_at.astimezone(),
            at=task.read_at.astimezone(),
        )


def _derived(*parts: str) -> str:
    return f"2.25.{uuid5(NAMESPACE_OID, '|'.join(('workitem', *parts))).int}"


def _refusal(task: Task, transaction_uid: str) -> int | None:
    """Why this caller may not change the workitem now."""
    if task.state in FINAL:
        return ups.FINAL
    if task.state is StepState.SCHEDULED:
        return ups.NOT_IN_PROGRESS
    assert task.claimed is not None
    return None if task.claimed.transaction_uid == transaction_uid else ups.NOT_YOURS


def _is_performed(task: Task) -> bool:
    assert task.claimed is not None
    said = Dataset.from_json(dict(task.claimed.performed or {}))
    steps = said.get("UnifiedProcedureStepPerformedProcedureSequence") or []
    return bool(steps) and all(steps[0].get(keyword) for keyword in PERFORMED)
