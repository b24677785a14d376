"""A multi-frame CT (PS3.3 A.38, A.70): what each frame says of itself, as the header of a single image would say it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from pydicom.dataset import Dataset

from triage_node.domain import NotAnalyzedReason
from triage_node.errors import NotSuitable

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT: Final = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
"""Enhanced CT and Legacy Converted Enhanced CT Image Storage."""

FUNCTIONAL_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_OTHER_NAMES: Final = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
}
"""What functional groups call otherwise; their other elements are named as in the CT Image module."""


def frame_elements(image: Dataset, keywords: Collection[str]) -> Iterator[Dataset]:
    """The elements among `keywords` of each frame of a multi-frame CT, in the order of the frames.

    Raises NotSuitable(NO_GEOMETRY) where the frames are not described one by one.
    """
    shared, per_frame = (list(image.get(keyword) or ()) for keyword in FUNCTIONAL_GROUPS)
    if not per_frame or len(per_frame) != int(image.get("NumberOfFrames") or 0):
        raise NotSuitable(
            NotAnalyzedReason.NO_GEOMETRY, "A multi-frame image does not say where each of its frames lies."
        )
    for own in per_frame:
        frame = Dataset()
        frame.update({element.tag: element for element in image if element.keyword not in FUNCTIONAL_GROUPS})
        for groups in (*shared[:1], own):
            _add_macros(frame, groups, keywords)
            _add_anatomy(frame, groups)
            _remove_unused_contrast(frame, groups)
        yield frame


def is_multi_frame(image: Dataset) -> bool:
    """Whether it is a CT of several frames, or of a class that describes frames."""
    class_uid = image.get("SOPClassUID")
    return class_uid in ENHANCED_CT or (class_uid == CT_IMAGE_STORAGE and int(image.get("NumberOfFrames") or 1) > 1)


def _add_macros(frame: Dataset, groups: Dataset, keywords: Collection[str]) -> None:
    """Pixel Measures, Plane Position, CT Reconstruction ... (PS3.3 A.38.1.4); one item each, or the first counts."""
    for macro in groups:
        for element in macro.value[0] if macro.VR == "SQ" and macro.value else ():
            keyword = _OTHER_NAMES.get(element.keyword, element.keyword)
            if keyword in keywords:
                frame.add_new(keyword, element.VR, element.value)  # a new one: frames share those of the image


def _add_anatomy(frame: Dataset, groups: Dataset) -> None:
    """Frame Anatomy names the part by a code (PS3.3 C.7.6.16.2.8)."""
    for anatomy in groups.get("FrameAnatomySequence", ()):
        for region in anatomy.get("AnatomicRegionSequence", ()):
            if not frame.get("BodyPartExamined"):
                frame.add_new("BodyPartExamined", "LO", str(region.get("CodeMeaning", "")))  # too long for a CS


def _remove_unused_contrast(frame: Dataset, groups: Dataset) -> None:
    """The image lists the agents of all its frames; Contrast/Bolus Usage says whether this frame had them."""
    usage = groups.get("ContrastBolusUsageSequence", ())
    if usage and all(agent.get("ContrastBolusAgentAdministered") == "NO" for agent in usage):
        for keyword in ("ContrastBolusAgent", "ContrastBolusAgentSequence"):
            frame.pop(keyword, None)
