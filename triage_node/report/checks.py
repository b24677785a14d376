"""What every finished object must hold, read back from its bytes before anyone may queue it.

That the content is what went in is checked where it is made: mask (seg), measurements, sides and boxes (sr), pixels
(secondary_capture), texts (notice).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from itertools import zip_longest
from typing import Final, cast

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from triage_node.domain import DISCLAIMER, MessageKind, ObjectKind, ResultObject
from triage_node.errors import ReportError
from triage_node.report.instance import MODALITIES, OPTIONAL_IDENTITY, TYPE_2_IDENTITY, Context, read_back

_DOCUMENT_FLAGS: Final[Mapping[str, object]] = {
    "CompletionFlag": "COMPLETE",
    "PreliminaryFlag": "PRELIMINARY",
    "VerificationFlag": "UNVERIFIED",
}
_PAGE_FLAGS: Final[Mapping[str, object]] = {"BurnedInAnnotation": "YES", "ImageType": ["DERIVED", "SECONDARY"]}
_FLAGS: Final[Mapping[ObjectKind | MessageKind, Mapping[str, object]]] = {
    ObjectKind.SEG: {"SegmentationType": "BINARY"},
    ObjectKind.SR: _DOCUMENT_FLAGS,
    ObjectKind.KEY_IMAGE: _PAGE_FLAGS,
    ObjectKind.NOTICE_SR: _DOCUMENT_FLAGS,
    ObjectKind.NOTICE_IMAGE: _PAGE_FLAGS,
    ObjectKind.GSPS: {"PresentationLUTShape": "IDENTITY"},
    ObjectKind.KOS: {"ValueType": "CONTAINER"},
    ObjectKind.LABELMAP: {"SegmentationType": "LABELMAP"},
}
_REFERENCED: Final = Tag("ReferencedSOPInstanceUID")
_COPIED: Final = frozenset(Tag(keyword) for keyword in OPTIONAL_IDENTITY)
_PAGES: Final = (ObjectKind.KEY_IMAGE, ObjectKind.NOTICE_IMAGE)


def require_sound(made: ResultObject, context: Context, *, known: Collection[str]) -> None:
    """Raise ReportError unless a receiver gets the identity, UIDs, flags and references that belong to the object.

    `known` are the SOPInstanceUIDs that it may refer to.
    """
    read = read_back(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities copied from the source, as in read_header
        _require_uids(made, read, context)
        _require_identity(made, read, context)
        _require_flags(made, read, context)
        _require_references(made, read, known)


def _require_uids(made: ResultObject, read: Dataset, context: Context) -> None:
    expected = {
        "SOPClassUID": made.sop_class_uid,
        "SOPInstanceUID": context.uids.sop(made.kind, int(read.InstanceNumber) - 1),
        "SeriesInstanceUID": context.uids.series(made.kind),
        "StudyInstanceUID": str(context.source.StudyInstanceUID),
    }
    found = {keyword: str(read.get(keyword)) for keyword in expected}
    told = (made.sop_uid, made.series_uid, str(read.file_meta.TransferSyntaxUID))
    if found != expected or told != (
        expected["SOPInstanceUID"], expected["SeriesInstanceUID"], made.transfer_syntax_uid
    ):  # fmt: skip
        raise ReportError(f"{made.kind}: its UIDs did not read back the same")


def _require_identity(made: ResultObject, read: Dataset, context: Context) -> None:
    """Byte by byte: what a wrong character set makes of a name is no matter of ours."""
    for keyword in ("SpecificCharacterSet", *TYPE_2_IDENTITY, *OPTIONAL_IDENTITY):
        if keyword == "DeidentificationMethod" and not context.source.get(keyword):
            continue  # what we had to say ourselves (Type 1C)
        if not _is_same(read, context.source, Tag(keyword)):
            raise ReportError(f"{made.kind}: {keyword} did not read back as received")


def _require_flags(made: ResultObject, read: Dataset, context: Context) -> None:
    expected: dict[str, object] = {
        "Modality": MODALITIES[made.kind],
        "SeriesDescription": context.series_description,
        "ContentQualification": "RESEARCH",
        **_FLAGS[made.kind],
    }
    for keyword, value in expected.items():
        if read.get(keyword) != value:
            raise ReportError(f"{made.kind}: {keyword} did not read back the same")
    if made.kind not in _PAGES and DISCLAIMER.encode("ascii") not in made.data:  # a page has it in its pixels
        raise ReportError(f"{made.kind}: the disclaimer is missing")
    if context.bundle is not None and context.bundle.sha256.encode("ascii") not in made.data:
        raise ReportError(f"{made.kind}: it does not say which model made it")


def _require_references(made: ResultObject, read: Dataset, known: Collection[str]) -> None:
    referenced = set(_references(read))
    if not referenced <= set(known):
        raise ReportError(f"{made.kind}: it refers to what nobody has")
    evidence = {
        uid for study in read.get("CurrentRequestedProcedureEvidenceSequence", ()) for uid in _references(study)
    }
    cited = {uid for item in read.get("ContentSequence", ()) for uid in _references(item)}
    if not cited <= evidence:  # PS3.3 C.17.2.3
        raise ReportError(f"{made.kind}: it refers to what is not in its evidence")


def _references(dataset: Dataset) -> Iterator[str]:
    """ReferencedSOPInstanceUID at any depth, but not in what was copied from the source."""
    for tag in dataset.keys():  # noqa: SIM118 - a Dataset iterates over decoded elements: seconds for a large SEG
        if tag == _REFERENCED:
            yield str(dataset[tag].value)
        elif tag not in _COPIED and cast("RawDataElement", dataset.get_item(tag)).VR == "SQ":
            for item in dataset[tag].value:
                yield from _references(item)


def _is_same(read: Dataset, source: Dataset, tag: BaseTag) -> bool:
    """Whether an element has the bytes that were sent; empty is as good as absent (Type 2)."""
    made, sent = (cast("DataElement | RawDataElement | None", of.get_item(tag)) for of in (read, source))
    if made is None or sent is None:
        return not (made and made.value) and not (sent and sent.value)
    if made.VR == "SQ":
        pairs = list(zip_longest(read[tag].value, source[tag].value, fillvalue=Dataset()))
        return all(_is_same(ours, theirs, inner) for ours, theirs in pairs for inner in {*ours.keys(), *theirs.keys()})
    if isinstance(made, RawDataElement) and isinstance(sent, RawDataElement):
        return (made.value or b"").rstrip(b" \0") == (sent.value or b"").rstrip(b" \0")
    return (read[tag].value or None) == (source[tag].value or None)  # somebody looked at it: decoded
