"""`triage-node evaluate`: wrong labels are told with their line, NIfTI keeps HU and geometry, and all end to end."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.report_cases import mask_of, prediction_of, results_of, volume_of, write_ct
from triage_node.assemble import assemble
from triage_node.cli import main
from triage_node.domain import CLASSES, SUBTYPES, Volume
from triage_node.errors import UsageError
from triage_node.learn.dataset import as_volume
from triage_node.learn.evaluation.figures import write_figures
from triage_node.learn.evaluation.heads import Case, extra_axial_mm2, judge_head, kept_in
from triage_node.learn.evaluation.judgement import Failure, Judgement
from triage_node.learn.evaluation.labels import read_labels
from triage_node.learn.evaluation.nifti import nifti_labels, nifti_volume
from triage_node.learn.evaluation.overlap import Overlap
from triage_node.learn.evaluation.report import confusion, found_by_volume, summarize, table
from triage_node.learn.evaluation.segmentation import seg_mask
from triage_node.learn.evaluation.volumes import (
    OWN_LABELS,
    dicom_files,
    find_series,
    meaning_of,
    parse_mask_labels,
    read_case,
)
from triage_node.learn.heldout import frozen_settings, series_geometry
from triage_node.simulate import SimulatedHead, axial_geometry, simulate_head, write_series

COARSE = axial_geometry(slices=12, spacing_mm=12.0, rows=80, columns=72, pixel_spacing_mm=3.0)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def head() -> SimulatedHead:
    return simulate_head(seed=5, subtypes=["intraparenchymal"], geometry=COARSE, noise_hu=2.0, measure_volumes=False)


@pytest.fixture(scope="module")
def volume(head: SimulatedHead) -> Volume:
    return as_volume(head.hu, COARSE)


# ---------------------------------------------------------------- labels


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_labels_are_read_whatever_else_the_file_holds(tmp_path: Path) -> None:
    text = "\ufeffFile, any,age,subdural,epidural\na.png,1,70,1,\nb/c.png,0,,,\nd.png,,,1,\ne.png,,,0\n"
    labels = read_labels(written(tmp_path, text), tmp_path)
    assert [label.name for label in labels] == ["a.png", "b/c.png", "d.png", "e.png"]
    told = [{name: value for name, value in label.classes.items() if value is not None} for label in labels]
    assert told == [
        {"any": True, "subdural": True},
        {"any": False, "subdural": False, "epidural": False},
        {"any": True, "subdural": True},
        {"subdural": False},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,subdural\na.png,1\n", "no column any"),
        ("", "no column file and any"),
        ("file,any\n", "no line under the header"),
        ("file,any\na.png,1\nb.png,yes\n", "line 3: any must be 0, 1 or empty"),
        ("file,any\n,1\n", "line 2: no file is named"),
        ("file,any\na.png,1\na.png,1\n", "line 3: the file is named twice"),
        ("file,any\n../a.png,1\n", "line 2: the file lies outside"),
        ("file,any\n/etc/passwd,1\n", "line 2: the file lies outside"),
        ("file,any,subdural\na.png,0,1\n", "line 2: any is 0, and a subtype is 1"),
    ],
)
def test_wrong_labels_are_told_with_their_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read_labels(written(tmp_path, text), tmp_path)


# ---------------------------------------------------------------- NIfTI


def save_nifti(path: Path, values: np.ndarray, volume: Volume, turn: str = "ijk") -> None:
    """(slices, rows, columns) on the slices of `volume`, in the axis order of `turn`; a capital runs backwards."""
    step = (volume.positions_mm[-1] - volume.positions_mm[0]) / (len(volume.positions_mm) - 1)
    row, column = volume.orientation[::-1] * np.array(volume.pixel_spacing_mm)[:, None]
    affine = np.eye(4)
    affine[:3] = np.stack([column, row, step, volume.positions_mm[0]], axis=1)
    stored = values.transpose(2, 1, 0)
    order = ["ijk".index(letter) for letter in turn.lower()]
    for axis, letter in zip(order, turn, strict=True):
        if letter.isupper():
            affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
            affine[:3, axis] *= -1
            stored = np.flip(stored, axis)
    affine[:3, :3] = affine[:3, order]
    nibabel.Nifti1Image(stored.transpose(order), RAS @ affine).to_filename(path)


@pytest.mark.parametrize("turn", ["ijk", "IJk", "iJK", "kij", "JKi"])
def test_a_nifti_file_has_the_hu_and_the_geometry_of_the_series(turn: str, volume: Volume, tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume.hu, volume, turn)
    read = nifti_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.hu, volume.hu)
    np.testing.assert_allclose(read.positions_mm, volume.positions_mm, atol=1e-3)
    np.testing.assert_allclose(read.orientation, volume.orientation, atol=1e-6)
    np.testing.assert_allclose(read.weights_mm, volume.weights_mm, atol=1e-5)
    assert read.pixel_spacing_mm == pytest.approx(volume.pixel_spacing_mm)


def test_a_mask_lies_on_the_image_however_each_is_turned(head: SimulatedHead, volume: Volume, tmp_path: Path) -> None:
    save_nifti(tmp_path / "mask.nii.gz", head.truth, volume, "KjI")
    np.testing.assert_array_equal(nifti_labels(tmp_path / "mask.nii.gz", volume), head.truth)


def test_a_mask_on_another_grid_or_of_fractions_is_refused(head: SimulatedHead, volume: Volume, tmp_path: Path) -> None:
    moved = as_volume(
        head.hu[1:], axial_geometry(slices=11, spacing_mm=12.0, rows=80, columns=72, pixel_spacing_mm=3.0)
    )
    save_nifti(tmp_path / "a.nii.gz", head.truth[1:], moved)
    save_nifti(tmp_path / "b.nii.gz", head.truth * np.float32(0.3), volume)
    with pytest.raises(UsageError, match="not on the grid"):
        nifti_labels(tmp_path / "a.nii.gz", volume)
    with pytest.raises(UsageError, match="other than whole numbers"):
        nifti_labels(tmp_path / "b.nii.gz", volume)


def sheared(path: Path) -> None:
    affine = np.diag([3.0, 3.0, 12.0, 1.0])
    affine[1, 2] = 3.0
    nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), affine).to_filename(path)


def in_four_dimensions(path: Path) -> None:
    nibabel.Nifti1Image(np.zeros((8, 8, 8, 2), np.int16), np.eye(4)).to_filename(path)


def in_colour(path: Path) -> None:
    values = np.zeros((8, 8, 8), [("R", np.uint8), ("G", np.uint8), ("B", np.uint8)])
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)


def without_size(path: Path) -> None:
    nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)).to_filename(path)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[252:254] = (0).to_bytes(2, "little")  # qform_code
    data[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    path.write_bytes(gzip.compress(bytes(data)))


def without_orientation(path: Path) -> None:
    nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), None).to_filename(path)


def no_nifti(path: Path) -> None:
    path.write_bytes(b"not compressed")


def cut_off(path: Path) -> None:
    nibabel.Nifti1Image(np.random.default_rng(1).integers(0, 99, (8, 8, 8), np.int16), np.eye(4)).to_filename(path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (cut_off, "cannot be read as NIfTI"),
        (sheared, r"14\.0 degrees off a right angle"),
        (in_four_dimensions, "no stack of grey slices"),
        (in_colour, "no stack of grey slices"),
        (without_size, "no size"),
        (without_orientation, "no orientation"),
        (no_nifti, "cannot be read as NIfTI"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_the_reason(
    write: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match=said):
        nifti_volume(tmp_path / "a.nii.gz")


# ---------------------------------------------------------------- folders of series


def test_series_and_masks_are_found_in_both_layouts(tmp_path: Path) -> None:
    for name in (
        "x.nii.gz",
        "x_mask.nii.gz",
        "y.nii",
        "y_seg.nii.gz",
        "z/1.dcm",
        "z/2.dcm",
        "z_mask.nii.gz",
        "w/1.dcm",
    ):
        (tmp_path / "flat" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "flat" / name).touch()
    for name in ("images/x.nii.gz", "images/y.nii.gz", "masks/x.nii.gz", "empty/note.txt"):
        (tmp_path / "apart" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "apart" / name).touch()
    flat, apart = (
        [(series.name, series.mask and series.mask.name) for series in find_series(tmp_path / name)]
        for name in ("flat", "apart")
    )
    assert flat == [("w", None), ("x.nii.gz", "x_mask.nii.gz"), ("y.nii", "y_seg.nii.gz"), ("z", "z_mask.nii.gz")]
    assert apart == [("images/x.nii.gz", "x.nii.gz"), ("images/y.nii.gz", None)]
    with pytest.raises(UsageError, match="no NIfTI file"):
        find_series(tmp_path / "apart" / "empty")


def test_a_mask_lies_where_its_image_lies(tmp_path: Path) -> None:
    names = ("p1/ct.nii.gz", "p2/ct.nii.gz", "p3/ct.nii.gz", "p4/ct/1.dcm")
    masks = ("p1/ct.nii.gz", "p2/ct_mask.nii", "ct.nii.gz", "p4/ct.nii")
    for path in (*(tmp_path / "images" / name for name in names), *(tmp_path / "masks" / name for name in masks)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = {series.name: series.mask and series.mask.relative_to(tmp_path) for series in find_series(tmp_path)}
    assert found == {
        "images/p1/ct.nii.gz": Path("masks/p1/ct.nii.gz"),
        "images/p2/ct.nii.gz": Path("masks/p2/ct_mask.nii"),
        "images/p3/ct.nii.gz": None,
        "images/p4/ct": Path("masks/p4/ct.nii"),
    }


def test_labels_of_masks_mean_what_is_said(head: SimulatedHead, volume: Volume, tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume.hu, volume)
    save_nifti(tmp_path / "a_mask.nii.gz", np.where(head.truth > 0, 3, 0).astype(np.uint8), volume)
    [series] = find_series(tmp_path)
    blood, kind = (
        read_case(series, [], parse_mask_labels(text)) for text in ("3=any", "3=intraparenchymal,4=subdural")
    )
    assert isinstance(blood, Case)
    assert isinstance(kind, Case)
    assert (blood.told, kind.told) == (("any",), ("any", "intraparenchymal", "subdural"))
    np.testing.assert_array_equal(blood.truth > 0, head.truth > 0)
    np.testing.assert_array_equal(kind.truth, head.truth)
    unknown = read_case(series, [], parse_mask_labels("1=any"))
    assert isinstance(unknown, Failure)
    assert "label 3" in unknown.reason


@pytest.mark.parametrize("text", ["", "1", "1=blood", "0=any", "1=any,2=subdural", "a=any"])
def test_a_meaning_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"label|beside"):
        parse_mask_labels(text)


def test_masks_of_nothing_but_ones_are_blood_of_any_kind(head: SimulatedHead, volume: Volume, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / f"{name}.nii.gz", volume.hu, volume)
        save_nifti(tmp_path / f"{name}_mask.nii.gz", (head.truth > 0).astype(np.uint8), volume)
    (tmp_path / "c.nii.gz").touch()
    (tmp_path / "c_mask.nii.gz").touch()  # unreadable: told when its series is read
    found = find_series(tmp_path)
    assert meaning_of(found) == {1: "any"}
    save_nifti(tmp_path / "b_mask.nii.gz", head.truth, volume)
    assert meaning_of(found) == OWN_LABELS
    assert meaning_of(found[:1]) == {1: "any"}
    case = read_case(found[0], [], meaning_of(found[:1]))
    assert isinstance(case, Case)
    assert case.told == ("any",)
    (tmp_path / "b_mask.nii.gz").rename(tmp_path / "b_mask.dcm")  # segments of SEG tell for themselves
    assert meaning_of(find_series(tmp_path)) == OWN_LABELS


def test_a_series_without_mask_counts_where_labels_tell_of_it(volume: Volume, tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume.hu, volume)
    [series] = find_series(tmp_path)
    negative, positive, unknown = (
        read_case(series, read_labels(written(tmp_path, f"file,any,epidural\na.nii.gz,{told}\n"), tmp_path), OWN_LABELS)
        for told in ("0,", "1,0", ",")
    )
    assert isinstance(negative, Case)
    assert not negative.truth.any()
    assert negative.told == CLASSES
    assert isinstance(positive, Case)
    assert not positive.segmented
    on_disk = replace(volume, paths=(tmp_path,) * len(volume.hu))
    judged = judge_head(prediction_of(on_disk, np.zeros(volume.hu.shape, np.uint8)), positive)
    assert (judged.labels["any"], judged.labels["epidural"], judged.labels["subdural"]) == (True, False, None)
    assert not judged.overlaps
    assert not judged.slices.known.any()
    assert isinstance(unknown, Failure)
    assert "any = 0 or 1" in unknown.reason


def test_dicom_files_are_found_whatever_their_names(head: SimulatedHead, tmp_path: Path) -> None:
    write_series(head, tmp_path / "p1" / "ct", seed=5, created_at=datetime(2026, 1, 2, tzinfo=UTC))
    named = sorted((tmp_path / "p1" / "ct").glob("*.dcm"))
    for number, path in enumerate(named):
        path.rename(
            path.with_name((f"IM{number:06}", f"1.2.840.{number}", f"{number}.DCM", f"{number}.IMA")[number % 4])
        )
    for other in ("DICOMDIR", "notes.txt", "labels.csv", "odd"):
        (tmp_path / "p1" / "ct" / other).write_bytes(bytes(128) + (b"DICM" if other == "DICOMDIR" else b""))
    save_nifti(tmp_path / "p1" / "mask.nii.gz", head.truth, assemble(dicom_files(tmp_path / "p1" / "ct")), "IJK")
    [series] = find_series(tmp_path)
    assert (series.name, series.mask) == ("p1/ct", tmp_path / "p1" / "mask.nii.gz")
    case = read_case(series, [], OWN_LABELS)
    assert isinstance(case, Case)
    assert len(dicom_files(series.image)) == len(named) == len(case.volume.hu)
    np.testing.assert_array_equal(case.truth, head.truth)


def test_a_mask_of_no_name_is_of_the_only_image(tmp_path: Path) -> None:
    for name in ("p1/image.nii.gz", "p1/mask.nii.gz", "p2/a.nii.gz", "p2/b.nii.gz", "p2/seg.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {series.name: series.mask and series.mask.name for series in find_series(tmp_path)}
    assert found == {"p1/image.nii.gz": "mask.nii.gz", "p2/a.nii.gz": None, "p2/b.nii.gz": None}


def test_a_dicom_series_takes_a_nifti_mask(head: SimulatedHead, tmp_path: Path) -> None:
    write_series(head, tmp_path / "ct", seed=5, created_at=datetime(2026, 1, 2, tzinfo=UTC))
    save_nifti(tmp_path / "ct_mask.nii.gz", head.truth, assemble(sorted((tmp_path / "ct").glob("*.dcm"))), "IJK")
    [series] = find_series(tmp_path)
    case = read_case(series, [], OWN_LABELS)
    assert isinstance(case, Case)
    np.testing.assert_array_equal(case.truth, head.truth)
    np.testing.assert_array_equal(case.volume.hu, head.hu)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Path]:
    """A tilted, unevenly spaced series and a SEG of ours on it, beside its first image."""
    folder = tmp_path_factory.mktemp("segmented")
    series = volume_of(write_ct(folder))
    (folder / "seg.dcm").write_bytes(results_of(series, prediction_of(series, mask_of(series)))[0].data)
    return series, folder


def test_a_segmentation_object_is_a_mask(segmented: tuple[Volume, Path]) -> None:
    series, folder = segmented
    np.testing.assert_array_equal(seg_mask(folder / "seg.dcm", series, None), mask_of(series))
    swapped = seg_mask(folder / "seg.dcm", series, {1: "epidural", 2: "subarachnoid"})
    assert set(np.unique(swapped)) == {0, 1 + SUBTYPES.index("epidural"), 1 + SUBTYPES.index("subarachnoid")}
    with pytest.raises(UsageError, match="segment 2"):
        seg_mask(folder / "seg.dcm", series, {1: "any"})


def test_a_segmentation_of_another_series_or_none_is_refused(segmented: tuple[Volume, Path], tmp_path: Path) -> None:
    series, folder = segmented
    elsewhere = replace(series, positions_mm=np.add(series.positions_mm, [0.0, 0.0, 2.0]))
    with pytest.raises(UsageError, match="does not lie on a slice"):
        seg_mask(folder / "seg.dcm", elsewhere, None)
    with pytest.raises(UsageError, match="no binary DICOM Segmentation"):
        seg_mask(folder / "01.dcm", series, None)
    data = (folder / "seg.dcm").read_bytes()
    (tmp_path / "bad.dcm").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=r"bad\.dcm: cannot be read"):
        seg_mask(tmp_path / "bad.dcm", series, None)


# ---------------------------------------------------------------- figures


def judged(name: str, labels: Mapping[str, bool | None], overlap: Overlap | None = None) -> Judgement:
    return Judgement(
        name=name,
        scores=dict.fromkeys(CLASSES, 0.7),
        labels={of: labels.get(of, False) for of in CLASSES},
        overlaps={} if overlap is None else {"any": overlap},
    )


def test_hemorrhage_of_no_subtype_is_not_counted_as_none() -> None:
    cases = [judged("a", {}), judged("b", {"any": True}), judged("c", {"any": True, "epidural": True})]
    counted = confusion(cases)
    assert counted is not None
    rows = dict(zip(counted["classes"], np.sum(counted["matrix"], axis=1), strict=True))
    assert {name: int(count) for name, count in rows.items() if count} == {"none": 1, "epidural": 1}
    assert counted["left_out"] == 1


def test_masks_tell_of_a_class_where_no_case_has_a_label(tmp_path: Path) -> None:
    traces = Overlap(both_px=10, seen_px=20, true_px=20, seen_ml=3.0, true_ml=2.0)
    cases = [judged(name, dict.fromkeys(CLASSES, None), traces) for name in ("a", "b", "c")]
    report = summarize(cases, [])
    assert report["metrics"]["any"]["auc"] is None
    assert report["metrics"]["any"]["segmentation"]["dice"] == 0.5
    assert report["metrics"]["any"]["volume"]["bias_ml"] == 1.0
    assert report["metrics"]["epidural"] is None
    head = {
        "bundle": {"name": "default", "version": "1"},
        "dataset": {"kind": "volumes", "judged": 3, "failed": 0},
    }
    assert "0.500" in table(head | report)
    assert [line.rpartition("/")[2] for line in write_figures(tmp_path, report, cases)] == ["volumes.png"]


def test_what_is_found_is_told_by_the_volume_of_what_bled() -> None:
    def of(true_ml: float, said: float) -> Judgement:
        overlap = Overlap(both_px=1, seen_px=1, true_px=1, seen_ml=true_ml, true_ml=true_ml)
        return replace(judged("a", {"any": True}, overlap), scores=dict.fromkeys(CLASSES, said))

    unsaid = replace(of(3.0, 0.9), labels=dict.fromkeys(CLASSES, None))
    report = summarize([of(0.4, 0.2), of(1.0, 0.5), of(4.9, 0.49), of(80.0, 0.9), judged("b", {}), unsaid], [])
    assert [(row["found"], row["cases"]) for row in report["metrics"]["any"]["by_volume"]] == [
        (0, 1),
        (1, 2),
        (0, 0),
        (1, 1),
    ]
    assert report["metrics"]["epidural"]["by_volume"] is None
    assert found_by_volume(report["metrics"]) == [
        ["class", "below 1 mL", "1 to 5 mL", "5 to 20 mL", "from 20 mL"],
        ["any", "0 of 1", "1 of 2", "0 of 0", "1 of 1"],
    ]
    assert found_by_volume(summarize([judged("a", {})], [])["metrics"]) == []


# ---------------------------------------------------------------- without the extra


def test_without_matplotlib_the_figures_are_left_out_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    [line] = write_figures(tmp_path / "out", summarize([], []), [])
    assert "pip install 'triage-node[train]'" in line


# ---------------------------------------------------------------- end to end


def test_pictures_end_to_end_with_the_shipped_bundle(
    head: SimulatedHead, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in (4, 5, 6, 7):
        picture = np.clip(head.hu[index] * (255 / 80), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "bad.png").write_text("no picture")
    lines = ["4.png,0,0", "5.png,1,1", "6.png,1,1", "7.png,0,", "bad.png,1,1", "gone.png,0,0"]
    labels = written(tmp_path, "\n".join(["file,any,intraparenchymal", *lines]))
    options = ["--dataset", "images", "--root", str(tmp_path), "--labels", str(labels)]
    assert main(["evaluate", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bundle"]["name"] == "default"
    assert report["dataset"] == {"kind": "images", "judged": 4, "failed": 2}
    assert [case["file"] for case in report["cases"]] == ["4.png", "5.png", "6.png", "7.png"]
    assert {failure["file"]: failure["reason"] for failure in report["failed"]} == {
        "bad.png": "no readable PNG or JPEG picture",
        "gone.png": "no such file",
    }
    assert report["metrics"]["any"]["positives"] == 2
    assert 0 <= report["metrics"]["any"]["auc"] <= 1
    assert 0 <= report["metrics"]["any"]["sensitivity_at_specificity_0.90"] <= 1
    assert report["metrics"]["intraparenchymal"]["negatives"] == 2
    assert report["metrics"]["subdural"] is None
    assert report["confusion"] is None


def test_volumes_end_to_end_as_a_table(
    head: SimulatedHead, volume: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_nifti(tmp_path / "a.nii.gz", volume.hu, volume)
    save_nifti(tmp_path / "a_mask.nii.gz", head.truth, volume)
    options = ["--dataset", "volumes", "--root", str(tmp_path), "--json", str(tmp_path / "report.json")]
    assert main(["evaluate", *options, "--out", str(tmp_path / "out")]) == 0
    assert "intraparenchymal" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    of = report["metrics"]["intraparenchymal"]
    true_ml = np.count_nonzero(head.truth) * 9.0 * 12.0 / 1000
    assert of["segmentation"]["cases_with_it"] == 1
    assert report["cases"][0]["volumes_ml"]["intraparenchymal"]["true"] == pytest.approx(true_ml, rel=1e-3)
    assert report["slice_metrics"]["any"]["positives"] > 0
    assert report["cases"][0]["labels"] == {name: int(name in ("any", "intraparenchymal")) for name in CLASSES}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"scores.png", "confusion.png"}


def test_simulated_heads_are_the_frozen_series_and_read_where_they_were_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    geometry = series_geometry(frozen_settings(), 0)
    shape = (len(geometry.positions_mm), geometry.rows, geometry.columns)
    truth = np.zeros(shape, np.uint8)
    truth[3, 90:110, 90:110] = 1 + SUBTYPES.index("subdural")
    kept = kept_in(tmp_path, frozen_settings()) / "test-000"
    kept.mkdir(parents=True)
    np.save(kept / "hu.npy", np.full(shape, -1000, np.int16))
    np.save(kept / "truth.npy", truth)
    (kept / "chronic.json").write_text("false")
    assert main(["evaluate", "--dataset", "simulated", "--root", str(tmp_path), "--heads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [case["file"] for case in report["cases"]] == ["test-000"]
    assert report["cases"][0]["labels"] == {name: int(name in ("any", "subdural")) for name in CLASSES}
    assert report["slice_metrics"]["subdural"]["positives"] == 1


def test_nothing_readable_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = written(tmp_path, "file,any\ngone.png,1\n")
    assert main(["evaluate", "--dataset", "images", "--root", str(tmp_path), "--labels", str(labels)]) == 1
    assert "nothing could be read" in capsys.readouterr().err


@pytest.mark.parametrize("heads", ["0", "-3"])
def test_no_heads_are_a_fault_that_says_so(heads: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--dataset", "simulated", "--root", str(tmp_path), "--heads", heads]) == 1
    assert "at least one head" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--out"])
def test_what_cannot_be_written_is_told_before_the_run(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "x")
    labels = written(tmp_path, "file,any\ngone.png,1\n")
    options = ["--dataset", "images", "--root", str(tmp_path), "--labels", str(labels), option, nowhere]
    assert main(["evaluate", *options]) == 1
    assert f"{nowhere}: cannot be written" in capsys.readouterr().err


def test_a_run_that_fails_leaves_no_empty_report(tmp_path: Path) -> None:
    labels = written(tmp_path, "file,any\ngone.png,1\n")
    options = ["--dataset", "images", "--root", str(tmp_path), "--labels", str(labels)]
    assert main(["evaluate", *options, "--json", str(tmp_path / "report.json")]) == 1
    assert not (tmp_path / "report.json").exists()


def test_the_false_rim_is_an_area_of_a_slice(volume: Volume) -> None:
    mask = np.zeros(volume.hu.shape, np.uint8)
    for name, count in (("epidural", 3), ("subdural", 5), ("intraparenchymal", 90)):
        mask[SUBTYPES.index(name), 0, :count] = 1 + SUBTYPES.index(name)
    rows_mm, columns_mm = volume.pixel_spacing_mm
    assert extra_axial_mm2(mask, volume) == pytest.approx(8 * rows_mm * columns_mm / len(mask))
