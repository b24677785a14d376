"""Bundles whose network is a small ONNX graph, as models/README.md has them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from triage_node.domain import CLASSES, SUBTYPES


def write_graph_bundle(folder: Path, graph: onnx.ModelProto, **settings: Any) -> Path:
    """A new folder with the graph and its bundle.toml, see write_settings."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    write_settings(folder, **settings)
    return folder


def write_settings(
    folder: Path,
    *,
    size_px: int,
    spacing_mm: float,
    windows: Sequence[tuple[float, float]],
    classes: Sequence[str] = CLASSES,
    mask: bool = True,
    chronic: bool = False,
) -> None:
    """The bundle.toml of the graph that lies there; `windows` are (centre, width), HU."""
    sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "bundle.toml").write_text(f"""
name = "threshold"
version = "1"
sha256 = "{sha256}"
intended_use = "A test."
[network]
name = "onnx"
[grid]
size_px = {size_px}
spacing_mm = {spacing_mm}
[windows]
centres_hu = {[centre for centre, _ in windows]}
widths_hu = {[width for _, width in windows]}
[thresholds]
series_min_probability = 0.5
speck_mm3 = 0.0
[thresholds.mask_min_probability]
{_each(SUBTYPES, 0.5)}
[calibration.slope]
{_each(CLASSES, 1.0)}
[calibration.offset]
{_each(CLASSES, 0.0)}
[outputs]
mask = {str(mask).lower()}
classes = {list(classes)}
chronic = {str(chronic).lower()}
""")


def _each(names: Sequence[str], value: float) -> str:
    return "\n".join(f"{name} = {value}" for name in names)
