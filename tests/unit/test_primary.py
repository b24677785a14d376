"""Which series of a study is analysed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import ct
from triage_node.assemble.primary import Sketch, Stand, Turn, preference, sketch, turn

THIN_MM = np.arange(80) * 1.25 - 47.5


class Study:
    """Series of one examination, saved as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def series(self, depths_mm: object = ct.EVEN_MM, **elements: object) -> Sketch:
        """A sketch of a series whose images carry these elements."""
        images = ct.head(np.asarray(depths_mm, dtype=float))
        for image in images:
            image.FrameOfReferenceUID = "1.2.840.1"
            image.AcquisitionDate, image.AcquisitionTime = "20260301", "101530.5"
            for keyword, value in elements.items():
                setattr(image, keyword, value)
        series_uid = str(images[0].SeriesInstanceUID)
        made = sketch(series_uid, ct.save(images, self.folder / series_uid))
        assert made is not None
        return made


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_the_reading_reconstruction_is_preferred_then_the_one_with_more_slices(study: Study) -> None:
    soft, thin = study.series(), study.series(THIN_MM)
    bone = study.series(ConvolutionKernel="BONE")
    contrast = study.series(ContrastBolusAgent="IOMERON")
    order = sorted([bone, contrast, thin, soft], key=preference, reverse=True)
    assert order == [soft, thin, contrast, bone]


@pytest.mark.parametrize("elements", [{}, {"ConvolutionKernel": "BONE"}, {"SliceThickness": 1.25}])
def test_what_shows_an_analysed_acquisition_again_is_a_duplicate(study: Study, elements: dict[str, object]) -> None:
    assert turn(study.series(**elements), [(study.series(), Stand.ANALYZED)]) is Turn.DUPLICATE


def test_a_better_reconstruction_that_comes_late_is_a_duplicate_too(study: Study) -> None:
    thin = study.series(THIN_MM)
    assert turn(study.series(), [(thin, Stand.ANALYZED)]) is Turn.DUPLICATE


def test_what_reaches_further_than_the_analysed_series_is_analysed(study: Study) -> None:
    short = study.series(ct.EVEN_MM[:14])
    assert turn(study.series(), [(short, Stand.ANALYZED)]) is Turn.ANALYZE


@pytest.mark.parametrize(
    "elements",
    [
        {"AcquisitionTime": "101605"},
        {"AcquisitionDateTime": "20260301101605.1"},
        {"FrameOfReferenceUID": "1.2.3"},
        {"FrameOfReferenceUID": ""},
    ],
)
def test_a_repeated_scan_is_an_acquisition_of_its_own(study: Study, elements: dict[str, object]) -> None:
    assert turn(study.series(**elements), [(study.series(), Stand.ANALYZED)]) is Turn.ANALYZE


def test_without_times_the_acquisition_numbers_decide(study: Study) -> None:
    first = study.series(AcquisitionTime="", AcquisitionDate="")
    second = study.series(AcquisitionTime="", AcquisitionDate="", AcquisitionNumber=2)
    again = study.series(AcquisitionTime="", AcquisitionDate="")
    assert turn(second, [(first, Stand.ANALYZED)]) is Turn.ANALYZE
    assert turn(again, [(first, Stand.ANALYZED)]) is Turn.DUPLICATE


def test_a_lesser_series_waits_for_a_better_one_and_never_the_other_way_round(study: Study) -> None:
    soft, thin = study.series(), study.series(THIN_MM)
    assert turn(thin, [(soft, Stand.WAITING)]) is Turn.WAIT
    assert turn(thin, [(soft, Stand.RECEIVING)]) is Turn.WAIT_FOR_IMAGES
    assert turn(soft, [(thin, Stand.WAITING)]) is Turn.ANALYZE
    assert turn(soft, [(thin, Stand.RECEIVING)]) is Turn.ANALYZE


def test_of_two_equal_series_exactly_one_waits(study: Study) -> None:
    one, other = study.series(), study.series()
    turns = {turn(one, [(other, Stand.WAITING)]), turn(other, [(one, Stand.WAITING)])}
    assert turns == {Turn.WAIT, Turn.ANALYZE}


def test_nothing_waits_for_a_better_series_that_shows_less(study: Study) -> None:
    short = study.series(ct.EVEN_MM[:14])
    assert turn(study.series(THIN_MM), [(short, Stand.WAITING)]) is Turn.ANALYZE


def test_a_reformat_of_the_same_acquisition_is_no_rival(study: Study) -> None:
    coronal = study.series(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert turn(coronal, [(study.series(), Stand.ANALYZED)]) is Turn.ANALYZE  # it ends as not axial


def test_a_localizer_has_no_sketch(tmp_path: Path) -> None:
    images = ct.head(ct.EVEN_MM[:2])
    for image in images:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    assert sketch("1.2", ct.save(images, tmp_path)) is None


def test_a_file_that_cannot_be_read_has_no_sketch(tmp_path: Path) -> None:
    path = tmp_path / "broken.dcm"
    path.write_bytes(b"no DICOM")
    assert sketch("1.2", [path]) is None


def test_three_images_and_the_places_tell_as_much_as_all(tmp_path: Path) -> None:
    paths = ct.save(ct.head(), tmp_path)
    few = sketch("1.2", [paths[0], paths[10], paths[-1]], ct.EVEN_MM)
    everything = sketch("1.2", paths)
    assert few is not None
    assert everything is not None
    assert preference(few) == preference(everything)
    assert few.span_mm == everything.span_mm
