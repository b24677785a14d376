"""The model card of a bundle: what it is, what it learned from, what it is worth, and what nobody knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triage_node.domain import CLASSES, SUBTYPES
from triage_node.learn.evaluation.report import found_by_volume


def model_card(name: str, version: str, metrics: Mapping[str, Any]) -> str:
    """Markdown, from the metrics that `release` writes beside it."""
    simulated, training = metrics["simulated"], metrics["training"]
    slices, windows = simulated["slice_metrics"]["any"], ", ".join(metrics["windows"])
    return f"""# Model card: {name} {version}

**Research software. Not for clinical use, not for primary diagnosis.** Written by `triage_node.learn.release` together
with the weights; the same figures are in metrics.json.

## What it is
A 2.5-D multi-task network (`networks/triagenet.py`; plain torch) for adult non-contrast axial head CT. It sees each
slice through these windows: {windows}; and the slices below and above through the first. A single slice or picture
works too.
{_looks(metrics["members"])}
It gives the probability of any intracranial hemorrhage and of five subtypes for slice and series, a mask of the
subtypes, and whether subdural blood is chronic.

## What it learned from
Simulated heads only (`triage_node.simulate`, varied further by `learn/augment.py`): {training["slices_rendered"]}
slices, {training["image_passes"]} image passes in {training["steps"]} steps, {training["wall_hours"]} hours
{_before(training)}. The folds of three quarters of the brains are those of the MNI152 template (through nilearn); all
else is functions of our own. **No real image, and so no real hemorrhage, was used in training.** Simulator
and variation were tuned, and it was decided when to go on training, while looking at the one real head below and its
profile under the inner table: what is said of that head is no test. Thresholds and calibration never saw it.

## Figures on simulated series
{simulated["series"]} series that neither training nor tuning saw (`learn/test-series.toml`, frozen before training),
with slices of other thickness and spacing than training draws; of their slices {slices["positives"]} with and
{slices["negatives"]} without blood. Pixels and truth have sha256 {metrics["series_fingerprint"]}.
They say how well the simulation was learned, **not** how well patients are read. Sensitivity and specificity are at
probability 0.5; AUC with a bootstrap interval of 95 %; bias is of the volume.

| class | slice AUC | series AUC | sensitivity | specificity | Dice | volume bias |
| --- | --- | --- | --- | --- | --- | --- |
{_rows(simulated)}

Found at probability 0.5, by the true volume of the class:

{_found(simulated["metrics"])}

{_intervals(metrics)}

{_chronic(metrics["subdural_chronic"])}

Alerts by the default rules, in 100 studies of which {100 * metrics["alerts"][0]["prevalence"]:.0f} bleed:

| priority | sensitivity | specificity | alerts | of them false |
| --- | --- | --- | --- | --- |
{_alert_rows(metrics["alerts"])}

![ROC](figures/roc.png) ![scores](figures/scores.png)
![calibration](figures/reliability.png) ![volumes](figures/volumes.png)
![training](figures/curves.png)

## Real heads without hemorrhage
{_negatives(metrics["real_negatives"])}
False subdural or epidural area in a slice, without the series gate: {_rims(metrics)}.

![under the inner table, lower vault](figures/rim.png)

## What is not known, and what it must not be used for
- Sensitivity for real hemorrhage: no labelled real hemorrhage was at hand. Do not assume it.
- Never let it take a study out of a worklist, or stand in for a reader: a negative is no finding.
- Children, surgery, implants, metal, contrast, strong motion, tumours and fresh infarcts were not simulated.
- Worst drawn in simulation: {_weakest(simulated)}.
  Blood that nobody could see there has no label: subarachnoid blood in thin films, layers as grey as the brain beside
  them, slivers under the bone. None of it was learned; expect misses.
- Volumes are of the mask; they inherit all its errors. The interval is what simulation gave, where true and measured
  volume were at least 0.5 mL; of less it says nothing, and 0 mL has none.
- Probabilities are calibrated on simulated slices and series as if half of them showed the class: they are no
  frequencies in a hospital. Slices and subtypes are stricter where they would raise false alarms
  (`learn/operating.py`).
