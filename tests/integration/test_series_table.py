"""The decision table of series geometry: every awkward series, and how it must end, in whatever form it comes.

One row for each pitfall that series of real scanners and PACS were seen to have: the series as it is sent, and its
expected end: the slices that become the Volume and the warnings it must carry, or the reason why it is not suitable.
Each row is then sent shuffled and doubled, in six lossless transfer syntaxes, and as Enhanced CT: the same end, the
same HU at the same places. One head goes through the shipped model in four forms: the identical mask.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests import ct
from tests.tools import real_head_ct
from triage_node.assemble import assemble
from triage_node.domain import Int16Array, NotAnalyzedReason, Volume
from triage_node.errors import NotSuitable
from triage_node.infer.bundle import find_bundle
from triage_node.infer.predict import Predictor
from triage_node.simulate import axial_geometry, simulate_head, write_series

# ---------------------------------------------------------------- the series


@dataclass(frozen=True)
class Sent:
    """A series, and which of its images are the ones to analyse, from feet to head."""

    images: list[Dataset]
    analysed: list[Dataset]


def plain() -> Sent:
    images = ct.head()
    return Sent(images, images)


def each(change: Callable[[Dataset, int], None]) -> Callable[[], Sent]:
    """A plain series with every image changed; the pixels keep their HU, whatever the scale becomes."""

    def make() -> Sent:
        sent = plain()
        for number, image in enumerate(sent.images):
            hu = ct.hu_of(image)
            change(image, number)
            if "RescaleSlope" in image:
                ct.set_hu(image, hu)
        return sent

    return make


def cut(**how: object) -> Callable[[], Sent]:
    """The head, cut at other depths or tilted."""

    def make() -> Sent:
        images = ct.head(**how)  # type: ignore[arg-type]
        return Sent(images, images)

    return make


def beside(others: Callable[[], list[Dataset]], change: Callable[[Dataset], None]) -> Callable[[], Sent]:
    """A plain series, and in the same one other images that are not to be analysed."""

    def make() -> Sent:
        sent, odd = plain(), others()
        for image in odd:
            image.FrameOfReferenceUID = sent.images[0].FrameOfReferenceUID
            change(image)
        for image in odd:
            image.StudyInstanceUID, image.SeriesInstanceUID = _series_of(sent.images[0])
        return Sent([*odd, *sent.images], sent.images)

    return make


def oblique() -> Sent:
    """Turned by 10 degrees, and stacked along its own normal."""
    images = ct.head(tilt_deg=10)
    normal = np.array([0, np.sin(np.radians(10)), np.cos(np.radians(10))])
    middle = np.array(images[10].ImagePositionPatient, float)
    for image, depth in zip(images, ct.EVEN_MM, strict=True):
        straight = middle + (depth - ct.EVEN_MM[10]) * normal
        image.ImagePositionPatient = [round(float(value), 5) for value in straight]
    return Sent(images, images)


def one_copied() -> Sent:
    sent, copy = plain(), ct.head()[10]
    copy.FrameOfReferenceUID = sent.images[0].FrameOfReferenceUID
    copy.StudyInstanceUID, copy.SeriesInstanceUID = _series_of(sent.images[0])
    sent.images[10].SOPInstanceUID, copy.SOPInstanceUID = "1.2.1", "1.2.2"  # the first of them stays
    return Sent([copy, *sent.images], sent.images)


def narrow() -> Sent:
    """The 45 left columns of 64 of each image."""
    sent = plain()
    for image in sent.images:
        image.PixelData = ct.hu_of(image)[:, :45].astype(np.int16).tobytes()
        image.Columns, image.PixelRepresentation, image.RescaleIntercept = 45, 1, "0"
    return sent


def _series_of(image: Dataset) -> tuple[str, str]:
    return image.StudyInstanceUID, image.SeriesInstanceUID


def _jittered(by_mm: float) -> np.ndarray:
    return ct.EVEN_MM + by_mm * (np.arange(len(ct.EVEN_MM)) % 2)


def _set(**values: object) -> Callable[[Dataset], None]:
    def change(image: Dataset) -> None:
        for keyword, value in values.items():
            setattr(image, keyword, value)

    return change


def _all(**values: object) -> Callable[[], Sent]:
    change = _set(**values)
    return each(lambda image, _: change(image))


def _without(*keywords: str) -> Callable[[], Sent]:
    return each(lambda image, _: [delattr(image, keyword) for keyword in keywords] and None)


def _rescaled(image: Dataset, number: int) -> None:
    image.PixelRepresentation = number % 2
    image.RescaleIntercept = str(-1024 - 24 * (number % 3))
    image.RescaleSlope = "0.5" if number % 4 == 0 else "1"


def _turn_coronal(image: Dataset, number: int) -> None:
    image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    image.ImagePositionPatient = [-120, float(ct.EVEN_MM[number]), 120]


def padded() -> Sent:
    sent = plain()
    for image in sent.images:
        hu = ct.hu_of(image)
        hu[:3] = -2000
        image.PixelRepresentation, image.RescaleIntercept = 1, "0"
        image.add_new("PixelPaddingValue", "SS", -2000)
        ct.set_hu(image, hu)
    return sent


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One pitfall. `ends` are the warnings of the Volume, each by some of its words, or the reason of refusal."""

    pitfall: str
    make: Callable[[], Sent]
    ends: tuple[str, ...] | NotAnalyzedReason


