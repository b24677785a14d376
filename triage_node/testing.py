"""Shipped fakes that are real: a small PACS and RIS on real sockets for demo and tests, and a way to die at a step."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import signal
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import AllStoragePresentationContexts, VerificationPresentationContexts
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from triage_node.peers.association import CallingAE, ClosingSocket, answered
from triage_node.peers.mllp import END, START

# What a PACS usually takes; a fake must refuse what the real ones refuse.
_TRANSFER_SYNTAXES: Final = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.5",  # RLE Lossless
)
_POLL_S: Final = 0.05
_COMMITMENT: Final = "1.2.840.10008.1.20.1"
_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

_UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
_UPS_PULL: Final = "1.2.840.10008.5.1.4.34.6.3"
# What PS3.4 table CC.2.5-3 asks of an N-CREATE, of a result's task and with a value; there, and perhaps empty; and of
# what was performed before a workitem may be COMPLETED.
_UPS_TYPE_1: Final = (
    "ProcedureStepState",
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
)
_UPS_TYPE_2: Final = (
    "TransactionUID",
    "WorklistLabel",
    "ProcedureStepProgressInformationSequence",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep",
    "InputInformationSequence",
    "StudyInstanceUID",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "ReferencedRequestSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
_UPS_PERFORMED: Final = (
    "PerformedStationNameCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedProcedureStepEndDateTime",
    "PerformedWorkitemCodeSequence",
    "OutputInformationSequence",
)

Step = Callable[[str], None]
"""Called with the name of a step as it is reached; a kill test passes `killer`."""


def no_step(_name: str) -> None:
    """The Step of every ordinary run."""


def killer(step_name: str, *, times: int = 1) -> Step:
    """A Step that ends this process as kill -9 does, when the step of that name is reached for the `times`-th time."""
    reached = itertools.count(1)

    def step(name: str) -> None:
        if name == step_name and next(reached) >= times:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


class _Connection(RequestHandler):
    """One that is closed at its end, also where the peer has reset it."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dul.event_queue.get_nowait()  # the stock socket announced itself (Evt5), so will this one
        association.dul.socket = ClosingSocket(association, client_socket=self.request)
        return association


def serve(ae: AE, handlers: Sequence[evt.EventHandlerType], *, host: str = "127.0.0.1", port: int = 0) -> int:
    """Answer as `ae`, in threads, until its `shutdown()`; returns the bound port. `AE.start_server` polls too slowly
    for tests and leaves sockets open."""
    server = ae.make_server(
        (host, port),
        evt_handlers=list(handlers),
        server_class=ThreadedAssociationServer,
        request_handler=_Connection,
    )
    ae._servers.append(server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": _POLL_S}).start()
    return int(server.server_address[1])


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object that a DemoPacs holds."""

    sop_class_uid: str
    sop_uid: str
    study_uid: str
    series_uid: str
    modality: str
    series_description: str
    path: Path
    received_at: datetime


@dataclass(kw_only=True)
class Commitment:
    """How a DemoPacs answers storage commitment requests (PS3.4 J)."""

    call_back: tuple[str, str, int] | None = None
    """AE title, host and port that reports go to; None: over the association of the request."""
    silent: int = 0
    """The first requests are taken and never answered."""
    failures: list[int] = field(default_factory=list)
    """FailureReasons of the objects that are asked for first."""
    requests: list[str] = field(default_factory=list)
    """Transaction UIDs that were answered."""
    answers: list[int] = field(default_factory=list)
    """Statuses that the reports were answered with."""

    def report_on(self, request: Dataset, held: Collection[str]) -> Dataset | None:
        """The event information of the report, None where there is to be none."""
        if self.silent:
            self.silent -= 1
            return None
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        kept, failed = [], []
        for item in request.ReferencedSOPSequence:
            if self.failures or item.ReferencedSOPInstanceUID not in held:
                item.FailureReason = self.failures.pop(0) if self.failures else 0x0112  # no such object instance
                failed.append(item)
            else:
                kept.append(item)
        if kept:
            report.ReferencedSOPSequence = kept
        if failed:
            report.FailedSOPSequence = failed
        return report


class DemoRis:
    """An HL7 listener over MLLP that acknowledges what it is told and keeps it. A context manager.

    For tests: the first messages are answered otherwise: with a code of table 0008 ("AE" with `text` in MSA-3 and ERR),
    "close" (hangs up), "garbage" (no MLLP), "noise" (MLLP, but no HL7), "another" (acknowledges a message of somebody
    else), "late" (acknowledges the message before), "twice" (CA, then AA), "silence", or "stall" (half an answer).
    """

    def __init__(self, *, answers: Sequence[str] = (), text: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.messages: list[str] = []
        """Every message that came, in its order, sent again or not."""
        self._answers = list(answers)
        self._text = text
        self._tls = tls
        self._changed = threading.Condition()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler(), bind_and_activate=True)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> DemoRis:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, count: int, timeout_s: float) -> list[str]:
        """The messages as soon as there are so many. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.messages) >= count, timeout_s):
                raise TimeoutError(f"after {timeout_s:g} s there are {len(self.messages)} messages")
            return list(self.messages)

    def _handler(self) -> type[socketserver.BaseRequestHandler]:
        ris = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    ris._serve(self.request)

        return Handler

    def _serve(self, connection: socket.socket) -> None:
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        data = b""
        with connection:
            while received := connection.recv(4096):
                data += received
                while END in data:
                    frame, data = data.split(END, 1)
                    answer = self._take(frame.removeprefix(START).decode())
                    if answer is None:
                        return
                    connection.sendall(answer)

    def _take(self, message: str) -> bytes | None:
        """What to say to a message; None: hang up."""
        with self._changed:
            before = self.messages[-1] if self.messages else message
            self.messages.append(message)
            how = self._answers.pop(0) if self._answers else "AA"
            self._changed.notify_all()
        if how == "twice":
            return self._acknowledgement(message, "CA") + self._acknowledgement(message, "AA")
        other = {"close": None, "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n", "silence": b"", "stall": START + b"MSH"}
        other |= {"noise": START + b"what?" + END, "late": self._acknowledgement(before, "AA")}
        other |= {"another": self._acknowledgement(message.replace(message.split("|")[9], "SOMEBODY"), "AA")}
        return other[how] if how in other else self._acknowledgement(message, how)

    def _acknowledgement(self, message: str, code: str) -> bytes:
        control_id = message.split("|")[9]
        lines = [f"MSH|^~\\&|RIS||||20260101||ACK^R01^ACK|{control_id}A|P|2.5.1", f"MSA|{code}|{control_id}"]
        if code not in ("AA", "CA"):
            lines = [
                lines[0],
                f"{lines[1]}|{self._text}",
                f"ERR|||207^Application internal error^HL70357|E||||{self._text}",
            ]
        return START + "\r".join([*lines, ""]).encode() + END


