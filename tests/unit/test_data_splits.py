"""Splits keep patients apart, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import layouts
from triage_node.errors import UsageError
from triage_node.learn.data import LAYOUTS, Entry
from triage_node.learn.data.splits import folds, parse_shares, split

BLOOD = {True: 1.0, False: 0.0, None: np.nan}


def entries(patients: int, *, each: int = 3) -> list[Entry]:
    """Of every five patients two have blood on one of their images, two have none, and of one it is not known."""
    return [
        Entry(
            name=f"{patient:03d}/{image}",
            patient=f"p{patient}",
            files=(Path(f"{image}"),),
            labels=((BLOOD[(image == 0, image == 0, False, False, None)[patient % 5]], *[np.nan] * 5),),
        )
        for patient in range(patients)
        for image in range(each)
    ]


def patients_of(part: Sequence[Entry]) -> set[str]:
    return {entry.patient for entry in part}


@pytest.mark.parametrize("shares", ["70/20/10", "80/20", "1/1/1/1/1", "60/40"])
def test_no_patient_is_in_two_parts_and_the_parts_have_their_shares(shares: str) -> None:
    everything = entries(100)
    parts = split(everything, parse_shares(shares), seed=3)
    assert sorted(entry.name for part in parts for entry in part) == [entry.name for entry in everything]
    assert sum(len(patients_of(part)) for part in parts) == 100
    assert [len(patients_of(part)) for part in parts] == [round(100 * share) for share in parse_shares(shares)]


def test_patients_with_blood_without_and_unknown_are_spread_alike() -> None:
    for part, share in zip(split(entries(200), (0.7, 0.2, 0.1), seed=1), (0.7, 0.2, 0.1), strict=True):
        kinds = Counter(int(patient[1:]) % 5 // 2 for patient in patients_of(part))
        for kind, count in ((0, 80), (1, 80), (2, 40)):
            assert abs(kinds[kind] - share * count) <= 1


def test_a_split_hangs_on_the_seed_alone() -> None:
    everything = entries(40)
    again = split(everything[::-1], (0.8, 0.2), seed=7)
    assert split(everything, (0.8, 0.2), seed=7) == again
    assert split(everything, (0.8, 0.2), seed=8) != again


def test_every_entry_is_held_out_once_and_never_beside_its_own_patient() -> None:
    everything = entries(23)
    made = folds(everything, 5, seed=0)
    assert sorted(entry.name for _, held_out in made for entry in held_out) == [entry.name for entry in everything]
    for training, held_out in made:
        assert len(training) + len(held_out) == len(everything)
        assert not patients_of(training) & patients_of(held_out)
        assert len(patients_of(held_out)) in (4, 5)


def test_the_two_studies_of_a_patient_stay_together(tmp_path: Path) -> None:
    found = LAYOUTS["bhsd"].find(layouts.bhsd(tmp_path))
    for seed in range(4):
        sizes = [len(part) for part in split(found, (0.5, 0.5), seed=seed)]
        assert sorted(sizes) == [1, 2]


@pytest.mark.parametrize("text", ["70/x", "", "70/0/30", "-1/2", "inf/1", "nan/1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_shares(text)


def test_too_few_patients_for_the_parts_are_told() -> None:
    with pytest.raises(UsageError, match="2 patients are too few for 3 parts"):
        split(entries(2), (0.7, 0.2, 0.1), seed=0)
    with pytest.raises(UsageError, match="at least 2 folds"):
        folds(entries(9), 1, seed=0)
