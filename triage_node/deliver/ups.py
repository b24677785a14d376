"""A destination that is told of results by workitems (DICOM UPS, PS3.4 CC): each is somebody's task to read a study.

A message brings the workitems of a series to what the node knows: the one of this revision is there, those of older
ones are canceled, and when the study was read it is completed. Whatever of that was done before stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from triage_node import log
from triage_node.config import Config, Destination, UpsDestination
from triage_node.deliver import statement as statements
from triage_node.deliver.batch import tell_each
from triage_node.deliver.statement import Statement
from triage_node.domain import DISCLAIMER, NotAnalyzedReason, Outcome
from triage_node.errors import DeliveryError
from triage_node.peers import OutgoingObject, Peer, StoreResult
from triage_node.peers.ups import UpsAssociation
from triage_node.peers.workitem import Workitem, performed, scheduled

SUPERSEDED: Final = "superseded by a later revision of the result"


class UpsChannel:
    """One [[destination]] of kind "ups"."""

    commitment = False
    at_a_time = 1

    def __init__(self, destination: UpsDestination, config: Config) -> None:
        self.name = destination.name
        self._settings = destination
        self._peer = Peer(ae_title=destination.ae_title, host=destination.host, port=destination.port)
        self._calling_ae = config.node.ae_title
        self._timeout_s = config.delivery.timeout_s
        self._retrieve_ae = destination.retrieve_ae or first_archive(config)

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """One association for each. Raises nothing for a failed send."""
        tell_each(objects, self._tell, on_result)

    def probe(self) -> str:
        """Negotiate, and ask for nothing. Raises DeliveryError."""
        with self._associated() as ups:
            completes = "" if ups.can_perform else ", but not UPS Pull: what is read here is not completed there"
        return f"{self._peer.ae_title} offers UPS Push at {self._settings.address}{completes}"

    def _tell(self, outgoing: OutgoingObject) -> None:
        statement = statements.read(outgoing.path)
        wanted = _is_wanted(statement, self._settings)
        if not wanted and not statement.supersedes:
            return
        with self._associated() as ups:
            refusal = self._create(ups, statement) if wanted else None
            self._cancel_older(ups, statement)
            if refusal is not None:
                raise refusal
            if wanted and outgoing.read_at is not None:
                self._complete(ups, statement, outgoing)

    def _associated(self) -> UpsAssociation:
        return UpsAssociation(self._peer, calling_ae=self._calling_ae, timeout_s=self._timeout_s)

    def _create(self, ups: UpsAssociation, statement: Statement) -> DeliveryError | None:
        """A refusal is returned: it must not leave on the list what this result takes back."""
        try:
            ups.create(statement.uid, scheduled(self._workitem(statement)))
        except DeliveryError as error:
            if error.retryable:
                raise
            return error
        return None

    def _cancel_older(self, ups: UpsAssociation, statement: Statement) -> None:
        for uid in statement.supersedes:
            if not ups.request_cancel(uid, SUPERSEDED):
                self._say("an older workitem is in somebody's hands and was not canceled", uid)

    def _complete(self, ups: UpsAssociation, statement: Statement, outgoing: OutgoingObject) -> None:
        assert outgoing.read_at is not None
        if not ups.can_perform:
            self._say("a workitem is not completed: no UPS Pull", statement.uid)
            return
        done = performed(
            study_uid=statement.study_uid,
            station=self._calling_ae,
            retrieve_ae=self._retrieve_ae,
            outputs=statement.created,
            began_at=statement.created_at,
            at=outgoing.read_at.astimezone(),
        )
        if not ups.complete(statement.uid, _transaction_uid(statement), done):
            self._say("somebody else has claimed the workitem and will end it", statement.uid)

    def _workitem(self, statement: Statement) -> Workitem:
        return Workitem(
            uid=statement.uid,
            study_uid=statement.study_uid,
            created_at=statement.created_at,
            priority=statement.priority,
            worklist_label=self._settings.worklist_label,
            label=self._settings.procedure_step_label,
            comment=f"{statement.text} {DISCLAIMER}",
            patient=statement.patient,
            order=statement.order,
            inputs=[*statement.received, *statement.created],
            replaces=statement.supersedes,
            retrieve_ae=self._retrieve_ae,
        )

    def _say(self, what: str, uid: str) -> None:
        log.event(what, destination=self.name, object=log.ref(uid))


def _is_wanted(statement: Statement, settings: UpsDestination) -> bool:
    """Whether this result is a task. One that is not was told since it takes an older one back.

    An earlier study is nobody's task.
    """
    ended = statement.priority.value if statement.outcome is Outcome.ANALYZED else statement.outcome.value
    return ended in settings.send and statement.result["reason"] != NotAnalyzedReason.PRIOR_STUDY


def first_archive(config: Config) -> str:
    """Where results are stored, and images most often come from; else ourselves, who give nothing out."""
    archives = [each.ae_title for each in config.destinations if isinstance(each, Destination)]
    return next(iter(archives), config.node.ae_title)


def _transaction_uid(statement: Statement) -> str:
    """Of our claim: the same on every try, so that one that was interrupted is taken up again."""
    return f"2.25.{uuid5(NAMESPACE_OID, f'{statement.uid}|transaction').int}"
