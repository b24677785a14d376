""" "Not analysed, because": a Basic Text SR (PS3.3 A.35.1) and a page. Silence would look like a negative."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from pydicom.uid import BasicTextSRStorage

from triage_node.domain import DISCLAIMER, ObjectKind, Outcome, Priority, ResultObject, UInt8Array
from triage_node.errors import ReportError
from triage_node.report.canvas import MARGIN_PX, PRIORITY_FILL, QUIET, Canvas
from triage_node.report.codes import Concept
from triage_node.report.instance import Context, code_item, finish, plain, read_back

HEADLINES: Final = {Outcome.NOT_ANALYZED: "NOT ANALYSED", Outcome.FAILED: "ANALYSIS FAILED"}
READ_AS_USUAL: Final = "Read as usual; this is not a negative result."
WIDTH_PX: Final = 640
HEIGHT_PX: Final = 480


def notice_sentence(outcome: Outcome, detail: str) -> str:
    """ "NOT ANALYSED - because not a head. Read as usual; ..." """
    return f"{HEADLINES[outcome]} — because {_clause(detail)}. {READ_AS_USUAL}"


def draw_notice(outcome: Outcome, reason: str, detail: str, node_name: str) -> UInt8Array:
    """(rows, columns, 3) uint8 RGB: the notice as a page."""
    canvas = Canvas(WIDTH_PX, HEIGHT_PX)
    canvas.band(0, 76)
    canvas.pill(MARGIN_PX, 38, f"AI {Priority.NONE}", 20, PRIORITY_FILL[Priority.NONE])
    canvas.text(MARGIN_PX, 138, HEADLINES[outcome], 44, bold=True)
    y = canvas.wrapped(MARGIN_PX, 194, f"because {_clause(detail)}.", 24)
    canvas.wrapped(MARGIN_PX, y + 22, READ_AS_USUAL, 24)
    canvas.band(HEIGHT_PX - 76, HEIGHT_PX)
    canvas.text(MARGIN_PX, HEIGHT_PX - 50, DISCLAIMER, 14, QUIET)
    canvas.text(MARGIN_PX, HEIGHT_PX - 26, f"{node_name}  ·  {reason}", 13, QUIET)
    return canvas.pixels()


def build_notice_sr(outcome: Outcome, reason: str, detail: str, context: Context) -> ResultObject:
    """The notice as text and as a code (hemorrhage: not evaluated), read back. Raises ReportError."""
    texts = [notice_sentence(outcome, detail), f"Reason code: {reason}", DISCLAIMER]
    dataset = Dataset()
    dataset.SOPClassUID = BasicTextSRStorage
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.PerformedProcedureCodeSequence = Sequence()
    dataset.ReferencedPerformedProcedureStepSequence = Sequence()
    dataset.CurrentRequestedProcedureEvidenceSequence = Sequence([_evidence(context.source)])
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.ConceptNameCodeSequence = Sequence([code_item(Concept.QUALITY_ASSESSMENT.code)])
    answer = _item("CODE", Concept.INTRACRANIAL_HEMORRHAGE.code)
    answer.ConceptCodeSequence = Sequence([code_item(Concept.NOT_EVALUATED.code)])
    dataset.ContentSequence = Sequence([*_observer(context), *(_text(text) for text in texts), answer])
    made = finish(dataset, ObjectKind.NOTICE_SR, context)
    require_texts(made, texts)
    return made


def require_texts(made: ResultObject, texts: list[str]) -> None:
    """Raise ReportError unless a reader gets these texts, and the code that hemorrhage was not evaluated."""
    items = [item for item in read_back(made).ContentSequence if item.RelationshipType == "CONTAINS"]
    found = [str(item.TextValue) for item in items if item.ValueType == "TEXT"]
    answers = [item.ConceptCodeSequence[0].CodeValue for item in items if item.ValueType == "CODE"]
    if found != [plain(text) for text in texts] or answers != [Concept.NOT_EVALUATED.code.value]:
        raise ReportError("notice: what it says did not read back the same")


def _clause(detail: str) -> str:
    """A sentence as the second half of one: "The series has 3 images." -> "the series has 3 images"."""
    text = detail.strip().rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _observer(context: Context) -> list[Dataset]:
    """Who says so (PS3.16 TID 1002, 1004)."""
    kind = _item("CODE", Code("121005", "DCM", "Observer Type"), "HAS OBS CONTEXT")
    kind.ConceptCodeSequence = Sequence([code_item(Code("121007", "DCM", "Device"))])
    device = _item("UIDREF", Code("121012", "DCM", "Device Observer UID"), "HAS OBS CONTEXT")
    device.UID = context.uids.device()
    name = _item("TEXT", Code("121013", "DCM", "Device Observer Name"), "HAS OBS CONTEXT")
    name.TextValue = plain(context.producer.node_name)
    return [kind, device, name]


def _text(text: str) -> Dataset:
    item = _item("TEXT", Concept.COMMENT.code)
    item.TextValue = plain(text)
    return item


def _item(value_type: str, name: Code, relationship: str = "CONTAINS") -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    item.ConceptNameCodeSequence = Sequence([code_item(name)])
    return item


def _evidence(source: Dataset) -> Dataset:
    instance = Dataset()
    instance.ReferencedSOPClassUID = str(source.SOPClassUID)
    instance.ReferencedSOPInstanceUID = str(source.SOPInstanceUID)
    series = Dataset()
    series.SeriesInstanceUID = str(source.SeriesInstanceUID)
    series.ReferencedSOPSequence = Sequence([instance])
    study = Dataset()
    study.StudyInstanceUID = str(source.StudyInstanceUID)
    study.ReferencedSeriesSequence = Sequence([series])
    return study
