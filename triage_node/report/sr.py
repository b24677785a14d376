"""Prediction and Decision -> Comprehensive 3D SR with an Imaging Measurement Report (PS3.16 TID 1500)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import highdicom.sr as hdsr
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code

from triage_node.domain import Decision, ObjectKind, Prediction, Producer, ResultObject
from triage_node.errors import ReportError
from triage_node.report.codes import Concept
from triage_node.report.findings import Finding
from triage_node.report.groups import (
    Evidence,
    box_identifier,
    corners,
    measurement_groups,
    told_measurements,
    told_side,
)
from triage_node.report.instance import Context, finish, plain, read_back
from triage_node.report.seg import tracking_id
from triage_node.report.stack import refer_to_frames, reference_of


def build_sr(
    *,
    prediction: Prediction,
    decision: Decision,
    findings: Sequence[Finding],
    evidence: Evidence,
    comments: Sequence[str],
    whole_head: bool,
    predecessor: tuple[str, str] | None,
    context: Context,
) -> ResultObject:
    """The SR, read back and compared with the values that went in. Raises ReportError.

    Hemorrhage is only coded as absent of a `whole_head`.
    """
    answer = Concept.PRESENT if decision.suspected else Concept.ABSENT if whole_head else None
    report = hdsr.MeasurementReport(
        observation_context=_observation(context.producer, context.uids.device()),
        procedure_reported=_procedures(context.source),
        imaging_measurements=measurement_groups(prediction, decision, findings, answer, evidence, comments, context),
        referenced_images=_shown(findings, evidence),
    )
    seg = [read_back(evidence.seg)] if evidence.seg else []
    document = hdsr.Comprehensive3DSR(
        evidence=[*evidence.slices, *seg],
        content=report,
        series_instance_uid=context.uids.series(ObjectKind.SR),
        series_number=1,
        sop_instance_uid=context.uids.sop(ObjectKind.SR),
        instance_number=1,
        manufacturer=context.producer.manufacturer,
        is_complete=True,
        is_final=False,
    )
    if predecessor is not None:
        _refer_to_predecessor(document, predecessor, context)
    refer_to_frames(document, evidence.slices)
    made = finish(document, ObjectKind.SR, context)
    require_told(made, prediction, findings, evidence)
    return made


def require_told(made: ResultObject, prediction: Prediction, findings: Sequence[Finding], evidence: Evidence) -> None:
    """Raise ReportError unless a reader gets the probabilities, volumes, sides and boxes that went in."""
    if dict(_read(read_back(made))) != dict(_expected(prediction, findings, evidence)):
        raise ReportError("SR: probabilities, volumes, sides or boxes did not read back the same")


def observer(producer: Producer, device_uid: str) -> hdsr.ObserverContext:
    """This node, as the one who observed (PS3.16 TID 1002, 1004)."""
    return hdsr.ObserverContext(
        observer_type=hdsr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=hdsr.DeviceObserverIdentifyingAttributes(
            uid=device_uid,
            name=plain(producer.node_name),
            manufacturer_name=plain(producer.manufacturer),
            model_name=plain(producer.model_name),
        ),
    )


# ---------------------------------------------------------------- document


def _shown(findings: Sequence[Finding], evidence: Evidence) -> list[Dataset]:
    """The image library: key slices, and every slice with a box."""
    boxed = [evidence.slices[finding.slice_index] for finding in findings if finding.boxes]
    return list({str(image.SOPInstanceUID): image for image in (*evidence.key_slices, *boxed)}.values())


def _observation(producer: Producer, device_uid: str) -> hdsr.ObservationContext:
    return hdsr.ObservationContext(observer_device_context=observer(producer, device_uid))


def _procedures(source: Dataset) -> list[Code]:
    """The coded procedure of the study where it has one, else a CT (CID 100 has no head CT)."""
    sequences = (source.get("ProcedureCodeSequence", ()), source.get("RequestedProcedureCodeSequence", ()))
    items = deepcopy([item for sequence in sequences for item in sequence])  # to look at, see Context.source
    complete = [
        Code(str(item.CodeValue), str(item.CodingSchemeDesignator), _meaning(item))
        for item in items
        if item.get("CodeValue") and item.get("CodingSchemeDesignator") and item.get("CodeMeaning")
    ]
    return list(dict.fromkeys(complete)) or [Concept.CT_PROCEDURE.code]


def _meaning(item: Dataset) -> str:
    """LO, which RIS texts overrun; what does not fit the declared character set is no character of any other."""
    return str(item.CodeMeaning).replace("\ufffd", "?")[:64]


def _refer_to_predecessor(document: Dataset, predecessor: tuple[str, str], context: Context) -> None:
    """Predecessor Documents (PS3.3 C.17.2) need its series, which follows from the revision that issued its UID."""
    class_uid, sop_uid = predecessor
    series_uid = _series_of(sop_uid, context)
    if series_uid is None:
        return  # issued under another node name: its series is not known here
    instance = Dataset()
    instance.ReferencedSOPClassUID = class_uid
    instance.ReferencedSOPInstanceUID = sop_uid
    series = Dataset()
    series.SeriesInstanceUID = series_uid
    series.ReferencedSOPSequence = DicomSequence([instance])
    study = Dataset()
    study.StudyInstanceUID = str(context.source.StudyInstanceUID)
    study.ReferencedSeriesSequence = DicomSequence([series])
    document.PredecessorDocumentsSequence = DicomSequence([study])


def _series_of(sop_uid: str, context: Context) -> str | None:
    for revision in range(context.uids.revision - 1, -1, -1):
        uids = replace(context.uids, revision=revision)
        for kind in (ObjectKind.SR, ObjectKind.NOTICE_SR):
            if uids.sop(kind) == sop_uid:
                return uids.series(kind)
    return None


# ---------------------------------------------------------------- read-back


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What one measurement group says."""

    measurements: tuple[float | None, float | None]
    side: str | None
    box: tuple[tuple[str, int | None], tuple[float, ...]] | None
    """SOPInstanceUID and frame number, Graphic Data."""


