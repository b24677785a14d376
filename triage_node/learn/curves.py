"""The curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

CURVES: Final = "curves.png"
_NOT_LOSSES: Final = frozenset({"step", "pool", "s_per_step", "grid_px"})


def draw_curves(record: Mapping[str, Any], path: Path) -> None:
    """One panel for each loss of `record`, in training and validation, as PNG. Needs matplotlib."""
    from matplotlib.figure import Figure

    points = record["curve"]
    names = [name for name in points[0] if name not in _NOT_LOSSES] if points else []
    if not names:
        return
    figure = Figure(figsize=(4 * len(names[::2]), 6), layout="constrained")
    panels = figure.subplots(2, len(names[::2]), squeeze=False).flat
    for name, panel in zip(names, panels, strict=False):
        for label, part in (("training", points), ("validation", record["validation"])):
            panel.plot([point["step"] for point in part], [point[name] for point in part], label=label)
        panel.set(title=name, xlabel="step", yscale="log")
        panel.legend()
    figure.savefig(path, dpi=80)
