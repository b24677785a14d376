"""Results of a multi-frame image refer to its frames."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests import report_cases as cases
from triage_node.domain import ObjectKind, Outcome, Prediction, ResultObject, Volume
from triage_node.report import ResultUids, build_notice

PER_IMAGE = ("ReferencedSeriesSequence", "CurrentRequestedProcedureEvidenceSequence")
"""Lists of whole images."""


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return cases.volume_of_frames(cases.write_enhanced_ct(tmp_path))


@pytest.fixture
def prediction(volume: Volume) -> Prediction:
    return cases.prediction_of(volume, cases.mask_of(volume))


@pytest.fixture
def results(volume: Volume, prediction: Prediction) -> tuple[ResultObject, ...]:
    return cases.results_of(volume, prediction)


def parsed(results: tuple[ResultObject, ...], kind: ObjectKind) -> Dataset:
    return dcmread(BytesIO(next(made.data for made in results if made.kind == kind)))


def references(dataset: Dataset, *path: str) -> Iterator[tuple[tuple[str, ...], Dataset]]:
    """Every item that refers to an object, and the sequences it lies in."""
    for element in dataset:
        for item in element.value if element.VR == "SQ" else ():
            if "ReferencedSOPInstanceUID" in item:
                yield (*path, element.keyword), item
            yield from references(item, *path, element.keyword)


def test_every_frame_of_the_segmentation_names_the_frame_it_lies_on(
    volume: Volume, prediction: Prediction, results: tuple[ResultObject, ...]
) -> None:
    seg = parsed(results, ObjectKind.SEG)
    assert prediction.mask is not None
    found = np.zeros_like(prediction.mask > 0)
    for pixels, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == volume.sop_uids[0]
        index = volume.frame_numbers.index(source.ReferencedFrameNumber)
        assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(list(volume.positions_mm[index]))
        found[index] |= pixels > 0
    np.testing.assert_array_equal(found, prediction.mask > 0)


def test_report_and_key_images_show_the_frame_of_the_key_slice(
    volume: Volume, results: tuple[ResultObject, ...]
) -> None:
    key_frame = volume.frame_numbers[3]  # most of both findings lies there
    for kind in (ObjectKind.SR, ObjectKind.KEY_IMAGE):
        shown = [
            item.ReferencedFrameNumber
            for path, item in references(parsed(results, kind))
            if item.ReferencedSOPInstanceUID == volume.sop_uids[0] and not set(PER_IMAGE).intersection(path)
        ]
        assert set(shown) == {key_frame}


@pytest.mark.parametrize("kind", [ObjectKind.SEG, ObjectKind.SR])
def test_the_list_of_images_names_the_file_once_and_no_frames(
    volume: Volume, results: tuple[ResultObject, ...], kind: ObjectKind
) -> None:
    listed = [
        item
        for path, item in references(parsed(results, kind))
        if set(PER_IMAGE).intersection(path) and item.ReferencedSOPInstanceUID == volume.sop_uids[0]
    ]
    assert len(listed) == 1
    assert "ReferencedFrameNumber" not in listed[0]


def test_nothing_refers_to_an_image_that_does_not_exist(volume: Volume, results: tuple[ResultObject, ...]) -> None:
    real = {volume.sop_uids[0], *(made.sop_uid for made in results)}
    for made in results:
        named = {str(item.ReferencedSOPInstanceUID) for _, item in references(dcmread(BytesIO(made.data)))}
        assert named <= real


def test_frames_of_several_thicknesses_keep_theirs_in_the_segmentation(tmp_path: Path) -> None:
    (path,) = cases.write_enhanced_ct(tmp_path)
    image = dcmread(path)
    for number, groups in enumerate(image.PerFrameFunctionalGroupsSequence, start=1):
        groups.PixelMeasuresSequence[0].SliceThickness = 2.5 * number
    image.save_as(path)
    volume = cases.volume_of_frames([path])
    seg = parsed(cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))), ObjectKind.SEG)
    for groups in seg.PerFrameFunctionalGroupsSequence:
        number = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert groups.PixelMeasuresSequence[0].SliceThickness == 2.5 * number


def test_an_image_that_was_once_a_frame_of_another_file_is_referred_to_as_itself(tmp_path: Path) -> None:
    """Its header tells of that file, which may be nowhere any more."""
    path = cases.write_ct(tmp_path, slices=1)[0]
    image, origin = dcmread(path), Dataset()
    origin.ReferencedSOPClassUID, origin.ReferencedSOPInstanceUID = image.SOPClassUID, "1.2.3.999"
    image.ConversionSourceAttributesSequence = [origin]
    image.save_as(path)
    objects = build_notice(
        source=path,
        outcome=Outcome.NOT_ANALYZED,
        reason="TOO_FEW_SLICES",
        detail="Only 1 slice.",
        producer=cases.PRODUCER,
        uids=ResultUids(node="TRIAGE", series_uid=cases.SERIES_UID, revision=1),
        created_at=cases.CREATED_AT,
    )
    (page,) = (made for made in objects if made.kind == ObjectKind.NOTICE_IMAGE)
    (source,) = dcmread(BytesIO(page.data)).SourceImageSequence
    assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
