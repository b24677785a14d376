"""What the priorities mean for a worklist: alerts in a hundred studies."""

from __future__ import annotations

from collections.abc import Sequence

from triage_node.domain import Priority

_RAISED = ((Priority.STAT,), (Priority.STAT, Priority.HIGH))


def alerts(priorities: Sequence[Priority], bled: Sequence[bool], *, prevalence: float) -> list[dict[str, float | str]]:
    """For STAT alone and for STAT or HIGH: sensitivity, specificity, and alerts per 100 studies at that prevalence.

    ValueError where there is no study with or none without hemorrhage.
    """
    if all(bled) or not any(bled):
        raise ValueError("alerts need studies with and without hemorrhage")
    return [_alerts(raised, priorities, bled, prevalence) for raised in _RAISED]


def _alerts(
    raised: Sequence[Priority], priorities: Sequence[Priority], bled: Sequence[bool], prevalence: float
) -> dict[str, float | str]:
    flagged = [priority in raised for priority in priorities]
    sensitivity = sum(f for f, b in zip(flagged, bled, strict=True) if b) / sum(bled)
    false_rate = sum(f for f, b in zip(flagged, bled, strict=True) if not b) / (len(bled) - sum(bled))
    true_alerts, false_alerts = 100 * prevalence * sensitivity, 100 * (1 - prevalence) * false_rate
    return {
        "priority": " or ".join(raised),
        "prevalence": prevalence,
        "sensitivity": sensitivity,
        "specificity": 1 - false_rate,
        "alerts_per_100_studies": true_alerts + false_alerts,
        "false_alerts_per_100_studies": false_alerts,
    }
