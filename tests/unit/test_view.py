"""What the pages show of a series: pictures and small NIfTI files, the right way round and without identity."""

from __future__ import annotations

import gzip
import json
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite

from tests import report_cases as cases
from triage_node.domain import Decision, Int16Array, Prediction, Priority, UInt8Array, Volume
from triage_node.pipeline.identity import read_identity
from triage_node.report.view import (
    ABOUT,
    CT,
    MASK,
    PICTURE,
    PLAIN,
    SLICES_AT_MOST,
    THUMBNAIL,
    build_picture_view,
    build_view,
)

SUBDURAL = 5


def voxels(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.dataobj), image.affine


def volume(hu: Int16Array, *, orientation: np.ndarray | None = None, step_mm: float = 5.0) -> Volume:
    slices = len(hu)
    return Volume(
        hu=hu,
        sop_uids=tuple(f"1.{index}" for index in range(slices)),
        paths=tuple(Path(f"/nowhere/{index}") for index in range(slices)),
        positions_mm=np.outer(np.arange(slices) * step_mm, [0.0, 0.0, 1.0]),
        orientation=np.eye(3)[:2] if orientation is None else orientation,
        pixel_spacing_mm=(0.5, 0.8),
        weights_mm=np.full(slices, step_mm),
        tilt_deg=0.0,
        header={"StationName": "secret"},
    )


def prediction(mask: UInt8Array | None, slices: int) -> Prediction:
    return Prediction(
        mask=mask,
        slice_probabilities=np.full((slices, 6), 0.9, np.float32),
        probabilities=dict.fromkeys(("any", "subdural"), 0.9)
        | dict.fromkeys(("epidural", "intraparenchymal", "intraventricular", "subarachnoid"), 0.1),
        volumes_ml=dict.fromkeys(("any", "subdural"), 3.0),
        bundle=cases.BUNDLE,
    )


def decision(*, suspected: bool = True) -> Decision:
    findings = ("subdural",) if suspected else ()
    priority = Priority.STAT if suspected else Priority.ROUTINE
    return Decision(priority=priority, reason="said", findings=findings, suspected=suspected)


def head(slices: int = 4) -> tuple[Int16Array, UInt8Array]:
    """A block of brain with a bright spot in the front left of the patient on the highest slice."""
    hu = np.full((slices, 100, 80), -1000, np.int16)
    hu[:, 20:80, 20:60] = 35
    hu[-1, 22:26, 54:58] = 70
    mask = np.zeros(hu.shape, np.uint8)
    mask[-1, 22:26, 54:58] = SUBDURAL
    return hu, mask


def test_ct_and_mask_lie_in_the_frame_that_nifti_names(tmp_path: Path) -> None:
    hu, mask = head()
    files = build_view(volume(hu), prediction(mask, 4), decision(), {})
    (ct, affine), (labels, of_mask) = voxels(files[CT]), voxels(files[MASK])
    assert ct.dtype == np.int16
    np.testing.assert_array_equal(affine, of_mask)
    np.testing.assert_allclose(np.diag(affine), [0.8, 0.5, 5.0, 1.0])
    np.testing.assert_array_equal(ct[labels == SUBDURAL], 70)
    x, y, z = (float(places.mean()) for places in np.nonzero(labels))
    middle = (np.array(ct.shape) - 1) / 2
    assert x < middle[0], "x grows to the patient's right, and the spot is on the left"
    assert y > middle[1], "y grows to the front"
    assert z == ct.shape[2] - 1, "z grows to the head"
    assert json.loads(files[ABOUT]) == {"slices": 4, "per": 1, "shown": 3}


@pytest.mark.parametrize("turned", ["prone", "on a side"])
def test_the_patient_lies_the_same_way_whatever_way_the_scanner_had_it(turned: str) -> None:
    hu, mask = head()
    upright = build_view(volume(hu), prediction(mask, 4), decision(), {})
    x, y = np.eye(3)[0], np.eye(3)[1]
    if turned == "prone":
        other = volume(np.ascontiguousarray(hu[:, ::-1, ::-1]), orientation=np.stack([-x, -y]))
        same = np.ascontiguousarray(mask[:, ::-1, ::-1])
    else:
        lying = volume(np.ascontiguousarray(hu.transpose(0, 2, 1)), orientation=np.stack([y, x]))
        other = Volume(**vars(lying) | {"pixel_spacing_mm": (0.8, 0.5)})
        same = np.ascontiguousarray(mask.transpose(0, 2, 1))
    files = build_view(other, prediction(same, 4), decision(), {})
    for name in (CT, MASK):
        for one, expected in zip(voxels(files[name]), voxels(upright[name]), strict=True):
            np.testing.assert_allclose(one, expected)


