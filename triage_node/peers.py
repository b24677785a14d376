"""SCU primitives: echo and store, for destinations, `check` and `send`.

Every status is checked, every object gets exactly one result. What may go away without us (a full disk, a restart, a
configuration somebody will correct) is retryable; what will be refused again as it is, is not.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Final, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from triage_node.errors import DeliveryError
from triage_node.log import ref

VERIFICATION: Final = "1.2.840.10008.1.1"
_UNCOMPRESSED: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_META_KEYWORDS: Final = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
_MAX_CONTEXTS: Final = 128  # odd context IDs in one byte, PS3.8 9.3.2.2

Pair = tuple[str, str]
"""(SOP class UID, transfer syntax UID)"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A DICOM application entity that we call."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class OutgoingObject:
    """A DICOM file to send as it is."""

    path: Path
    sop_class_uid: str
    sop_uid: str
    transfer_syntax_uid: str

    @property
    def pair(self) -> Pair:
        """What must be negotiated to send it."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True, kw_only=True)
class StoreResult:
    """What became of one object."""

    outgoing: OutgoingObject
    status: int | None
    """The DIMSE status of the peer; None where it gave none."""
    error: DeliveryError | None
    """None where the peer has stored the object."""


@dataclass(frozen=True, kw_only=True)
class SendReport:
    """What became of the files of `send_folder`."""

    sent: int
    failed: tuple[StoreResult, ...]
    skipped: tuple[tuple[Path, str], ...]
    """Files that were not sent, and why."""


# ---------------------------------------------------------------- echo and store


def echo(peer: Peer, *, calling_ae: str, timeout_s: float) -> None:
    """Verification (PS3.4 A). Raises DeliveryError, saying what to look at, unless the peer answers success."""
    association = _associate(peer, calling_ae, [(VERIFICATION, syntax) for syntax in _UNCOMPRESSED], timeout_s)
    try:
        if not association.is_established:
            raise DeliveryError(f"{peer} does not accept verification (C-ECHO)", retryable=False)
        status = association.send_c_echo().get("Status")
        if status is None:
            raise _lost(peer, timeout_s)
        if status != 0x0000:
            raise DeliveryError(f"{peer} answered 0x{status:04X} to C-ECHO", retryable=True, status=status)
    finally:
        _release(association)


def store(
    peer: Peer,
    *,
    calling_ae: str,
    objects: Sequence[OutgoingObject],
    timeout_s: float,
    on_result: Callable[[StoreResult], None],
    re_encode: bool = False,
) -> None:
    """Send files by C-STORE (PS3.4 B), over one association where 128 presentation contexts are enough.

    Files are sent byte for byte as they are encoded. With `re_encode`, an object whose transfer syntax the peer does
    not accept is decoded and sent as Explicit (or Implicit) VR Little Endian instead.

    Raises nothing for what goes wrong on the way: `on_result` is called exactly once for each object, in their order
    within an association, as soon as its fate is known.
    """
    for batch in _batches(objects, re_encode):
        _store_batch(peer, calling_ae, batch, timeout_s, on_result, re_encode)


def send_folder(
    paths: Iterable[Path],
    *,
    peer: Peer,
    calling_ae: str,
    timeout_s: float = 30.0,
    on_found: Callable[[int], None] = lambda _: None,
    on_result: Callable[[StoreResult], None] = lambda _: None,
) -> SendReport:
    """Send the DICOM files among `paths` (files, or folders with all below them).

    `on_found` is called once with the number of files to send, `on_result` after each: enough for a progress bar.
    What is no DICOM file is skipped with a note. Raises nothing for what the peer refuses: see the report.
    """
    objects, skipped = _find_objects(paths)
    on_found(len(objects))
    results: list[StoreResult] = []

    def keep(result: StoreResult) -> None:
        results.append(result)
        on_result(result)

    store(peer, calling_ae=calling_ae, objects=objects, timeout_s=timeout_s, on_result=keep, re_encode=True)
    failed = tuple(result for result in results if result.error)
    return SendReport(sent=len(results) - len(failed), failed=failed, skipped=tuple(skipped))


# ---------------------------------------------------------------- associations


def _associate(peer: Peer, calling_ae: str, pairs: Iterable[Pair], timeout_s: float) -> Association:
    """An established association, or one whose every context was refused. Raises DeliveryError where there is none."""
    _set_up_pynetdicom()
    connected = threading.Event()
    ae = _application_entity(calling_ae, pairs, timeout_s)
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, lambda _: connected.set())],
        )
    except OSError as error:  # the host name does not resolve
        raise DeliveryError(
            f"{peer} cannot be reached ({error.strerror}); check host and port", retryable=True
        ) from error
    if association.is_established or association.rejected_contexts:
        return association
    if association.is_rejected:
        raise _rejected(peer, calling_ae, cast(A_ASSOCIATE, association.acceptor.primitive))
    if connected.is_set():
        raise DeliveryError(f"{peer} took the connection but did not answer as a DICOM node", retryable=True)
    raise DeliveryError(f"{peer} cannot be reached; is it running, are host and port right?", retryable=True)


class _BoundedSocket(AssociationSocket):
    """Never blocks for ever, always closes: pynetdicom 3.0.4 lifts the time-out once it is connected, and does not
    close a connection that the peer has reset."""

    def connect(self, primitive: T_CONNECT) -> None:
        super().connect(primitive)
        if self.socket:
            self.socket.settimeout(self.assoc.network_timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _shutdown_socket(self) -> None:
        if self.socket:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class _Caller(AE):
    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        bounded = _BoundedSocket(assoc, address=address)
        bounded.tls_args = tls_args
        return bounded


def _application_entity(calling_ae: str, pairs: Iterable[Pair], timeout_s: float) -> AE:
    ae = _Caller(ae_title=calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    for sop_class, syntax in sorted(pairs):  # a context for each: the peer chooses one syntax for a context
        ae.add_requested_context(sop_class, syntax)
    return ae


def _release(association: Association) -> None:
    if association.is_established:
        association.release()


def _accepted(association: Association) -> set[Pair]:
    return {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in association.accepted_contexts
    }


def _rejected(peer: Peer, calling_ae: str, answer: A_ASSOCIATE) -> DeliveryError:
    # Retryable even where the peer says "permanent": who is known to whom is configuration, and somebody mends it.
    advice = {
        (1, 3): f'it must be told about "{calling_ae}" and our address',
        (1, 7): f'"{peer.ae_title}" is not its AE title; check ae_title',
    }.get((answer.result_source or 0, answer.diagnostic or 0), "it will be tried again")
    return DeliveryError(f"{peer} rejected the association: {answer.reason_str}; {advice}", retryable=True)


def _lost(peer: Peer, timeout_s: float) -> DeliveryError:
    return DeliveryError(f"{peer} did not answer within {timeout_s:g} s, or cut the association", retryable=True)


def _set_up_pynetdicom() -> None:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs element values
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True  # a path is sent as the bytes of the file, never decoded


# ---------------------------------------------------------------- a batch, an object


def _batches(objects: Sequence[OutgoingObject], re_encode: bool) -> Iterator[list[OutgoingObject]]:
    """Objects in order, cut where one association would need more contexts than there are."""
    batch: list[OutgoingObject] = []
    pairs: set[Pair] = set()
    for outgoing in objects:
        if len(pairs | _pairs([outgoing], re_encode)) > _MAX_CONTEXTS:
            yield batch
            batch, pairs = [], set()
        batch.append(outgoing)
        pairs |= _pairs([outgoing], re_encode)
    if batch:
        yield batch


def _pairs(objects: Iterable[OutgoingObject], re_encode: bool) -> set[Pair]:
    pairs = {outgoing.pair for outgoing in objects}
    if re_encode:
        pairs |= {(sop_class, syntax) for sop_class, _ in pairs for syntax in _UNCOMPRESSED}
    return pairs


def _store_batch(
    peer: Peer,
    calling_ae: str,
    batch: Sequence[OutgoingObject],
    timeout_s: float,
    on_result: Callable[[StoreResult], None],
    re_encode: bool,
) -> None:
    try:
        association = _associate(peer, calling_ae, _pairs(batch, re_encode), timeout_s)
    except DeliveryError as error:
        for outgoing in batch:
            on_result(StoreResult(outgoing=outgoing, status=None, error=error))
        return
    try:
        for outgoing in batch:
            on_result(_store_one(association, outgoing, peer, timeout_s, re_encode))
    finally:
        _release(association)


def _store_one(
    association: Association, outgoing: OutgoingObject, peer: Peer, timeout_s: float, re_encode: bool
) -> StoreResult:
    status = None
    try:
        content = _content(outgoing, _accepted(association), peer, re_encode)
        if not association.is_established:
            raise _lost(peer, timeout_s)
        status = association.send_c_store(content).get("Status")
        if status is None:
            raise _lost(peer, timeout_s)
        raise_for_status(status, peer)
    except DeliveryError as error:
        return StoreResult(outgoing=outgoing, status=status, error=error)
    except (OSError, RuntimeError):  # the file vanished while it was sent, the association while we looked
        association.abort()
        return StoreResult(outgoing=outgoing, status=None, error=_lost(peer, timeout_s))
    return StoreResult(outgoing=outgoing, status=status, error=None)


def _content(outgoing: OutgoingObject, accepted: set[Pair], peer: Peer, re_encode: bool) -> Path | Dataset:
    """What to give to send_c_store: the file as it is, or re-encoded. Raises DeliveryError where neither can be."""
    _require_file(outgoing)
    if outgoing.pair in accepted:
        return outgoing.path
    sop_class, syntax = (UID(uid) for uid in outgoing.pair)
    if re_encode and any((outgoing.sop_class_uid, uncompressed) in accepted for uncompressed in _UNCOMPRESSED):
        return _decoded(outgoing)
    raise DeliveryError(f"{peer} does not accept {sop_class.name} ({sop_class}) as {syntax.name}", retryable=False)


def _require_file(outgoing: OutgoingObject) -> None:
    """Before anything is on the wire: the file is there and is the object that was announced."""
    name = ref(outgoing.sop_uid)
    try:
        meta = read_file_meta_info(outgoing.path)
    except OSError as error:
        raise DeliveryError(f"the file of {name} cannot be read ({error.strerror})", retryable=True) from error
    except InvalidDicomError as error:
        raise DeliveryError(f"the file of {name} is no DICOM file", retryable=False) from error
    found = tuple(str(meta.get(keyword)) for keyword in _META_KEYWORDS)
    if found != (outgoing.sop_class_uid, outgoing.sop_uid, outgoing.transfer_syntax_uid):
        raise DeliveryError(f"the file of {name} holds another object", retryable=False)


def _decoded(outgoing: OutgoingObject) -> Dataset:
    dataset = dcmread(outgoing.path)
    if not UID(outgoing.transfer_syntax_uid).is_encapsulated:
        return dataset  # pynetdicom converts between uncompressed syntaxes
    try:
        dataset.decompress(generate_instance_uid=False)
    except (RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        raise DeliveryError(f"{ref(outgoing.sop_uid)} cannot be decompressed for the peer", retryable=False) from error
    return dataset


# ---------------------------------------------------------------- statuses

# (first, last, retryable, meaning), PS3.4 B.2.3 and PS3.7 annex C. The first range that fits counts.
_FAILURES: Final = (
    (0x0110, 0x0110, True, "processing failure"),
    (0x0117, 0x0117, False, "invalid SOP instance"),
    (0x0122, 0x0122, False, "SOP class not supported"),
    (0x0124, 0x0124, True, "not authorised; it must be told about us"),
    (0x0210, 0x0213, True, "the operation was not understood, or resources are short"),
    (0xA700, 0xA7FF, True, "out of resources"),
    (0xA900, 0xA9FF, False, "data set does not match SOP class"),
    (0xC000, 0xCFFF, False, "cannot understand"),
    (0x0000, 0xFFFF, True, "unknown status"),
)
_DUPLICATE_SOP_INSTANCE: Final = 0x0111  # it has the object: a retry of one whose first answer was lost


def raise_for_status(status: int, peer: Peer) -> None:
    """Raise DeliveryError unless a C-STORE status says that the peer has the object (success, warning, duplicate)."""
    if status in (0x0000, _DUPLICATE_SOP_INSTANCE) or 0xB000 <= status <= 0xBFFF:
        return
    retryable, meaning = next((r, m) for first, last, r, m in _FAILURES if first <= status <= last)
    raise DeliveryError(f"{peer} answered 0x{status:04X}: {meaning}", retryable=retryable, status=status)


# ---------------------------------------------------------------- files to send


def _find_objects(paths: Iterable[Path]) -> tuple[list[OutgoingObject], list[tuple[Path, str]]]:
    objects, skipped = [], []
    for path in _files(paths):
        found = _read_identity(path)
        if isinstance(found, str):
            skipped.append((path, found))
        else:
            objects.append(found)
    return objects, skipped


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(below for below in path.rglob("*") if below.is_file())
        else:
            yield path


def _read_identity(path: Path) -> OutgoingObject | str:
    """The object in a file, or why it cannot be sent."""
    try:
        meta = read_file_meta_info(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except InvalidDicomError:
        return "not a DICOM file"
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return "a DICOMDIR, not an object"
    missing = [keyword for keyword in _META_KEYWORDS if not meta.get(keyword)]
    if missing:
        return f"without {missing[0]}"
    sop_class_uid, sop_uid, syntax = (str(meta.get(keyword)) for keyword in _META_KEYWORDS)
    return OutgoingObject(path=path, sop_class_uid=sop_class_uid, sop_uid=sop_uid, transfer_syntax_uid=syntax)