- A picture or a lone slice has the probability of its slice; the figures of series above say nothing of it.
"""


def _looks(members: Sequence[Mapping[str, Any]]) -> str:
    """How often each slice is seen, by whom, and how finely."""
    if len(members) == 1:
        return f"Each slice is seen {_look(members[0])}."
    told = [f"- {of['name']} {of['version']}, which sees each slice {_look(of)}" for of in members]
    of_whom = "What is said of training, and its curves, is of the last; all other figures are of them together."
    return "\n".join([f"The mean counts of {len(members)} networks:", *told, "", of_whom])


def _look(member: Mapping[str, Any]) -> str:
    size_px, spacing_mm = member["grid"]["size_px"], member["grid"]["spacing_mm"]
    times = "once as it is and once mirrored" if member["mirrored"] else "once"
    return f"{times}, at {size_px} x {size_px} pixels of {spacing_mm} mm"


def _before(training: Mapping[str, Any]) -> str:
    if not training["went_on"]:
        return "from nothing"
    began = "after those of the weights it began with (docs/lab-notebook.md)"
    share = training["start_share"]
    return f"{began}, which are {100 * share:.0f} % of the shipped ones: a mean of weights" if share else began


def _rows(simulated: Mapping[str, Any]) -> str:
    return "\n".join(_row(name, simulated["slice_metrics"][name], simulated["metrics"][name]) for name in CLASSES)


def _row(name: str, slices: Mapping[str, Any] | None, series: Mapping[str, Any] | None) -> str:
    if series is None:
        return f"| {name} | - | - | - | - | - | - |"
    bias = series["volume"] and series["volume"]["relative_bias_percent"]
    low, high = series["auc_ci95"] or (None, None)
    cells = [
        _text(None if slices is None else slices["auc"]),
        f"{_text(series['auc'])} ({_text(low)} to {_text(high)})",
        _text(series["recall"]),
        _text(series["specificity"]),
        _text(series["segmentation"] and series["segmentation"]["dice"]),
        _text(bias, 1) + " %",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _found(classes: Mapping[str, Any]) -> str:
    if not (table := found_by_volume(classes)):
        return "None bled."
    head, *rows = table
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _alert_rows(alerts: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"| {of['priority']} | {of['sensitivity']:.3f} | {of['specificity']:.3f} "
        f"| {of['alerts_per_100_studies']:.1f} | {of['false_alerts_per_100_studies']:.1f} |"
        for of in alerts
    )


def _weakest(simulated: Mapping[str, Any]) -> str:
    """The two subtypes of the lowest Dice."""
    scores = {name: (simulated["metrics"][name] or {}).get("segmentation") for name in SUBTYPES}
    drawn = sorted((told["dice"], name) for name, told in scores.items() if told and told["dice"] is not None)
    return " and ".join(f"{name} blood (Dice {score:.2f})" for score, name in drawn[:2]) or "unknown"


def _intervals(metrics: Mapping[str, Any]) -> str:
    heads, shares = metrics["volume_interval_heads"], metrics["volume_interval_coverage"]
    told = [f"{name} {share:.2f} of {heads[name]}" for name, share in shares.items() if share is not None]
    return (
        "The interval of the volume, made to hold 90 %, held the true volume of these heads, where true and measured "
        f"volume were at least 0.5 mL: {', '.join(told) or 'too few to say'}."
    )


def _chronic(of: Mapping[str, Any]) -> str:
    told = "too few to say" if of["auc"] is None else f"AUC {of['auc']:.3f}"
    return (
        f"Chronic or acute, in the {of['heads']} series whose subdural blood was seen ({of['chronic']} chronic): "
        f"{told}. This output is not calibrated."
    )


def _negatives(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "None was at hand."
    return "\n".join(
        f"- {result['origin']}, {result['slices']} slices: series probability {result['probabilities']['any']:.2f}, "
        f"{result['slices_at_or_above_0.5']} slices at or above 0.5 "
        f"(without the series gate {result['slices_at_or_above_0.5_without_series_gate']}), "
        f"false volume {result['false_volume_ml']['any']:.2f} mL "
        f"(without the series gate {result['false_volume_without_series_gate_ml']['any']:.2f} mL)."
        for result in results
    )


def _rims(metrics: Mapping[str, Any]) -> str:
    real = [_text(result["false_extra_axial_mm2_per_slice"], 2) for result in metrics["real_negatives"]]
    simulated = _text(metrics["false_extra_axial_mm2_per_slice"], 2)
    return f"{', '.join(real) or '-'} mm2 (simulated heads without blood: {simulated} mm2)"


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
