"""Prediction -> Decision: what is suspected, and its priority by the table of the configuration, first match wins.

The table gives priorities only. What passes the operating point is suspected, whatever the table says of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triage_node.domain import (
    OPERATING_POINT,
    SUBTYPES,
    Decision,
    Location,
    Prediction,
    Priority,
    Rule,
    probability_text,
)


def decide(prediction: Prediction, rules: Sequence[Rule], locations: Mapping[str, Location]) -> Decision:
    """The priority of a series, why, and which subtypes count as found (most probable first).

    `locations` is where each class lies, as far as that is known (`locate.locate`): it only goes into the sentence.
    """
    findings = _findings(prediction)
    rule = next((rule for rule in rules if _matches(rule, prediction)), Rule(priority=Priority.ROUTINE))
    any_probability = prediction.probabilities["any"] or 0.0
    if findings or any_probability >= OPERATING_POINT or rule.priority in (Priority.STAT, Priority.HIGH):
        reason = _sentence(rule, prediction, findings, locations)
        return Decision(priority=rule.priority, reason=reason, findings=findings, suspected=True)
    return Decision(priority=rule.priority, reason="no intracranial hemorrhage detected", findings=(), suspected=False)


def _findings(prediction: Prediction) -> tuple[str, ...]:
    probabilities = {name: prediction.probabilities[name] or 0.0 for name in SUBTYPES}
    present = [name for name in SUBTYPES if probabilities[name] >= OPERATING_POINT]
    return tuple(sorted(present, key=lambda name: -probabilities[name]))


def _matches(rule: Rule, prediction: Prediction) -> bool:
    probability = prediction.probabilities[rule.subtype]
    volume_ml = prediction.volumes_ml[rule.subtype]
    if probability is None or probability < rule.min_probability:
        return False
    # a bundle that gives no volume cannot be held to one
    return volume_ml is None or volume_ml >= rule.min_volume_ml


def _sentence(rule: Rule, prediction: Prediction, findings: tuple[str, ...], locations: Mapping[str, Location]) -> str:
    named = findings[0] if findings else rule.subtype
    what = "intracranial hemorrhage" if named == "any" else f"{named} hemorrhage"
    probability, volume_ml = prediction.probabilities[named], prediction.volumes_ml[named]
    parts = [f"{what} suspected"]
    if probability is not None:
        parts.append(f"p {probability_text(probability)}")
    if volume_ml:
        parts.append(f"{volume_ml:.1f} mL")
    if named in locations and locations[named].laterality:
        parts.append(f"{locations[named].laterality}")
    return ", ".join(parts)
