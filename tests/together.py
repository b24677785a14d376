"""Calls that are made at the same moment, from as many threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

Result = TypeVar("Result")


def together(*calls: Callable[[], Result]) -> Sequence[Result]:
    """What each returned, in order; raises what one raised."""
    start = Barrier(len(calls))

    def make(call: Callable[[], Result]) -> Result:
        start.wait(timeout=30)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [done.result(timeout=60) for done in [threads.submit(make, call) for call in calls]]
