"""From a run of any network to a bundle: it promises what the network gives, and is calibrated on heads kept apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from triage_node import cli
from triage_node.domain import CLASSES, SUBTYPES
from triage_node.errors import InferenceError, UsageError
from triage_node.infer.bundle import load_bundle
from triage_node.infer.predict import Predictor
from triage_node.learn.bundling import make_bundle, make_ensemble
from triage_node.learn.checkpoint import BEST
from triage_node.learn.dataset import STORED_GRID, UNKNOWN_KIND
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.evaluation.shards import iterate_shards
from triage_node.learn.experiment import ImagesConfig, TrainConfig
from triage_node.learn.record import RECORD
from triage_node.networks import NetworkConfig, TriageNetConfig, network_of
from triage_node.networks.double_branch import DoubleBranchConfig
from triage_node.networks.plain_cnn import PlainCnnConfig
from triage_node.networks.resnet50v2_yolo import ResNet50V2YoloConfig
from triage_node.transforms import Grid

SUBDURAL = 1 + SUBTYPES.index("subdural")
SLICES = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four heads of noise; the odd ones have a bright block of subdural blood on two slices."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(3)
    size = STORED_GRID.size_px
    hu = np.full((4 * SLICES, size, size), -1000, np.int16)
    hu[:, 20:150, 20:150] = rng.normal(35, 8, (4 * SLICES, 130, 130)).astype(np.int16)
    truth, meta = np.zeros(hu.shape, np.uint8), np.zeros((len(hu), 3), np.float32)
    for row in range(len(hu)):
        head, index = divmod(row, SLICES)
        meta[row] = head, 5.0 * index, 0.0 if head % 2 else np.nan
        if head % 2 and index in (1, 2):
            hu[row, 40:90, 30:60], truth[row, 40:90, 30:60] = 75, SUBDURAL
    shard = folder / "shard-00000"
    shard.mkdir()
    for name, array in (("hu", hu), ("truth", truth), ("depth", np.ones_like(truth)), ("meta", meta)):
        np.save(shard / f"{name}.npy", array)
    return folder


def trained(network: NetworkConfig, shards: Path, run: Path, *, pixels: int = 9, chronic: int = 9) -> TrainConfig:
    """As if it had been, on heads with every kind of blood."""
    torch.manual_seed(0)
    run.mkdir()
    record = {"present": dict.fromkeys(SUBTYPES, 9), "taught": {"pixels": pixels, "chronic": chronic, "none": 9}}
    (run / RECORD).write_text(json.dumps(record))
    weights = {f"ema.{name}": tensor for name, tensor in network_of(network).state_dict().items()}
    save_file(weights, run / BEST, {"step": "7"})
    return TrainConfig(shards=shards, run=run, steps=7, network=network, grid=Grid(size_px=64, spacing_mm=3.4))


@pytest.mark.parametrize(
    ("network", "gives"),
    [
        (TriageNetConfig(base_width=4, levels=3, head_width=8), {"mask", "chronic", "neighbours"}),
        (DoubleBranchConfig(width=4, detector_width=4), {"mask", "chronic"}),
        (ResNet50V2YoloConfig(width=4), {"boxes"}),
        (PlainCnnConfig(widths=(4, 4), pooled_px=2, dense_width=4), set()),
    ],
)
def test_a_bundle_promises_what_its_network_gives(
    network: NetworkConfig, gives: set[str], shards: Path, tmp_path: Path
) -> None:
    config = trained(network, shards, tmp_path / "run")
    made = make_bundle(config, tmp_path / "ours", version="3", tuning=iterate_shards(shards), told_of="noise")
    bundle = load_bundle(tmp_path / "ours")
    promised = {"mask": bundle.outputs_mask, "chronic": bundle.outputs_chronic, "boxes": bundle.outputs_boxes}
    assert {name for name, given in (promised | {"neighbours": bundle.stack.neighbours}).items() if given} == gives
    assert (bundle.ref.name, bundle.ref.version) == ("ours", "3")
    assert bundle.calibration["subdural"] == made.calibration["subdural"] != (1.0, 0.0)
    assert "kept apart: noise." in (tmp_path / "ours" / "bundle.toml").read_text()
    (case, *_) = iterate_shards(shards, count=1)
    prediction = Predictor(tmp_path / "ours", "cpu").predict(case.volume)
    assert (prediction.mask is None) == ("mask" not in gives)
    assert (prediction.boxes is None) == ("boxes" not in gives)
    assert (set(prediction.volumes_ml.values()) == {None}) == ("mask" not in gives)


def test_what_no_slice_taught_the_bundle_does_not_promise(shards: Path, tmp_path: Path) -> None:
    """Labels without masks, no ages, no subdural blood."""
    network = DoubleBranchConfig(width=4, detector_width=4)
    config = trained(network, shards, tmp_path / "run", pixels=0, chronic=0)
    make_bundle(config, tmp_path / "ours", version="1", tuning=iterate_shards(shards), told_of="noise")
    bundle = load_bundle(tmp_path / "ours")
    assert not (bundle.outputs_mask or bundle.outputs_chronic)
    assert bundle.outputs_classes == ("any", "subdural")
    record = json.loads((config.run / RECORD).read_text())
    record["present"]["subdural"] = 0
    (config.run / RECORD).write_text(json.dumps(record))
    made = make_bundle(
        config, tmp_path / "any", version="1", tuning=iterate_shards(shards), told_of="noise", trained_on="On noise."
    )
    assert made.classes == ("any",)
    intended = load_bundle(tmp_path / "any").intended_use
    assert "On noise. Not for clinical use" in intended
    assert "simulated" not in load_bundle(tmp_path / "ours").intended_use


def test_nothing_of_an_ensemble_is_there_before_all_of_it_is(members: list[Path], shards: Path, tmp_path: Path) -> None:
    def interrupted() -> Iterator[Case]:
        yield next(iter(iterate_shards(shards)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_ensemble(members, tmp_path / "three", version="1", tuning=interrupted(), told_of="noise")
    assert not (tmp_path / "three").exists()
    make_ensemble(members, tmp_path / "three", version="1", tuning=iterate_shards(shards), told_of="noise")
    assert len(load_bundle(tmp_path / "three").members) == 3
    with pytest.raises(UsageError, match="two members or more"):
        make_ensemble(members[:1], tmp_path / "one", version="1", tuning=iterate_shards(shards), told_of="noise")


def test_what_the_tuning_heads_do_not_tell_the_bundle_does_not_speak_of(shards: Path, tmp_path: Path) -> None:
    """They have subdural blood and no other."""
    config = trained(DoubleBranchConfig(width=4, detector_width=4), shards, tmp_path / "run")
    make_bundle(config, tmp_path / "ours", version="1", tuning=iterate_shards(shards), told_of="noise")
    assert load_bundle(tmp_path / "ours").outputs_classes == ("any", "subdural")
    case = next(iter(iterate_shards(shards)))
    assert Predictor(tmp_path / "ours", "cpu").predict(case.volume).probabilities["epidural"] is None
    of_some_kind = [
        replace(case, truth=np.where(case.truth > 0, UNKNOWN_KIND, 0).astype(np.uint8))
        for case in iterate_shards(shards)
    ]
    make_bundle(config, tmp_path / "any", version="1", tuning=of_some_kind, told_of="noise")
    bundle = load_bundle(tmp_path / "any")
    assert bundle.outputs_classes == ("any",)
    assert not (bundle.outputs_mask or bundle.outputs_chronic)
    with pytest.raises(UsageError, match="slices that show hemorrhage, and slices that do not"):
        make_bundle(config, tmp_path / "none", version="1", tuning=[], told_of="nothing")


@pytest.mark.parametrize(("key", "value"), [("brain_only", True), ("at_most_hu", 45.0)])
def test_what_an_experiment_shows_a_network_the_node_shows_it(
    shards: Path, tmp_path: Path, key: str, value: bool | float
) -> None:
    images = ImagesConfig(windows=("stroke", "brain"), sigmoid=True, stretched=True, **{key: value})
    network = PlainCnnConfig(in_channels=2, widths=(4, 4), pooled_px=2, dense_width=4)
    config = replace(trained(network, shards, tmp_path / "run"), images=images)
    make_bundle(config, tmp_path / "ours", version="1", tuning=iterate_shards(shards), told_of="noise")
    assert load_bundle(tmp_path / "ours").appearance == images.appearance
    case = next(iter(iterate_shards(shards)))
    said = Predictor(tmp_path / "ours", "cpu").examine(case.volume).logits
    settings = tmp_path / "ours" / "bundle.toml"
    for line in ("sigmoid = true\n", "stretched = true\n", f"{key} = {json.dumps(value)}\n"):
        text = settings.read_text()
        settings.write_text(text.replace(line, ""))
        assert not np.allclose(Predictor(tmp_path / "ours", "cpu").examine(case.volume).logits, said, atol=1e-5), line
        settings.write_text(text)


def test_the_command_calibrates_on_the_validation_of_the_experiment(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(PlainCnnConfig(widths=(4, 4), pooled_px=2, dense_width=4), shards, tmp_path / "run")
    lines = [
        f'shards = "{shards}"',
        'run = "run"',
        "steps = 7",
        "coarse_share = 0.0",
        "grid = { size_px = 64, spacing_mm = 3.4 }",
        "[network]",
        'name = "plain-cnn"',
        "widths = [4, 4]",
        "pooled_px = 2",
        "dense_width = 4",
    ]
    experiment = tmp_path / "a.toml"
    experiment.write_text("\n".join(lines))
    assert cli.main(["bundle", str(experiment), str(tmp_path / "ours")]) == 1
    assert "name shards to calibrate on with --tuning" in capsys.readouterr().err
    experiment.write_text("\n".join([f'validation = "{shards}"', *lines]))
    assert cli.main(["bundle", str(experiment), str(tmp_path / "ours")]) == 0
    assert f"triage-node models {tmp_path / 'ours'}" in capsys.readouterr().out
    assert load_bundle(tmp_path / "ours").network_name == "plain-cnn"


# ---------------------------------------------------------------- heads of shards


def test_heads_of_a_shard_are_cases_on_the_stored_grid(shards: Path) -> None:
    cases = list(iterate_shards(shards))
    assert [case.name for case in cases] == [f"shard-00000, head {head}" for head in range(4)]
    bled = [bool(case.present[:, SUBDURAL].any()) for case in cases]
    assert bled == [False, True, False, True]
    assert [case.chronic for case in cases] == [None, False, None, False]
    assert cases[1].volume.positions_mm[:, 2].tolist() == [0, 5, 10, 15, 20]
    assert cases[1].volume.weights_mm.tolist() == [5.0] * SLICES
    assert [len(list(iterate_shards(shards, count=count))) for count in (1, 3)] == [1, 3]


def test_labels_without_masks_say_what_is_there_and_no_more(shards: Path, tmp_path: Path) -> None:
    def labelled(truth: np.ndarray) -> Case:
        (tmp_path / "shard-00000").mkdir()
        for name in ("hu", "depth", "meta"):
            np.save(tmp_path / "shard-00000" / f"{name}.npy", np.load(shards / "shard-00000" / f"{name}.npy"))
        np.save(tmp_path / "shard-00000" / "truth.npy", truth)
        labels = np.full((4 * SLICES, len(CLASSES)), np.nan, np.float32)
        labels[0], labels[1, [0, 2]] = 0, 1
        np.save(tmp_path / "shard-00000" / "labels.npy", labels)
        np.save(tmp_path / "shard-00000" / "masked.npy", np.arange(len(labels)) > 1)
        np.save(tmp_path / "shard-00000" / "series.npy", np.full_like(labels, np.nan))
        return next(iter(iterate_shards(tmp_path)))

    truth = np.zeros((4 * SLICES, STORED_GRID.size_px, STORED_GRID.size_px), np.uint8)
    truth[2, :20, :20] = UNKNOWN_KIND
    case = labelled(truth)
    assert not case.segmented
    assert case.absent[0].all()
    assert case.present[1].tolist() == [True, False, True, False, False, False]
    assert not case.absent[1].any()
    assert case.present[2].tolist() == [True] + [False] * 5  # blood, of whatever kind
    assert case.volumes_ml == dict.fromkeys(CLASSES, 0.0) | {"any": pytest.approx(400 * 1.25**2 * 5 / 1000)}
    assert not case.absent[2].any()
    assert case.absent[3].all()


def test_a_folder_without_shards_is_told_what_makes_them(tmp_path: Path) -> None:
    def heads() -> Iterator[Case]:
        return iterate_shards(tmp_path)

    with pytest.raises(UsageError, match=r"holds no shards .* triage-node import"):
        heads()


# ---------------------------------------------------------------- ensembles


@pytest.fixture
def members(shards: Path, tmp_path: Path) -> list[Path]:
    """Two networks with masks on one grid, and one of slices alone on another."""
    found = []
    for number, network in enumerate(
        [
            TriageNetConfig(base_width=4, levels=3, head_width=8),
            TriageNetConfig(base_width=8, levels=3, head_width=8),
            PlainCnnConfig(widths=(4, 4), pooled_px=2, dense_width=4),
        ]
    ):
        config = trained(network, shards, tmp_path / f"run-{number}")
        if number == 2:
            config = replace(config, grid=Grid(size_px=32, spacing_mm=6.75))
        folder = tmp_path / f"member-{number}"
        make_bundle(config, folder, version="1", tuning=iterate_shards(shards), told_of="noise")
        found.append(folder)
    return found


def test_an_ensemble_says_what_its_members_say_on_average(members: list[Path], shards: Path, tmp_path: Path) -> None:
    make_ensemble(members, tmp_path / "three", version="2", tuning=iterate_shards(shards), told_of="noise")
    case = list(iterate_shards(shards))[1]
    predictor = Predictor(tmp_path / "three", "cpu")
    said = predictor.examine(case.volume)
    alone = [Predictor(member, "cpu") for member in members]
    each = [one.examine(case.volume) for one in alone]
    logits = []
    for one, predictor_alone in zip(each, alone, strict=True):
        slope, offset = np.array([predictor_alone.bundle.calibration[name] for name in CLASSES]).T
        logits.append(one.logits * slope + offset)
    spoken = [0, SUBDURAL]  # of what the heads show, which is what the members speak of
    np.testing.assert_allclose(said.logits[:, spoken], np.mean(logits, axis=0)[:, spoken], atol=1e-4)
    assert np.isnan(np.delete(said.logits, spoken, axis=1)).all()
    pixels = [one.pixel_probabilities for one in each[:2]]
    assert said.pixel_probabilities is not None
    np.testing.assert_allclose(said.pixel_probabilities, np.mean(np.array(pixels), axis=0), atol=1e-5)
    prediction = predictor.predict(case.volume)
    assert prediction.mask is not None
    assert (prediction.bundle.name, prediction.bundle.version) == ("three", "2")


def test_boxes_of_members_on_other_grids_lie_in_the_same_place(shards: Path, tmp_path: Path) -> None:
    wide, narrow = Grid(size_px=64, spacing_mm=3.4), Grid(size_px=64, spacing_mm=1.7)
    folders = []
    for number, grid in enumerate((wide, narrow)):
        config = replace(trained(ResNet50V2YoloConfig(width=4), shards, tmp_path / f"run-{number}"), grid=grid)
        folders.append(tmp_path / f"box-{number}")
        make_bundle(config, folders[-1], version="1", tuning=iterate_shards(shards), told_of="noise")
    make_ensemble(folders, tmp_path / "both", version="1", tuning=iterate_shards(shards), told_of="noise")
    case = next(iter(iterate_shards(shards)))
    together = Predictor(tmp_path / "both", "cpu").examine(case.volume).boxes
    first, second = (Predictor(folder, "cpu").examine(case.volume).boxes for folder in folders)
    assert together is not None
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(together[:, : first.shape[1]], first, atol=1e-5)
    inner = together[:, first.shape[1] :]
    np.testing.assert_allclose(inner[..., :4] - 0.5, (second[..., :4] - 0.5) / 2, atol=1e-5)
    np.testing.assert_array_equal(inner[..., 4:], second[..., 4:])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("sha256 = ", 'sha256 = "0"#'), "the members have sha256 .* restore the bundle"),
        (lambda text: text.replace('"2-member-1", ', '"../member-1", '), "names of folders beside this file"),
        (lambda text: text.replace('"2-member-1", "3-member-2"', ""), "two or more names of folders"),
        (lambda text: text.replace("boxes = false", "boxes = true"), r"\[outputs\] boxes: no member gives it"),
        (lambda text: text + "[grid]\nsize_px = 64\nspacing_mm = 3.4\n", r"an ensemble has no \[grid\]"),
        (lambda text: text + "[stack]\nneighbours = true\n", r"an ensemble has no \[stack\]"),
    ],
)
def test_an_ensemble_that_is_not_whole_is_refused(
    change: Callable[[str], str], complaint: str, members: list[Path], shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "three"
    make_ensemble(members, folder, version="1", tuning=iterate_shards(shards), told_of="noise")
    settings = folder / "bundle.toml"
    settings.write_text(change(settings.read_text()))
    with pytest.raises(InferenceError, match=complaint):
        load_bundle(folder)


def test_a_changed_member_makes_the_ensemble_another(members: list[Path], shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "three"
    make_ensemble(members, folder, version="1", tuning=iterate_shards(shards), told_of="noise")
    shutil.rmtree(folder / "1-member-0")
    shutil.copytree(members[1], folder / "1-member-0")
    with pytest.raises(InferenceError, match="the members have sha256"):
        load_bundle(folder)
    with pytest.raises(UsageError, match="is not empty"):
        make_ensemble(members, folder, version="1", tuning=iterate_shards(shards), told_of="noise")


def test_masks_of_members_on_other_grids_lie_in_the_same_place(shards: Path, tmp_path: Path) -> None:
    folders = []
    for number, grid in enumerate((Grid(size_px=64, spacing_mm=3.4), Grid(size_px=128, spacing_mm=1.7))):
        config = trained(TriageNetConfig(base_width=4, levels=3, head_width=8), shards, tmp_path / f"run-{number}")
        folders.append(tmp_path / f"member-{number}")
        make_bundle(
            replace(config, grid=grid), folders[-1], version="1", tuning=iterate_shards(shards), told_of="noise"
        )
    make_ensemble(folders, tmp_path / "both", version="1", tuning=iterate_shards(shards), told_of="noise")
    case = list(iterate_shards(shards))[1]
    predictor = Predictor(tmp_path / "both", "cpu")
    together = predictor.examine(case.volume)
    coarse, fine = (Predictor(folder, "cpu").examine(case.volume).pixel_probabilities for folder in folders)
    assert coarse is not None
    assert together.pixel_probabilities is not None
    twice = functional.interpolate(torch.from_numpy(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(together.pixel_probabilities, (twice.numpy() + fine) / 2, atol=1e-5)
    mask = predictor.seen_mask(together, case.volume)
    assert mask is not None
    assert mask.shape == case.truth.shape


def test_masks_of_other_stacks_do_not_go_together(shards: Path, tmp_path: Path) -> None:
    folders = []
    for network in (
        TriageNetConfig(base_width=4, levels=3, head_width=8),
        DoubleBranchConfig(width=4, detector_width=4),
    ):
        config = trained(network, shards, tmp_path / f"run-{len(folders)}")
        folders.append(tmp_path / f"member-{len(folders)}")
        make_bundle(config, folders[-1], version="1", tuning=iterate_shards(shards), told_of="noise")
    with pytest.raises(InferenceError, match=r"must have the same \[stack\] and classes"):
        make_ensemble(folders, tmp_path / "both", version="1", tuning=iterate_shards(shards), told_of="noise")
