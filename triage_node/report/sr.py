"""Prediction and Decision -> Comprehensive 3D SR with an Imaging Measurement Report (PS3.16 TID 1500).

Group 0 (TID 1501) answers for hemorrhage of any kind: present or absent, priority, probability, volume. One group per
reported subtype follows, TID 1411 where it is segmented (same tracking UID as its segment), TID 1501 where not.
What the model does not output is left out, never written as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypedDict

import highdicom.sr as hdsr
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.coding import Code

from triage_node.domain import DISCLAIMER, OPERATING_POINT, Decision, ObjectKind, Prediction, Producer, ResultObject
from triage_node.errors import ReportError
from triage_node.report.codes import ACTIONABLE_CODES, PRIORITY_CODES, SUBTYPE_CODES, Concept
from triage_node.report.findings import Finding
from triage_node.report.instance import Context, finish, plain, read_back
from triage_node.report.seg import segment_numbers, tracking_id
from triage_node.report.stack import refer_to_frames

_SCORE: Final = f"probabilities are scores of the model; its operating point is {OPERATING_POINT:g}"
_Group = hdsr.MeasurementsAndQualitativeEvaluations | hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations


class _Common(TypedDict):
    """What TID 1411 and TID 1501 have in common."""

    tracking_identifier: hdsr.TrackingIdentifier
    finding_category: Code
    finding_type: Code
    finding_sites: Sequence[hdsr.FindingSite]
    algorithm_id: hdsr.AlgorithmIdentification
    measurements: Sequence[hdsr.Measurement]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the report refers to."""

    slices: Sequence[Dataset]
    """All analysed slices, from `stack.source_slices`."""
    key_slices: Sequence[Dataset]
    seg: ResultObject | None


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
    groups: list[_Group] = [_any_group(prediction, decision, answer, evidence, comments, context)]
    groups += [_subtype_group(finding, findings, prediction, evidence, context) for finding in findings]
    report = hdsr.MeasurementReport(
        observation_context=_observer(context.producer, context.uids.device()),
        procedure_reported=_procedures(context.source),
        imaging_measurements=groups,
        referenced_images=list(evidence.key_slices),
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
    _require_values(made, prediction, findings)
    return made


# ---------------------------------------------------------------- groups


def _any_group(
    prediction: Prediction,
    decision: Decision,
    answer: Concept | None,
    evidence: Evidence,
    comments: Sequence[str],
    context: Context,
) -> _Group:
    positive = decision.suspected
    ich = Concept.INTRACRANIAL_HEMORRHAGE.code
    # a negative carries no Finding item: a reader that only looks for findings must not see one
    group = hdsr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("any", context),
        finding_type=ich if positive else None,
        finding_category=ACTIONABLE_CODES[decision.priority].code if positive else None,
        algorithm_id=_algorithm(prediction, context),
        measurements=_measurements(prediction.probabilities.get("any"), prediction.volumes_ml.get("any")),
        qualitative_evaluations=[
            *([hdsr.QualitativeEvaluation(ich, answer.code)] if answer else []),
            hdsr.QualitativeEvaluation(Concept.PRIORITY.code, PRIORITY_CODES[decision.priority].code),
        ],
        source_images=[_source(image) for image in evidence.key_slices],
    )
    for text in (f"{decision.priority}: {decision.reason}", *comments, DISCLAIMER):
        group[0].ContentSequence.append(_comment(text))
    return group


def _subtype_group(
    finding: Finding, findings: Sequence[Finding], prediction: Prediction, evidence: Evidence, context: Context
) -> _Group:
    coded = SUBTYPE_CODES[finding.subtype]
    common: _Common = {
        "tracking_identifier": _tracking(finding.subtype, context),
        "finding_category": Concept.MORPHOLOGICALLY_ABNORMAL.code,
        "finding_type": coded.finding.code,
        "finding_sites": [hdsr.FindingSite(coded.site.code)],
        "algorithm_id": _algorithm(prediction, context),
        "measurements": _measurements(finding.probability, finding.volume_ml),
    }
    if finding.segmented and evidence.seg is not None:
        group: _Group = hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=hdsr.ReferencedSegment(
                sop_class_uid=evidence.seg.sop_class_uid,
                sop_instance_uid=evidence.seg.sop_uid,
                segment_number=segment_numbers(findings)[finding.subtype],
                source_series=hdsr.SourceSeriesForSegmentation(evidence.slices[0].SeriesInstanceUID),
            ),
            **common,
        )
    else:
        images = [_source(image) for image in evidence.key_slices]
        group = hdsr.MeasurementsAndQualitativeEvaluations(source_images=images, **common)
    if not finding.suspected:
        group[0].ContentSequence.append(_comment("segmented, but its probability is below the operating point"))
    return group


