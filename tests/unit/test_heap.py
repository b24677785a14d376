"""Memory that malloc keeps, counted in the pages that the kernel has to clear."""

from __future__ import annotations

import subprocess
import sys

import pytest

_ALLOCATE = """
import resource
import numpy as np
from triage_node import heap
{before}
faults = []
for _ in range(6):
    started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [np.ones(2 * 2**20) for _ in range(4)]  # 64 MiB, freed at once
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - started)
print(sum(faults[1:]))
"""


@pytest.mark.parametrize(("before", "reused"), [("heap.reuse_arrays()", True), ("", False)])
def test_arrays_take_the_place_of_those_that_are_gone(before: str, reused: bool) -> None:
    command = [sys.executable, "-c", _ALLOCATE.format(before=before)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (int(told.stdout) < 100) == reused, told.stdout
