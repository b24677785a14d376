"""The priority table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from triage_node.config import DEFAULT_RULES
from triage_node.decide import decide
from triage_node.domain import CLASSES, BundleRef, Laterality, Location, Prediction, Priority, Rule


def prediction(probabilities: dict[str, float | None], volumes_ml: dict[str, float | None]) -> Prediction:
    return Prediction(
        mask=None,
        slice_probabilities=np.zeros((1, 6), np.float32),
        probabilities={**dict.fromkeys(CLASSES, 0.0), **probabilities},
        volumes_ml={**dict.fromkeys(CLASSES, 0.0), **volumes_ml},
        bundle=BundleRef(name="b", version="1", sha256="0" * 64),
    )


def test_a_negative_is_routine_and_has_no_findings() -> None:
    decision = decide(prediction({}, {}), DEFAULT_RULES, {})
    assert decision.priority == Priority.ROUTINE
    assert decision.findings == ()


def test_a_large_bleed_is_stat_and_says_why() -> None:
    made = prediction({"any": 0.98, "subdural": 0.97}, {"any": 23.4, "subdural": 23.4})
    decision = decide(made, DEFAULT_RULES, {})
    assert decision.priority == Priority.STAT
    assert decision.reason == "subdural hemorrhage suspected, p 0.97, 23.4 mL"
    assert decision.findings == ("subdural",)


def test_a_probable_bleed_without_volume_is_high() -> None:
    assert decide(prediction({"any": 0.7}, {"any": 0.2}), DEFAULT_RULES, {}).priority == Priority.HIGH


def test_a_bundle_without_volumes_is_not_held_to_one() -> None:
    assert decide(prediction({"any": 0.7}, {"any": None}), DEFAULT_RULES, {}).priority == Priority.STAT


def test_what_a_bundle_does_not_output_matches_no_rule() -> None:
    rules = (Rule(priority=Priority.STAT, subtype="epidural", min_probability=0.0),)
    assert decide(prediction({"epidural": None}, {}), rules, {}).priority == Priority.ROUTINE


def test_the_first_matching_rule_decides() -> None:
    rules = (Rule(priority=Priority.HIGH, subtype="subdural"), Rule(priority=Priority.STAT))
    made = prediction({"any": 0.9, "subdural": 0.9}, {"any": 5.0, "subdural": 5.0})
    assert decide(made, rules, {}).priority == Priority.HIGH


def test_findings_come_most_probable_first() -> None:
    made = prediction({"any": 0.9, "subdural": 0.6, "epidural": 0.8}, {"any": 5.0})
    assert decide(made, DEFAULT_RULES, {}).findings == ("epidural", "subdural")


def test_what_no_rule_speaks_of_is_suspected_all_the_same() -> None:
    rules = (Rule(priority=Priority.STAT, min_volume_ml=5.0),)
    decision = decide(
        prediction({"any": 0.97, "intraparenchymal": 0.96}, {"any": 3.0, "intraparenchymal": 3.0}), rules, {}
    )
    assert (decision.priority, decision.suspected) == (Priority.ROUTINE, True)
    assert decision.findings == ("intraparenchymal",)
    assert decision.reason == "intraparenchymal hemorrhage suspected, p 0.96, 3.0 mL"


def test_a_rule_may_be_more_cautious_than_the_operating_point() -> None:
    decision = decide(prediction({"any": 0.4}, {}), (Rule(priority=Priority.HIGH, min_probability=0.3),), {})
    assert (decision.priority, decision.suspected) == (Priority.HIGH, True)


def test_no_sentence_says_certain() -> None:
    assert "p 0.99," in decide(prediction({"any": 0.9996}, {"any": 5.0}), DEFAULT_RULES, {}).reason


def test_the_sentence_names_the_side_where_it_is_known() -> None:
    made = prediction({"any": 0.97, "subdural": 0.96}, {"any": 81.0, "subdural": 81.0})
    known = Location(laterality=Laterality.LEFT, slices=(3, 9), z_mm=(0.0, 30.0), instance_numbers=None)
    reason = "subdural hemorrhage suspected, p 0.96, 81.0 mL"
    assert decide(made, DEFAULT_RULES, {"subdural": known}).reason == f"{reason}, left"
    assert decide(made, DEFAULT_RULES, {"subdural": replace(known, laterality=None)}).reason == reason
    assert decide(made, DEFAULT_RULES, {"epidural": known}).reason == reason