def _expected(prediction: Prediction, findings: Sequence[Finding], evidence: Evidence) -> Iterator[tuple[str, _Told]]:
    whole = told_measurements(prediction.probabilities.get("any"), prediction.volumes_ml.get("any"))
    yield tracking_id("any"), _Told(measurements=whole, side=None, box=None)
    for finding in findings:
        concept = told_side(finding.location)
        side = concept.code.value if concept else None
        measurements = told_measurements(finding.probability, finding.volume_ml)
        yield tracking_id(finding.subtype), _Told(measurements=measurements, side=side, box=None)
        image = reference_of(evidence.slices[finding.slice_index])
        for number, box in enumerate(finding.boxes, start=1):
            told = _Told(measurements=(None, None), side=side, box=(image, corners(box)))
            yield box_identifier(finding, number), told


def _read(document: Dataset) -> Iterator[tuple[str, _Told]]:
    (measurements,) = _items(document, "126010")  # Imaging Measurements
    for group in measurements.ContentSequence:
        (identifier,) = _items(group, "112039")
        probability, volume_ml = (_number(group, concept) for concept in (Concept.PROBABILITY, Concept.VOLUME))
        sides = [side for site in _items(group, "363698007") for side in _items(site, "272741003")]
        regions = [
            (_referenced(image), tuple(map(float, region.GraphicData)))
            for region in _items(group, "111030")
            for image in region.ContentSequence
        ]
        yield (
            str(identifier.TextValue),
            _Told(
                measurements=(probability, volume_ml),
                side=str(sides[0].ConceptCodeSequence[0].CodeValue) if sides else None,
                box=regions[0] if regions else None,
            ),
        )


def _referenced(image: Dataset) -> tuple[str, int | None]:
    (reference,) = image.ReferencedSOPSequence
    return str(reference.ReferencedSOPInstanceUID), reference.get("ReferencedFrameNumber")


def _number(group: Dataset, concept: Concept) -> float | None:
    found = _items(group, concept.code.value)
    return float(found[0].MeasuredValueSequence[0].NumericValue) if found else None


def _items(parent: Dataset, concept: str) -> list[Dataset]:
    """Content items below `parent` whose concept name has this code value."""
    return [item for item in parent.get("ContentSequence", ()) if item.ConceptNameCodeSequence[0].CodeValue == concept]
