"""The node's timers (APScheduler): small jobs at fixed intervals, one at a time each, errors logged and survived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from triage_node import log


@dataclass(frozen=True, kw_only=True)
class Timer:
    """Run `job` every `every_s` seconds."""

    name: str
    every_s: float
    job: Callable[[], object]


class Timers:
    """Runs timers until stopped. A job that still runs when its time comes is not started twice."""

    def __init__(self, timers: list[Timer]) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(max_workers=max(1, len(timers)))}, timezone="UTC"
        )
        for timer in timers:
            self._scheduler.add_job(
                _survive(timer), "interval", seconds=timer.every_s, max_instances=1, coalesce=True, id=timer.name
            )

    def start(self) -> None:
        """Start all timers."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop them and wait for what runs."""
        self._scheduler.shutdown(wait=True)


def _survive(timer: Timer) -> Callable[[], None]:
    def run() -> None:
        try:
            timer.job()
        except Exception as error:  # noqa: BLE001 - process boundary: a timer must tick again
            log.event("timer failed, will tick again", timer=timer.name, error=type(error).__name__)

    return run
