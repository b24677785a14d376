"""The key slices as a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010): what PACS list and filter as "Of Interest".

It refers to source images only: not every destination gets the objects that we made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset

from triage_node.domain import DISCLAIMER, Decision, ObjectKind, ResultObject
from triage_node.errors import ReportError
from triage_node.report.codes import Concept
from triage_node.report.instance import Context, finish, plain, read_back
from triage_node.report.sr import observer
from triage_node.report.stack import refer_to_frames, reference_of


def build_kos(decision: Decision, key_slices: Sequence[Dataset], context: Context) -> ResultObject:
    """The selection of some of `stack.source_slices`, read back. Raises ReportError."""
    description = plain(f"{context.series_description}. {decision.reason}. {DISCLAIMER}")
    document = KeyObjectSelectionDocument(
        evidence=list(key_slices),
        content=KeyObjectSelection(
            document_title=Concept.OF_INTEREST.code,
            referenced_objects=key_slices,
            observer_device_context=observer(context.producer, context.uids.device()),
            description=description,
        ),
        series_instance_uid=context.uids.series(ObjectKind.KOS),
        series_number=1,
        sop_instance_uid=context.uids.sop(ObjectKind.KOS),
        instance_number=1,
        manufacturer=context.producer.manufacturer,
    )
    refer_to_frames(document, key_slices)
    _unname_references(document)
    made = finish(document, ObjectKind.KOS, context)
    _require_selected(made, key_slices, description)
    return made


def _unname_references(document: Dataset) -> None:
    """highdicom gives them a purpose, which row 8 of TID 2010 does not have."""
    for item in document.ContentSequence:
        if item.ValueType == "IMAGE":
            del item.ConceptNameCodeSequence


def _require_selected(made: ResultObject, key_slices: Sequence[Dataset], description: str) -> None:
    items = read_back(made).ContentSequence
    texts = [str(item.TextValue) for item in items if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS"]
    selected = {
        (str(image.ReferencedSOPInstanceUID), frame)
        for item in items
        if item.ValueType == "IMAGE"
        for image in item.ReferencedSOPSequence
        for frame in _frames(image)
    }
    if texts != [description] or selected != {reference_of(image) for image in key_slices}:
        raise ReportError("KOS: what it selects did not read back the same")


def _frames(image: Dataset) -> Sequence[int | None]:
    frames = image.get("ReferencedFrameNumber")
    return [frames] if frames is None or isinstance(frames, int) else list(frames)
