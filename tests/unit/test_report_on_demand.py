"""What is made where a destination asks for it: presentation states, key object selections, label maps."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from scipy import ndimage

from tests import report_cases as cases
from triage_node.domain import CLASSES, DISCLAIMER, SUBTYPES, ObjectKind, Prediction, ResultObject, SeenBox, Volume
from triage_node.errors import ReportError
from triage_node.locate import locate
from triage_node.report import ResultUids, gsps, kos
from triage_node.report.contours import enclosed, outlines
from triage_node.report.findings import reported_findings
from triage_node.report.instance import Context, read_header
from triage_node.report.stack import source_slices

FINE = 8
LABELS = {"SDH": 1 + SUBTYPES.index("subdural"), "IVH": 1 + SUBTYPES.index("intraventricular")}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return cases.volume_of(cases.write_ct(tmp_path_factory.mktemp("ct")))


@pytest.fixture(scope="module")
def positive(volume: Volume) -> Prediction:
    return cases.prediction_of(volume, cases.mask_of(volume))


@pytest.fixture(scope="module")
def results(volume: Volume, positive: Prediction) -> tuple[ResultObject, ...]:
    return cases.results_of(volume, positive)


def of_kind(results: tuple[ResultObject, ...], kind: ObjectKind) -> list[Dataset]:
    return [dcmread(BytesIO(made.data)) for made in results if made.kind is kind]


def referenced(item: Dataset) -> list[str]:
    return [image.ReferencedSOPInstanceUID for image in item.get("ReferencedImageSequence", ())]


def drawn_on(state: Dataset, sop_uid: str, layer: str) -> list[NDArray[np.float64]]:
    """Polylines that a viewer draws over an image in a layer."""
    return [
        np.array(graphic.GraphicData).reshape(-1, 2)
        for item in state.GraphicAnnotationSequence
        if item.GraphicLayer == layer and sop_uid in referenced(item)
        for graphic in item.get("GraphicObjectSequence", ())
    ]


def texts_on(state: Dataset, sop_uid: str) -> list[str]:
    """What a viewer writes over an image; an annotation without references is one of every image."""
    return [
        text.UnformattedTextValue
        for item in state.GraphicAnnotationSequence
        if sop_uid in (referenced(item) or [sop_uid])
        for text in item.get("TextObjectSequence", ())
    ]


# ---------------------------------------------------------------- outlines


def painted(polylines: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(FINE x rows, FINE x columns): what another library fills, parity over all polylines."""
    inside = np.zeros((shape[0] * FINE, shape[1] * FINE), dtype=np.bool_)
    for line in polylines:
        page = Image.new("1", inside.shape[::-1])
        ImageDraw.Draw(page).polygon([(x * FINE - 0.5, y * FINE - 0.5) for x, y in line], fill=1)
        inside ^= np.asarray(page)
    return inside


@pytest.mark.parametrize("smoothed_px", [0.0, 1.0, 3.0])
def test_an_outline_lies_within_half_a_pixel_of_the_region_and_no_centre_on_the_wrong_side(smoothed_px: float) -> None:
    region = ndimage.gaussian_filter(np.random.default_rng(7).random((40, 50)), smoothed_px) > 0.5
    lines = outlines(region)
    assert np.array_equal(enclosed(lines, region.shape), region)
    fine = painted(lines, region.shape)
    assert np.array_equal(fine[FINE // 2 :: FINE, FINE // 2 :: FINE], region)
    exact, fine = (np.pad(each, FINE) for each in (region.repeat(FINE, axis=0).repeat(FINE, axis=1), fine))
    from_edge_px = np.where(exact, *(ndimage.distance_transform_edt(side) / FINE for side in (exact, ~exact)))
    assert from_edge_px[fine != exact].max() <= 0.5 + 1 / FINE  # the width of a fine pixel


def test_islands_and_holes_have_outlines_of_their_own() -> None:
    region = np.ones((5, 6), dtype=np.bool_)
    region[2, 2] = region[0, 5] = False
    region[4, 4] = region[3, 5] = False  # one pixel that only touches at a corner
    found = outlines(region)
    assert len(found) == 3
    assert all(np.array_equal(line[0], line[-1]) for line in found)
    assert outlines(np.zeros((3, 3), dtype=np.bool_)) == []
    (one,) = outlines(np.ones((1, 1), dtype=np.bool_))
    assert one.tolist() == [[0.5, 0], [1, 0.5], [0.5, 1], [0, 0.5], [0.5, 0]]  # centre 0.5\0.5, PS3.3 C.10.5


def test_a_polyline_longer_than_its_element_can_be_is_cut() -> None:
    line = np.arange(40_002, dtype=np.float64).reshape(-1, 2)
    pieces = gsps._pieces(line)
    assert max(map(len, pieces)) * 8 <= 65534  # FL in Explicit VR, PS3.5 7.1.2
    assert np.array_equal(np.concatenate([pieces[0], *(piece[1:] for piece in pieces[1:])]), line)


# ---------------------------------------------------------------- presentation state


def test_a_presentation_state_outlines_the_mask_on_every_slice_that_shows_it(
    volume: Volume, positive: Prediction, results: tuple[ResultObject, ...]
) -> None:
    (state,) = of_kind(results, ObjectKind.GSPS)
    assert positive.mask is not None
    for sop_uid, labels in zip(volume.sop_uids, positive.mask, strict=True):
        for layer, label in LABELS.items():
            assert np.array_equal(enclosed(drawn_on(state, sop_uid, layer), labels.shape), labels == label)
    shown = [uid for uid, labels in zip(volume.sop_uids, positive.mask, strict=True) if labels.any()]
    assert [referenced(series) for series in state.ReferencedSeriesSequence] == [shown]
    assert [layer.GraphicLayer for layer in state.GraphicLayerSequence] == ["AI", "SDH", "IVH"]


def test_a_presentation_state_says_in_words_what_it_shows_in_the_brain_window(
    volume: Volume, results: tuple[ResultObject, ...]
) -> None:
    (state,) = of_kind(results, ObjectKind.GSPS)
    heading = ["AI STAT: ICH suspected", DISCLAIMER]
    subdural, intraventricular = texts_on(state, volume.sop_uids[3])[2:]
    assert texts_on(state, volume.sop_uids[3])[:2] == heading
    assert subdural.startswith("Subdural 12 mL")
    assert intraventricular.startswith("Intraventricular 0.5 mL")
    assert texts_on(state, volume.sop_uids[1]) == [*heading, subdural]
    (window,) = state.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth, window.WindowCenterWidthExplanation) == (40, 80, "BRAIN")
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, 0, "HU")
    assert state.PresentationLUTShape == "IDENTITY"


