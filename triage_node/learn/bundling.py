"""From a run of any network to a bundle that the node can use: `triage-node bundle`. The default bundle: `release`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from triage_node.domain import CLASSES
from triage_node.errors import UsageError
from triage_node.infer.bundle import load_bundle
from triage_node.infer.predict import Predictor
from triage_node.learn.checkpoint import averaged_network
from triage_node.learn.evaluation.heads import Case
from triage_node.learn.experiment import TrainConfig
from triage_node.learn.export import BundleSettings, write_bundle, write_ensemble
from triage_node.learn.operating import choose_settings
from triage_node.learn.record import read_record
from triage_node.networks import Findings, TriageNetConfig
from triage_node.transforms import SINGLE_SLICES, Stack


def make_bundle(
    config: TrainConfig, out: Path, *, version: str, tuning: Iterable[Case], told_of: str, trained_on: str = ""
) -> BundleSettings:
    """Write the averaged network of a run, calibrated on `tuning`, into `out`; returns its settings.

    What the network does not give, or was not taught, or cannot be calibrated, the bundle does not promise. `told_of`
    says what the tuning heads are, `trained_on` in a sentence what the network was trained on.
    """
    network, _ = averaged_network(config.run, config.network, config.start_share)
    bare = replace(_taught(_settings(network, config), read_record(config.run)), trained_on=trained_on)
    draft = config.run / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    write_bundle(draft, name=out.name, version="draft", network=network, settings=bare)
    settings = choose_settings(Predictor(draft), tuning, bare, told_of=told_of)
    write_bundle(out, name=out.name, version=version, network=network, settings=settings)
    shutil.rmtree(draft)
    return settings


def make_ensemble(
    members: Sequence[Path], out: Path, *, version: str, tuning: Iterable[Case], told_of: str, trained_on: str = ""
) -> BundleSettings:
    """Write a bundle of bundles, which are copied, calibrated on `tuning` as a whole. Returns its settings.

    UsageError where `out` holds anything; InferenceError where a member is no bundle, or they do not go together. It
    appears by one rename.
    """
    if len(members) < 2:
        raise UsageError("an ensemble has two members or more")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; name another folder")
    bundles = [load_bundle(member) for member in members]
    names = tuple(f"{number}-{member.resolve().name}" for number, member in enumerate(members, start=1))
    part = out.with_name(f".{out.name}-new")
    shutil.rmtree(part, ignore_errors=True)
    for name, member in zip(names, members, strict=True):
        shutil.copytree(member, part / name)
    bare = BundleSettings(
        network=None,
        grid=bundles[0].grid,
        members=names,
        classes=tuple(name for name in CLASSES if any(name in bundle.outputs_classes for bundle in bundles)),
        mask=any(bundle.outputs_mask for bundle in bundles),
        boxes=any(bundle.outputs_boxes for bundle in bundles),
        chronic=any(bundle.outputs_chronic for bundle in bundles),
        trained_on=trained_on,
    )
    write_ensemble(part, name=out.name, version="draft", settings=bare)
    settings = choose_settings(Predictor(part), tuning, bare, told_of=told_of)
    write_ensemble(part, name=out.name, version=version, settings=settings)
    part.replace(out)
    return settings


def _taught(settings: BundleSettings, record: Mapping[str, Any]) -> BundleSettings:
    """Less what no slice of the training set could teach."""
    present, taught = record["present"], record["taught"]
    return replace(
        settings,
        classes=tuple(name for name in settings.classes if name == "any" or present.get(name)),
        mask=settings.mask and bool(taught["pixels"]),
        boxes=settings.boxes and bool(taught["pixels"]),
        chronic=settings.chronic and bool(taught["chronic"]),
    )


def _settings(network: Any, config: TrainConfig) -> BundleSettings:
    """As the network is: whether it sees neighbours, and what it gives."""
    side = config.network.multiple_px
    with torch.inference_mode():
        given: Findings = network.findings(torch.zeros(1, config.network.in_channels, side, side))
    sees_neighbours = isinstance(config.network, TriageNetConfig)
    return BundleSettings(
        network=config.network,
        grid=config.grid,
        stack=Stack(neighbours=True) if sees_neighbours else SINGLE_SLICES,
        appearance=config.images.appearance,
        mask=given.pixels is not None,
        boxes=given.boxes is not None,
        chronic=given.chronic is not None,
    )
