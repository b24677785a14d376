"""Splits keep patients apart, and draws are balanced; both the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests import layouts
from triage_node.domain import CLASSES
from triage_node.errors import UsageError
from triage_node.learn.data import LAYOUTS, Entry
from triage_node.learn.data.sampling import GROUPS, balanced, batches, groups_of, shuffled, undersampled
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


# ---------------------------------------------------------------- sampling


def labels(**counts: int) -> np.ndarray:
    """(slices, 6): so many of each class, `any` without a kind, `none`, `unknown`; as float32."""
    rows = []
    for name, count in counts.items():
        row = np.zeros(6, np.float32)
        if name == "unknown":
            row[:] = np.nan
        elif name == "any":
            row[:] = [1, *[np.nan] * 5]
        elif name != "none":
            row[[0, CLASSES.index(name)]] = 1
        rows += [row] * count
    return np.array(rows, np.float32)


def test_every_class_that_is_there_gets_the_same_share() -> None:
    known = labels(none=900, subdural=60, epidural=3, any=30, unknown=50)
    drawn = np.array(list(islice(balanced(known, seed=2), 4000)))
    shares = groups_of(known)[drawn].mean(axis=0)
    wanted = {"none": 0.25, "subdural": 0.25, "epidural": 0.25, "of unknown kind": 0.25}
    assert dict(zip(GROUPS, shares.tolist(), strict=True)) == {name: wanted.get(name, 0.0) for name in GROUPS}
    rare = Counter(drawn[(drawn >= 960) & (drawn < 963)].tolist())
    assert max(rare.values()) - min(rare.values()) <= 1
    common = Counter(drawn[drawn < 900].tolist())
    assert max(common.values()) == 2  # 1000 draws of 900: none a third time, and none left out before
    assert len(common) == 900


def test_a_slice_of_two_kinds_is_in_both_groups() -> None:
    two = np.array([[1, 1, 0, 0, 0, 1]], np.float32)
    assert [GROUPS[index] for index in np.flatnonzero(groups_of(two)[0])] == ["epidural", "subdural"]


def test_nothing_known_cannot_be_balanced() -> None:
    with pytest.raises(UsageError, match="nothing to balance"):
        next(balanced(labels(unknown=4), seed=0))


def test_the_majority_is_drawn_down_to_the_others() -> None:
    known = labels(none=100, subdural=8, any=2, unknown=5)
    for ratio, negatives in ((1.0, 10), (2.5, 25), (20.0, 100)):
        chosen = undersampled(known, seed=1, ratio=ratio)
        assert (chosen < 100).sum() == negatives
        if ratio < 20:
            assert set(range(100, 110)) <= set(chosen.tolist())
        assert chosen.max() < 110
        assert len(set(chosen.tolist())) == len(chosen)
        assert (np.diff(chosen) > 0).all()
    mostly_blood = undersampled(labels(none=4, subdural=50), seed=1)
    assert (mostly_blood < 4).sum() == 4
    assert len(mostly_blood) == 8
    assert not np.array_equal(undersampled(known, seed=1), undersampled(known, seed=2))


def test_an_epoch_is_a_new_order_of_the_same_slices() -> None:
    first, second = shuffled(50, seed=1, epoch=0), shuffled(50, seed=1, epoch=1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, shuffled(50, seed=1, epoch=0))


def test_batches_hold_all_or_only_whole_ones_and_may_be_without_end() -> None:
    assert [batch.tolist() for batch in batches(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert [batch.tolist() for batch in batches(range(5), 2, whole_only=True)] == [[0, 1], [2, 3]]
    endless = batches(balanced(labels(none=3, subdural=1), seed=0), 4)
    assert all((next(endless) == 3).sum() == 2 for _ in range(6))