def test_pixels_that_are_not_square_are_displayed_in_proportion(tmp_path: Path) -> None:
    volume = cases.volume_of(cases.write_ct(tmp_path), pixel_spacing_mm=(2.0, 4.0))
    (state,) = of_kind(cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))), ObjectKind.GSPS)
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.PresentationPixelSpacing == [2, 4]
    assert "PresentationPixelAspectRatio" not in area


def test_slices_of_several_rescales_get_a_presentation_state_for_each(tmp_path: Path) -> None:
    paths = cases.write_ct(tmp_path)
    for path in paths[:3]:
        image = dcmread(path)
        image.RescaleIntercept = -1024
        dcmwrite(path, image)
    volume = cases.volume_of(paths)
    states = of_kind(cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume))), ObjectKind.GSPS)
    said = {int(state.RescaleIntercept): referenced(state.ReferencedSeriesSequence[0]) for state in states}
    assert said == {-1024: list(volume.sop_uids[1:3]), 0: [volume.sop_uids[3]]}
    assert [state.InstanceNumber for state in states] == [1, 2]
    assert drawn_on(states[0], volume.sop_uids[1], "SDH")
    assert not drawn_on(states[0], volume.sop_uids[3], "SDH")


def test_without_a_mask_the_boxes_of_the_model_are_drawn_or_only_the_words(volume: Volume) -> None:
    blank = {"volumes_ml": dict.fromkeys(CLASSES)}
    box = SeenBox(slice_index=2, subtype="subdural", probability=0.9, left=10, top=20, right=30.5, bottom=40)
    (state,) = of_kind(
        cases.results_of(volume, cases.prediction_of(volume, None, boxes=(box,), **blank)), ObjectKind.GSPS
    )
    (rectangle,) = drawn_on(state, volume.sop_uids[2], "SDH")
    assert (rectangle.min(axis=0).tolist(), rectangle.max(axis=0).tolist()) == ([10, 20], [31, 40])
    (state,) = of_kind(cases.results_of(volume, cases.prediction_of(volume, None, **blank)), ObjectKind.GSPS)
    assert texts_on(state, volume.sop_uids[2])[:3] == ["AI STAT: ICH suspected", DISCLAIMER, "Subdural, p 0.97"]


def test_hemorrhage_of_no_certain_kind_is_shown_all_the_same(volume: Volume, positive: Prediction) -> None:
    decision = replace(cases.POSITIVE, findings=())
    made = cases.results_of(volume, replace(positive, mask=np.zeros_like(positive.mask)), decision)
    (state,), (selection,) = of_kind(made, ObjectKind.GSPS), of_kind(made, ObjectKind.KOS)
    (shown,) = referenced(state.ReferencedSeriesSequence[0])
    assert texts_on(state, shown) == ["AI STAT: ICH suspected", DISCLAIMER]
    assert hd.ko.KeyObjectSelectionDocument.from_dataset(selection).content.get_references()


# ---------------------------------------------------------------- key object selection


