"""Data sets as shards: the right slices in the right place, what is not known stays unknown, patients kept apart."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from tests import layouts
from triage_node import cli
from triage_node.domain import CLASSES, SUBTYPES
from triage_node.errors import ConfigError, UsageError
from triage_node.infer.bundle import load_bundle
from triage_node.learn.data import LAYOUTS
from triage_node.learn.data.shards import import_layout, iterate_layout, stored
from triage_node.learn.dataset import STORED_GRID, UNKNOWN_KIND, open_shard, shard_paths
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.evaluation.run import KINDS
from triage_node.learn.evaluation.shards import iterate_shards
from triage_node.learn.pool import PoolConfig, SlicePool

MIDDLE = STORED_GRID.size_px // 2
SUBDURAL = 1 + SUBTYPES.index("subdural")


def every_slice(folder: Path) -> tuple[np.ndarray, ...]:
    """hu, truth, labels and masked of all shards."""
    shards = [open_shard(path) for path in shard_paths(folder)]
    return tuple(np.concatenate([getattr(s, name) for s in shards]) for name in ("hu", "truth", "labels", "masked"))


def test_a_series_is_brought_to_the_stored_grid_with_all_that_is_known(tmp_path: Path) -> None:
    """Slices of CT-ICH: negative, subdural, two kinds in one mask, negative; stored head first or feet first."""
    layout = LAYOUTS["physionet"]
    for entry in layout.find(layouts.physionet(tmp_path)):
        slices = stored(layout.load(entry), number=3)
        assert slices.hu[:, MIDDLE, MIDDLE].tolist() == [20, 21, 22, 23]
        assert slices.meta[:, 0].tolist() == [3] * 4
        np.testing.assert_allclose(np.diff(slices.meta[:, 1]), 5.0)
        assert [set(np.unique(image)) for image in slices.truth] == [{0}, {0, SUBDURAL}, {0, UNKNOWN_KIND}, {0}]
        area_mm2 = np.count_nonzero(slices.truth[1]) * STORED_GRID.spacing_mm**2
        assert area_mm2 == pytest.approx(64 * 3.0**2, rel=0.05)
        assert slices.masked.all()
        assert np.isnan(slices.labels[[0, 1, 3]]).all()
        told = dict(zip(CLASSES, slices.labels[2], strict=True))
        assert {name for name, value in told.items() if value == 1} == {"any", "intraparenchymal", "subdural"}
        assert {name for name, value in told.items() if value == 0} == set(CLASSES[1:]) - {
            "intraparenchymal",
            "subdural",
        }
        assert slices.depth[:, MIDDLE, MIDDLE].min() > 0
        assert not slices.depth[slices.hu < -500].any()


def test_labels_without_a_mask_leave_the_pixels_unknown(tmp_path: Path) -> None:
    layout = LAYOUTS["rsna"]
    entry = next(entry for entry in layout.find(layouts.rsna(tmp_path)) if entry.name.endswith("ID_s1"))
    slices = stored(layout.load(entry), number=0)
    positive = [1, 2]  # ID_a0 subdural, ID_b0 subdural and epidural; ID_c0 has no blood, which is a truth
    assert np.flatnonzero(~slices.masked).tolist() == positive
    assert not slices.truth.any()
    assert (slices.labels[positive, 0] == 1).all()
    assert slices.labels[positive, 1 + SUBTYPES.index("epidural")].tolist() == [0, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_shards_that_batches_are_drawn_from(layout: str, tmp_path: Path) -> None:
    done = import_layout(layout, layouts.WRITERS[layout](tmp_path / "in"), tmp_path / "out", shares="50/50")
    assert set(done.entries) == {"train", "validation"}
    assert not done.failures
    for part, slices in done.slices.items():
        if set(slices) == {"unknown"}:
            with pytest.raises(ConfigError, match="of no slice is anything known"):
                SlicePool(tmp_path / "out" / part, PoolConfig())
            continue
        pool = SlicePool(tmp_path / "out" / part, PoolConfig())
        assert len(pool) == slices.total() > 0
        assert pool.taught()["none"] == slices["none"]
        drawn = pool.draw(np.random.default_rng(0), 4)
        assert drawn.hu.shape == (4, 3, STORED_GRID.size_px, STORED_GRID.size_px)
    assert sum(done.entries.values()) == len(LAYOUTS[layout].find(tmp_path / "in"))


def test_no_patient_is_in_two_parts_and_every_fold_holds_out_others(tmp_path: Path) -> None:
    root = layouts.rsna(tmp_path / "in")  # ID_a has five slices in two series, ID_b two
    done = import_layout("rsna", root, tmp_path / "split", shares="50/50")
    assert done.patients == {"train": 1, "validation": 1}
    assert sorted(slices.total() for slices in done.slices.values()) == [2, 5]
    held_out = [
        import_layout("rsna", root, tmp_path / f"fold-{fold}", fold=f"{fold}/2").slices["validation"] for fold in (1, 2)
    ]
    assert sorted(slices.total() for slices in held_out) == [2, 5]


def test_slices_of_one_head_stay_together_without_a_patient(tmp_path: Path) -> None:
    root = layouts.rsna(tmp_path / "in")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UIDs that are none
        for path in (root / "stage_2_train").glob("*.dcm"):
            image = dcmread(path)
            image.PatientID = image.StudyInstanceUID = ""
            image.save_as(path)
    entries = LAYOUTS["rsna"].find(root)
    assert {entry.patient for entry in entries} == {"ID_s1", "ID_s2", "ID_s3"}
    assert sorted(len(entry.files) for entry in entries) == [2, 2, 3]


def test_slices_in_one_place_are_no_series(tmp_path: Path) -> None:
    root = layouts.rsna(tmp_path / "in")
    folder = root / "stage_2_train"
    for name in ("ID_a1", "ID_b1"):
        layouts.rsna_image(folder / f"{name}.dcm", patient="ID_a", series="ID_s2", height_mm=0, hu=layouts.marked(1))
    done = import_layout("rsna", root, tmp_path / "out", shares="50/50")
    assert [failure.reason for failure in done.failures] == ["several slices lie in one place"]


def test_labels_of_a_study_come_through_shards_and_teach_no_slice(tmp_path: Path) -> None:
    done = import_layout("cq500", layouts.cq500(tmp_path / "in"), tmp_path / "out", shares="50/50")
    cases = [case for part in done.slices for case in iterate_shards(tmp_path / "out" / part)]
    assert sorted(bool(case.shown[0]) for case in cases) == [False, True]
    assert sorted(bool(case.nowhere[0]) for case in cases) == [False, True]
    known = Counter[str]()
    for slices in done.slices.values():
        known.update(slices)
    assert set(known) == {"none", "unknown"}


def test_a_mask_that_is_missing_is_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    root = layouts.bhsd(tmp_path / "in")
    next((root / "label_192" / "ground truths").iterdir()).unlink()
    done = import_layout("bhsd", root, tmp_path / "out", shares="50/50")
    assert [failure.reason for failure in done.failures] == ["no mask of this name"]


def test_a_label_of_no_series_is_told(tmp_path: Path) -> None:
    root = layouts.volumes(tmp_path / "in")
    with (root / "labels.csv").open("a") as table:
        table.write("images/p3,1\n")
    with pytest.raises(UsageError, match=r"1 line\(s\) name no series here, the first images/p3"):
        LAYOUTS["volumes"].find(root)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"fold": "3/2"}, '"3/2" is no fold; write 2/5'),
        ({"shares": "25/25/25/25"}, "two parts .* or three"),
        ({"shares": "many"}, "is no list of shares"),
    ],
)
def test_parts_that_make_no_sense_are_refused_before_anything_is_read(
    tmp_path: Path, given: dict[str, str], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        import_layout("bhsd", tmp_path / "not there", tmp_path / "out", **given)  # type: ignore[arg-type]


def test_two_imports_are_never_mixed(tmp_path: Path) -> None:
    root = layouts.bhsd(tmp_path / "in")
    import_layout("bhsd", root, tmp_path / "out", shares="50/50")
    with pytest.raises(UsageError, match="is not empty; name another folder"):
        import_layout("bhsd", root, tmp_path / "out", shares="50/50")


def test_what_cannot_be_read_is_named_and_the_rest_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = layouts.rsna(tmp_path / "in")
    (root / "stage_2_train" / "ID_a2.dcm").write_bytes(b"cut short")
    layouts.rsna_image(
        root / "stage_2_train" / "ID_z.dcm", patient="ID_z", series="ID_s9", height_mm=0, hu=layouts.marked(1)
    )
    assert cli.main(["import", "rsna", str(root), "--into", str(tmp_path / "out"), "--split", "50/50"]) == 0
    said = capsys.readouterr()
    assert "not read: stage_2_train/ID_a2: " in said.err
    assert str(tmp_path / "out" / "train") in said.out


# ---------------------------------------------------------------- evaluation


def test_every_layout_can_be_evaluated() -> None:
    assert KINDS == cli.DATASETS
    assert set(LAYOUTS) <= set(KINDS)


def test_reads_of_a_study_are_labels_of_the_series_and_of_no_slice(tmp_path: Path) -> None:
    cases = [case for case in iterate_layout("cq500", layouts.cq500(tmp_path)) if isinstance(case, Case)]
    positive = [case for case in cases if case.series_labels is not None and case.series_labels[0] == 1]
    negative = [case for case in cases if case.series_labels is not None and case.series_labels[0] == 0]
    assert positive
    assert negative
    assert not positive[0].present.any()
    assert not positive[0].absent[:, 0].any()
    assert negative[0].absent.all()


def test_a_network_goes_from_a_published_layout_to_a_bundle_and_is_judged_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/laboratory.md has it: import, train, bundle, evaluate. Both patients bleed on some slices."""
    root = layouts.rsna(tmp_path / "in")
    images = [path.stem for path in (root / "stage_2_train").iterdir()]
    bled = {"ID_a0": ("any", "subdural"), "ID_a2": ("any", "subdural")}
    layouts.rsna_table(root / "stage_2_train.csv", {image: bled.get(image, ()) for image in images})
    experiment = tmp_path / "ours.toml"
    experiment.write_text(
        'shards = "data/train"\nvalidation = "data/validation"\nrun = "run"\nsteps = 2\nbatch = 2\n'
        "coarse_share = 0.0\ngrid = { size_px = 32, spacing_mm = 6.75 }\nvalidate_every = 2\nvalidation_batches = 1\n"
        '[network]\nname = "plain-cnn"\nwidths = [4, 4]\npooled_px = 2\ndense_width = 4\n'
    )
    for command in (
        ["import", "rsna", str(root), "--into", str(tmp_path / "data"), "--split", "50/50"],
        ["train", str(experiment)],
        ["bundle", str(experiment), str(tmp_path / "ours")],
    ):
        assert cli.main(command) == 0
    bundle = load_bundle(tmp_path / "ours")
    assert "plain-cnn" in (told := capsys.readouterr().out)
    assert "any, subdural\n" in told
    assert bundle.network_name == "plain-cnn"
    assert bundle.outputs_classes == ("any", "subdural")
    assert "simulated" not in bundle.intended_use
    capsys.readouterr()
    command = ["evaluate", "--dataset", "rsna", "--root", str(root), "--bundle", str(tmp_path / "ours"), "--json"]
    assert cli.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["dataset"] == {"kind": "rsna", "judged": 3, "failed": 0}
    assert report["slice_metrics"]["any"]["positives"] == 2
    assert report["slice_metrics"]["subdural"]["negatives"] == 5