def _tracking(name: str, context: Context) -> hdsr.TrackingIdentifier:
    return hdsr.TrackingIdentifier(uid=context.uids.tracking(name), identifier=tracking_id(name))


def _algorithm(prediction: Prediction, context: Context) -> hdsr.AlgorithmIdentification:
    return hdsr.AlgorithmIdentification(
        name=plain(prediction.bundle.name),
        version=plain(prediction.bundle.version),
        parameters=[_SCORE, f"weights sha256 {prediction.bundle.sha256}"],
        family=Concept.ARTIFICIAL_INTELLIGENCE.code,
        manufacturer=plain(context.producer.manufacturer),
    )


def _measurements(probability: float | None, volume_ml: float | None) -> list[hdsr.Measurement]:
    """Units of CID 7462 have no mL: 1 cm3 is 1 mL."""
    values = []
    if probability is not None:
        values.append(hdsr.Measurement(Concept.PROBABILITY.code, _rounded(probability, 4), Concept.NO_UNITS.code))
    if volume_ml is not None:
        values.append(hdsr.Measurement(Concept.VOLUME.code, _rounded(volume_ml, 3), Concept.CUBIC_CENTIMETER.code))
    return values


def _rounded(value: float, digits: int) -> float:
    return round(float(value), digits)


def _source(image: Dataset) -> hdsr.SourceImageForMeasurementGroup:
    return hdsr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)


def _comment(text: str) -> hdsr.TextContentItem:
    return hdsr.TextContentItem(Concept.COMMENT.code, plain(text), hdsr.RelationshipTypeValues.CONTAINS)


# ---------------------------------------------------------------- document


def _observer(producer: Producer, device_uid: str) -> hdsr.ObservationContext:
    return hdsr.ObservationContext(
        observer_device_context=hdsr.ObserverContext(
            observer_type=hdsr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=hdsr.DeviceObserverIdentifyingAttributes(
                uid=device_uid,
                name=plain(producer.node_name),
                manufacturer_name=plain(producer.manufacturer),
                model_name=plain(producer.model_name),
            ),
        )
    )


def _procedures(source: Dataset) -> list[Code]:
    """The coded procedure of the study where it has one, else a CT (CID 100 has no head CT)."""
    items = [*source.get("ProcedureCodeSequence", ()), *source.get("RequestedProcedureCodeSequence", ())]
    complete = [
        Code(
            str(item.CodeValue), str(item.CodingSchemeDesignator), str(item.CodeMeaning)[:64]
        )  # LO, which RIS texts overrun
        for item in items
        if item.get("CodeValue") and item.get("CodingSchemeDesignator") and item.get("CodeMeaning")
    ]
    return list(dict.fromkeys(complete)) or [Concept.CT_PROCEDURE.code]


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


def _require_values(made: ResultObject, prediction: Prediction, findings: Sequence[Finding]) -> None:
    expected = {tracking_id("any"): (prediction.probabilities.get("any"), prediction.volumes_ml.get("any"))}
    expected |= {tracking_id(f.subtype): (f.probability, f.volume_ml) for f in findings}
    found = {identifier: (probability, volume) for identifier, probability, volume in _groups(read_back(made))}
    rounded = {
        identifier: (None if p is None else _rounded(p, 4), None if v is None else _rounded(v, 3))
        for identifier, (p, v) in expected.items()
    }
    if found != rounded:
        raise ReportError("SR: probabilities or volumes did not read back the same")


def _groups(document: Dataset) -> Iterator[tuple[str, float | None, float | None]]:
    """(tracking identifier, probability, volume in cm3) of each measurement group."""
    for container in document.ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeValue != "126010":  # Imaging Measurements
            continue
        for group in container.ContentSequence:
            items = {item.ConceptNameCodeSequence[0].CodeValue: item for item in group.ContentSequence}
            yield (
                str(items["112039"].TextValue),
                _number(items.get(Concept.PROBABILITY.code.value)),
                _number(items.get(Concept.VOLUME.code.value)),
            )


def _number(item: Dataset | None) -> float | None:
    return None if item is None else float(item.MeasuredValueSequence[0].NumericValue)