def test_the_key_slices_are_selected_as_of_interest(
    volume: Volume, positive: Prediction, results: tuple[ResultObject, ...]
) -> None:
    document = hd.ko.KeyObjectSelectionDocument.from_dataset(of_kind(results, ObjectKind.KOS)[0])
    title = document.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning) == ("113000", "DCM", "Of Interest")
    (reference,) = document.content.get_references()
    uid = reference.referenced_sop_instance_uid
    assert uid == volume.sop_uids[3]  # where most of both findings is
    assert document.resolve_reference(uid) == ("1.2.3.4", cases.SERIES_UID, uid)
    texts = [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"][-1:]
    assert texts == [f"AI STAT: ICH suspected. subdural hemorrhage suspected, p 0.97, 12.0 mL. {DISCLAIMER}"]


# ---------------------------------------------------------------- label map


def test_a_label_map_holds_the_mask_of_the_segmentation_in_fewer_frames(
    volume: Volume, positive: Prediction, results: tuple[ResultObject, ...]
) -> None:
    (made,) = (one for one in results if one.kind is ObjectKind.LABELMAP)
    read = hd.seg.segread(BytesIO(made.data))
    assert read.segmentation_type is hd.seg.SegmentationTypeValues.LABELMAP
    assert made.transfer_syntax_uid == "1.2.840.10008.1.2.5"
    assert positive.mask is not None
    labels = read.get_pixels_by_source_instance(
        list(volume.sop_uids),
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    numbers = {segment.SegmentLabel: segment.SegmentNumber for segment in read.SegmentSequence}
    assert np.array_equal(labels == numbers["Subdural hemorrhage"], positive.mask == LABELS["SDH"])
    assert np.array_equal(labels == numbers["Intraventricular hemorrhage"], positive.mask == LABELS["IVH"])
    (binary,) = of_kind(results, ObjectKind.SEG)
    tracked = {segment.SegmentNumber: segment.TrackingUID for segment in binary.SegmentSequence}
    assert {s.SegmentNumber: s.TrackingUID for s in read.SegmentSequence if s.SegmentNumber} == tracked
    assert int(read.NumberOfFrames) == 3 < int(binary.NumberOfFrames)


# ---------------------------------------------------------------- demand, frames, read-back


def test_nothing_is_made_that_nobody_asked_for(volume: Volume, positive: Prediction) -> None:
    kinds = [made.kind.value for made in cases.results_of(volume, positive, also=())]
    assert kinds == ["SEG", "SR", "KEY_IMAGE"]
    kinds = [made.kind.value for made in cases.results_of(volume, positive, also=[ObjectKind.KOS])]
    assert kinds == ["SEG", "SR", "KEY_IMAGE", "KOS"]


def test_of_a_multi_frame_image_frames_are_referred_to(tmp_path: Path) -> None:
    volume = cases.volume_of_frames(cases.write_enhanced_ct(tmp_path))
    made = cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume)))
    (state,), (selection,) = of_kind(made, ObjectKind.GSPS), of_kind(made, ObjectKind.KOS)
    (image,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    frames = [volume.frame_number(index) for index in (1, 2, 3)]
    assert (image.ReferencedSOPInstanceUID, list(image.ReferencedFrameNumber)) == (volume.sop_uids[0], frames)
    (key,) = (item.ReferencedSOPSequence[0] for item in selection.ContentSequence if item.ValueType == "IMAGE")
    assert (key.ReferencedSOPInstanceUID, key.ReferencedFrameNumber) == (volume.sop_uids[0], frames[2])


def changed(made: ResultObject, dataset: Dataset) -> ResultObject:
    buffer = BytesIO()
    dcmwrite(buffer, dataset)
    return replace(made, data=buffer.getvalue())


def test_outlines_that_enclose_something_else_are_noticed(
    volume: Volume, positive: Prediction, results: tuple[ResultObject, ...]
) -> None:
    findings = reported_findings(volume, positive, cases.POSITIVE, locate(volume, positive.mask))
    slices = source_slices(volume, context_of(volume))
    (made,) = (one for one in results if one.kind is ObjectKind.GSPS)
    gsps._require_same([made], positive, findings, slices)
    state = dcmread(BytesIO(made.data))
    graphic = state.GraphicAnnotationSequence[-1].GraphicObjectSequence[0]
    graphic.GraphicData = [value + 1 for value in graphic.GraphicData]
    with pytest.raises(ReportError, match="outlines"):
        gsps._require_same([changed(made, state)], positive, findings, slices)


def test_a_selection_of_another_slice_is_noticed(volume: Volume, results: tuple[ResultObject, ...]) -> None:
    slices = source_slices(volume, context_of(volume))
    (made,) = (one for one in results if one.kind is ObjectKind.KOS)
    description = f"AI STAT: ICH suspected. {cases.POSITIVE.reason}. {DISCLAIMER}"
    kos._require_selected(made, slices[3:4], description)
    with pytest.raises(ReportError, match="selects"):
        kos._require_selected(made, slices[2:3], description)


def context_of(volume: Volume) -> Context:
    return Context(
        source=read_header(volume.paths[0]),
        producer=cases.PRODUCER,
        bundle=cases.BUNDLE,
        uids=ResultUids(node="TRIAGE", series_uid=cases.SERIES_UID, revision=1),
        created_at=cases.CREATED_AT,
        series_description="AI STAT: ICH suspected",
    )
