"""Parts of a data set by patient: seeded, the same whatever the order of the entries, no patient in two parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from triage_node.errors import UsageError
from triage_node.learn.data.case import Entry


def parse_shares(text: str) -> tuple[float, ...]:
    """ "70/20/10" to (0.7, 0.2, 0.1); UsageError for anything but numbers above 0."""
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError as error:
        raise UsageError(f'"{text}" is no list of shares; write for example 70/20/10') from error
    if not all(0 < part < np.inf for part in parts):
        raise UsageError(f'"{text}": each share must be more than 0')
    return tuple(part / sum(parts) for part in parts)


def split(entries: Iterable[Entry], shares: Sequence[float], *, seed: int) -> list[list[Entry]]:
    """The entries of each part, whose patients have these shares (of their sum) of all.

    Patients with blood, without, and of whom it is not known are spread over the parts alike. Raises UsageError where
    a part would be empty.
    """
    by_patient: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.name):
        by_patient[entry.patient].append(entry)
    parts = _dealt(_shuffled_by_blood(by_patient, seed), shares)
    if not all(parts):
        raise UsageError(f"{len(by_patient)} patients are too few for {len(shares)} parts of these shares")
    return [[entry for patient in sorted(part) for entry in by_patient[patient]] for part in parts]


def folds(entries: Iterable[Entry], count: int, *, seed: int) -> list[tuple[list[Entry], list[Entry]]]:
    """(for training, held out) of each of `count` folds; every entry is held out once."""
    if count < 2:
        raise UsageError("cross-validation needs at least 2 folds")
    parts = split(entries, [1.0] * count, seed=seed)
    return [([entry for other in parts if other is not held_out for entry in other], held_out) for held_out in parts]


def _shuffled_by_blood(by_patient: dict[str, list[Entry]], seed: int) -> list[str]:
    """Those with blood first, then those without, then the others; shuffled within each."""
    groups: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for patient, entries in by_patient.items():
        groups[_has_blood(entries)].append(patient)
    rng = np.random.default_rng(seed)
    return [group[index] for group in groups.values() for index in rng.permutation(len(group))]


def _has_blood(entries: Sequence[Entry]) -> bool | None:
    told = {entry.has_blood for entry in entries}
    if True in told:
        return True
    return None if None in told else False


def _dealt(patients: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """One after the other to the part that lacks most: so any stretch of the row has the shares, too."""
    wanted = np.array(shares) / sum(shares)
    parts: list[list[str]] = [[] for _ in shares]
    for dealt, patient in enumerate(patients, start=1):
        lacking = wanted * dealt - [len(part) for part in parts]
        parts[int(lacking.argmax())].append(patient)
    return parts
