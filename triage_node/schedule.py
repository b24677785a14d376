"""The node's timers: small jobs at fixed intervals, one at a time each, errors logged and survived.

Timers beat on the monotonic clock: a wall clock that was set back (NTP after a start with a wrong one) held up
APScheduler's jobs for as long as the step, and with them completeness and presence (measured). Housekeeping, which
belongs to wall-clock time, is APScheduler's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from triage_node import log

Job = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timer:
    """Run `job` every `every_s` seconds."""

    name: str
    every_s: float
    job: Job


class Timers:
    """Runs timers until stopped, each in a thread of its own."""

    def __init__(self, timers: Sequence[Timer]) -> None:
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._beat, args=(timer,), name=f"timer-{timer.name}", daemon=True)
            for timer in timers
        ]

    def start(self) -> None:
        """Start all timers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop them and wait for what runs."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _beat(self, timer: Timer) -> None:
        while not self._ended.wait(timer.every_s):
            _survive(timer.name, timer.job)


class Housekeeping:
    """Runs jobs, one after the other, every full `every_min` minutes of the hour until stopped."""

    def __init__(self, jobs: Mapping[str, Job], *, every_min: int) -> None:
        self._scheduler = BackgroundScheduler(executors={"default": ThreadPoolExecutor(max_workers=1)}, timezone="UTC")
        for name, job in jobs.items():
            self._scheduler.add_job(
                _survive, "cron", (name, job), minute=f"*/{every_min}", coalesce=True, max_instances=1, id=name
            )

    def start(self) -> None:
        """Start it."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop it and wait for what runs."""
        self._scheduler.shutdown(wait=True)


def _survive(name: str, job: Job) -> None:
    try:
        job()
    except Exception as error:  # noqa: BLE001 - thread boundary: a timer must tick again
        log.event("timer failed, will tick again", timer=name, error=type(error).__name__)