class DemoUps:
    """A UPS SCP (PS3.4 CC: Push, Pull) that keeps workitems in memory and refuses what the standard says. A context
    manager.

    For tests: the first requests are answered with `statuses` and change nothing; "silence" does what is asked and cuts
    the association instead of answering, None answers as ever.
    """

    def __init__(
        self, *, ae_title: str = "WORKLIST", port: int = 0, statuses: Sequence[int | str | None] = (), pull: bool = True
    ) -> None:
        self.ae_title = ae_title
        self.port = port
        self.workitems: dict[str, Dataset] = {}
        """By SOP Instance UID, with the Transaction UID of the claim."""
        self.requests: list[str] = []
        """What was asked, in its order: CREATE, CANCEL, IN PROGRESS, SET, COMPLETED."""
        self._statuses = list(statuses)
        self._classes = (_UPS_PUSH, _UPS_PULL) if pull else (_UPS_PUSH,)
        self._lock = threading.Lock()
        self._ae: AE | None = None

    def __enter__(self) -> DemoUps:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        _config.LOG_HANDLER_LEVEL = "none"
        self._ae = AE(ae_title=self.ae_title)
        self._ae.require_called_aet = True
        for sop_class in (*self._classes, str(VerificationPresentationContexts[0].abstract_syntax)):
            self._ae.add_supported_context(sop_class)
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_N_CREATE, self._on_create),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_SET, self._on_set),
            (evt.EVT_N_GET, self._on_get),
        ]
        self.port = serve(self._ae, handlers, port=self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ae is not None
        self._ae.shutdown()

    def states(self) -> list[str]:
        """Of the workitems, in the order in which they were made."""
        return [str(workitem.ProcedureStepState) for workitem in self.workitems.values()]

    def answer_next(self, *statuses: int | str | None) -> None:
        """How the next requests are answered, as `statuses`."""
        with self._lock:
            self._statuses = list(statuses)

    def claim(self, uid: str, transaction_uid: str) -> None:
        """Somebody takes a workitem."""
        with self._lock:
            assert self._change(uid, "IN PROGRESS", transaction_uid) == 0x0000

    def _on_create(self, event: evt.Event) -> tuple[int, Dataset | None]:
        uid = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        return self._answer(event, "CREATE", lambda: self._create(uid, event.attribute_list)), None

    def _create(self, uid: str, attributes: Dataset) -> int:
        if uid in self.workitems:
            return 0x0111
        if any(not attributes.get(keyword) for keyword in _UPS_TYPE_1):
            return 0x0120
        if attributes.ProcedureStepState != "SCHEDULED":
            return 0xC309
        if any(keyword not in attributes for keyword in _UPS_TYPE_2) or attributes.TransactionUID:
            return 0x0120
        self.workitems[uid] = attributes
        return 0x0000

    def _on_action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        uid = str(event.request.RequestedSOPInstanceUID)  # type: ignore[union-attr]
        request = event.action_information
        if event.action_type == 2:
            return self._answer(event, "CANCEL", lambda: self._cancel(uid)), None
        state = str(request.ProcedureStepState)
        return self._answer(event, state, lambda: self._change(uid, state, str(request.TransactionUID))), None

    def _cancel(self, uid: str) -> int:
        workitem = self.workitems.get(uid)
        if workitem is None:
            return 0xC307
        answers = {"IN PROGRESS": 0xC313, "COMPLETED": 0xC311, "CANCELED": 0xB304}
        if workitem.ProcedureStepState == "SCHEDULED":
            workitem.ProcedureStepState = "CANCELED"
            return 0x0000
        return answers[workitem.ProcedureStepState]

    def _change(self, uid: str, state: str, transaction_uid: str) -> int:
        workitem = self.workitems.get(uid)
        if workitem is None:
            return 0xC307
        now = workitem.ProcedureStepState
        if now in ("COMPLETED", "CANCELED"):
            return {"COMPLETED": 0xB306, "CANCELED": 0xB304}[now] if now == state else 0xC300
        if state == "IN PROGRESS":
            if now == state:
                return 0xC302
            workitem.TransactionUID = transaction_uid
        elif now == "SCHEDULED":
            return 0xC310
        elif workitem.TransactionUID != transaction_uid:
            return 0xC301
        elif state == "COMPLETED" and not _is_performed(workitem):
            return 0xC304
        workitem.ProcedureStepState = state
        return 0x0000

    def _on_set(self, event: evt.Event) -> tuple[int, Dataset | None]:
        uid = str(event.request.RequestedSOPInstanceUID)  # type: ignore[union-attr]
        return self._answer(event, "SET", lambda: self._set(uid, event.modification_list)), None

    def _set(self, uid: str, modified: Dataset) -> int:
        workitem = self.workitems.get(uid)
        if workitem is None:
            return 0xC307
        if workitem.ProcedureStepState != "IN PROGRESS":
            return 0xC310 if workitem.ProcedureStepState == "SCHEDULED" else 0xC300
        if modified.get("TransactionUID") != workitem.TransactionUID:
            return 0xC301
        workitem.update(modified)
        return 0x0000

    def _on_get(self, event: evt.Event) -> tuple[int, Dataset | None]:
        with self._lock:
            workitem = self.workitems.get(str(event.request.RequestedSOPInstanceUID))  # type: ignore[union-attr]
        return (0xC307, None) if workitem is None else (0x0000, workitem)

    def _answer(self, event: evt.Event, what: str, do: Callable[[], int]) -> int:
        with self._lock:
            self.requests.append(what)
            status = self._statuses.pop(0) if self._statuses else None
            if isinstance(status, int):
                return status
            done = do()
        if status == "silence":
            event.assoc.abort()
        return done


def _is_performed(workitem: Dataset) -> bool:
    """Whether it says what a COMPLETED one must (PS3.4 table CC.2.5-3)."""
    (step,) = workitem.UnifiedProcedureStepPerformedProcedureSequence or [Dataset()]
    return all(step.get(keyword) for keyword in _UPS_PERFORMED)


class DemoPacs:
    """A storage, verification and storage commitment SCP that keeps what it gets in `folder`. A context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        host: str = "127.0.0.1",
        port: int = 0,
        statuses: Sequence[int] = (),
        accept_classes: Collection[str] | None = None,
        accept_syntaxes: Sequence[str] = _TRANSFER_SYNTAXES,
        syntaxes_of: Mapping[str, Sequence[str]] = MappingProxyType({}),
        delay_s: float = 0.0,
        commitment: Commitment | None = None,
    ) -> None:
        """For tests: the first stores are answered with `statuses` (and kept only where that is no failure), SOP
        classes and transfer syntaxes beyond `accept_classes` and `accept_syntaxes` (of one class: `syntaxes_of`) are
        refused, each store takes `delay_s`, and with `commitment` it is a storage commitment SCP. `port` is the bound
        port once it has started."""
        self.ae_title = ae_title
        self.port = port
        self._host = host
        self._folder = folder
        self._statuses = list(statuses)
        self._accept_classes = accept_classes
        self._accept_syntaxes = list(accept_syntaxes)
        self._syntaxes_of = syntaxes_of
        self._delay_s = delay_s
        self._commitment = commitment
        self._objects: dict[str, StoredObject] = {}
        self._changed = threading.Condition()
        self._ae: AE | None = None

    def start(self) -> int:
        """Bind and serve; returns the bound port."""
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        _config.LOG_HANDLER_LEVEL = "none"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ae = self._application_entity()
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_ESTABLISHED, lambda event: answered(event.assoc)),  # its reports lose no answer
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
        ]
        self.port = serve(self._ae, handlers, host=self._host, port=self.port)
        return self.port

    def stop(self) -> None:
        """Abort what is going on and stop."""
        if self._ae:
            self._ae.shutdown()
            self._ae = None

    def __enter__(self) -> DemoPacs:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def objects(self) -> list[StoredObject]:
        """What it holds, in the order of arrival. An object that came twice counts once, as it came last."""
        with self._changed:
            return list(self._objects.values())

    def wait_for(self, predicate: Callable[[list[StoredObject]], bool], timeout_s: float) -> list[StoredObject]:
        """What it holds as soon as `predicate` is true of it. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(list(self._objects.values())), timeout_s):
                raise TimeoutError(f"after {timeout_s:g} s the PACS holds {len(self._objects)} objects")
            return list(self._objects.values())

    def _application_entity(self) -> AE:
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        ae.maximum_pdu_size = 131072
        ae.add_supported_context(str(VerificationPresentationContexts[0].abstract_syntax))
        for context in AllStoragePresentationContexts:
            sop_class = str(context.abstract_syntax)
            if self._accept_classes is None or sop_class in self._accept_classes:
                ae.add_supported_context(sop_class, list(self._syntaxes_of.get(sop_class, self._accept_syntaxes)))
        if self._commitment:
            ae.add_supported_context(_COMMITMENT)
        return ae

    def _on_store(self, event: evt.Event) -> int:
        if self._delay_s:
            time.sleep(self._delay_s)
        with self._changed:
            status = self._statuses.pop(0) if self._statuses else 0x0000
        if status == 0x0000 or status >> 12 == 0xB:
            self._keep(event)
        return status

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        assert self._commitment is not None
        request = event.action_information
        with self._changed:
            report = self._commitment.report_on(request, self._objects)
        if report is None:
            return 0x0000, None
        self._commitment.requests.append(str(request.TransactionUID))
        event_type = 2 if "FailedSOPSequence" in report else 1
        target = self._report_here if self._commitment.call_back is None else self._report_over_new_association
        threading.Thread(target=target, args=(event.assoc, report, event_type)).start()
        return 0x0000, None

    def _report_here(self, association: Association, report: Dataset, event_type: int) -> None:
        assert self._commitment is not None
        time.sleep(_POLL_S)  # the answer to the request goes first
        answer, _ = association.send_n_event_report(report, event_type, _COMMITMENT, _COMMITMENT_INSTANCE)
        self._commitment.answers.append(answer.get("Status", -1))

    def _report_over_new_association(self, _old: Association, report: Dataset, event_type: int) -> None:
        assert self._commitment is not None
        assert self._commitment.call_back is not None
        ae_title, host, port = self._commitment.call_back
        ae = CallingAE(ae_title=self.ae_title)
        ae.add_requested_context(_COMMITMENT)
        role = build_role(_COMMITMENT, scp_role=True)
        association = ae.associate(host, port, ae_title=ae_title, ext_neg=[role])
        if association.is_established:
            self._report_here(association, report, event_type)
            association.release()

    def _keep(self, event: evt.Event) -> None:
        sop_uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        path = self._folder / f"{hashlib.sha256(sop_uid.encode()).hexdigest()}.dcm"
        path.write_bytes(event.encoded_dataset())
        stored = _stored_object(dcmread(path, stop_before_pixels=True), path)
        with self._changed:
            self._objects.pop(sop_uid, None)
            self._objects[sop_uid] = stored
            self._changed.notify_all()


def _stored_object(dataset: Dataset, path: Path) -> StoredObject:
    def text(keyword: str) -> str:
        return str(dataset.get(keyword, "") or "")

    return StoredObject(
        sop_class_uid=text("SOPClassUID"),
        sop_uid=text("SOPInstanceUID"),
        study_uid=text("StudyInstanceUID"),
        series_uid=text("SeriesInstanceUID"),
        modality=text("Modality"),
        series_description=text("SeriesDescription"),
        path=path,
        received_at=datetime.now(UTC),
    )
