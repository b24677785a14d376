"""Every finished object is read back before it is queued; each check notices what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from tests import report_cases as cases
from triage_node.domain import ObjectKind, Outcome, Prediction, ResultObject, UInt8Array, Volume
from triage_node.errors import ReportError
from triage_node.locate import locate
from triage_node.report import ResultUids, build_notice, series_description
from triage_node.report.checks import require_sound
from triage_node.report.findings import reported_findings
from triage_node.report.groups import Evidence
from triage_node.report.instance import Context, read_header
from triage_node.report.notice import require_texts
from triage_node.report.secondary_capture import require_pixels
from triage_node.report.sr import require_told
from triage_node.report.stack import source_slices

UIDS = ResultUids(node="TRIAGE", series_uid=cases.SERIES_UID, revision=1)
ALL = tuple(ObjectKind)
ANALYZED = (ObjectKind.SEG, ObjectKind.SR, ObjectKind.KEY_IMAGE)
DOCUMENTS = (ObjectKind.SR, ObjectKind.NOTICE_SR)
PAGES = (ObjectKind.KEY_IMAGE, ObjectKind.NOTICE_IMAGE)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID = "OTHER 2", "Ärzte"
    elements = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Jörg",
        "IssuerOfPatientID": "Städt. Klinik",
        "OtherPatientIDsSequence": [other],
    }
    return cases.volume_of(cases.write_ct(tmp_path_factory.mktemp("ct"), elements=elements))


@pytest.fixture(scope="module")
def prediction(volume: Volume) -> Prediction:
    return cases.prediction_of(volume, cases.mask_of(volume))


@pytest.fixture(scope="module")
def objects(volume: Volume, prediction: Prediction) -> dict[ObjectKind, ResultObject]:
    notice = build_notice(
        source=volume.paths[0],
        outcome=Outcome.FAILED,
        reason="ANALYSIS_FAILED",
        detail="no reason",
        producer=cases.PRODUCER,
        uids=UIDS,
        created_at=cases.CREATED_AT,
    )
    return {made.kind: made for made in (*cases.results_of(volume, prediction), *notice)}


def context_of(volume: Volume, kind: ObjectKind) -> Context:
    notice = kind in (ObjectKind.NOTICE_SR, ObjectKind.NOTICE_IMAGE)
    return Context(
        source=read_header(volume.paths[0]),
        producer=cases.PRODUCER,
        bundle=cases.BUNDLE,
        uids=UIDS,
        created_at=cases.CREATED_AT,
        series_description="AI NONE: analysis failed" if notice else series_description(cases.POSITIVE),
    )


def changed(made: ResultObject, change: Callable[[Dataset], None]) -> ResultObject:
    """The object as it is read, changed and written again: what a fault in the encoding would leave."""
    dataset = dcmread(BytesIO(made.data))
    change(dataset)
    buffer = BytesIO()
    dcmwrite(buffer, dataset)
    return replace(made, data=buffer.getvalue())


def set_to(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def without(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


def rename_other_issuer(dataset: Dataset) -> None:
    dataset.OtherPatientIDsSequence[0].IssuerOfPatientID = "Arzte"


def rename_file_meta(dataset: Dataset) -> None:
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"


def refer_elsewhere(dataset: Dataset) -> None:
    for element in dataset.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            element.value = "1.9.9"


def drop_evidence(dataset: Dataset) -> None:
    del dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


CORRUPTIONS = [
    *((kind, set_to("PatientName", "Muller^Jorg"), "PatientName") for kind in ALL),
    *((kind, without("IssuerOfPatientID"), "IssuerOfPatientID") for kind in ALL),
    *((kind, rename_other_issuer, "OtherPatientIDsSequence") for kind in ALL),
    *((kind, set_to("PatientAge", "030Y"), "PatientAge") for kind in ALL),
    *((kind, set_to("SpecificCharacterSet", "ISO_IR 192"), "SpecificCharacterSet") for kind in ALL),
    *((kind, set_to("StudyInstanceUID", "1.2.9"), "UIDs") for kind in ALL),
    *((kind, set_to("SeriesInstanceUID", "1.2.9"), "UIDs") for kind in ALL),
    *((kind, set_to("SOPClassUID", "1.2.9"), "UIDs") for kind in ALL),
    *((kind, set_to("InstanceNumber", 7), "UIDs") for kind in ALL),
    *((kind, set_to("SOPInstanceUID", "1.2.9"), "UID did not") for kind in ALL),
    *((kind, rename_file_meta, "UID did not") for kind in ALL),
    *((kind, set_to("SeriesDescription", "AI ROUTINE: no ICH detected"), "SeriesDescription") for kind in ALL),
    *((kind, without("ContentQualification"), "ContentQualification") for kind in ALL),
    *((kind, set_to("Modality", "CT"), "Modality") for kind in ALL),
    *((kind, without("ContributingEquipmentSequence"), "which model") for kind in (*PAGES, ObjectKind.NOTICE_SR)),
    *((kind, refer_elsewhere, "nobody has") for kind in ALL),
    *((kind, set_to("PreliminaryFlag", "FINAL"), "PreliminaryFlag") for kind in DOCUMENTS),
    *((kind, set_to("VerificationFlag", "VERIFIED"), "VerificationFlag") for kind in DOCUMENTS),
    *((kind, set_to("CompletionFlag", "PARTIAL"), "CompletionFlag") for kind in DOCUMENTS),
    *((kind, set_to("BurnedInAnnotation", "NO"), "BurnedInAnnotation") for kind in PAGES),
    *((kind, set_to("ImageType", ["ORIGINAL", "PRIMARY"]), "ImageType") for kind in PAGES),
    (ObjectKind.SEG, set_to("ContentDescription", "ICH?"), "disclaimer"),
    (ObjectKind.SR, drop_evidence, "evidence"),
]


def test_what_was_made_is_sound(volume: Volume, objects: dict[ObjectKind, ResultObject]) -> None:
    assert set(objects) == set(ALL)
    for kind, made in objects.items():
        again = changed(made, lambda _: None)
        require_sound(again, context_of(volume, kind), known={*volume.sop_uids, UIDS.sop(ObjectKind.SEG)})


@pytest.mark.parametrize(("kind", "corrupt", "message"), CORRUPTIONS)
def test_what_got_lost_in_an_object_is_noticed(
    volume: Volume,
    objects: dict[ObjectKind, ResultObject],
    kind: ObjectKind,
    corrupt: Callable[[Dataset], None],
    message: str,
) -> None:
    corrupted = changed(objects[kind], corrupt)
    with pytest.raises(ReportError, match=message):
        require_sound(corrupted, context_of(volume, kind), known={*volume.sop_uids, UIDS.sop(ObjectKind.SEG)})


def test_no_message_tells_an_identity(volume: Volume, objects: dict[ObjectKind, ResultObject]) -> None:
    corrupted = changed(objects[ObjectKind.SR], set_to("PatientName", "Planted^Name"))
    with pytest.raises(ReportError) as caught:
        require_sound(corrupted, context_of(volume, ObjectKind.SR), known=volume.sop_uids)
    assert not {"Planted", "ller", "OTHER"} & {
        word for word in ("Planted", "ller", "OTHER") if word in str(caught.value)
    }


# ---------------------------------------------------------------- content


def first_item(dataset: Dataset, code: str) -> Dataset:
    """The first content item with this concept name, at any depth."""
    for item in dataset.get("ContentSequence", ()):
        if item.ConceptNameCodeSequence[0].CodeValue == code:
            return item
        try:
            return first_item(item, code)
        except LookupError:
            continue
    raise LookupError(code)


def other_number(code: str) -> Callable[[Dataset], None]:
    return lambda sr: setattr(first_item(sr, code).MeasuredValueSequence[0], "NumericValue", "0.5")


def other_side(sr: Dataset) -> None:
    first_item(sr, "272741003").ConceptCodeSequence[0].CodeValue = "24028007"


def other_box(sr: Dataset) -> None:
    region = first_item(sr, "111030")
    region.GraphicData = [value + 1 for value in region.GraphicData]


def other_image(sr: Dataset) -> None:
    reference = first_item(sr, "111030").ContentSequence[0].ReferencedSOPSequence[0]
    reference.ReferencedSOPInstanceUID = f"{cases.SERIES_UID}.1"


def other_name(sr: Dataset) -> None:
    first_item(sr, "112039").TextValue = "ICH-XYZ"


@pytest.mark.parametrize(
    "corrupt",
    [None, other_number("122157"), other_number("118565006"), other_side, other_box, other_image, other_name],
)
def test_a_report_that_tells_something_else_is_noticed(
    volume: Volume,
    prediction: Prediction,
    objects: dict[ObjectKind, ResultObject],
    corrupt: Callable[[Dataset], None] | None,
) -> None:
    findings = reported_findings(volume, prediction, cases.POSITIVE, locate(volume, prediction.mask))
    slices = source_slices(volume, context_of(volume, ObjectKind.SR))
    evidence = Evidence(slices=slices, key_slices=slices[3:4], seg=objects[ObjectKind.SEG])
    made = objects[ObjectKind.SR]
    if corrupt is None:
        require_told(made, prediction, findings, evidence)
        return
    with pytest.raises(ReportError, match="did not read back the same"):
        require_told(changed(made, corrupt), prediction, findings, evidence)


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_with_another_pixel_is_noticed(objects: dict[ObjectKind, ResultObject], kind: ObjectKind) -> None:
    made = objects[kind]
    pixels: UInt8Array = dcmread(BytesIO(made.data)).pixel_array
    require_pixels(made, pixels)
    wrong = pixels.copy()
    wrong[5, 5, 0] ^= 1
    with pytest.raises(ReportError, match="pixels"):
        require_pixels(made, wrong)


def answer_absent(notice: Dataset) -> None:
    notice.ContentSequence[-1].ConceptCodeSequence[0].CodeValue = "272519000"


def test_a_notice_that_says_something_else_is_noticed(objects: dict[ObjectKind, ResultObject]) -> None:
    made = objects[ObjectKind.NOTICE_SR]
    items = [i for i in dcmread(BytesIO(made.data)).ContentSequence if i.RelationshipType == "CONTAINS"]
    texts = [str(item.TextValue) for item in items if item.ValueType == "TEXT"]
    require_texts(made, texts)
    with pytest.raises(ReportError, match="notice"):
        require_texts(made, texts[:-1])
    answered = changed(
        made, lambda sr: setattr(sr.ContentSequence[-1].ConceptCodeSequence[0], "CodeValue", "272519000")
    )
    with pytest.raises(ReportError, match="notice"):
        require_texts(answered, texts)


def test_a_segmentation_with_another_voxel_is_noticed(
    volume: Volume, prediction: Prediction, objects: dict[ObjectKind, ResultObject]
) -> None:
    from triage_node.report import seg

    assert prediction.mask is not None
    labels = np.zeros_like(prediction.mask)
    labels[prediction.mask == 5], labels[prediction.mask == 3] = 1, 2
    slices = source_slices(volume, context_of(volume, ObjectKind.SEG))
    seg._require_same(objects[ObjectKind.SEG], labels, slices)
    labels[3, 23, 49] = 0
    with pytest.raises(ReportError, match="mask"):
        seg._require_same(objects[ObjectKind.SEG], labels, slices)
