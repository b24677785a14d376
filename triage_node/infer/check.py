"""`triage-node models`: which bundles there are, and whether one works. Imports no torch."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from triage_node.domain import Prediction, Volume
from triage_node.infer.bundle import Bundle, load_bundle, shipped_bundles
from triage_node.infer.process import InferenceProcess
from triage_node.simulate import axial_geometry, simulate_head

_SEED: Final = 3
_SUBTYPE: Final = "intraparenchymal"
_SLICES: Final = 20
_SPACING_MM: Final = 7.5
_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a bundle said of a simulated head with an intraparenchymal bleed."""

    prediction: Prediction
    slices: int
    seconds: float
    """Of a second run: the first also warms up."""


def bundles() -> list[Bundle]:
    """The shipped bundles, checked. InferenceError where one is damaged."""
    return [load_bundle(folder) for folder in shipped_bundles().values()]


def bundle_line(bundle: Bundle) -> str:
    """Name, version, network, hash and outputs, for people."""
    outputs = [*bundle.outputs_classes, *(["mask"] if bundle.outputs_mask else [])]
    outputs += ["chronic"] if bundle.outputs_chronic else []
    outputs += ["boxes"] if bundle.outputs_boxes else []
    sha256 = bundle.ref.sha256[:12]
    return f"{bundle.ref.name} {bundle.ref.version}  {bundle.network_name}  sha256 {sha256}  {', '.join(outputs)}"


def try_bundle(folder: Path, device: str = "auto") -> Trial:
    """Load a bundle in a process of its own, as the node does, and let it read a simulated head. InferenceError."""
    volume = _simulated_volume()
    with closing(InferenceProcess(folder, timeout_s=_TIMEOUT_S, device=device)) as process:
        process.predict(volume)
        started = perf_counter()
        prediction = process.predict(volume)
        return Trial(prediction=prediction, slices=len(volume.hu), seconds=perf_counter() - started)


def _simulated_volume() -> Volume:
    geometry = axial_geometry(slices=_SLICES, spacing_mm=_SPACING_MM, rows=256, columns=256, pixel_spacing_mm=0.9)
    head = simulate_head(seed=_SEED, subtypes=(_SUBTYPE,), geometry=geometry, measure_volumes=False)
    return Volume(
        hu=head.hu,
        sop_uids=(),
        paths=(),
        positions_mm=geometry.positions_mm,
        orientation=geometry.orientation,
        pixel_spacing_mm=geometry.pixel_spacing_mm,
        weights_mm=np.full(_SLICES, _SPACING_MM),
        tilt_deg=0.0,
        header={},
    )
