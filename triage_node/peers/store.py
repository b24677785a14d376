"""Sending objects by C-STORE (PS3.4 B).

Every status is checked, every object gets exactly one result. What may go away without us (a full disk, a restart, a
configuration somebody will correct) is retryable; what will be refused again as it is, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom.association import Association

from triage_node.domain import Priority
from triage_node.errors import DeliveryError, NotAccepted
from triage_node.log import ref
from triage_node.peers.association import UNCOMPRESSED, Pair, Peer, associate, lost, release

META_KEYWORDS: Final = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
_MAX_CONTEXTS: Final = 128  # odd context IDs in one byte, PS3.8 9.3.2.2


@dataclass(frozen=True, kw_only=True)
class OutgoingObject:
    """A file to send as it is: a DICOM file, or a result for a channel that is no DICOM."""

    path: Path
    sop_class_uid: str
    sop_uid: str
    transfer_syntax_uid: str
    kind: str = ""
    """ObjectKind or MessageKind of one of our results."""
    study_priority: Priority | None = None
    """Of the whole study as it stands now, for what is told; None for a DICOM file."""
    read_at: datetime | None = None
    """When the study was marked as read, for what is told; None where it is not read as it stands now."""

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
        pairs |= {(sop_class, syntax) for sop_class, _ in pairs for syntax in UNCOMPRESSED}
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
        association = associate(peer, calling_ae, _pairs(batch, re_encode), timeout_s)
    except DeliveryError as error:
        for outgoing in batch:
            on_result(StoreResult(outgoing=outgoing, status=None, error=error))
        return
    try:
        for outgoing in batch:
            on_result(_store_one(association, outgoing, peer, timeout_s, re_encode))
    finally:
        release(association)


def _store_one(
    association: Association, outgoing: OutgoingObject, peer: Peer, timeout_s: float, re_encode: bool
) -> StoreResult:
    status = None
    try:
        content = _content(outgoing, _accepted(association), peer, re_encode)
        if not association.is_established:
            raise lost(peer, timeout_s)
        status = association.send_c_store(content).get("Status")
        if status is None:
            association.kill()  # pynetdicom takes its time to see that it is gone; the next object would wait in vain
            raise lost(peer, timeout_s)
        raise_for_status(status, peer)
    except DeliveryError as error:
        return StoreResult(outgoing=outgoing, status=status, error=error)
    except (OSError, RuntimeError):  # the file vanished while it was sent, the association while we looked
        association.abort()
        return StoreResult(outgoing=outgoing, status=None, error=lost(peer, timeout_s))
    return StoreResult(outgoing=outgoing, status=status, error=None)


def _content(outgoing: OutgoingObject, accepted: set[Pair], peer: Peer, re_encode: bool) -> Path | Dataset:
    """What to give to send_c_store: the file as it is, or re-encoded. Raises DeliveryError where neither can be."""
    require_file(outgoing)
    if outgoing.pair in accepted:
        return outgoing.path
    sop_class, syntax = (UID(uid) for uid in outgoing.pair)
    if re_encode and any((outgoing.sop_class_uid, uncompressed) in accepted for uncompressed in UNCOMPRESSED):
        return _decoded(outgoing)
    offered = " or uncompressed" if re_encode and syntax.is_encapsulated else ""
    known = sop_class.name if sop_class.name != sop_class else outgoing.kind  # younger than the tables of pydicom
    name = f"{known} ({sop_class})" if known else str(sop_class)
    raise NotAccepted(f"{peer} does not accept {name} as {syntax.name}{offered}")


def require_file(outgoing: OutgoingObject) -> None:
    """Before anything is on the wire: the file is there and is the object that was announced. Raises DeliveryError."""
    name = ref(outgoing.sop_uid)
    try:
        meta = read_file_meta_info(outgoing.path)
    except OSError as error:
        raise DeliveryError(f"the file of {name} cannot be read ({error.strerror})", retryable=True) from error
    except InvalidDicomError as error:
        raise DeliveryError(f"the file of {name} is no DICOM file", retryable=False) from error
    found = tuple(str(meta.get(keyword)) for keyword in META_KEYWORDS)
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


def _accepted(association: Association) -> set[Pair]:
    return {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in association.accepted_contexts
    }


# ---------------------------------------------------------------- statuses

SOP_CLASS_NOT_SUPPORTED: Final = 0x0122

# (first, last, retryable, meaning), PS3.4 B.2.3 and PS3.7 annex C. The first range that fits counts.
STORE_FAILURES: Final = (
    (0x0110, 0x0110, True, "processing failure"),
    (0x0117, 0x0117, False, "invalid SOP instance"),
    (SOP_CLASS_NOT_SUPPORTED, SOP_CLASS_NOT_SUPPORTED, False, "SOP class not supported"),
    (0x0124, 0x0124, True, "not authorised; it must be told about us"),
    (0x0210, 0x0213, True, "the operation was not understood, or resources are short"),
    (0xA700, 0xA7FF, True, "out of resources"),
    (0xA900, 0xA9FF, False, "data set does not match SOP class"),
    (0xC000, 0xCFFF, False, "cannot understand"),
    (0x0000, 0xFFFF, True, "unknown status"),
)
_DUPLICATE_SOP_INSTANCE: Final = 0x0111  # it has the object: a retry of one whose first answer was lost


def raise_for_status(status: int, peer: object) -> None:
    """Raise DeliveryError unless a C-STORE status says that the peer has the object (success, warning, duplicate)."""
    if status in (0x0000, _DUPLICATE_SOP_INSTANCE) or 0xB000 <= status <= 0xBFFF:
        return
    retryable, meaning = next((r, m) for first, last, r, m in STORE_FAILURES if first <= status <= last)
    if status == SOP_CLASS_NOT_SUPPORTED:
        raise NotAccepted(f"{peer} answered 0x{status:04X}: {meaning}", status=status)
    raise DeliveryError(f"{peer} answered 0x{status:04X}: {meaning}", retryable=retryable, status=status)
