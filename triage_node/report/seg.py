"""Prediction.mask -> Segmentation object (PS3.3 A.51), on the native slices, empty frames left out.

BINARY, a frame for each segment and slice; or on demand LABELMAP, a frame for each slice, compressed: fewer bytes, a
SOP class that few destinations know yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence, PixelMeasuresSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from triage_node.domain import (
    COLORS,
    DISCLAIMER,
    SUBTYPE_ABBREVIATIONS,
    BundleRef,
    ObjectKind,
    ResultObject,
    UInt8Array,
)
from triage_node.errors import ReportError
from triage_node.report.codes import SUBTYPE_CODES, Concept
from triage_node.report.findings import Finding
from triage_node.report.instance import Context, finish, read_back
from triage_node.report.regions import label_value
from triage_node.report.stack import refer_to_frames, reference_of

CONTENT_DESCRIPTION: Final = f"ICH? {DISCLAIMER}"
"""Content Description (0070,0081) is LO, 64 characters."""


def segment_numbers(findings: Sequence[Finding]) -> dict[str, int]:
    """Segment number of each segmented subtype; numbers are consecutive, as BINARY requires."""
    return {f.subtype: number for number, f in enumerate((f for f in findings if f.segmented), start=1)}


def tracking_id(subtype: str) -> str:
    """Tracking ID shared by a segment and its measurement group: "ICH-SDH"; "ICH-ANY" for the whole."""
    return f"ICH-{SUBTYPE_ABBREVIATIONS.get(subtype, subtype.upper())}"


def build_seg(
    mask: UInt8Array,
    findings: Sequence[Finding],
    slices: Sequence[Dataset],
    bundle: BundleRef,
    context: Context,
    *,
    kind: ObjectKind = ObjectKind.SEG,
) -> ResultObject:
    """The SEG or LABELMAP of the segmented findings, read back and compared voxel by voxel. Raises ReportError.

    `mask` is (slices, rows, columns) uint8 as in Prediction, `slices` from `stack.source_slices`.
    """
    labelmap = kind is ObjectKind.LABELMAP
    transfer_syntax = RLELossless if labelmap else ExplicitVRLittleEndian
    numbers = segment_numbers(findings)
    labels = _numbered(mask, numbers)
    segmentation = Segmentation(
        source_images=list(slices),
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.LABELMAP if labelmap else SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(name, number, bundle, context) for name, number in numbers.items()],
        series_instance_uid=context.uids.series(kind),
        series_number=1,
        sop_instance_uid=context.uids.sop(kind),
        instance_number=1,
        manufacturer=context.producer.manufacturer,
        manufacturer_model_name=context.producer.model_name,
        software_versions=context.producer.software_version or "unknown",
        device_serial_number=context.producer.node_name,
        content_label="ICH",
        content_description=CONTENT_DESCRIPTION,
        pixel_measures=_measures(slices[0]),
        transfer_syntax_uid=transfer_syntax,
    )
    _tell_thicknesses(segmentation, slices)
    refer_to_frames(segmentation, slices)
    _fix_dimension_uid(segmentation, context.uids.dimension_organization())
    segmentation.ContentCreatorName = None  # Type 2 (PS3.3 table 10-12): nobody drew it
    segmentation["PixelData"].VR = "OB"  # highdicom leaves "OB or OW"; 1 bit allocated or compressed is OB (PS3.5 8.2)
    if labelmap:
        segmentation["PixelPaddingValue"].VR = "US"  # of the background; highdicom leaves "US or SS"
    made = finish(segmentation, kind, context, transfer_syntax=transfer_syntax)
    _require_same(made, labels, slices)
    return made


def _numbered(mask: UInt8Array, numbers: dict[str, int]) -> UInt8Array:
    table = np.zeros(256, dtype=np.uint8)
    for name, number in numbers.items():
        table[label_value(name)] = number
    return table[mask]


def _segment(name: str, number: int, bundle: BundleRef, context: Context) -> SegmentDescription:
    coded = SUBTYPE_CODES[name]
    return SegmentDescription(
        segment_number=number,
        segment_label=f"{coded.label} hemorrhage",
        segmented_property_category=Concept.MORPHOLOGICALLY_ABNORMAL.code,
        segmented_property_type=Concept.HEMORRHAGE.code,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=bundle.name,
            family=Concept.ARTIFICIAL_INTELLIGENCE.code,
            version=bundle.version,
            source=context.producer.manufacturer,
            parameters={"weights_sha256": bundle.sha256},
        ),
        tracking_uid=context.uids.tracking(name),
        tracking_id=tracking_id(name),
        anatomic_regions=[coded.site.code],
        display_color=CIELabColor.from_rgb(*COLORS[name]),
    )


def _measures(slice_: Dataset) -> PixelMeasuresSequence:
    spacing_mm = [float(mm) for mm in slice_.PixelSpacing]
    return PixelMeasuresSequence(pixel_spacing=spacing_mm, slice_thickness=float(slice_.SliceThickness))


def _tell_thicknesses(segmentation: Dataset, slices: Sequence[Dataset]) -> None:
    """Where slices differ in thickness each frame gets its own Pixel Measures (PS3.3 C.7.6.16.2.1)."""
    if len({float(slice_.SliceThickness) for slice_ in slices}) == 1:
        return
    del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    by_uid = {str(slice_.SOPInstanceUID): slice_ for slice_ in slices}
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        (source,) = _macro(segmentation, groups, "DerivationImageSequence").SourceImageSequence
        groups.PixelMeasuresSequence = _measures(by_uid[str(source.ReferencedSOPInstanceUID)])


def _fix_dimension_uid(segmentation: Dataset, uid: str) -> None:
    """highdicom draws a random one; ours is the same for the same input."""
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _require_same(made: ResultObject, labels: UInt8Array, slices: Sequence[Dataset]) -> None:
    read = read_back(made)
    frames = read.pixel_array.reshape(-1, *labels.shape[1:])
    index_of = {reference_of(slice_): index for index, slice_ in enumerate(slices)}
    found = np.zeros_like(labels)
    for frame, groups in zip(frames, read.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = _macro(read, groups, "DerivationImageSequence").SourceImageSequence
        reference = str(source.ReferencedSOPInstanceUID), source.get("ReferencedFrameNumber")
        found[index_of[reference]][frame > 0] = _numbers(read, groups, frame)
    if not np.array_equal(found, labels):
        raise ReportError(f"{made.kind}: the mask did not read back the same")


def _numbers(read: Dataset, groups: Dataset, frame: UInt8Array) -> UInt8Array | int:
    """Segment numbers of the pixels that are not background."""
    if read.SegmentationType == "LABELMAP":
        return frame[frame > 0]
    return int(_macro(read, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _macro(read: Dataset, groups: Dataset, keyword: str) -> Dataset:
    """A functional group of one frame: what all frames have in common is written once (PS3.3 C.7.6.16)."""
    holder: Dataset = groups if keyword in groups else read.SharedFunctionalGroupsSequence[0]
    macro: Dataset = holder[keyword].value[0]
    return macro