UNEVEN_MM = np.concatenate([np.arange(16) * 2.5 - 60.0, np.arange(16) * 5.0 - 17.5])
R = NotAnalyzedReason
TABLE = (
    Row("normal", plain, ()),
    Row("reversed InstanceNumber", each(lambda image, number: _set(InstanceNumber=99 - number)(image)), ()),
    Row("oblique 10 degrees", oblique, ()),
    Row("gantry tilt 18 degrees", cut(tilt_deg=18.0), ("Gantry tilt of 18.0 degrees",)),
    Row("variable spacing 2.5 and 5 mm", cut(depths_mm=UNEVEN_MM), ("Uneven slice spacing, 2.50 to 5.00 mm",)),
    Row("missing slice", cut(depths_mm=np.delete(ct.EVEN_MM, 12)), ("Uneven", "1 of 20 slices missing")),
    Row("four missing slices", cut(depths_mm=np.delete(ct.EVEN_MM, range(9, 13))), R.INCOMPLETE),
    Row(
        "two kernels at the same places",
        beside(ct.head, _set(ConvolutionKernel="BONE")),
        ("20 images left out: another kernel",),
    ),
    Row(
        "two thicknesses at the same places",
        beside(lambda: ct.head(np.arange(80) * 1.25 - 47), _set()),
        ("80 images left out: another slice thickness",),
    ),
    Row(
        "two acquisitions at the same places",
        beside(lambda: ct.head(ct.EVEN_MM[5:] + 2.0), _set(AcquisitionNumber=2)),
        ("15 images left out: a second image",),
    ),
    Row("one duplicate slice", one_copied, ("left out: exact duplicate",)),
    Row(
        "localizer in the series",
        beside(lambda: ct.head([0.0]), _set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        ("left out: localizer",),
    ),
    Row("only localizers", _all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), R.LOCALIZER),
    Row(
        "mixed orientation",
        beside(lambda: ct.head(ct.EVEN_MM[8:]), _set(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])),
        ("12 images left out: another orientation",),
    ),
    Row("coronal", each(_turn_coronal), R.NOT_AXIAL),
    Row("mixed rescale, signed and not", each(_rescaled), ()),
    Row("padding -2000", padded, ()),
    Row("MONOCHROME1", _all(PhotometricInterpretation="MONOCHROME1"), ("MONOCHROME1",)),
    Row("no rescale", _without("RescaleSlope", "RescaleIntercept"), R.NO_RESCALE),
    Row("another rescale type", _all(RescaleType="US"), R.NO_RESCALE),
    Row("jitter 0.04 mm", cut(depths_mm=_jittered(0.04)), ()),
    Row("jitter 0.15 mm", cut(depths_mm=_jittered(0.15)), ()),
    Row(
        "mixed matrix",
        beside(lambda: ct.head([-20.0, -10.0], matrix=32), _set()),
        ("2 images left out: another matrix and pixel spacing",),
    ),
    Row("no orientation", _without("ImageOrientationPatient"), R.NO_GEOMETRY),
    Row(
        "two frames of reference",
        beside(lambda: ct.head(ct.EVEN_MM[8:]), _set(FrameOfReferenceUID="1.2.3")),
        ("12 images left out: another frame of reference",),
    ),
    Row("single slice", cut(depths_mm=[0.0]), R.TOO_FEW_SLICES),
    Row("50 mm of a head", cut(depths_mm=np.arange(20) * 2.5), R.TOO_FEW_SLICES),
    Row("contrast agent", _all(ContrastBolusAgent="IOHEXOL", ContrastBolusAgentAdministered="YES"), R.CONTRAST),
    Row("angiography", _all(SeriesDescription="CTA Head 0.6"), R.CONTRAST),
    Row("bone kernel only", _all(ConvolutionKernel="BONEPLUS"), R.BONE_ONLY),
    Row("not a head", _all(BodyPartExamined="CHEST", SeriesDescription="CHEST 5.0"), R.NOT_HEAD),
    Row("compressed with loss", _all(LossyImageCompression="01"), ("compressed with loss",)),
    Row("a child", _all(PatientAge="009Y"), ("younger than 18 years",)),
    Row("cut off by the field of view", narrow, ("field of view cuts off a part of the head on 100 mm",)),
    Row("slices of 8 mm", cut(depths_mm=np.arange(18) * 8.0 - 68), ("8 mm thick",)),
)

rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.pitfall)


def end_of(paths: Sequence[Path]) -> Volume | NotAnalyzedReason:
    """How a series ends, in the words of the table."""
    try:
        return assemble(paths)
    except NotSuitable as refusal:
        assert refusal.detail.endswith(".")
        return NotAnalyzedReason(refusal.reason)


def require_end(row: Row, sent: Sent, paths: Sequence[Path], *more_warnings: str) -> Volume | None:
    """Fails unless the series ends as the row says; the Volume, where there is one."""
    end = end_of(paths)
    if isinstance(row.ends, NotAnalyzedReason):
        assert end == row.ends
        return None
    assert isinstance(end, Volume)
    np.testing.assert_array_equal(end.hu, expected_hu(sent.analysed))
    places = [image.ImagePositionPatient for image in sent.analysed]
    np.testing.assert_array_equal(end.positions_mm, np.array(places, float))
    wanted = [*row.ends, *more_warnings]
    assert len(end.warnings) == len(wanted), end.warnings
    assert all(any(words in warning for warning in end.warnings) for words in wanted), end.warnings
    return end


def expected_hu(images: Sequence[Dataset]) -> Int16Array:
    """(slices, rows, columns) int16: what the generator drew; nothing is below -1024."""
    return np.maximum(np.stack([ct.hu_of(image) for image in images]), np.int16(-1024))


@rows
def test_each_series_ends_as_the_table_says(tmp_path: Path, row: Row) -> None:
    sent = row.make()
    volume = require_end(row, sent, ct.save(sent.images, tmp_path))
    if volume is not None:
        assert volume.sop_uids == tuple(image.SOPInstanceUID for image in sent.analysed)
        assert set(volume.frame_numbers) == {None}


@rows
def test_shuffled_and_doubled_it_ends_the_same(tmp_path: Path, row: Row) -> None:
    sent = row.make()
    twice = [*ct.save(sent.images, tmp_path / "a"), *ct.save(sent.images, tmp_path / "b")]
    random.Random(row.pitfall).shuffle(twice)
    duplicate = () if any("duplicate" in words for words in _warnings(row)) else ("exact duplicate",)
    require_end(row, sent, twice, *duplicate)


def _warnings(row: Row) -> tuple[str, ...]:
    return row.ends if isinstance(row.ends, tuple) else ()


