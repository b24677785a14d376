"""Storage Commitment Push Model (PS3.4 J): ask a peer whether it keeps what it was sent; answer one that asks us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import evt

from triage_node import log
from triage_node.domain import CommitmentReport, CommitmentRequest
from triage_node.errors import DeliveryError
from triage_node.peers.association import UNCOMPRESSED, Peer, associate, lost, release

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
_WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # PS3.4 J.3.5
_REQUEST: Final = 1  # action type, PS3.4 J.3.2
_ALL_KEPT, _SOME_FAILED = 1, 2  # event types, PS3.4 J.3.3
_POLL_S: Final = 0.05

# Statuses of an N-EVENT-REPORT, PS3.7 10.1.1.1.8
NOTED: Final = 0x0000
NOT_NOTED: Final = 0x0110  # processing failure: the peer may report again
NO_SUCH_EVENT: Final = 0x0113
UNKNOWN_TRANSACTION: Final = 0x0115  # invalid argument value

# Statuses of an N-ACTION, PS3.7 10.1.4.1.10
NO_SUCH_ACTION: Final = 0x0123
INVALID_ARGUMENT: Final = 0x0115
TOO_MANY: Final = 0x0213  # resource limitation
MAX_REFERENCES: Final = 20_000
"""Objects of one request that we answer."""


def request_commitment(
    peer: Peer,
    *,
    calling_ae: str,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    timeout_s: float,
    on_report: Callable[[CommitmentReport], bool],
    answered: Callable[[], bool],
    hold_s: float,
) -> None:
    """Ask `peer` to commit to `references`, (SOP Class UID, SOP Instance UID) of what it was sent.

    The report comes over this association, to `on_report` in another thread, or over one that the peer opens; so this
    one is held until `answered()`, at most `hold_s`. Raises DeliveryError where the peer did not take the request.
    """
    answering: list[threading.Thread] = []

    def note(event: evt.Event) -> tuple[int, None]:
        answering.append(threading.current_thread())  # pynetdicom answers each report in a thread of its own
        return status_of_report(event, on_report), None

    pairs = [(STORAGE_COMMITMENT, syntax) for syntax in UNCOMPRESSED]
    association = associate(peer, calling_ae, pairs, timeout_s, handlers=[(evt.EVT_N_EVENT_REPORT, note)])
    try:
        if not association.is_established:
            raise DeliveryError(
                f"{peer} does not accept storage commitment; should it not have it, say commitment = false",
                retryable=False,
            )
        answer, _ = association.send_n_action(
            _request(transaction_uid, references), _REQUEST, STORAGE_COMMITMENT, _WELL_KNOWN_INSTANCE
        )
        status = answer.get("Status")
        if status is None:
            association.kill()
            raise lost(peer, timeout_s)
        if status != 0x0000:
            raise DeliveryError(f"{peer} answered 0x{status:04X} to a storage commitment request", retryable=True)
        deadline = time.monotonic() + hold_s
        while association.is_established and time.monotonic() < deadline and not answered():
            time.sleep(_POLL_S)
        for thread in answering:
            thread.join(timeout_s)  # the answer goes out before the release
    except RuntimeError as error:  # the association ended while we looked
        raise lost(peer, timeout_s) from error
    finally:
        release(association)


def status_of_report(event: evt.Event, on_report: Callable[[CommitmentReport], bool]) -> int:
    """The status to answer to an N-EVENT-REPORT. `on_report` says whether it knows the transaction."""
    if event.event_type not in (_ALL_KEPT, _SOME_FAILED):
        return NO_SUCH_EVENT
    try:
        report = _report(event.event_type, event.event_information)
        return NOTED if on_report(report) else UNKNOWN_TRANSACTION
    except Exception as error:  # noqa: BLE001 - a DIMSE status must be answered; messages may hold values
        log.event("a storage commitment report could not be noted", error=type(error).__name__)
        return NOT_NOTED


def status_of_request(event: evt.Event, on_request: Callable[[CommitmentRequest], None]) -> int:
    """The status to answer to an N-ACTION. `on_request` writes it down; the report comes later."""
    if event.action_type != _REQUEST:
        return NO_SUCH_ACTION
    try:
        request = _requested(event.action_information)
        if request is None:
            return INVALID_ARGUMENT
        if len(request.references) > MAX_REFERENCES:
            return TOO_MANY
        on_request(request)
        return NOTED
    except Exception as error:  # noqa: BLE001 - a DIMSE status must be answered; messages may hold values
        log.event("a storage commitment request could not be noted", error=type(error).__name__)
        return NOT_NOTED


def report_commitment(
    peer: Peer,
    *,
    calling_ae: str,
    request: CommitmentRequest,
    failures: Mapping[str, int],
    timeout_s: float,
) -> None:
    """Tell `peer`, over an association that we open, what we keep of `request`; `failures` are FailureReasons by UID.

    Raises DeliveryError where it was not told.
    """
    pairs = [(STORAGE_COMMITMENT, syntax) for syntax in UNCOMPRESSED]
    association = associate(peer, calling_ae, pairs, timeout_s, provider_of=STORAGE_COMMITMENT)
    try:
        if not association.is_established:
            raise DeliveryError(f"{peer} does not take storage commitment reports", retryable=True)
        event_type = _SOME_FAILED if failures else _ALL_KEPT
        information = _information(request, failures)
        answer, _ = association.send_n_event_report(information, event_type, STORAGE_COMMITMENT, _WELL_KNOWN_INSTANCE)
        status = answer.get("Status")
        if status is None:
            association.kill()
            raise lost(peer, timeout_s)
        if status != NOTED:
            raise DeliveryError(f"{peer} answered 0x{status:04X} to a storage commitment report", retryable=True)
    except RuntimeError as error:  # the association ended while we looked
        raise lost(peer, timeout_s) from error
    finally:
        release(association)


def _requested(information: Dataset) -> CommitmentRequest | None:
    """None where it is none."""
    pairs = [
        (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in information.get("ReferencedSOPSequence") or []
    ]
    transaction_uid = str(information.get("TransactionUID") or "")
    uids = [transaction_uid, *(uid for pair in pairs for uid in pair)]
    if not pairs or not all(0 < len(uid) <= 64 and uid.isascii() and uid.isprintable() for uid in uids):
        return None
    return CommitmentRequest(transaction_uid=transaction_uid, references=tuple(dict.fromkeys(pairs)))


def _information(request: CommitmentRequest, failures: Mapping[str, int]) -> Dataset:
    """Of an N-EVENT-REPORT (PS3.4 J.3.3.1.2)."""
    information = _request(request.transaction_uid, [pair for pair in request.references if pair[1] not in failures])
    if not information.ReferencedSOPSequence:
        del information.ReferencedSOPSequence
    failed = _request(request.transaction_uid, [pair for pair in request.references if pair[1] in failures])
    for item in failed.ReferencedSOPSequence:
        item.FailureReason = failures[item.ReferencedSOPInstanceUID]
    if failures:
        information.FailedSOPSequence = failed.ReferencedSOPSequence
    return information


def _request(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = []
    for sop_class_uid, sop_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_uid
        request.ReferencedSOPSequence.append(item)
    return request


def _report(event_type: int | None, information: Dataset) -> CommitmentReport:
    failed = information.get("FailedSOPSequence") or [] if event_type == _SOME_FAILED else []
    reasons = {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in failed}
    named = {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or []}
    return CommitmentReport(
        transaction_uid=str(information.TransactionUID), committed=frozenset(named - reasons.keys()), failed=reasons
    )
