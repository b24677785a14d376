"""Corrupt and repeated images are found and told in plain words; what is sound is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import ct, layouts
from triage_node import cli
from triage_node.errors import UsageError
from triage_node.learn.data import LAYOUTS
from triage_node.learn.data.clean import PLAIN_FOLDER, Fault, find_faults
from triage_node.simulate import axial_geometry, simulate_head

GEOMETRY = axial_geometry(slices=3, spacing_mm=30.0, rows=128, columns=128, pixel_spacing_mm=1.8)


@pytest.fixture(scope="module")
def slices() -> list[np.ndarray]:
    """Six pictures, of two simulated heads."""
    heads = [simulate_head(seed=seed, geometry=GEOMETRY, measure_volumes=False) for seed in (1, 2)]
    return [np.clip(hu * (255 / 80), 0, 255).astype(np.uint8) for head in heads for hu in head.hu]


@pytest.fixture
def folder(slices: list[np.ndarray], tmp_path: Path) -> Path:
    for number, grey in enumerate(slices):
        layouts.save_picture(tmp_path / f"{number}.png", grey)
    return tmp_path


def kinds(faults: list[Fault]) -> dict[str, str]:
    return {fault.name: fault.kind for fault in faults}


def test_the_command_knows_every_layout() -> None:
    assert (*LAYOUTS, PLAIN_FOLDER) == cli.DATA_LAYOUTS


def test_sound_pictures_have_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clean", "folder", str(folder)]) == 0
    assert capsys.readouterr().out == ""


def test_what_is_wrong_is_told_and_nothing_is_deleted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(sound[: len(sound) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    layouts.save_picture(folder / "grey.png", np.full((64, 64), 7, np.uint8))
    (folder / "sub").mkdir()
    (folder / "sub/again.png").write_bytes(sound)
    before = sorted(folder.rglob("*"))
    assert cli.main(["clean", "folder", str(folder)]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "cut.png: unreadable: no readable PNG or JPEG picture",
        "empty.jpg: unreadable: the file is empty",
        "grey.png: constant: every pixel is 7",
        "sub/again.png: repeated: the same pixels as 0.png",
    ]
    assert told.err.endswith("4 image(s) to look at; nothing was deleted\n")
    assert sorted(folder.rglob("*")) == before
    assert cli.main(["clean", "folder", str(folder), "--json"]) == 1
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first == {"kind": "unreadable", "name": "cut.png", "detail": "no readable PNG or JPEG picture"}


def test_copies_in_another_size_compression_or_brightness_are_found(folder: Path, slices: list[np.ndarray]) -> None:
    layouts.save_picture(folder / "a.jpg", slices[0])
    Image.fromarray(slices[1]).resize((70, 70), Image.Resampling.BILINEAR).save(folder / "b.png")
    layouts.save_picture(folder / "c.png", (slices[4] * 0.9 + 12).astype(np.uint8))
    faults = list(find_faults(PLAIN_FOLDER, folder))
    assert kinds(faults) == {"a.jpg": "nearly repeated", "b.png": "nearly repeated", "c.png": "nearly repeated"}
    assert [fault.detail for fault in faults] == ["looks like 0.png", "looks like 1.png", "looks like 4.png"]


def test_within_a_patient_only_the_same_pixels_are_a_repetition(tmp_path: Path, slices: list[np.ndarray]) -> None:
    for name, grey in (("a.png", slices[0]), ("b.png", slices[0] // 2 + 9), ("c.png", slices[0])):
        layouts.save_picture(tmp_path / name, grey)
    for patients, found in ((("p", "p", "p"), {"c.png": "repeated"}), (("p", "q", "p"), None)):
        rows = [f"{name}.png,0,{patient}" for name, patient in zip("abc", patients, strict=True)]
        (tmp_path / "labels.csv").write_text("\n".join(["file,any,patient", *rows]) + "\n")
        assert kinds(list(find_faults("pictures", tmp_path))) == (
            found or {"c.png": "repeated", "b.png": "nearly repeated"}
        )


def test_a_file_that_a_table_names_and_nobody_has_is_told(tmp_path: Path) -> None:
    layouts.pictures(tmp_path)
    (tmp_path / "b.png").unlink()
    assert kinds(list(find_faults("pictures", tmp_path)))["b.png"] == "unreadable"


def test_each_slice_of_a_volume_and_each_file_of_a_series_is_looked_at(tmp_path: Path) -> None:
    layouts.physionet(tmp_path / "nifti")
    air = np.full((layouts.PX, layouts.PX), -1000, np.int16)
    layouts.save_nifti(tmp_path / "nifti/ct_scans/049.nii", [layouts.marked(number) for number in range(3)] + [air])
    faults = kinds(list(find_faults("physionet", tmp_path / "nifti")))
    assert faults["ct_scans/049.nii, slice 4 from the feet"] == "constant"
    assert [name for name, kind in faults.items() if kind == "repeated"] == [
        f"ct_scans/050.nii, slice {number} from the feet" for number in (1, 2, 3)
    ]
    paths = ct.save(ct.head(depths_mm=[0.0, 5.0, 20.0], matrix=64), tmp_path / "dicom")
    paths[0].rename(paths[0].with_stem("z"))
    (tmp_path / "dicom/short.dcm").write_bytes(paths[1].read_bytes()[:-100])
    (tmp_path / "dicom/text.dcm").write_text("no image")
    (tmp_path / "dicom/TWICE.DCM").write_bytes(paths[1].read_bytes())
    assert kinds(list(find_faults(PLAIN_FOLDER, tmp_path / "dicom"))) == {
        "short.dcm": "unreadable",
        "text.dcm": "unreadable",
        "TWICE.DCM": "repeated",
    }


def test_the_images_of_rsna_are_told_by_their_file(tmp_path: Path) -> None:
    layouts.rsna(tmp_path)
    faults = kinds(list(find_faults("rsna", tmp_path)))
    assert set(faults.values()) == {"repeated"}  # marked(0) and marked(1) are there three and three times
    assert "stage_2_train/ID_a1.dcm" in faults


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UsageError, match="no image"):
        list(find_faults(PLAIN_FOLDER, tmp_path))
    assert cli.main(["clean", "rsna", str(tmp_path)]) == 1
