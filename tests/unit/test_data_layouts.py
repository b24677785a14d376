"""Readers of data sets: right pixels in HU, right labels, right patients; a wrong layout says what was expected."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from tests import ct, layouts
from triage_node import cli
from triage_node.domain import CLASSES, SUBTYPES
from triage_node.errors import NotSuitable, UsageError
from triage_node.learn.data import LAYOUTS, Entry, Loaded
from triage_node.learn.data.rsna import convert_labels, label_vectors, read_image_labels
from triage_node.learn.evaluation.labels import read_labels

NEGATIVE = [0.0] * 6
UNKNOWN = [np.nan] * 6


def loaded(layout: str, root: Path) -> list[tuple[Entry, Loaded]]:
    return [(entry, LAYOUTS[layout].load(entry)) for entry in LAYOUTS[layout].find(root)]


def row(*present: str) -> list[float]:
    return [float(name in present) for name in CLASSES]


def kind(name: str) -> int:
    return 1 + SUBTYPES.index(name)


def same(labels: np.ndarray, rows: list[list[float]]) -> bool:
    return np.array_equal(labels, np.array(rows, np.float32), equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_loaded_agrees_in_shape_and_with_itself(layout: str, tmp_path: Path) -> None:
    cases = loaded(layout, layouts.WRITERS[layout](tmp_path))
    assert len(cases) > 1
    assert len({entry.name for entry, _ in cases}) == len(cases)
    for entry, case in cases:
        slices = len(case.volume.hu)
        assert case.labels.shape == (slices, 6)
        assert case.labels.dtype == case.series_labels.dtype == np.float32
        assert case.known.shape == (slices,)
        assert (case.truth is not None) == case.known.any()
        for pixels in (case.truth, case.blood):
            assert pixels is None or pixels.shape == case.volume.hu.shape
        if case.truth is not None:
            drawn = case.truth.any(axis=(1, 2))
            assert (case.labels[drawn, 0] == 1).all()
            assert not drawn[~case.known].any()
        told = [name for name, value in zip(CLASSES, case.series_labels, strict=True) if not np.isnan(value)]
        assert set(told) <= set(case.told)
        if entry.has_blood is not None:
            assert case.series_labels[0] == entry.has_blood


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_layout_says_what_was_expected_and_what_was_found(layout: str, tmp_path: Path) -> None:
    other = "bhsd" if layout != "bhsd" else "kaggle"
    layouts.WRITERS[other](tmp_path)
    (tmp_path / "Planted^Name").mkdir()
    with pytest.raises(UsageError) as said:
        LAYOUTS[layout].find(tmp_path / ("label_192" if layout == "volumes" else "."))
    words = {"rsna": "stage_2_train.csv", "physionet": "ct_scans/049.nii", "kaggle": "1_HGE_Seg.jpg"}
    words |= {"cq500": "reads.csv", "bhsd": "ground truths", "instance22": "train_2/data/001.nii.gz"}
    words |= {"pictures": "file,any", "volumes": "masks/NAME.nii.gz"}
    assert words[layout] in str(said.value)
    assert "Planted" not in str(said.value)
    assert "found 2 folder(s)" in str(said.value)
    with pytest.raises(UsageError, match="no such folder"):
        LAYOUTS[layout].find(tmp_path / "nowhere")


# ---------------------------------------------------------------- RSNA 2019


def test_a_series_of_rsna_lies_from_feet_to_head_with_the_labels_of_its_slices(tmp_path: Path) -> None:
    first, second, third = loaded("rsna", layouts.rsna(tmp_path))
    assert [path.stem for path in first[0].files] == ["ID_c0", "ID_a0", "ID_b0"]
    assert [entry.patient for entry, _ in (first, second, third)] == ["ID_a", "ID_a", "ID_b"]
    volume = first[1].volume
    assert np.array_equal(volume.hu, [layouts.marked(number) for number in range(3)])
    assert volume.positions_mm[:, 2].tolist() == [-20, -15, -10]
    assert volume.weights_mm.tolist() == [5, 5, 5]
    assert volume.pixel_spacing_mm == (5, 5)
    assert same(first[1].labels, [NEGATIVE, row("any", "subdural"), row("any", "subdural", "epidural")])
    assert first[1].known.tolist() == [True, False, False]
    assert second[0].has_blood is False


def test_what_was_negative_and_written_in_twelve_bits_is_negative_again(tmp_path: Path) -> None:
    *_, (_, case) = loaded("rsna", layouts.rsna(tmp_path))
    assert np.array_equal(case.volume.hu, [layouts.marked(number) for number in range(2)])
    assert case.volume.hu.min() == -1000


def test_files_are_sorted_along_the_normal_not_by_name(tmp_path: Path) -> None:
    layouts.rsna(tmp_path)
    entry = LAYOUTS["rsna"].find(tmp_path)[0]
    turned = replace(entry, files=entry.files[::-1], labels=entry.labels[::-1])
    case = LAYOUTS["rsna"].load(turned)
    assert np.array_equal(case.volume.hu, [layouts.marked(number) for number in range(3)])
    assert same(case.labels, [NEGATIVE, row("any", "subdural"), row("any", "subdural", "epidural")])


def test_a_lone_slice_and_a_damaged_file_are_entries_too(tmp_path: Path) -> None:
    layouts.rsna(tmp_path)
    for name in ("ID_c0", "ID_b0"):
        (tmp_path / f"stage_2_train/{name}.dcm").unlink()
    damaged = tmp_path / "stage_2_train/ID_b1.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (tmp_path / "stage_2_train/ID_no.dcm").write_bytes(b"nothing")
    entries = {entry.name.rpartition("/")[2]: entry for entry in LAYOUTS["rsna"].find(tmp_path)}
    assert LAYOUTS["rsna"].load(entries["ID_s1"]).volume.weights_mm.tolist() == [5]
    for name in ("ID_no", "ID_s2"):
        with pytest.raises(NotSuitable):
            LAYOUTS["rsna"].load(entries[name])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ID_a0_subdural,0", "line 45: the same ID stands above with another label"),
        ("ID_a0_chronic,0", "line 45: the ID is expected to end in _any"),
        ("ID_a9_any,0.5", "line 45: 0 or 1 is expected"),
    ],
)
def test_a_label_that_cannot_be_is_told_with_its_line(line: str, said: str, tmp_path: Path) -> None:
    table = layouts.rsna(tmp_path) / "stage_2_train.csv"
    assert len(table.read_text().splitlines()) == 1 + 7 * 6 + 1  # the last is a repetition, passed over
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(UsageError, match=said):
        LAYOUTS["rsna"].find(tmp_path)


def test_the_labels_become_one_line_an_image_that_evaluate_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.rsna_table(tmp_path / "in.csv", {"ID_1": ("any", "subdural"), "ID_2": ()}, extra="ID_3_any,1\n")
    assert cli.main(["labels", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv"), "--ending", ".png"]) == 0
    assert capsys.readouterr().out == f"3 image(s) in {tmp_path / 'out.csv'}\n"
    with (tmp_path / "out.csv").open() as file:
        assert next(csv.reader(file)) == ["file", *CLASSES]
    first, second, third = read_labels(tmp_path / "out.csv", tmp_path)
    assert [label.name for label in (first, second, third)] == ["ID_1.png", "ID_2.png", "ID_3.png"]
    assert [name for name in CLASSES if first.classes[name]] == ["any", "subdural"]
    assert not any(second.classes.values())
    assert third.classes == {name: True if name == "any" else None for name in CLASSES}
    vectors = label_vectors(read_image_labels(tmp_path / "in.csv"))
    assert same(vectors, [row("any", "subdural"), NEGATIVE, [1.0, *[np.nan] * 5]])


def test_labels_of_another_table_or_to_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("Image,Label\n")
    with pytest.raises(UsageError, match="no column ID; found Image, Label"):
        convert_labels(tmp_path / "other.csv", tmp_path / "out.csv")
    (tmp_path / "empty.csv").write_text("ID,Label\n")
    with pytest.raises(UsageError, match="no line under the header"):
        convert_labels(tmp_path / "empty.csv", tmp_path / "out.csv")
    layouts.rsna_table(tmp_path / "in.csv", {"ID_1": ()})
    with pytest.raises(UsageError, match="cannot be written"):
        convert_labels(tmp_path / "in.csv", tmp_path / "no/out.csv")


# ---------------------------------------------------------------- CT-ICH


def test_slice_numbers_and_masks_of_ct_ich_follow_the_file_however_it_is_stored(tmp_path: Path) -> None:
    cases = loaded("physionet", layouts.physionet(tmp_path))
    assert [entry.patient for entry, _ in cases] == ["049", "050"]
    both = row("any", "subdural", "intraventricular")
    both[CLASSES.index("intraventricular")], both[CLASSES.index("intraparenchymal")] = 0.0, 1.0
    for _, case in cases:
        assert np.array_equal(case.volume.hu, [layouts.marked(number) for number in range(4)])
        assert same(case.labels, [NEGATIVE, row("any", "subdural"), both, NEGATIVE])
        assert case.blood is not None
        assert case.truth is not None
        assert np.array_equal(case.blood[1], layouts.square(1))
        assert np.array_equal(case.blood[2], layouts.square(2))
        assert case.known.tolist() == [True, True, False, True]
        assert np.array_equal(case.truth[1], kind("subdural") * layouts.square(1))
        assert not case.truth[2].any()


def test_mask_and_table_that_contradict_each_other_leave_the_slice_unknown(tmp_path: Path) -> None:
    layouts.physionet(tmp_path)
    table = tmp_path / "hemorrhage_diagnosis_raw_ct.csv"
    lines = table.read_text().replace("49,2,0,0,0,0,1,0,0", "49,2,0,0,0,0,0,1,0")  # drawn, and denied
    lines = lines.replace("49,1,0,0,0,0,0,1,0", "49,1,0,0,0,0,1,0,0")  # told, and not drawn
    lines = lines.replace("49,4,0,0,0,0,0,1,0", "49,4,0,0,0,1,0,1,0")  # denied, and a kind named
    table.write_text(lines.replace("49,3,0,1,0,0,1,0,1\n", ""))  # nothing told
    _, case = loaded("physionet", tmp_path)[0]
    assert same(case.labels, [row("any", "subdural"), UNKNOWN, UNKNOWN, UNKNOWN])
    assert case.known.tolist() == [False] * 4
    assert case.truth is None
    assert case.series_labels[0] == 1


def test_hemorrhage_of_no_kind_is_hemorrhage_of_an_unknown_one(tmp_path: Path) -> None:
    table = layouts.physionet(tmp_path) / "hemorrhage_diagnosis_raw_ct.csv"
    table.write_text(table.read_text().replace("49,2,0,0,0,0,1,0,0", "49,2,0,0,0,0,0,0,0"))
    _, case = loaded("physionet", tmp_path)[0]
    assert same(case.labels[1:2], [[1.0, *[np.nan] * 5]])
    assert not case.known[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("49,1,0,0,0,0,0,1,0", "slice 1 of this patient stands there twice"),
        ("49,x,0,0,0,0,0,1,0", "expected to be numbers"),
        ("49,7,0,0,0,0,2,1,0", "0 or 1 is expected"),
        ("49,0,0,0,0,0,0,1,0", "begin with 1"),
    ],
)
def test_a_diagnosis_that_cannot_be_is_told(line: str, said: str, tmp_path: Path) -> None:
    table = layouts.physionet(tmp_path) / "hemorrhage_diagnosis_raw_ct.csv"
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(UsageError, match=said):
        LAYOUTS["physionet"].find(tmp_path)


def test_a_table_of_more_slices_or_a_mask_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    layouts.physionet(tmp_path)
    table = tmp_path / "hemorrhage_diagnosis_raw_ct.csv"
    table.write_text(table.read_text() + "49,5,0,0,0,0,0,1,0\n")
    layouts.save_nifti(tmp_path / "masks/050.nii", [np.zeros((layouts.PX, layouts.PX), np.uint8)] * 3)
    first, second = LAYOUTS["physionet"].find(tmp_path)
    with pytest.raises(UsageError, match="4 slices, and the table goes up to 5"):
        LAYOUTS["physionet"].load(first)
    with pytest.raises(UsageError, match="its mask has"):
        LAYOUTS["physionet"].load(second)
    (tmp_path / "masks/050.nii").unlink()
    with pytest.raises(UsageError, match="no mask of this name"):
        LAYOUTS["physionet"].load(LAYOUTS["physionet"].find(tmp_path)[1])


def test_pictures_of_ct_ich_have_the_kind_of_their_slice_and_their_mask_goes_with_the_head(tmp_path: Path) -> None:
    (first, negative), (second, subdural), (_, several), (last, grey) = loaded("kaggle", layouts.kaggle(tmp_path))
    assert [first.name, first.patient, last.patient] == ["Patients_CT/049/brain/1.jpg", "049", "050"]
    assert second.mask is not None
    assert same(negative.labels, [NEGATIVE])
    assert negative.blood is None
    assert same(subdural.labels, [row("any", "subdural")])
    assert subdural.blood is not None
    assert subdural.truth is not None
    inside = subdural.volume.hu[0][subdural.blood[0]]
    assert np.abs(inside - 90 * 80 / 255).max() <= 2  # the blot lies in the grey head, wherever that was moved to
    rows, columns = np.nonzero(subdural.blood[0])
    assert (np.ptp(rows), np.ptp(columns)) == (9, 11)
    below_bar = rows.min() - np.nonzero((subdural.volume.hu[0] > 50).any(axis=1))[0].max()
    assert below_bar == 56 - 43
    assert set(np.unique(subdural.truth)) == {0, kind("subdural")}
    assert same(several.labels, [row("any", "intraventricular", "intraparenchymal")])
    assert several.truth is None
    assert several.blood is not None
    assert several.blood.any()
    assert grey.blood is not None
    assert not grey.blood.any()
    assert grey.known.all()


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path: Path) -> None:
    layouts.kaggle(tmp_path)
    layouts.save_picture(tmp_path / "Patients_CT/049/brain/2_HGE_Seg.jpg", layouts.picture_blot()[:90])
    with pytest.raises(UsageError, match="another size"):
        loaded("kaggle", tmp_path)


# ---------------------------------------------------------------- CQ500


def test_cq500_gives_the_routine_plain_series_of_a_study_with_what_two_of_three_read(tmp_path: Path) -> None:
    (negative, first), (positive, second) = loaded("cq500", layouts.cq500(tmp_path))
    assert negative.name == "CQ500CT0 CQ500CT0/Unknown Study/CT Plain"
    assert positive.name == "CQ500CT7 CQ500CT7/Unknown Study/CT 5mm"
    assert [negative.patient, positive.patient] == ["CQ500CT0", "CQ500CT7"]
    assert [negative.has_blood, positive.has_blood] == [False, True]
    assert same(first.labels, [NEGATIVE] * 19)
    assert first.truth is not None
    assert same(second.series_labels[None], [row("any", "subdural")])
    somewhere = [np.nan if value else 0.0 for value in row("any", "subdural")]
    assert same(second.labels, [somewhere] * 19)
    assert second.truth is None
    assert np.array_equal(first.volume.hu, [ct.hu_of(dcmread(path)) for path in negative.files])


def test_a_study_without_reads_is_not_known_and_a_kind_makes_hemorrhage(tmp_path: Path) -> None:
    layouts.cq500(tmp_path)
    lines = [layouts.READS_HEADER, layouts.cq500_line("CQ500-CT-0", "EDH", "EDH ICH", "")]
    (tmp_path / "reads.csv").write_text("\n".join(lines) + "\n")
    first, second = LAYOUTS["cq500"].find(tmp_path)
    assert list(first.series_labels) == row("any", "epidural")
    assert second.has_blood is None


# ---------------------------------------------------------------- NIfTI with masks


def test_bhsd_has_every_kind_and_knows_who_is_there_twice(tmp_path: Path) -> None:
    cases = loaded("bhsd", layouts.bhsd(tmp_path))
    assert [entry.patient for entry, _ in cases] == ["ID_0237f3c9", "ID_2db7ee14", "ID_2db7ee14"]
    for _, case in cases:
        assert np.array_equal(case.volume.hu, [layouts.marked(number) for number in range(6)])
        assert same(case.labels, [*(row("any", name) for name in SUBTYPES), NEGATIVE])
        assert case.truth is not None
        assert all(
            np.array_equal(case.truth[number], (1 + number) * layouts.square(number)) for number in range(len(SUBTYPES))
        )
    alone = LAYOUTS["bhsd"].find(tmp_path / "label_192")
    assert [entry.patient for entry in alone] == [entry.patient for entry, _ in cases]


def test_a_mask_of_bhsd_with_a_sixth_label_is_refused(tmp_path: Path) -> None:
    layouts.bhsd(tmp_path)
    mask = next((tmp_path / "label_192/ground truths").iterdir())
    image = nibabel.load(mask)
    values = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image(np.where(values == 5, 6, values).astype(np.uint8), image.affine), mask)
    with pytest.raises(UsageError, match="a label other than 0 to 5"):
        loaded("bhsd", tmp_path)


@pytest.mark.parametrize("names", [("data", "label"), ("images", "labels")])
def test_instance22_tells_blood_and_no_kind(names: tuple[str, str], tmp_path: Path) -> None:
    cases = loaded("instance22", layouts.instance22(tmp_path, names))
    assert [entry.patient for entry, _ in cases] == ["001", "002"]
    for _, case in cases:
        assert case.told == ("any",)
        assert case.blood is not None
        assert np.array_equal(case.blood[1], layouts.square(1))
        assert same(case.labels, [NEGATIVE, [1.0, *[np.nan] * 5], NEGATIVE])
        assert case.known.tolist() == [True, False, True]


def test_a_speck_of_blood_says_neither_that_there_is_some_nor_that_there_is_none(tmp_path: Path) -> None:
    layouts.instance22(tmp_path)
    speck = np.zeros((layouts.PX, layouts.PX), np.uint8)
    speck[20, 20:22] = 1  # 18 mm2
    layouts.save_nifti(tmp_path / "train_2/label/001.nii.gz", [0 * speck, speck, 0 * speck])
    _, case = loaded("instance22", tmp_path)[0]
    assert same(case.labels, [NEGATIVE, UNKNOWN, NEGATIVE])
    assert np.isnan(case.series_labels).all()
    assert case.known.tolist() == [True, False, True]


# ---------------------------------------------------------------- ours


def test_pictures_know_their_patient_and_without_one_stand_alone(tmp_path: Path) -> None:
    cases = loaded("pictures", layouts.pictures(tmp_path))
    assert [entry.patient for entry, _ in cases] == ["p1", "p1", "p2"]
    some = [1.0, np.nan, np.nan, np.nan, np.nan, 1.0]
    assert same(np.concatenate([case.labels for _, case in cases]), [NEGATIVE, some, [1.0, *[np.nan] * 5]])
    assert cases[2][1].told == ("any",)
    assert cases[0][1].volume.hu.max() == round(200 * 80 / 255)
    layouts.pictures(tmp_path, patients=False)
    assert [entry.patient for entry in LAYOUTS["pictures"].find(tmp_path)] == ["a.png", "b.png", "sub/c.jpg"]


def test_our_own_volumes_go_by_their_mask_or_by_the_table(tmp_path: Path) -> None:
    layouts.volumes(tmp_path)
    (masked, first), (negative, second) = loaded("volumes", tmp_path)
    assert [masked.patient, negative.patient] == ["p1", "p2"]
    assert first.truth is not None
    assert np.array_equal(first.truth[2], 5 * layouts.square(2))
    assert same(first.labels, [NEGATIVE, NEGATIVE, row("any", "subdural"), NEGATIVE])
    assert second.known.all()
    assert negative.has_blood is False
    (tmp_path / "labels.csv").write_text("file,any,subdural,patient\nimages/p2,1,1,someone\n")
    entry, case = loaded("volumes", tmp_path)[1]
    assert entry.patient == "someone"
    assert case.truth is None
    assert np.isnan(case.labels[:, CLASSES.index("subdural")]).all()
    assert case.series_labels[CLASSES.index("subdural")] == 1


def test_masks_of_our_own_volumes_that_hold_ones_alone_tell_no_kind(tmp_path: Path) -> None:
    layouts.volumes(tmp_path)
    masks = [(layouts.square(number) & (number == 2)).astype(np.uint8) for number in range(4)]
    layouts.save_nifti(tmp_path / "masks/p1/ct.nii.gz", masks)
    masked, first = loaded("volumes", tmp_path)[0]
    assert not masked.mask_tells_kinds
    assert first.told == ("any",)
    assert first.labels[2, 0] == 1
    assert np.isnan(first.labels[2, 1:]).all()
    assert np.array_equal(first.blood, np.array(masks) > 0)
