"""Unified Procedure Step as a user (PS3.4 CC): make a workitem, ask that it is canceled, claim and complete it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from pydicom.dataset import Dataset

from triage_node.errors import DeliveryError
from triage_node.peers.association import UNCOMPRESSED, Peer, associate, lost, release

PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
"""The SOP class of every workitem, whatever the class of the context that a request goes over (PS3.4 CC.3)."""
WATCH: Final = "1.2.840.10008.5.1.4.34.6.2"
PULL: Final = "1.2.840.10008.5.1.4.34.6.3"
QUERY: Final = "1.2.840.10008.5.1.4.34.6.5"

# Action types, PS3.4 CC.2.1 to CC.2.3
CHANGE_STATE: Final = 1
REQUEST_CANCEL: Final = 2
SUBSCRIBE: Final = 3
UNSUBSCRIBE: Final = 4
SUSPEND_GLOBAL: Final = 5

# Statuses that say how a workitem stands, PS3.4 CC.2
SUCCESS: Final = 0x0000
DUPLICATE: Final = 0x0111
ALREADY_CANCELED: Final = 0xB304
ALREADY_COMPLETED: Final = 0xB306
FINAL: Final = 0xC300
NOT_YOURS: Final = 0xC301
ALREADY_IN_PROGRESS: Final = 0xC302
UNKNOWN: Final = 0xC307
NOT_IN_PROGRESS: Final = 0xC310
CANNOT_CANCEL_COMPLETED: Final = 0xC311
PERFORMER_OUT_OF_REACH: Final = 0xC312
PERFORMER_REFUSES: Final = 0xC313

# (first, last, retryable, meaning), PS3.4 CC.2 and PS3.7 annex C. The first range that fits counts.
UPS_FAILURES: Final = (
    (0x0105, 0x0106, False, "an attribute is not to its liking; its own log says which"),
    (0x0110, 0x0110, True, "processing failure"),
    (0x0117, 0x0117, False, "invalid SOP instance UID"),
    (0x0118, 0x0119, False, "no UPS"),
    (0x0120, 0x0121, False, "an attribute is missing; its own log says which"),
    (0x0122, 0x0123, False, "SOP class or action not supported"),
    (0x0124, 0x0124, True, "not authorised; it must be told about us"),
    (0x0210, 0x0213, True, "the operation was not understood, or resources are short"),
    (0xA700, 0xA7FF, True, "out of resources"),
    (0xA900, 0xA9FF, False, "data set does not match SOP class"),
    (0xC304, 0xC304, False, "the final state requirements are not met; its own log says which"),
    (0xC309, 0xC309, False, "the state must be SCHEDULED"),
    (0xC000, 0xCFFF, False, "unable to process"),
    (0x0000, 0xFFFF, True, "unknown status"),
)


class UpsAssociation:
    """An association for workitems. A context manager; raises DeliveryError where there is none or it ends."""

    def __init__(self, peer: Peer, *, calling_ae: str, timeout_s: float, needs: str = PUSH) -> None:
        """All that is asked over it together takes no longer than twice `timeout_s`; `needs` must be accepted."""
        pairs = [(sop_class, syntax) for sop_class in (PUSH, PULL) for syntax in UNCOMPRESSED]
        self._peer = peer
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._association = associate(peer, calling_ae, pairs, timeout_s)
        self._accepted = {str(context.abstract_syntax) for context in self._association.accepted_contexts}
        if needs not in self._accepted:
            release(self._association)
            service = "Push" if needs == PUSH else "Pull"
            raise DeliveryError(
                f"{peer} does not accept UPS {service}; is it a UPS worklist, does it know us?", retryable=False
            )

    def __enter__(self) -> UpsAssociation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        release(self._association)

    @property
    def can_perform(self) -> bool:
        """Whether the peer lets us claim and complete workitems: UPS Pull."""
        return PULL in self._accepted

    def create(self, uid: str, attributes: Dataset) -> None:
        """N-CREATE (CC.2.5). One that is there already is what we made before, and stays as it is."""
        status = self._asked(lambda: self._association.send_n_create(attributes, PUSH, uid))
        self._require(status, DUPLICATE)

    def request_cancel(self, uid: str, reason: str) -> bool:
        """N-ACTION request cancel (CC.2.2); returns whether the workitem is canceled or on no list any more.

        Not where somebody has claimed it, cannot be asked, or would go on.
        """
        request = Dataset()
        request.ReasonForCancellation = reason
        status = self._asked(lambda: self._association.send_n_action(request, REQUEST_CANCEL, PUSH, uid))
        if status in (PERFORMER_OUT_OF_REACH, PERFORMER_REFUSES):
            return False
        self._require(status, ALREADY_CANCELED, UNKNOWN, CANNOT_CANCEL_COMPLETED, FINAL)
        return True

    def complete(self, uid: str, transaction_uid: str, performed: Dataset) -> bool:
        """Claim a workitem (CC.2.1), say what was performed (CC.2.6) and complete it; returns whether it is final.

        Not where somebody else has claimed it: then it is theirs to end. Repeated with the same Transaction UID it
        goes on where it was interrupted.
        """
        claimed = self._change(uid, "IN PROGRESS", transaction_uid)
        if claimed in (NOT_YOURS, FINAL):  # a claim by another Transaction UID is wrong (PS3.4 CC.2.1.2)
            return claimed == FINAL
        self._require(claimed, ALREADY_IN_PROGRESS)  # perhaps by us, when we were interrupted
        performed.TransactionUID = transaction_uid
        said = self._asked(lambda: self._association.send_n_set(performed, PUSH, uid, meta_uid=PULL))
        if said in (NOT_YOURS, FINAL):
            return said == FINAL
        self._require(said)
        completed = self._change(uid, "COMPLETED", transaction_uid)
        self._require(completed, ALREADY_COMPLETED, FINAL)
        return True

    def _change(self, uid: str, state: str, transaction_uid: str) -> int:
        request = Dataset()
        request.ProcedureStepState = state
        request.TransactionUID = transaction_uid
        return self._asked(
            lambda: self._association.send_n_action(request, CHANGE_STATE, PUSH, uid, meta_uid=PULL),
        )

    def _asked(self, ask: Callable[[], tuple[Dataset, Dataset | None]]) -> int:
        """The status of the answer. Raises DeliveryError where there is none, or it comes too late."""
        try:
            if not self._association.is_established or time.monotonic() > self._deadline:
                raise lost(self._peer, self._timeout_s)
            status = ask()[0].get("Status")
        except RuntimeError as error:  # the association ended while we looked
            raise lost(self._peer, self._timeout_s) from error
        if status is None:
            self._association.kill()  # pynetdicom takes its time to see that it is gone
            raise lost(self._peer, self._timeout_s)
        return int(status)

    def _require(self, status: int, *others: int) -> None:
        """Raise DeliveryError unless it is success, a warning or one of the others."""
        if status in (SUCCESS, 0x0001, 0x0107, 0x0116, *others) or 0xB000 <= status <= 0xBFFF:
            return
        retryable, meaning = next((r, m) for first, last, r, m in UPS_FAILURES if first <= status <= last)
        raise DeliveryError(f"{self._peer} answered 0x{status:04X}: {meaning}", retryable=retryable, status=status)
