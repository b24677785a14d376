"""The figures of an evaluation as PNG files. matplotlib is in the `train` extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from triage_node.domain import CLASSES, OPERATING_POINT, SUBTYPE_ABBREVIATIONS
from triage_node.learn.evaluation.judgement import Judgement
from triage_node.learn.evaluation.metrics import roc_curve
from triage_node.learn.evaluation.report import series_answers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS: Final = dict(
    zip(CLASSES, ("black", "tab:orange", "tab:red", "tab:purple", "tab:green", "tab:blue"), strict=True)
)
_DPI: Final = 110
_BIN_EDGES: Final = np.linspace(0.0, 1.0, 21)


def write_figures(out: Path, report: Mapping[str, Any], judgements: Sequence[Judgement]) -> list[str]:
    """Write roc, scores, reliability, volumes and confusion, as far as there is something to show; a line for each.

    Where matplotlib is not installed the one line says so.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ["no figures: they need matplotlib; pip install 'triage-node[train]'"]
    drawings: dict[str, Callable[[Figure], bool]] = {
        "roc": lambda figure: _draw_roc(figure, report, judgements),
        "scores": lambda figure: _draw_scores(figure, judgements),
        "reliability": lambda figure: _draw_reliability(figure, report),
        "volumes": lambda figure: _draw_volumes(figure, report, judgements),
        "confusion": lambda figure: _draw_confusion(figure, report),
    }
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in drawings.items():
        figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        if draw(figure):
            figure.savefig(out / f"{name}.png", dpi=_DPI)
            written.append(f"figure: {out / f'{name}.png'}")
    return written


# ---------------------------------------------------------------- each returns whether there was something to draw


def _draw_roc(figure: Figure, report: Mapping[str, Any], judgements: Sequence[Judgement]) -> bool:
    axes = figure.subplots()
    for name in CLASSES:
        answers = series_answers(judgements, name)
        curve = roc_curve(answers.scores, answers.positive) if answers else None
        if curve:
            of = report["metrics"][name]
            told = f"{name}: {of['auc']:.3f} ({of['auc_ci95'][0]:.3f} to {of['auc_ci95'][1]:.3f})"
            axes.plot(curve.false_positive_rate, curve.sensitivity, color=_COLORS[name], label=told)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC; area with 95 % interval")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return _with_legend(axes, loc="lower right")


def _draw_scores(figure: Figure, judgements: Sequence[Judgement]) -> bool:
    told = {name: answers for name in CLASSES if (answers := series_answers(judgements, name))}
    if not told:
        return False
    figure.set_size_inches(9.6, 2.8 * -(-len(told) // 3) + 0.4)
    panels = figure.subplots(-(-len(told) // 3), 3, squeeze=False, sharex=True).ravel()
    for axes, (name, answers) in zip(panels, told.items(), strict=False):
        for positive, color in ((False, "0.6"), (True, "tab:red")):
            of = answers.scores[answers.positive == positive]
            label = f"{'with' if positive else 'without'} ({len(of)})"
            axes.hist(of, bins=_BIN_EDGES.tolist(), color=color, alpha=0.7, label=label)
        axes.axvline(OPERATING_POINT, color="black", linewidth=0.8)
        axes.set(title=name, xlim=(0, 1))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize="small")
    for axes in panels[len(told) :]:
        axes.set_visible(False)
    figure.supxlabel("probability")
    figure.supylabel("cases")
    return True


def _draw_reliability(figure: Figure, report: Mapping[str, Any]) -> bool:
    axes = figure.subplots()
    for name, of in report["metrics"].items():
        if of and of["positives"] and of["negatives"]:
            bins = [bin_ for bin_ in of["calibration"]["bins"] if bin_["cases"]]
            said, true = [bin_["mean_score"] for bin_ in bins], [bin_["share_positive"] for bin_ in bins]
            error = of["calibration"]["expected_calibration_error"]
            axes.plot(said, true, "o-", color=_COLORS[name], markersize=4, label=f"{name}: error {error:.2f}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set(xlabel="probability (mean of the bin)", ylabel="share of positives", title="Reliability, ten bins")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return _with_legend(axes, loc="upper left")


def _draw_volumes(figure: Figure, report: Mapping[str, Any], judgements: Sequence[Judgement]) -> bool:
    overlaps = [judgement.overlaps["any"] for judgement in judgements if "any" in judgement.overlaps]
    pairs = np.array([(o.seen_ml, o.true_ml) for o in overlaps if o.seen_ml > 0 or o.true_ml > 0])
    if not len(pairs):
        return False
    axes = figure.subplots()
    axes.scatter(pairs.mean(axis=1), pairs[:, 0] - pairs[:, 1], s=14, color="tab:blue")
    of = report["metrics"]["any"]["volume"]
    lines = [(of["bias_ml"], "-", "bias"), *((limit, "--", "95 %") for limit in of["limits_of_agreement_ml"] or ())]
    for level, style, what in lines:
        axes.axhline(level, color="black", linestyle=style, linewidth=0.9)
        axes.annotate(f"{what} {level:.1f}", (1.0, level), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(xlabel="mean of reported and true volume, mL", ylabel="reported less true, mL", title="Any hemorrhage")
    return True


def _draw_confusion(figure: Figure, report: Mapping[str, Any]) -> bool:
    if report["confusion"] is None:
        return False
    matrix = np.array(report["confusion"]["matrix"])
    names = [SUBTYPE_ABBREVIATIONS.get(name, name) for name in report["confusion"]["classes"]]
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="said", ylabel="true", title="Cases; shade: share of the row")
    return True


def _with_legend(axes: Axes, loc: Literal["lower right", "upper left"]) -> bool:
    drawn = bool(axes.get_legend_handles_labels()[0])
    if drawn:
        axes.legend(fontsize="small", loc=loc)
    return drawn
