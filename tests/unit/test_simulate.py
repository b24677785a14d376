"""The simulated head: the same everywhere it is looked at, with a truth that can be trusted, in valid DICOM."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy import ndimage

from tests.tools import require_tool
from triage_node.assemble import assemble
from triage_node.domain import SUBTYPES
from triage_node.errors import UsageError
from triage_node.simulate import (
    SimulatedHead,
    SliceGeometry,
    axial_geometry,
    simulate_head,
    write_case,
    write_series,
)
from triage_node.simulate.vendors import VENDORS

CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
COARSE = axial_geometry(slices=11, spacing_mm=14.0, rows=96, columns=96, pixel_spacing_mm=2.4)


@cache
def coarse_head(subtype: str) -> SimulatedHead:
    return simulate_head(seed=5, subtypes=[subtype], geometry=COARSE, noise_hu=2.0, measure_volumes=False)


@cache
def tilted_head() -> SimulatedHead:
    geometry = axial_geometry(slices=16, spacing_mm=8.0, tilt_deg=12, rows=112, columns=112, pixel_spacing_mm=2.1)
    return simulate_head(seed=8, geometry=geometry, measure_volumes=False)


def truth_ml(head: SimulatedHead) -> float:
    """Labelled volume: pixel area times half the way to each neighbour along the normal."""
    g = head.geometry
    along = g.positions_mm @ g.normal
    weights = np.gradient(along)
    pixels = (head.truth > 0).reshape(len(along), -1).sum(axis=1)
    return float(pixels @ weights) * g.pixel_spacing_mm[0] * g.pixel_spacing_mm[1] / 1000


def test_the_same_seed_gives_the_same_pixels_and_another_seed_another_head() -> None:
    again = simulate_head(seed=5, subtypes=["subdural"], geometry=COARSE, noise_hu=2.0, measure_volumes=False)
    other = simulate_head(seed=6, subtypes=["subdural"], geometry=COARSE, noise_hu=2.0, measure_volumes=False)
    assert np.array_equal(again.hu, coarse_head("subdural").hu)
    assert np.array_equal(again.truth, coarse_head("subdural").truth)
    assert not np.array_equal(again.hu, other.hu)


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_every_subtype_is_labelled_with_its_own_value_and_no_other(subtype: str) -> None:
    assert set(np.unique(coarse_head(subtype).truth)) == {0, 1 + SUBTYPES.index(subtype)}


def test_a_head_without_hemorrhage_has_an_empty_truth() -> None:
    head = simulate_head(seed=5, geometry=COARSE)
    assert not head.truth.any()
    assert head.volumes_ml == {}


def test_an_unknown_subtype_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="subgaleal"):
        simulate_head(seed=1, subtypes=["subgaleal"], geometry=COARSE)


def test_blood_inside_its_label_is_brighter_than_the_brain_around_it() -> None:
    head = simulate_head(
        seed=12,
        subtypes=["intraparenchymal"],
        geometry=COARSE,
        noise_hu=1.0,
        lesion_volume_ml=40,
        measure_volumes=False,
    )
    inside = ndimage.binary_erosion(head.truth > 0, np.ones((1, 3, 3)))
    around = ndimage.binary_dilation(head.truth > 0, np.ones((1, 7, 7))) & ~ndimage.binary_dilation(
        head.truth > 0, np.ones((1, 5, 5))
    )
    assert np.median(head.hu[inside]) > np.median(head.hu[around]) + 10


def test_a_point_of_the_head_is_the_same_whatever_the_slices() -> None:
    """A straight slice and one of a finer, differently placed stack through the same plane show the same tissue."""
    one = axial_geometry(slices=1, rows=128, columns=128, pixel_spacing_mm=1.6, thickness_mm=1.0)
    moved = SliceGeometry(
        positions_mm=one.positions_mm + np.array([[16.0, 32.0, 0.0]]),
        orientation=one.orientation,
        rows=96,
        columns=100,
        pixel_spacing_mm=one.pixel_spacing_mm,
        thickness_mm=1.0,
    )
    a, b = (
        simulate_head(seed=9, subtypes=["subdural"], geometry=g, noise_hu=0.0, measure_volumes=False)
        for g in (one, moved)
    )
    shared = np.s_[0, 20:116, 10:110]
    soft = (a.hu[shared] > 0) & (a.hu[shared] < 90)
    soft = ndimage.binary_erosion(soft, iterations=2)
    difference = np.abs(a.hu[shared].astype(int) - b.hu[0])[soft]
    assert soft.sum() > 2000
    assert np.median(difference) <= 1
    assert np.percentile(difference, 99) <= 12


@pytest.mark.parametrize("tilt_deg", [0.0, 18.5])
@pytest.mark.parametrize("uneven", [False, True])
def test_the_labelled_volume_is_the_physical_volume(tilt_deg: float, uneven: bool) -> None:
    spacing = [2.5] * 10 + [5.0] * 26 if uneven else 5.0
    slices = 37 if uneven else 32
    geometry = axial_geometry(
        slices=slices, spacing_mm=spacing, tilt_deg=tilt_deg, rows=200, columns=200, pixel_spacing_mm=1.1
    )
    head = simulate_head(seed=3, subtypes=["intraparenchymal"], geometry=geometry, lesion_volume_ml=20)
    assert head.volumes_ml["intraparenchymal"] == pytest.approx(20, rel=0.02)
    assert truth_ml(head) == pytest.approx(head.volumes_ml["intraparenchymal"], rel=0.02)


def test_under_the_bone_the_brightness_falls_off_as_in_real_heads() -> None:
    """Median HU by depth below the inner table over several heads; measured on one real head: 61, 44, 39, 37."""
    geometry = axial_geometry(slices=3, spacing_mm=10.0, rows=200, columns=200, pixel_spacing_mm=1.0)
    profiles = []
    for seed in range(6):
        head = simulate_head(seed=40 + seed, geometry=geometry, noise_hu=2.0)
        for hu in head.hu:
            inner = _largest(ndimage.binary_fill_holes(hu > 250) & (hu <= 250))
            depth = ndimage.distance_transform_edt(inner) - 0.5
            bands = [(1, 2), (3, 4), (5, 7), (7, 10)]
            profiles.append([np.median(hu[inner & (depth >= a) & (depth < b)]) for a, b in bands])
    under, below, deeper, brain = np.median(profiles, axis=0)
    assert 40 <= under <= 80
    assert 30 <= below <= 50
    assert 28 <= deeper <= 44
    assert 26 <= brain <= 42
    assert under > below >= brain - 1


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


# ---------------------------------------------------------------- geometry


def test_a_tilted_stack_does_not_run_along_its_normal() -> None:
    geometry = axial_geometry(slices=5, tilt_deg=18.5)
    step = geometry.positions_mm[1] - geometry.positions_mm[0]
    angle = np.degrees(np.arccos(step @ geometry.normal / np.linalg.norm(step)))
    assert angle == pytest.approx(18.5)
    assert step @ geometry.normal > 0


def test_spacings_must_match_the_number_of_slices() -> None:
    with pytest.raises(ValueError, match="need 4 spacings"):
        axial_geometry(slices=5, spacing_mm=[5.0, 5.0])


# ---------------------------------------------------------------- DICOM


@pytest.mark.parametrize("signed", [True, False])
def test_every_file_passes_dciodvfy(tmp_path: Path, signed: bool) -> None:
    tool = require_tool("dciodvfy")
    for path in write_series(coarse_head("subdural"), tmp_path, seed=5, created_at=CREATED_AT, signed=signed)[:2]:
        said = subprocess.run([tool, str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_headers_of_every_vendor_pass_dciodvfy_and_assemble_to_the_same_volume(tmp_path: Path, vendor: str) -> None:
    """Two series of each: their scanners differ. The tilt is told with either sign, and the images count either way."""
    tool = require_tool("dciodvfy")
    head = tilted_head()
    for seed in (1, 2):
        paths = write_series(head, tmp_path / str(seed), seed=seed, created_at=CREATED_AT, vendor=vendor)
        said = subprocess.run([tool, str(paths[0])], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr
        volume = assemble(paths)
        assert np.array_equal(volume.hu, head.hu)
        assert np.allclose(volume.positions_mm, head.geometry.positions_mm, atol=1e-3)
        assert np.allclose(volume.orientation, head.geometry.orientation, atol=1e-6)
        assert volume.pixel_spacing_mm == pytest.approx(head.geometry.pixel_spacing_mm)
        assert volume.tilt_deg == pytest.approx(12, abs=0.1)


def test_a_vendor_we_do_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GE, SIEMENS, PHILIPS, CANON"):
        write_series(coarse_head("epidural"), tmp_path, seed=1, created_at=CREATED_AT, vendor="ACME")


@pytest.mark.parametrize("transfer_syntax", [None, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_what_is_written_reads_back_as_the_same_hu(tmp_path: Path, transfer_syntax: str | None) -> None:
    head = coarse_head("epidural")
    syntax = {} if transfer_syntax is None else {"transfer_syntax": transfer_syntax}
    paths = write_series(head, tmp_path, seed=5, created_at=CREATED_AT, **syntax)
    image = pydicom.dcmread(paths[4])
    assert np.array_equal(image.pixel_array.astype(int) + int(image.RescaleIntercept), head.hu[4])
    assert np.allclose(image.ImagePositionPatient, head.geometry.positions_mm[4], atol=1e-5)


def test_uids_follow_from_the_seed_and_are_unique_in_the_series(tmp_path: Path) -> None:
    head = coarse_head("epidural")
    first, again, other = (
        [pydicom.dcmread(p) for p in write_series(head, tmp_path / name, seed=seed, created_at=CREATED_AT)]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert [i.SOPInstanceUID for i in first] == [i.SOPInstanceUID for i in again]
    assert len({i.SOPInstanceUID for i in first + other}) == 2 * len(first)
    assert len({i.SeriesInstanceUID for i in first}) == 1
    assert first[0].StudyInstanceUID != other[0].StudyInstanceUID


def test_a_transfer_syntax_we_cannot_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write_series(coarse_head("epidural"), tmp_path, seed=1, created_at=CREATED_AT, transfer_syntax="1.2.3")


def test_a_case_holds_the_series_and_its_truth_and_says_it_is_simulated(tmp_path: Path) -> None:
    write_case(tmp_path, subtype="IVH", seed=5, created_at=CREATED_AT, geometry=COARSE)
    truth = json.loads((tmp_path / "truth.json").read_text())
    mask = np.load(tmp_path / "truth.npy", allow_pickle=False)
    images = [pydicom.dcmread(p) for p in sorted((tmp_path / "dicom").iterdir())]
    assert truth["sop_instance_uids"] == [str(i.SOPInstanceUID) for i in images]
    assert "simulated" in truth["simulated"]
    assert truth["volumes_ml"]["intraventricular"] > 0
    assert mask.shape == (11, 96, 96)
    assert mask.dtype == np.uint8


def test_a_case_of_an_unknown_subtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="EDH, IPH, IVH, SAH, SDH or NONE"):
        write_case(tmp_path, subtype="XYZ", seed=1, created_at=CREATED_AT)


def test_another_subtype_or_moment_is_another_examination(tmp_path: Path) -> None:
    later = CREATED_AT + timedelta(minutes=1)
    cases = [("IVH", CREATED_AT), ("NONE", CREATED_AT), ("NONE", later), ("NONE", later)]
    uids = []
    for number, (subtype, moment) in enumerate(cases):
        write_case(tmp_path / str(number), subtype=subtype, seed=5, created_at=moment, geometry=COARSE)
        image = pydicom.dcmread(tmp_path / str(number) / "dicom" / "0001.dcm", stop_before_pixels=True)
        uids.append((image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID))
    assert uids[2] == uids[3]
    assert all(len({uid[level] for uid in uids}) == 3 for level in range(3))
