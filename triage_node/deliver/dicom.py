"""A destination that is reached by C-STORE, and asked whether it has what it was sent: by commitment or C-FIND."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from triage_node.config import Destination
from triage_node.domain import CommitmentReport
from triage_node.errors import DeliveryError
from triage_node.peers import OutgoingObject, Peer, StoreResult, querying, request_commitment, store
from triage_node.peers.find import Find

HOLD_S: Final = 5.0
"""How long an association waits for a storage commitment report; most peers open one of their own for it."""

TOGETHER: Final = 16
"""Objects that go over one association."""


class DicomDestination:
    """One [[destination]] of kind "dicom"."""

    def __init__(self, destination: Destination, *, calling_ae: str, timeout_s: float, hold_s: float = HOLD_S) -> None:
        self.name = destination.name
        self.proof = destination.proof
        self.commitment = destination.proof is not None
        self.at_a_time = TOGETHER
        self._peer = Peer(ae_title=destination.ae_title, host=destination.host, port=destination.port)
        ae_title, host, port = destination.find_peer or (destination.ae_title, destination.host, destination.port)
        self._find_peer = Peer(ae_title=ae_title, host=host, port=port)
        self._calling_ae = calling_ae
        self._timeout_s = timeout_s
        self._hold_s = hold_s

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """Send objects, decoded where it takes them uncompressed only; `on_result` is called exactly once for each.

        Raises nothing for a failed send.
        """
        for message in (each for each in objects if not each.sop_class_uid):
            what = f"{self.name} was told of results when this was published, and now takes DICOM objects only"
            on_result(StoreResult(outgoing=message, status=None, error=DeliveryError(what, retryable=False)))
        store(
            self._peer,
            calling_ae=self._calling_ae,
            objects=[each for each in objects if each.sop_class_uid],
            timeout_s=self._timeout_s,
            on_result=on_result,
            re_encode=True,
        )

    def request_commitment(
        self,
        transaction_uid: str,
        references: Sequence[tuple[str, str]],
        *,
        on_report: Callable[[CommitmentReport], bool],
        answered: Callable[[], bool],
    ) -> None:
        """Ask it to commit to what it was sent. Raises DeliveryError where it did not take the request."""
        request_commitment(
            self._peer,
            calling_ae=self._calling_ae,
            transaction_uid=transaction_uid,
            references=references,
            timeout_s=self._timeout_s,
            on_report=on_report,
            answered=answered,
            hold_s=self._hold_s,
        )

    def querying(self) -> AbstractContextManager[Find]:
        """Ask it by C-FIND, over one association. Raises DeliveryError where it cannot be asked."""
        return querying(self._find_peer, calling_ae=self._calling_ae, timeout_s=self._timeout_s)
