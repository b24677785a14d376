"""Measurement groups of the SR (PS3.16): hemorrhage of any kind, one per subtype, and boxes of what is segmented.

The whole is TID 1501; a subtype is TID 1411 where it is segmented, TID 1501 where not; a box is TID 1410, because
TID 1411 takes either a segment or regions. What the model does not output is left out, never written as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import highdicom.sr as hdsr
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from triage_node.domain import DISCLAIMER, OPERATING_POINT, Decision, Location, Prediction, ResultObject
from triage_node.report.codes import ACTIONABLE_CODES, LATERALITY_CODES, PRIORITY_CODES, SUBTYPE_CODES, Concept
from triage_node.report.findings import Finding
from triage_node.report.instance import Context, plain
from triage_node.report.regions import Box
from triage_node.report.seg import segment_numbers, tracking_id

_SCORE: Final = f"probabilities are scores of the model; its operating point is {OPERATING_POINT:g}"
Group = (
    hdsr.MeasurementsAndQualitativeEvaluations
    | hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | hdsr.PlanarROIMeasurementsAndQualitativeEvaluations
)


class _Common(TypedDict):
    """What TID 1410, TID 1411 and TID 1501 have in common."""

    tracking_identifier: hdsr.TrackingIdentifier
    finding_category: Code
    finding_type: Code
    finding_sites: Sequence[hdsr.FindingSite]
    algorithm_id: hdsr.AlgorithmIdentification


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the report refers to."""

    slices: Sequence[Dataset]
    """All analysed slices, from `stack.source_slices`."""
    key_slices: Sequence[Dataset]
    """Slices that are shown, of the findings in their order."""
    seg: ResultObject | None


def measurement_groups(
    prediction: Prediction,
    decision: Decision,
    findings: Sequence[Finding],
    answer: Concept | None,
    evidence: Evidence,
    comments: Sequence[str],
    context: Context,
) -> list[Group]:
    """All groups in their order. `answer` is PRESENT or ABSENT, None where neither can be said."""
    return [
        _any_group(prediction, decision, answer, evidence, comments, context),
        *(_subtype_group(finding, findings, prediction, evidence, context) for finding in findings),
        *(group for finding in findings for group in _box_groups(finding, prediction, evidence, context)),
    ]


def told_measurements(probability: float | None, volume_ml: float | None) -> tuple[float | None, float | None]:
    """Probability and volume as they are written: rounded, None where left out."""
    return None if probability is None else round(probability, 4), None if volume_ml is None else round(volume_ml, 3)


def told_side(location: Location | None) -> Concept | None:
    """Laterality as it is coded; None for the midline (CID 244 has no code) and where it cannot be told."""
    return LATERALITY_CODES.get(location.laterality) if location else None


def box_identifier(finding: Finding, number: int) -> str:
    """Tracking identifier of a box. Not that of the segment: who looks a finding up by it finds one group."""
    return f"{tracking_id(finding.subtype)}-BOX-{number}"


def corners(box: Box) -> tuple[float, ...]:
    """Graphic Data of a closed rectangle, column before row (PS3.3 C.18.6.1.1)."""
    left, top, right, bottom = float(box.left), float(box.top), float(box.right), float(box.bottom)
    return left, top, right, top, right, bottom, left, bottom, left, top


def location_sentence(location: Location, slices: int) -> str:
    """ "Left. Slice 2-4 of 6 from the feet, InstanceNumber 5-3, z 5.0 to 15.0 mm." """
    first, last = location.slices
    parts = [f"Slice {_range(first + 1, last + 1)} of {slices} from the feet"]
    if location.instance_numbers is not None:
        parts.append(f"InstanceNumber {_range(*location.instance_numbers)}")
    parts.append("z {:.1f} to {:.1f} mm".format(*location.z_mm))
    side = f"{location.laterality.capitalize()}. " if location.laterality else ""
    return f"{side}{', '.join(parts)}."


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


# ---------------------------------------------------------------- one group


def _any_group(
    prediction: Prediction,
    decision: Decision,
    answer: Concept | None,
    evidence: Evidence,
    comments: Sequence[str],
    context: Context,
) -> Group:
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
) -> Group:
    common = _common(finding, _tracking(finding.subtype, context), prediction, context)
    measurements = _measurements(finding.probability, finding.volume_ml)
    if finding.segmented and evidence.seg is not None:
        group: Group = hdsr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=hdsr.ReferencedSegment(
                sop_class_uid=evidence.seg.sop_class_uid,
                sop_instance_uid=evidence.seg.sop_uid,
                segment_number=segment_numbers(findings)[finding.subtype],
                source_series=hdsr.SourceSeriesForSegmentation(evidence.slices[0].SeriesInstanceUID),
            ),
            measurements=measurements,
            **common,
        )
    else:
        images = [_source(image) for image in evidence.key_slices]
        group = hdsr.MeasurementsAndQualitativeEvaluations(source_images=images, measurements=measurements, **common)
    if finding.location is not None:
        group[0].ContentSequence.append(_comment(location_sentence(finding.location, len(evidence.slices))))
    if not finding.suspected:
        group[0].ContentSequence.append(_comment("segmented, but its probability is below the operating point"))
    return group


def _box_groups(finding: Finding, prediction: Prediction, evidence: Evidence, context: Context) -> list[Group]:
    """For viewers that show no SEG: where to look on the key slice."""
    image = evidence.slices[finding.slice_index]
    return [
        hdsr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=hdsr.ImageRegion(
                graphic_type=hdsr.GraphicTypeValues.POLYLINE,
                graphic_data=np.array(corners(box)).reshape(-1, 2),
                source_image=hdsr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
            ),
            geometric_purpose=Concept.BOUNDED_BY.code,
            **_common(
                finding,
                hdsr.TrackingIdentifier(
                    uid=context.uids.tracking(f"{finding.subtype} box {number}"),
                    identifier=box_identifier(finding, number),
                ),
                prediction,
                context,
            ),
        )
        for number, box in enumerate(finding.boxes, start=1)
    ]


def _common(finding: Finding, tracking: hdsr.TrackingIdentifier, prediction: Prediction, context: Context) -> _Common:
    coded = SUBTYPE_CODES[finding.subtype]
    side = told_side(finding.location)
    return {
        "tracking_identifier": tracking,
        "finding_category": Concept.MORPHOLOGICALLY_ABNORMAL.code,
        "finding_type": coded.finding.code,
        "finding_sites": [hdsr.FindingSite(coded.site.code, laterality=side.code if side else None)],
        "algorithm_id": _algorithm(prediction, context),
    }


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
    named = ((Concept.PROBABILITY, Concept.NO_UNITS), (Concept.VOLUME, Concept.CUBIC_CENTIMETER))
    told = zip(named, told_measurements(probability, volume_ml), strict=True)
    return [hdsr.Measurement(name.code, value, unit.code) for (name, unit), value in told if value is not None]


def _source(image: Dataset) -> hdsr.SourceImageForMeasurementGroup:
    return hdsr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)


def _comment(text: str) -> hdsr.TextContentItem:
    return hdsr.TextContentItem(Concept.COMMENT.code, plain(text), hdsr.RelationshipTypeValues.CONTAINS)