@rows
def test_as_enhanced_ct_it_ends_the_same(tmp_path: Path, row: Row) -> None:
    sent = row.make()
    files = ct.enhanced_series(sent.images)
    volume = require_end(row, sent, ct.save(files, tmp_path))
    if volume is not None:
        uids = {image.SOPInstanceUID for image in files}
        assert set(volume.sop_uids) <= uids
        frames = [dcmread(path).PerFrameFunctionalGroupsSequence for path in volume.paths]
        for index, groups in enumerate(frames):
            number = volume.frame_number(index)
            assert number is not None
            position = groups[number - 1].PlanePositionSequence[0].ImagePositionPatient
            assert position == list(volume.positions_mm[index])


SYNTAXES = (
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    DeflatedExplicitVRLittleEndian,
)


@rows
def test_in_six_lossless_syntaxes_it_ends_the_same(tmp_path: Path, row: Row) -> None:
    """Each slice in the next of them; a whole series in each of all is in test_assemble."""
    sent = row.make()
    paths = [
        path
        for number, syntax in enumerate(SYNTAXES)
        for path in ct.save(sent.images[number :: len(SYNTAXES)], tmp_path / syntax, transfer_syntax=syntax)
    ]
    require_end(row, sent, paths)


# ---------------------------------------------------------------- a real head


def test_the_real_head_ends_the_same_in_every_form(tmp_path: Path) -> None:
    """28 slices, tilted by 18.5 degrees, 4 mm thick and then 7 mm."""
    paths = sorted(real_head_ct().glob("*.dcm"))
    images = [dcmread(path) for path in paths]
    expected = assemble(paths)
    words = ("tilt of 18.5", "Uneven slice spacing", "7 mm thick")
    assert all(any(word in warning for warning in expected.warnings) for word in words)
    assert len(expected.warnings) == len(words)
    mixed = [
        path
        for number, syntax in enumerate(SYNTAXES)
        for path in ct.save(images[number :: len(SYNTAXES)], tmp_path / syntax, transfer_syntax=syntax)
    ]
    enhanced = ct.save(ct.enhanced_series(images), tmp_path / "enhanced")
    assert len(enhanced) == 1
    for form in ([*paths, *reversed(mixed)], mixed, enhanced):
        volume = assemble(form)
        np.testing.assert_array_equal(volume.hu, expected.hu)
        np.testing.assert_array_equal(volume.positions_mm, expected.positions_mm)
        np.testing.assert_array_equal(volume.weights_mm, expected.weights_mm)
        assert [warning for warning in volume.warnings if "duplicate" not in warning] == list(expected.warnings)


# ---------------------------------------------------------------- the mask


def test_the_model_draws_the_identical_mask_whatever_the_form(tmp_path: Path) -> None:
    """A simulated bleed through the shipped model: plain; shuffled and doubled; compressed; as Enhanced CT."""
    geometry = axial_geometry(slices=24, spacing_mm=6.0, tilt_deg=12.0, rows=128, columns=128, pixel_spacing_mm=1.8)
    head = simulate_head(seed=8, subtypes=("intraparenchymal",), geometry=geometry, lesion_volume_ml=40)
    paths = write_series(head, tmp_path / "plain", seed=8, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    images = [dcmread(path) for path in paths]
    doubled = [*paths, *ct.save(images, tmp_path / "again")]
    random.Random(5).shuffle(doubled)
    forms = {
        "shuffled and doubled": doubled,
        "HTJ2K": ct.save(images, tmp_path / "htj2k", transfer_syntax=HTJ2KLossless),
        "Enhanced CT": ct.save([ct.enhanced(images[::-1])], tmp_path / "enhanced", transfer_syntax=RLELossless),
    }
    predictor = Predictor(find_bundle("default"), device="cpu")
    expected = predictor.predict(assemble(paths))
    assert expected.mask is not None
    assert expected.mask.any()
    for name, form in forms.items():
        prediction = predictor.predict(assemble(form))
        np.testing.assert_array_equal(prediction.mask, expected.mask, err_msg=name)
        assert prediction.volumes_ml == expected.volumes_ml
        assert prediction.probabilities == expected.probabilities
