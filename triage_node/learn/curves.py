"""The curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

CURVES: Final = "curves.png"
_NOT_LOSSES: Final = frozenset({"step", "pool", "s_per_step", "grid_px"})


def draw_curves(record: Mapping[str, Any], path: Path) -> None:
    """The losses of `record`, the sum on the left, parts and accuracy on the right, as PNG. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5))
    panels = figure.subplots(1, 2)
    for part, style in (("curve", "-"), ("validation", "o--")):
        points = record[part]
        steps = [point["step"] for point in points]
        names = [name for name in points[-1] if name not in _NOT_LOSSES] if points else []
        for index, name in enumerate(names):
            label = name if part == "curve" else f"{name}, validation"
            values = [_number(point.get(name)) for point in points]
            panels[int(name != "total")].plot(steps, values, style, color=f"C{index}", label=label, markersize=3)
    for panel, title in zip(panels, ("loss", "its parts, and accuracy"), strict=True):
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.set_ylim(bottom=0)
        panel.grid(visible=True, alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="x-small")
    figure.savefig(path, dpi=80)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
