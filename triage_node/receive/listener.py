"""The Verification and Storage SCP (PS3.4 A and B); reports of storage commitment (PS3.4 J); workitems (PS3.4 CC).

No pixel is decoded on receipt.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AddressInformation

from triage_node.config import Config
from triage_node.domain import CommitmentReport, CommitmentRequest, ReceivedObject, StoreStatus
from triage_node.errors import ConfigError
from triage_node.log import event as log_event
from triage_node.peers import status_of_report, status_of_request
from triage_node.receive import workitems
from triage_node.receive.callers import LOCAL_LIMIT_EXCEEDED, Caller, Refusal, Rights, printable, rights_of
from triage_node.receive.contexts import (
    STORAGE_COMMITMENT,
    VERIFICATION,
    WORKITEMS,
    register_private,
    supported_contexts,
)
from triage_node.receive.hardening import MAXIMUM_PDU_SIZE, GuardedConnection, HardenedServer, Limits
from triage_node.receive.storing import NotTaken, is_stored, refused, status_of
from triage_node.receive.workitems import Worklist

# Connections beyond the associations we serve, so that a caller who comes too many is told so by an A-ASSOCIATE-RJ.
_CONNECTIONS_TO_REFUSE: Final = 16
_POLL_S: Final = 0.1


class Listener:
    """Verification and Storage SCP: checks callers, hands each object to `admit`, answers its status."""

    def __init__(
        self,
        *,
        config: Config,
        admit: Callable[[ReceivedObject], int],
        released: Callable[[str], None],
        reported: Callable[[CommitmentReport, Sequence[str]], bool] = lambda *_: False,
        asked: Callable[[str, CommitmentRequest], None] | None = None,
        worklist: Worklist | None = None,
        refused: Callable[[Caller, Refusal], None] = lambda *_: None,
        not_taken: NotTaken = lambda *_: None,
        may_receive: Callable[[], bool] = lambda: True,
    ) -> None:
        """The callbacks are called from the threads of the associations, several at a time.

        `admit` makes an object durable and returns the DIMSE status to answer; it may raise RejectedObject (its
        status is answered), OSError (0xA700) or anything else (0xC211). The bytes it gets are the receive buffer:
        they must not be kept beyond the call. `released` is called once, with the id of the association, when an
        association that stored something has ended, however it ended. `reported` notes a storage commitment report
        that came from one of the named destinations, and says whether its transaction is known. `asked` writes down
        what the source of this AE title wants us to keep. `worklist` has what callers may query and claim. `refused` is
        told who was refused and why, `not_taken` which object (SOP Instance UID, calling AE title, status, reason);
        neither may wait. While `may_receive()` is False (disk below its watermark, database down) associations that
        would store are rejected as transient and objects answered 0xA700.
        """
        self._config = config
        self._admit = admit
        self._released = released
        self._reported = reported
        self._asked = asked
        self._worklist = worklist
        self._refused = refused
        self._not_taken = not_taken
        self._may_receive = may_receive
        self._server: HardenedServer | None = None
        self._thread: threading.Thread | None = None
        self._visits: dict[Association, _Visit] = {}
        self._lock = threading.Lock()

    def start(self) -> int:
        """Bind and serve in threads of its own; returns the bound port.

        Raises ConfigError where the address cannot be bound.
        """
        silence_libraries()
        self._server = self._bind()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="dicom-listener"
        )
        self._thread.start()
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop accepting, cut every association, wait until every thread has ended.

        An object that is being admitted is admitted to the end, but its answer is not sent: the sender repeats it.
        """
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server = self._thread = None

    # ------------------------------------------------------------ set-up

    def _bind(self) -> HardenedServer:
        node = self._config.node
        try:
            server = self._application_entity().make_server(
                (node.host, node.port),
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._on_requested),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_N_EVENT_REPORT, self._on_event_report),
                    (evt.EVT_C_FIND, self._on_find),
                    (evt.EVT_N_GET, self._on_get),
                    (evt.EVT_N_ACTION, self._on_action),
                    (evt.EVT_N_SET, self._on_set),
                ],
                server_class=HardenedServer,
                request_handler=GuardedConnection,
                limits=self._limits(),
                ended=self._on_ended,
            )
        except OSError as error:
            where = self._config.path or "the configuration"
            raise ConfigError(
                f"{where}: cannot listen on node.host {node.host}, node.port {node.port} ({error.strerror}); "
                "stop what uses it, or choose another"
            ) from error
        return cast(HardenedServer, server)

    def _application_entity(self) -> AE:
        node = self._config.node
        ae = AE(ae_title=node.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU_SIZE
        ae.acse_timeout = node.stall_timeout_s  # also for a peer that connects and says nothing
        ae.network_timeout = node.idle_timeout_s
        ae.maximum_associations = self._limits().connections  # ours is stricter, and logged
        register_private({uid for source in self._config.sources for uid in source.accept_classes})
        ae.supported_contexts = supported_contexts(Rights(store=True, accept_classes=(), commits_for=()))
        return ae

    def _limits(self) -> Limits:
        node = self._config.node
        return Limits(
            stall_timeout_s=node.stall_timeout_s,
            message_bytes=node.max_object_mb * 1_000_000,
            connections=node.max_associations + _CONNECTIONS_TO_REFUSE,
            connections_per_address=node.max_associations_per_address,
        )

    # ------------------------------------------------------------ one association

    def _on_requested(self, event: evt.Event) -> None:
        """Admit or reject an association. Whatever goes wrong in here rejects: pynetdicom swallows exceptions."""
        requestor = event.assoc.requestor
        request = cast(A_ASSOCIATE, requestor.primitive)
        caller = Caller(
            calling_ae=request.calling_ae_title.strip(),
            called_ae=request.called_ae_title.strip(),
            address=cast(AddressInformation, requestor.address_info).address,
        )
        refusal: Refusal | None = _FAILED_TO_DECIDE
        try:
            refusal = self._refusal(caller, event.assoc)
        finally:
            if refusal:
                _log_refusal("association refused", caller, refusal)
                _reject(event.assoc, refusal)
                self._refused(caller, refusal)

    def _refusal(self, caller: Caller, association: Association) -> Refusal | None:
        rights = rights_of(caller, self._config)
        if isinstance(rights, Refusal):
            return rights
        if rights.store and not self._may_receive():
            return _CANNOT_RECEIVE
        association.acceptor.supported_contexts = supported_contexts(rights)
        if rights.why_not_store and _proposes_storage(association):
            _log_refusal("storage refused, storage commitment reports admitted", caller, rights.why_not_store)
            self._refused(caller, rights.why_not_store)
        with self._lock:
            if len(self._visits) >= self._config.node.max_associations:
                return _TOO_MANY
            self._visits[association] = _Visit(secrets.token_hex(8), caller, rights)
        return None

    def _on_ended(self, association: Association) -> None:
        with self._lock:
            visit = self._visits.pop(association, None)
        if visit is None or not (visit.stored or visit.refused):
            return
        log_event(
            "association ended",
            association=visit.association,
            calling_ae=printable(visit.caller.calling_ae),
            address=visit.caller.address,
            stored=visit.stored,
            refused=visit.refused,
            megabytes=round(visit.received_bytes / 1e6, 1),
            released=association.is_released,
        )
        if visit.stored:
            self._released(visit.association)

    # ------------------------------------------------------------ one object

    def _on_store(self, event: evt.Event) -> int:
        visit = self._visits[event.assoc]
        received = _received_object(event, visit)
        if not visit.rights.store:  # pynetdicom serves a class over the context of another one
            visit.refused += 1
            return refused(received, StoreStatus.NOT_AUTHORISED, "this caller may not store", self._not_taken)
        status = status_of(received, admit=self._admit, may_receive=self._may_receive, not_taken=self._not_taken)
        stored = is_stored(status)
        visit.stored += stored
        visit.refused += not stored
        visit.received_bytes += len(received.dataset)
        return status

    def _on_event_report(self, event: evt.Event) -> tuple[int, None]:
        destinations = self._visits[event.assoc].rights.commits_for
        return status_of_report(event, lambda report: self._reported(report, destinations)), None

    def _on_commitment(self, event: evt.Event) -> int:
        visit = self._visits[event.assoc]
        asked = self._asked
        if asked is None or not visit.rights.asks_commitment:
            return StoreStatus.NOT_AUTHORISED
        return status_of_request(event, lambda request: asked(visit.caller.calling_ae, request))

    # ------------------------------------------------------------ workitems

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        return workitems.find(event, self._worklist_for(event))

    def _on_get(self, event: evt.Event) -> tuple[int, Dataset | None]:
        return workitems.get(event, self._worklist_for(event))

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        if str(event.request.RequestedSOPClassUID) in STORAGE_COMMITMENT:  # type: ignore[union-attr]
            return self._on_commitment(event), None
        return workitems.act(event, self._worklist_for(event), self._visits[event.assoc].caller.calling_ae), None

    def _on_set(self, event: evt.Event) -> tuple[int, None]:
        return workitems.change(event, self._worklist_for(event)), None

    def _worklist_for(self, event: evt.Event) -> Worklist | None:
        """None where the caller may not: pynetdicom serves a class over the context of another one."""
        return self._worklist if self._visits[event.assoc].rights.worklist else None


@dataclass
class _Visit:
    """One association while it lasts."""

    association: str
    caller: Caller
    rights: Rights
    stored: int = 0
    refused: int = 0
    received_bytes: int = 0


_FAILED_TO_DECIDE: Final = Refusal(
    code=LOCAL_LIMIT_EXCEEDED, reason="the caller could not be checked", advice="this is a bug; please report it"
)
_CANNOT_RECEIVE: Final = Refusal(
    code=LOCAL_LIMIT_EXCEEDED,
    reason="images cannot be stored now",
    advice="see `triage-node check`: free disk space (node.min_free_mb) and the database",
)
_TOO_MANY: Final = Refusal(
    code=LOCAL_LIMIT_EXCEEDED, reason="too many associations", advice="raise node.max_associations"
)


def _proposes_storage(association: Association) -> bool:
    proposed = {context.abstract_syntax for context in association.requestor.requested_contexts}
    return not proposed <= {*VERIFICATION, *STORAGE_COMMITMENT, *WORKITEMS}


def _log_refusal(name: str, caller: Caller, refusal: Refusal) -> None:
    log_event(
        name,
        reason=refusal.reason,
        calling_ae=printable(caller.calling_ae),
        called_ae=printable(caller.called_ae),
        address=caller.address,
        advice=refusal.advice,
    )


def _reject(association: Association, refusal: Refusal) -> None:
    association.acse.send_reject(*refusal.code)
    association.is_rejected = True
    association.kill()  # waits until the rejection is sent


def _received_object(event: evt.Event, visit: _Visit) -> ReceivedObject:
    request = cast(C_STORE, event.request)
    sop_class_uid, sop_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
    transfer_syntax_uid = str(event.context.transfer_syntax)
    return ReceivedObject(
        sop_uid=sop_uid,
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        header=file_header(sop_class_uid, sop_uid, transfer_syntax_uid, visit.caller.calling_ae),
        dataset=cast(BytesIO, request.DataSet).getbuffer(),
        calling_ae=visit.caller.calling_ae,
        source_address=visit.caller.address,
        association=visit.association,
    )


def file_header(sop_class_uid: str, sop_uid: str, transfer_syntax_uid: str, calling_ae: str) -> bytes:
    """Preamble, "DICM" and File Meta Information (PS3.10 7.1), Explicit VR Little Endian.

    Written here and not by pydicom, which warns about malformed UIDs of others by quoting them.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _short_element(0x0002, b"UI", sop_class_uid),
            _short_element(0x0003, b"UI", sop_uid),
            _short_element(0x0010, b"UI", transfer_syntax_uid),
            _short_element(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID),
            _short_element(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION),
            _short_element(0x0016, b"AE", calling_ae),  # who sent it survives the loss of the database
        )
    )
    group_length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + group_length + elements


def _short_element(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    padded = encoded + (b"\x00" if vr == b"UI" else b" ") * (len(encoded) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(padded)) + padded


def silence_libraries() -> None:
    """They log element values, tracebacks and malformed UIDs; what an admin needs is in our own events."""
    for name in ("pynetdicom", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    warnings.filterwarnings("ignore", module=r"pydicom\.valuerep")