def test_thin_slices_are_averaged_and_no_label_gets_lost(tmp_path: Path) -> None:
    hu, mask = head(slices=300)
    files = build_view(volume(hu, step_mm=0.6), prediction(mask, 300), decision(), {})
    ct, affine = voxels(files[CT])
    labels, _ = voxels(files[MASK])
    assert ct.shape == labels.shape
    assert ct.shape[2] == 60 <= SLICES_AT_MOST
    assert affine[2, 2] == pytest.approx(3.0)
    assert np.count_nonzero(labels) == 16, "one slice of 300"
    assert json.loads(files[ABOUT]) == {"slices": 300, "per": 5, "shown": 299}


def test_a_negative_shows_no_stray_voxels_and_a_bundle_without_a_mask_no_mask() -> None:
    hu, mask = head()
    files = build_view(volume(hu), prediction(mask, 4), decision(suspected=False), {})
    assert not voxels(files[MASK])[0].any()
    assert MASK not in build_view(volume(hu), prediction(None, 4), decision(), {})


def test_the_air_around_the_head_is_cut_off_and_a_slice_of_air_is_no_error() -> None:
    hu, mask = head()
    assert voxels(build_view(volume(hu), prediction(mask, 4), decision(), {})[CT])[0].shape == (48, 68, 4)
    air = np.full((1, 30, 30), -1000, np.int16)
    files = build_view(volume(air), prediction(np.zeros(air.shape, np.uint8), 1), decision(suspected=False), {})
    assert voxels(files[CT])[0].shape == (30, 30, 1)


def test_pictures_are_pictures_and_nothing_names_anyone(tmp_path: Path) -> None:
    hu, mask = head()
    files = build_view(volume(hu), prediction(mask, 4), decision(), {})
    assert Image.open(BytesIO(files[PICTURE])).size == (512, 512)
    assert Image.open(BytesIO(files[THUMBNAIL])).size == (112, 112)
    for data in files.values():
        assert b"secret" not in data
        assert b"nowhere" not in data


# ---------------------------------------------------------------- whose study it is


@pytest.mark.parametrize(("charset", "name"), cases.NAMES)
def test_a_patient_is_read_in_any_character_set(tmp_path: Path, charset: str | list[str], name: str) -> None:
    elements = {"SpecificCharacterSet": charset, "PatientName": name, "PatientID": "7", "AccessionNumber": "A1"}
    (path,) = cases.write_ct(tmp_path, slices=1, elements=elements)
    identity = read_identity(path)
    assert identity is not None
    patient, _ = identity
    assert (patient.patient_name, patient.patient_id, patient.accession_number) == (name, "7", "A1")


@pytest.mark.filterwarnings("ignore:The PN component length")
def test_what_is_too_long_or_unprintable_is_cut_and_what_cannot_be_read_is_nobody(tmp_path: Path) -> None:
    (path,) = cases.write_ct(tmp_path, slices=1)
    image = dcmread(path)
    image.PatientName = "W" * 63 + "^" + "A" * 5000
    image.StudyDescription = "one\ntwo\u202ethree"
    image.SpecificCharacterSet = "ISO_IR 192"
    dcmwrite(path, image)
    identity = read_identity(path)
    assert identity is not None
    patient, _ = identity
    assert len(patient.patient_name or "") == 400
    assert patient.description == "one two three"
    assert "W" not in repr(patient)
    path.write_bytes(b"no DICOM")
    assert read_identity(path) is None


def test_a_picture_is_shown_with_its_finding_outlined_and_plain() -> None:
    hu = np.full((1, 64, 64), 30, np.int16)
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 20:40, 10:30] = SUBDURAL
    for suspected in (True, False):
        files = build_picture_view(volume(hu), prediction(mask, 1), decision(suspected=suspected))
        outlined, plain = (np.asarray(Image.open(BytesIO(files[name])), np.int16) for name in (PICTURE, PLAIN))
        assert (outlined[..., 1] - outlined[..., 0] > 60).any() == suspected, "the green of subdural blood"
        assert np.ptp(plain, axis=2).max() == 0
