"""A series becomes one volume with the right HU at the right place, or says why not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, JPEG2000Lossless

from tests import ct
from tests.tools import real_head_ct
from triage_node.assemble import assemble
from triage_node.assemble.geometry import slice_weights_mm
from triage_node.domain import NotAnalyzedReason, Volume
from triage_node.errors import NotSuitable

TILT_DEG = 18.0
THIN_THEN_THICK_MM = np.concatenate([np.arange(24) * 2.5 - 75.0, np.arange(16) * 5.0 - 12.5])


def volume_of(slices: list[Dataset], folder: Path) -> Volume:
    return assemble(ct.save(slices, folder))


def reason_of(slices: list[Dataset], folder: Path) -> NotAnalyzedReason:
    with pytest.raises(NotSuitable) as refusal:
        volume_of(slices, folder)
    assert "Planted" not in str(refusal.value)
    return refusal.value.reason


def warns(volume: Volume, word: str) -> bool:
    return any(word in warning for warning in volume.warnings)


def expected_hu(slices: list[Dataset]) -> np.ndarray:
    return np.stack([ct.hu_of(image) for image in slices])


# ---------------------------------------------------------------- order, duplicates, transfer syntaxes


def test_a_plain_series_gives_exact_hu_in_feet_to_head_order_without_warnings(tmp_path: Path) -> None:
    slices = ct.head()
    volume = volume_of(slices, tmp_path)
    assert volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, expected_hu(slices))
    assert volume.sop_uids == tuple(image.SOPInstanceUID for image in slices)
    assert np.all(np.diff(volume.positions_mm[:, 2]) > 0)
    assert volume.warnings == ()
    assert volume.tilt_deg == pytest.approx(0, abs=0.01)
    assert volume.weights_mm == pytest.approx(np.full(20, 5.0))


def test_slices_are_sorted_by_position_never_by_instance_number(tmp_path: Path) -> None:
    slices = ct.head()
    for number, image in enumerate(reversed(slices), start=1):
        image.InstanceNumber = number
    np.testing.assert_array_equal(volume_of(slices, tmp_path).hu, expected_hu(slices))


def test_files_in_any_order_and_sent_twice_give_the_identical_volume(tmp_path: Path) -> None:
    slices = ct.head(THIN_THEN_THICK_MM, tilt_deg=TILT_DEG)
    paths = ct.save(slices, tmp_path / "a")
    twice = paths + ct.save(slices, tmp_path / "b")
    random.Random(7).shuffle(twice)
    once, doubled = assemble(paths), assemble(twice)
    np.testing.assert_array_equal(once.hu, doubled.hu)
    np.testing.assert_array_equal(once.positions_mm, doubled.positions_mm)
    np.testing.assert_array_equal(once.weights_mm, doubled.weights_mm)
    assert once.sop_uids == doubled.sop_uids
    assert warns(doubled, "40 images left out: exact duplicate")


@pytest.mark.parametrize("transfer_syntax", ct.LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize("signed", [0, 1])
def test_compressed_slices_give_the_identical_array(tmp_path: Path, transfer_syntax: str, signed: int) -> None:
    slices = ct.head()
    for image in slices:
        hu = ct.hu_of(image)
        image.PixelRepresentation = signed
        image.RescaleIntercept = "0" if signed else "-1024"
        ct.set_hu(image, hu)
    expected = expected_hu(slices)
    paths = ct.save(slices, tmp_path, transfer_syntax=transfer_syntax)
    assert dcmread(paths[0]).file_meta.TransferSyntaxUID == transfer_syntax
    np.testing.assert_array_equal(assemble(paths).hu, expected)


def test_an_exact_copy_under_another_uid_is_dropped_with_a_warning(tmp_path: Path) -> None:
    slices = ct.head()
    copy = ct.head()[10]
    for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(copy, keyword, slices[0][keyword].value)
    volume = volume_of([*slices, copy], tmp_path)
    assert len(volume.sop_uids) == 20
    assert warns(volume, "1 image left out: exact duplicate")


def test_a_second_image_at_the_same_place_with_other_pixels_is_left_out_and_said(tmp_path: Path) -> None:
    slices = ct.head()
    other = ct.head(tilt_deg=0.0)[10]
    other.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    other.InstanceNumber = 99
    ct.set_hu(other, ct.hu_of(other) + np.int16(7))
    volume = volume_of([other, *slices], tmp_path)
    np.testing.assert_array_equal(volume.hu, expected_hu(slices))
    assert warns(volume, "a second image at the same place")


# ---------------------------------------------------------------- geometry


def test_gantry_tilt_is_measured_warned_of_and_not_counted_as_thickness(tmp_path: Path) -> None:
    volume = volume_of(ct.head(tilt_deg=TILT_DEG), tmp_path)
    assert volume.tilt_deg == pytest.approx(TILT_DEG, abs=0.01)
    assert volume.weights_mm == pytest.approx(np.full(20, 5.0), abs=1e-4)
    assert warns(volume, "tilt of 18.0 degrees")


def test_an_oblique_head_first_series_is_no_tilt(tmp_path: Path) -> None:
    slices = ct.head(tilt_deg=10)
    normal = np.array([0, np.sin(np.radians(10)), np.cos(np.radians(10))])
    for image, depth in zip(slices, ct.EVEN_MM, strict=True):
        straight = np.array(slices[10].ImagePositionPatient, float) + (depth - ct.EVEN_MM[10]) * normal
        image.ImagePositionPatient = [round(float(value), 5) for value in straight]
    volume = volume_of(slices, tmp_path)
    assert volume.tilt_deg < 0.05
    assert volume.warnings == ()


def test_uneven_spacing_is_warned_of_and_weighed_by_half_the_way_to_each_neighbour(tmp_path: Path) -> None:
    volume = volume_of(ct.head(THIN_THEN_THICK_MM), tmp_path)
    assert warns(volume, "Uneven slice spacing, 2.50 to 5.00 mm")
    assert not warns(volume, "missing")
    assert volume.weights_mm[0] == pytest.approx(2.5)
    assert volume.weights_mm[23] == pytest.approx(3.75)
    assert volume.weights_mm[-1] == pytest.approx(5.0)
    extent = THIN_THEN_THICK_MM[-1] - THIN_THEN_THICK_MM[0]
    assert volume.weights_mm.sum() == pytest.approx(extent + 2.5 / 2 + 5.0 / 2)


def test_weights_sum_to_the_extent_and_half_a_step_at_each_end() -> None:
    steps = np.random.default_rng(3).uniform(0.5, 7, 40)
    assert slice_weights_mm(steps).sum() == pytest.approx(steps.sum() + steps[0] / 2 + steps[-1] / 2)


@pytest.mark.parametrize("centre_mm", [(0.0, 0.0, -12.0), (15.0, -20.0, 20.0)])
def test_a_sphere_cut_by_tilted_unevenly_spaced_slices_keeps_its_volume_within_two_percent(
    tmp_path: Path, centre_mm: tuple[float, float, float]
) -> None:
    volume = volume_of(ct.head(THIN_THEN_THICK_MM, tilt_deg=TILT_DEG, matrix=128), tmp_path)
    radius_mm = 25.0
    pixels = np.array(
        [
            np.count_nonzero(
                np.linalg.norm(
                    ct.pixel_centres_mm(position, volume.orientation, volume.pixel_spacing_mm, 128) - centre_mm, axis=-1
                )
                < radius_mm
            )
            for position in volume.positions_mm
        ]
    )
    measured_ml = (pixels * volume.weights_mm).sum() * volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1] / 1000
    assert measured_ml == pytest.approx(4 / 3 * np.pi * radius_mm**3 / 1000, rel=0.02)


@pytest.mark.parametrize("jitter_mm", [0.04, 0.15])
def test_jitter_within_tolerance_passes_silently(tmp_path: Path, jitter_mm: float) -> None:
    depths = ct.EVEN_MM.copy()
    depths[1::2] += jitter_mm
    assert volume_of(ct.head(depths), tmp_path).warnings == ()


def test_a_missing_slice_is_warned_of_and_its_neighbours_stand_for_it(tmp_path: Path) -> None:
    volume = volume_of(ct.head(np.delete(ct.EVEN_MM, 12)), tmp_path)
    assert warns(volume, "1 of 20 slices missing")
    assert volume.weights_mm.sum() == pytest.approx(100)


@pytest.mark.parametrize(
    ("missing", "of"), [([12, 13, 14], 40), ([4, 9, 14], 20)], ids=["three in a row", "more than a tenth"]
)
def test_more_missing_slices_than_can_be_bridged_are_incomplete(tmp_path: Path, missing: list[int], of: int) -> None:
    assert reason_of(ct.head(np.delete(np.linspace(-75, 75, of), missing)), tmp_path) == NotAnalyzedReason.INCOMPLETE


def test_a_wide_step_that_the_slice_thickness_covers_is_no_gap(tmp_path: Path) -> None:
    """Thin slices and a single thick one above them."""
    slices = ct.head([*(np.arange(32) * 2.5 - 40), 41.25])
    slices[-1].SliceThickness = 5
    volume = volume_of(slices, tmp_path)
    assert warns(volume, "Uneven")
    assert not warns(volume, "missing")


@pytest.mark.parametrize("depths", [[0.0], np.arange(7) * 10.0, np.arange(20) * 2.5], ids=["1", "7", "50 mm"])
def test_too_few_slices_or_too_short_a_stack_is_refused(tmp_path: Path, depths: list[float]) -> None:
    assert reason_of(ct.head(depths), tmp_path) == NotAnalyzedReason.TOO_FEW_SLICES


def test_sideways_shifts_between_table_positions_are_said(tmp_path: Path) -> None:
    shifts = np.where(np.arange(20) < 10, 0.0, 4.0)
    assert warns(volume_of(ct.head(lateral_mm=shifts), tmp_path), "shifted sideways")


def test_a_feet_first_series_still_runs_from_feet_to_head(tmp_path: Path) -> None:
    """Rows towards the right: the cross product of the orientation points to the feet."""
    slices = ct.head()
    for image in slices:
        hu = ct.hu_of(image)[:, ::-1]
        position = np.array(image.ImagePositionPatient, float)
        image.ImagePositionPatient = [-float(position[0]), float(position[1]), float(position[2])]
        image.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        ct.set_hu(image, hu)
    volume = volume_of(slices, tmp_path)
    assert np.all(np.diff(volume.positions_mm[:, 2]) > 0)
    assert np.all(volume.weights_mm > 0)
    assert volume.tilt_deg == pytest.approx(0, abs=0.01)
    assert warns(volume, "not in the usual orientation")


# ---------------------------------------------------------------- what is left out


def test_a_localizer_inside_the_series_is_left_out_and_said(tmp_path: Path) -> None:
    slices = ct.head()
    scout = ct.head([0.0])[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    volume = volume_of([scout, *slices], tmp_path)
    np.testing.assert_array_equal(volume.hu, expected_hu(slices))
    assert warns(volume, "localizer")


def test_a_series_of_localizers_says_so(tmp_path: Path) -> None:
    scouts = ct.head([0.0, 5.0])
    for image in scouts:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    assert reason_of(scouts, tmp_path) == NotAnalyzedReason.LOCALIZER


def _orientation(image: Dataset) -> None:
    image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _frame(image: Dataset) -> None:
    image.FrameOfReferenceUID = "1.2.3"


def _bone(image: Dataset) -> None:
    image.ConvolutionKernel = "H60s"


def _derived(image: Dataset) -> None:
    image.ImageType = ["DERIVED", "SECONDARY", "REFORMATTED"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_orientation, "another orientation"),
        (_frame, "another frame of reference"),
        (_bone, "another kernel"),
        (_derived, "another image type"),
    ],
)
def test_slices_that_do_not_belong_to_the_stack_are_left_out_and_said(
    tmp_path: Path, change: Callable[[Dataset], None], word: str
) -> None:
    slices, others = ct.head(), ct.head(ct.EVEN_MM[8:20] + 1.0)
    for image in others:
        image.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
        change(image)
    volume = volume_of([*others, *slices], tmp_path)
    np.testing.assert_array_equal(volume.hu, expected_hu(slices))
    assert warns(volume, word)


def test_a_mixed_matrix_keeps_the_largest_stack(tmp_path: Path) -> None:
    slices, others = ct.head(), ct.head([-20.0, -10.0], matrix=32)
    for image in others:
        image.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    volume = volume_of([*others, *slices], tmp_path)
    assert volume.hu.shape == (20, 64, 64)
    assert warns(volume, "matrix")


def test_of_two_kernels_at_the_same_places_soft_tissue_is_chosen_though_bone_has_more_slices(tmp_path: Path) -> None:
    soft, bone = ct.head(), ct.head(np.arange(40) * 2.5 - 47)
    for image in bone:
        image.FrameOfReferenceUID = soft[0].FrameOfReferenceUID
        image.ConvolutionKernel = "BONEPLUS"
    volume = volume_of([*bone, *soft], tmp_path)
    assert volume.sop_uids == tuple(image.SOPInstanceUID for image in soft)
    assert warns(volume, "40 images left out: another kernel")


def test_of_two_thicknesses_the_reading_one_is_chosen_whatever_the_acquisition_numbers(tmp_path: Path) -> None:
    thick, thin = ct.head(), ct.head(np.arange(100) * 1.0 - 47)
    for number, image in enumerate(thick):
        image.AcquisitionNumber = number
    for image in thin:
        image.FrameOfReferenceUID = thick[0].FrameOfReferenceUID
    volume = volume_of([*thin, *thick], tmp_path)
    assert volume.sop_uids == tuple(image.SOPInstanceUID for image in thick)


@pytest.mark.parametrize("first_thin_mm", [-46.25, -44.0])
def test_two_thicknesses_scanned_table_position_by_table_position_are_not_mixed(
    tmp_path: Path, first_thin_mm: float
) -> None:
    """Each acquisition brings one 5 mm slice and two 2.5 mm slices: overlap alone does not tell which go together."""
    thick, thin = ct.head(), ct.head(np.arange(40) * 2.5 + first_thin_mm)
    for number, image in enumerate(thick):
        image.AcquisitionNumber = number
    for number, image in enumerate(thin):
        image.AcquisitionNumber = number // 2
        image.FrameOfReferenceUID = thick[0].FrameOfReferenceUID
    volume = volume_of([*thin, *thick], tmp_path)
    thicknesses = {dcmread(path, stop_before_pixels=True).SliceThickness for path in volume.paths}
    assert len(thicknesses) == 1
    assert volume.warnings[0].endswith("another slice thickness.")


def test_a_thicker_middle_between_thin_ends_is_one_stack(tmp_path: Path) -> None:
    depths = [*np.arange(-60, -20, 2.5), *np.arange(-20, 40, 5.0), *np.arange(40, 60, 2.5)]
    slices = ct.head(depths)
    for image, depth in zip(slices, depths, strict=True):
        image.SliceThickness = 5 if -20 <= depth < 40 else 2.5
    volume = volume_of(slices, tmp_path)
    assert len(volume.sop_uids) == len(depths)
    assert not warns(volume, "left out")


def test_a_repeated_acquisition_is_left_out_not_interleaved(tmp_path: Path) -> None:
    first, again = ct.head(), ct.head(ct.EVEN_MM[5:20] + 2.0)
    for image in again:
        image.FrameOfReferenceUID = first[0].FrameOfReferenceUID
        image.AcquisitionNumber = 2
    volume = volume_of([*again, *first], tmp_path)
    assert volume.sop_uids == tuple(image.SOPInstanceUID for image in first)
    assert warns(volume, "15 images left out")


def test_acquisitions_that_follow_one_another_are_one_stack(tmp_path: Path) -> None:
    slices = ct.head(THIN_THEN_THICK_MM)
    for number, image in enumerate(slices):
        image.AcquisitionNumber = number // 2
        image.SliceThickness = 2.5 if number < 24 else 5
    volume = volume_of(slices, tmp_path)
    assert len(volume.sop_uids) == 40


def test_acquisitions_that_overlap_by_a_slice_are_one_stack(tmp_path: Path) -> None:
    lower, upper = ct.head(ct.EVEN_MM[:10]), ct.head(np.arange(12) * 5.0 - 1.0)
    for image in upper:
        image.FrameOfReferenceUID = lower[0].FrameOfReferenceUID
        image.AcquisitionNumber = 2
    volume = volume_of([*lower, *upper], tmp_path)
    assert len(volume.sop_uids) == 21
    assert volume.partial is None
    assert warns(volume, "1 image left out: a second image at the same place")


def test_a_thin_base_that_overlaps_the_thick_top_a_little_is_one_stack(tmp_path: Path) -> None:
    base, top = ct.head(np.arange(17) * 2.5 - 65.0), ct.head(np.arange(18) * 5.0 - 26.0)
    for image in base:
        image.FrameOfReferenceUID = top[0].FrameOfReferenceUID
    volume = volume_of([*base, *top], tmp_path)
    assert len(volume.sop_uids) == 34
    assert volume.partial is None


@pytest.mark.parametrize("left_out", [0, 8])
def test_a_part_of_a_head_says_so(tmp_path: Path, left_out: int) -> None:
    slices = ct.head()
    for image in slices[:8]:
        image.ConvolutionKernel = "SOFT"
    volume = volume_of(slices[8 - left_out :], tmp_path)
    assert len(volume.sop_uids) == 12
    assert volume.partial is not None
    assert volume.partial in volume.warnings
    assert ("40 mm further" in volume.partial) == bool(left_out)


@pytest.mark.parametrize(("age", "young"), [("002M", True), ("017Y", True), ("018Y", False), ("", False)])
def test_an_age_outside_the_intended_use_is_said(tmp_path: Path, age: str, young: bool) -> None:
    slices = ct.head()
    for image in slices:
        image.PatientAge = age
    assert warns(volume_of(slices, tmp_path), "younger than 18 years") == young


def test_slices_that_lost_their_position_are_said_not_dropped_quietly(tmp_path: Path) -> None:
    slices = ct.head()
    del slices[12].ImagePositionPatient
    volume = volume_of(slices, tmp_path)
    assert warns(volume, "1 image left out: no usable position")
    assert warns(volume, "1 of 20 slices missing")


# ---------------------------------------------------------------- HU


def test_each_slice_is_rescaled_by_its_own_header_signed_or_not(tmp_path: Path) -> None:
    slices = ct.head()
    expected = expected_hu(slices)
    for number, image in enumerate(slices):
        image.PixelRepresentation = number % 2
        image.RescaleIntercept = str(-1024 - 24 * (number % 3))
        image.RescaleSlope = "0.5" if number % 4 == 0 else "1"
        ct.set_hu(image, expected[number])
    np.testing.assert_array_equal(volume_of(slices, tmp_path).hu, expected)


def test_the_result_is_int16_and_saturates_where_the_scale_reaches_further(tmp_path: Path) -> None:
    slices = ct.head()
    hu = ct.hu_of(slices[5])
    slices[5].RescaleSlope = "10"
    ct.set_hu(slices[5], hu)
    stored = np.frombuffer(slices[5].PixelData, np.uint16).copy()
    stored[0] = 60000
    slices[5].PixelData = stored.tobytes()
    volume = volume_of(slices, tmp_path)
    assert volume.hu.dtype == np.int16
    assert volume.hu[5, 0, 0] == 32767


@pytest.mark.parametrize("declared", [True, False])
def test_padding_becomes_minus_1024(tmp_path: Path, declared: bool) -> None:
    slices = ct.head()
    expected = expected_hu(slices)
    for image, hu in zip(slices, expected, strict=True):
        image.PixelRepresentation, image.RescaleIntercept = 1, "0"
        hu[:3] = -2000
        ct.set_hu(image, hu)
        hu[:3] = -1024
        if declared:
            image.add_new(0x00280120, "SS", -2000)
    np.testing.assert_array_equal(volume_of(slices, tmp_path).hu, expected)


def test_a_padding_value_written_unsigned_for_signed_pixels_is_understood(tmp_path: Path) -> None:
    slices = ct.head()
    for image in slices:
        hu = ct.hu_of(image)
        hu[:3] = 3000
        image.PixelRepresentation, image.RescaleIntercept = 1, "5000"
        ct.set_hu(image, hu)
        image.add_new(0x00280120, "US", 65536 - 2000)
    assert (volume_of(slices, tmp_path).hu[:, :3] == -1024).all()


def test_a_padding_range_covers_both_its_ends_and_nothing_more(tmp_path: Path) -> None:
    slices = ct.head()
    for image in slices:
        hu = ct.hu_of(image)
        hu[0, :6] = [2999, 3000, 3001, 3009, 3010, 3011]
        ct.set_hu(image, hu)
        image.add_new(0x00280120, "US", 3000 + 1024)
        image.add_new(0x00280121, "US", 3010 + 1024)
    assert volume_of(slices, tmp_path).hu[4, 0, :6].tolist() == [2999, -1024, -1024, -1024, -1024, 3011]


def test_monochrome1_warns_and_never_inverts_hu(tmp_path: Path) -> None:
    slices = ct.head()
    for image in slices:
        image.PhotometricInterpretation = "MONOCHROME1"
    volume = volume_of(slices, tmp_path)
    np.testing.assert_array_equal(volume.hu, expected_hu(slices))
    assert warns(volume, "MONOCHROME1")


def test_lossy_compression_and_thick_slices_are_warned_of(tmp_path: Path) -> None:
    slices = ct.head(np.arange(20) * 8.0 - 76)
    for image in slices:
        image.LossyImageCompression = "01"
    volume = volume_of(slices, tmp_path)
    assert warns(volume, "compressed with loss")
    assert warns(volume, "8 mm thick")


# ---------------------------------------------------------------- refusals


def _set(**values: object) -> Callable[[Dataset], None]:
    def change(image: Dataset) -> None:
        for keyword, value in values.items():
            setattr(image, keyword, value)

    return change


def _without(keyword: str) -> Callable[[Dataset], None]:
    return lambda image: delattr(image, keyword)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("ImageOrientationPatient"), NotAnalyzedReason.NO_GEOMETRY),
        (_without("ImagePositionPatient"), NotAnalyzedReason.NO_GEOMETRY),
        (_without("PixelSpacing"), NotAnalyzedReason.NO_GEOMETRY),
        (_set(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), NotAnalyzedReason.NO_GEOMETRY),
        (_set(SOPClassUID=EnhancedCTImageStorage), NotAnalyzedReason.NO_GEOMETRY),
        (_without("RescaleIntercept"), NotAnalyzedReason.NO_RESCALE),
        (_set(RescaleType="US"), NotAnalyzedReason.NO_RESCALE),
        (_set(ContrastBolusAgent="OMNIPAQUE 350"), NotAnalyzedReason.CONTRAST),
        (_set(SeriesDescription="CTA Head 0.6"), NotAnalyzedReason.CONTRAST),
        (_set(ProtocolName="Head_Angio", SeriesDescription=""), NotAnalyzedReason.CONTRAST),
        (_set(ConvolutionKernel="BONE"), NotAnalyzedReason.BONE_ONLY),
        (_set(ConvolutionKernel=["Hr64h", "3"]), NotAnalyzedReason.BONE_ONLY),
        (_set(ConvolutionKernel="", WindowWidth="2500", WindowCenter="500"), NotAnalyzedReason.BONE_ONLY),
        (_set(BodyPartExamined="CHEST"), NotAnalyzedReason.NOT_HEAD),
        (_set(SeriesDescription="C-SPINE 2.0"), NotAnalyzedReason.NOT_HEAD),
        (_set(Rows=63), NotAnalyzedReason.UNREADABLE),
        (_set(Columns=65), NotAnalyzedReason.UNREADABLE),
        (_set(PixelData=b"\0\0"), NotAnalyzedReason.UNREADABLE),
    ],
)
def test_what_the_header_rules_out_is_refused_with_its_reason(
    tmp_path: Path, change: Callable[[Dataset], None], reason: NotAnalyzedReason
) -> None:
    slices = ct.head()
    for image in slices:
        change(image)
    assert reason_of(slices, tmp_path) == reason


@pytest.mark.parametrize(
    "change",
    [
        _set(ContrastBolusAgent="NONE"),
        _set(ContrastBolusAgent="No IV contrast"),
        _set(ContrastBolusAgent="None given"),
        _set(ProtocolName="Neuro^CTA_HeadNeck", SeriesDescription="Head 5.0 H31f"),
        _set(ProtocolName="STROKE HEAD/PERFUSION", SeriesDescription="AX 5MM"),
        _set(SpecificCharacterSet="ISO_IR 192", BodyPartExamined="SINUS", SeriesDescription="Schädel, Sinus"),
        _set(ProtocolName="CTA Head", SeriesDescription="Head W/O 5mm"),
        _set(StudyDescription="CTA HEAD", SeriesDescription="Head 5.0 H31s"),
        _set(StudyDescription="CT HEAD WITHOUT CONTRAST"),
        _set(ConvolutionKernel="FC64"),
        _set(ConvolutionKernel="H40s", WindowWidth="2500", WindowCenter="500"),
        _set(WindowWidth=["80", "2500"], WindowCenter=["40", "500"], ConvolutionKernel=""),
        _set(BodyPartExamined="CHEST", StudyDescription="CT Head trauma"),
        _set(BodyPartExamined="", StudyDescription=""),
        _set(SeriesDescription="HEAD AND NECK"),
        _set(FrameOfReferenceUID=""),
    ],
)
def test_a_plain_head_is_not_refused_for_what_its_header_leaves_open(
    tmp_path: Path, change: Callable[[Dataset], None]
) -> None:
    slices = ct.head()
    for image in slices:
        change(image)
    np.testing.assert_array_equal(volume_of(slices, tmp_path).hu, expected_hu(slices))


def test_coronal_slices_are_not_axial(tmp_path: Path) -> None:
    slices = ct.head()
    for image, depth in zip(slices, ct.EVEN_MM, strict=True):
        image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        image.ImagePositionPatient = [-120, float(depth), 120]
    assert reason_of(slices, tmp_path) == NotAnalyzedReason.NOT_AXIAL


def test_a_truncated_file_and_a_file_that_is_no_dicom_are_unreadable(tmp_path: Path) -> None:
    paths = ct.save(ct.head(), tmp_path, transfer_syntax=JPEG2000Lossless)
    paths[3].write_bytes(paths[3].read_bytes()[:-900])
    with pytest.raises(NotSuitable) as cut:
        assemble(paths)
    paths[3].write_bytes(b"not DICOM")
    with pytest.raises(NotSuitable) as alien:
        assemble(paths)
    assert (cut.value.reason, alien.value.reason) == (NotAnalyzedReason.UNREADABLE, NotAnalyzedReason.UNREADABLE)


# ---------------------------------------------------------------- is it a head?


def _repaint(slices: list[Dataset], paint: Callable[[np.ndarray], np.ndarray]) -> None:
    for image in slices:
        hu = paint(ct.hu_of(image).astype(int))
        ct.set_hu(image, hu.astype(np.int16))


def test_a_chest_labelled_head_is_refused(tmp_path: Path) -> None:
    """A wide ring of ribs full of air around a heart."""
    slices = ct.head(field_mm=240)
    _repaint(slices, lambda hu: np.where((hu > 0) & (hu < 100), -850, hu))
    for image in slices:
        hu = ct.hu_of(image)
        hu[28:36, 28:36] = 45
        ct.set_hu(image, hu)
        image.PixelSpacing = [5.5, 5.5]
        image.ImagePositionPatient[0:2] = [-173, -173]
    assert reason_of(slices, tmp_path) == NotAnalyzedReason.NOT_HEAD


def test_a_water_phantom_labelled_head_is_refused(tmp_path: Path) -> None:
    slices = ct.head()
    _repaint(slices, lambda hu: np.where(hu > -500, 5, hu))
    assert reason_of(slices, tmp_path) == NotAnalyzedReason.NOT_HEAD


def test_a_head_stored_without_its_offset_is_refused(tmp_path: Path) -> None:
    slices = ct.head()
    for image in slices:
        image.RescaleIntercept = "0"
    assert reason_of(slices, tmp_path) == NotAnalyzedReason.NOT_HEAD


def test_a_head_with_half_its_skull_removed_passes(tmp_path: Path) -> None:
    slices = ct.head()

    def open_one_side(hu: np.ndarray) -> np.ndarray:
        half = hu.copy()
        half[:, 34:] = np.where(hu[:, 34:] > 200, 20, hu[:, 34:])
        return half

    _repaint(slices, open_one_side)
    assert volume_of(slices, tmp_path).hu.shape == (20, 64, 64)


# ---------------------------------------------------------------- priors

TAKEN = datetime(2026, 3, 1, 10, 15, tzinfo=UTC)


def test_a_series_older_than_the_limit_is_a_prior_before_anything_else_is_looked_at(tmp_path: Path) -> None:
    slices = ct.head([0.0])
    paths = ct.save(slices, tmp_path)
    with pytest.raises(NotSuitable) as refusal:
        assemble(paths, oldest=TAKEN + timedelta(seconds=1))
    assert refusal.value.reason == NotAnalyzedReason.PRIOR_STUDY


@pytest.mark.parametrize(
    ("values", "recent"),
    [
        ({}, True),
        ({"AcquisitionDateTime": "20260301101459"}, False),
        ({"AcquisitionDateTime": "20260301111500.123+0100"}, True),
        ({"AcquisitionDateTime": "20260301111459+0100"}, False),
        ({"AcquisitionDate": "20260228", "AcquisitionTime": "235959"}, False),
        ({"AcquisitionDate": "20260301", "AcquisitionTime": ""}, True),
        ({"TimezoneOffsetFromUTC": "+0100"}, False),
        ({"StudyDate": ""}, True),
        ({"SeriesDate": "20260228", "SeriesTime": "1200"}, False),
        ({"AcquisitionDateTime": "2026"}, True),
    ],
)
def test_the_age_is_that_of_the_acquisition_else_of_series_or_study(
    tmp_path: Path, values: dict[str, str], recent: bool
) -> None:
    slices = ct.head()
    for image in slices:
        _set(**values)(image)
    paths = ct.save(slices, tmp_path)
    if recent:
        assert assemble(paths, oldest=TAKEN).hu.shape == (20, 64, 64)
    else:
        with pytest.raises(NotSuitable, match="PRIOR_STUDY"):
            assemble(paths, oldest=TAKEN)


def test_times_without_an_offset_are_in_the_zone_of_the_limit(tmp_path: Path) -> None:
    paths = ct.save(ct.head(), tmp_path)
    east = timezone(timedelta(hours=2))
    assert assemble(paths, oldest=datetime(2026, 3, 1, 10, 15, tzinfo=east)).warnings == ()
    with pytest.raises(ValueError, match="aware"):
        assemble(paths, oldest=TAKEN.replace(tzinfo=None))


# ---------------------------------------------------------------- header and the real head


def test_the_header_holds_scanner_and_spacing_and_no_identity(tmp_path: Path) -> None:
    slices = ct.head()
    for image in slices:
        image.Manufacturer, image.ManufacturerModelName = "ACME", "CT 1"
        image.StationName, image.InstitutionName = "PLANTED", "PLANTED"
    volume = volume_of(slices, tmp_path)
    assert volume.header["Manufacturer"] == "ACME"
    assert volume.header["PixelSpacing"] == "3.75\\3.75"
    assert volume.header["KVP"] == 120.0
    assert volume.header["slices"] == 20
    assert volume.header["spacing_median_mm"] == 5.0
    told = repr(replace(volume, paths=())).upper()
    assert "PLANTED" not in told
    assert "20260301" not in told


def test_the_real_tilted_unevenly_spaced_head_is_one_stack_with_its_own_figures() -> None:
    """GE HiSpeed Dual: an acquisition per table position, 4 mm then 7 mm thick, in one series."""
    paths = list(real_head_ct().glob("*.dcm"))
    random.Random(1).shuffle(paths)
    volume = assemble(paths)
    assert volume.hu.shape == (28, 512, 512)
    assert [path.name for path in volume.paths] == [f"{number:02d}.dcm" for number in range(1, 29)]
    assert volume.tilt_deg == pytest.approx(18.5, abs=0.05)
    assert volume.header["spacing_min_mm"] == pytest.approx(1.081, abs=0.002)
    assert volume.header["spacing_max_mm"] == pytest.approx(6.999, abs=0.002)
    # along the table 4.22 and 7.38 mm; along the normal that is times cos(18.5 degrees)
    assert volume.weights_mm[:13] == pytest.approx(4.22 * np.cos(np.radians(18.5)), abs=0.001)
    assert volume.weights_mm[-1] == pytest.approx(7.38 * np.cos(np.radians(18.5)), abs=0.001)
    along_table_mm = 157.776 - 5.836 + 4.22 / 2 + 7.38 / 2
    assert volume.weights_mm.sum() == pytest.approx(along_table_mm * np.cos(np.radians(18.5)), abs=0.01)
    assert volume.hu.min() == -1024
    stored = dcmread(volume.paths[14]).pixel_array
    np.testing.assert_array_equal(volume.hu[14], np.maximum(stored, -1024))
    assert warns(volume, "tilt of 18.5")
    assert warns(volume, "Uneven slice spacing")
    assert warns(volume, "7 mm thick")
    assert not warns(volume, "missing")
    assert not warns(volume, "left out")
