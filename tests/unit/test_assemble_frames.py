"""The frames of a multi-frame CT become the same volume as single images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests import ct
from triage_node.assemble import assemble
from triage_node.assemble.headers import read_headers
from triage_node.domain import NotAnalyzedReason, Volume
from triage_node.errors import NotSuitable

TILT_DEG = 18.0
THIN_THEN_THICK_MM = np.concatenate([np.arange(24) * 2.5 - 75.0, np.arange(16) * 5.0 - 12.5])


def require_same(one: Volume, other: Volume) -> None:
    np.testing.assert_array_equal(one.hu, other.hu)
    np.testing.assert_array_equal(one.positions_mm, other.positions_mm)
    np.testing.assert_array_equal(one.weights_mm, other.weights_mm)
    assert one.pixel_spacing_mm == other.pixel_spacing_mm
    assert one.tilt_deg == other.tilt_deg
    assert one.warnings == other.warnings


def refusal_of(image: Dataset, folder: Path) -> NotSuitable:
    with pytest.raises(NotSuitable) as refusal:
        assemble(ct.save([image], folder))
    return refusal.value


@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, *ct.LOSSLESS], ids=lambda uid: uid.name)
def test_one_file_of_frames_is_the_volume_of_the_single_images(tmp_path: Path, transfer_syntax: UID) -> None:
    images = ct.head(THIN_THEN_THICK_MM, tilt_deg=TILT_DEG)
    whole = ct.enhanced(images[::-1])
    volume = assemble(ct.save([whole], tmp_path / "enhanced", transfer_syntax=transfer_syntax))
    single = assemble(ct.save(images, tmp_path / "single"))
    require_same(volume, single)
    assert volume.header == single.header
    assert volume.sop_uids == (whole.SOPInstanceUID,) * 40
    assert volume.frame_numbers == tuple(range(40, 0, -1))


def test_frames_in_several_files_and_single_images_join(tmp_path: Path) -> None:
    images = ct.head()
    files = [ct.enhanced(images[:8]), ct.enhanced(images[8:15]), *images[15:]]
    for part in files[:2]:
        for groups in part.PerFrameFunctionalGroupsSequence:
            del groups.FrameContentSequence[0].StackID
            groups.CTImageFrameTypeSequence[0].FrameType = images[0].ImageType
    volume = assemble(ct.save(files, tmp_path / "mixed"))
    require_same(volume, assemble(ct.save(images, tmp_path / "single")))
    assert volume.frame_numbers == (*range(1, 9), *range(1, 8), *[None] * 5)


def test_a_legacy_conversion_is_the_volume_of_its_images(tmp_path: Path) -> None:
    """As another implementation writes it: kernel and acquisition among the unassigned converted attributes."""
    images = ct.head(tilt_deg=TILT_DEG)
    for image in images:
        image.SeriesNumber, image.StudyID, image.AccessionNumber = 1, "1", ""
        image.PatientBirthDate = image.PatientSex = image.ReferringPhysicianName = ""
        image.Manufacturer, image.FrameOfReferenceUID = "ACME", images[0].FrameOfReferenceUID
        image.PositionReferenceIndicator = ""
    single = assemble(ct.save(images, tmp_path / "single"))
    whole = LegacyConvertedEnhancedCTImage(
        images, generate_uid(), 2, generate_uid(), 1, transfer_syntax_uid=ExplicitVRLittleEndian
    )
    whole.save_as(tmp_path / "legacy.dcm")
    volume = assemble([tmp_path / "legacy.dcm"])
    require_same(volume, single)
    assert volume.header == single.header


def test_stacks_are_told_apart_by_their_id_and_the_larger_is_analysed(tmp_path: Path) -> None:
    """Same place, thickness, kernel and acquisition: only the StackID tells which frames belong together."""
    larger, smaller = ct.head(), ct.head(ct.EVEN_MM[3:18] + 2.5)
    for image in smaller:
        image.StackID = "2"
    volume = assemble(ct.save([ct.enhanced([*smaller, *larger])], tmp_path))
    assert volume.frame_numbers == tuple(range(16, 36))
    assert volume.warnings == ("15 images left out: another stack.",)


def test_rescale_belongs_to_each_frame(tmp_path: Path) -> None:
    images = ct.head()
    expected = np.stack([ct.hu_of(image) for image in images])
    for number, image in enumerate(images):
        image.RescaleIntercept, image.RescaleSlope = str(-1024 - number), "0.5" if number % 2 else "1"
        ct.set_hu(image, expected[number])
    np.testing.assert_array_equal(assemble(ct.save([ct.enhanced(images)], tmp_path)).hu, expected)


def test_what_all_frames_share_is_read_from_the_shared_groups(tmp_path: Path) -> None:
    images = ct.head()
    whole = ct.enhanced(images)
    (shared,) = whole.SharedFunctionalGroupsSequence
    macros = ("PixelMeasuresSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence")
    for macro in (*macros, "CTReconstructionSequence", "CTImageFrameTypeSequence"):
        setattr(shared, macro, whole.PerFrameFunctionalGroupsSequence[0][macro].value)
        for groups in whole.PerFrameFunctionalGroupsSequence:
            delattr(groups, macro)
    volume = assemble(ct.save([whole], tmp_path / "shared"))
    require_same(volume, assemble(ct.save(images, tmp_path / "single")))


def _contrast(used: str) -> Callable[[Dataset], None]:
    def change(whole: Dataset) -> None:
        agent = Dataset()
        agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "109218", "SCT", "Iodine"
        whole.ContrastBolusAgentSequence = [agent]
        for groups in whole.PerFrameFunctionalGroupsSequence:
            usage = Dataset()
            usage.ContrastBolusAgentNumber, usage.ContrastBolusAgentAdministered = 1, used
            groups.ContrastBolusUsageSequence = [usage]

    return change


def _anatomy(name: str) -> Callable[[Dataset], None]:
    def change(whole: Dataset) -> None:
        for groups in whole.PerFrameFunctionalGroupsSequence:
            groups.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeMeaning = name

    return change


def _kernel(whole: Dataset) -> None:
    for groups in whole.PerFrameFunctionalGroupsSequence:
        groups.CTReconstructionSequence[0].ConvolutionKernel = "BONE"


def _projection(whole: Dataset) -> None:
    for groups in whole.PerFrameFunctionalGroupsSequence:
        groups.CTImageFrameTypeSequence[0].FrameType = ["DERIVED", "SECONDARY", "VOLUME", "MAXIMUM"]


def _frames_short(whole: Dataset) -> None:
    del whole.PerFrameFunctionalGroupsSequence[-1]


def _no_groups(whole: Dataset) -> None:
    del whole.PerFrameFunctionalGroupsSequence


def _not_enhanced(whole: Dataset) -> None:
    _no_groups(whole)
    whole.SOPClassUID = ct.CTImageStorage


def _short_pixels(whole: Dataset) -> None:
    whole.PixelData = whole.PixelData[:-2000]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_contrast("YES"), NotAnalyzedReason.CONTRAST),
        (_anatomy("Thoracic spine"), NotAnalyzedReason.NOT_HEAD),
        (_kernel, NotAnalyzedReason.BONE_ONLY),
        (_projection, NotAnalyzedReason.LOCALIZER),
        (_frames_short, NotAnalyzedReason.NO_GEOMETRY),
        (_no_groups, NotAnalyzedReason.NO_GEOMETRY),
        (_not_enhanced, NotAnalyzedReason.NO_GEOMETRY),
        (_short_pixels, NotAnalyzedReason.UNREADABLE),
    ],
)
def test_what_the_functional_groups_rule_out_is_refused_with_its_reason(
    tmp_path: Path, change: Callable[[Dataset], None], reason: NotAnalyzedReason
) -> None:
    whole = ct.enhanced(ct.head())
    change(whole)
    assert refusal_of(whole, tmp_path).reason == reason


def test_contrast_that_no_frame_was_given_is_no_contrast(tmp_path: Path) -> None:
    whole = ct.enhanced(ct.head())
    _contrast("NO")(whole)
    assert assemble(ct.save([whole], tmp_path)).hu.shape == (20, 64, 64)


def test_no_identity_is_read_from_functional_groups(tmp_path: Path) -> None:
    whole = ct.enhanced(ct.head())
    planted = Dataset()
    planted.PatientName, planted.OperatorsName = "PLANTED", "PLANTED"
    for groups in whole.PerFrameFunctionalGroupsSequence:
        groups.UnassignedPerFrameConvertedAttributesSequence = [planted]
    headers = read_headers(ct.save([whole], tmp_path))
    assert not any("PLANTED" in str(header.elements).upper() for header in headers)
