"""Timers and the log: what must go on whatever happens."""

from __future__ import annotations

import io
import threading
import time
from datetime import UTC, datetime

from triage_node import log
from triage_node.schedule import Housekeeping, Timer, Timers


def test_a_timer_beats_on_after_its_job_failed() -> None:
    beats, enough = [0], threading.Event()

    def job() -> None:
        beats[0] += 1
        if beats[0] == 3:
            enough.set()
        raise RuntimeError

    timers = Timers([Timer(name="t", every_s=0.01, job=job)])
    timers.start()
    assert enough.wait(10)
    timers.stop()


def test_stopping_waits_for_what_runs() -> None:
    running, ended = threading.Event(), threading.Event()

    def job() -> None:
        running.set()
        threading.Event().wait(0.2)
        ended.set()

    timers = Timers([Timer(name="t", every_s=0.01, job=job)])
    timers.start()
    assert running.wait(10)
    timers.stop()
    assert ended.is_set()


def test_housekeeping_runs_every_job_though_one_fails() -> None:
    ran: list[str] = []

    def failing() -> None:
        ran.append("failing")
        raise RuntimeError

    housekeeping = Housekeeping({"a": failing, "b": lambda: ran.append("b")}, every_min=1)
    housekeeping.start()
    for job in housekeeping._scheduler.get_jobs():
        job.modify(next_run_time=datetime.now(UTC))
    deadline = time.monotonic() + 10
    while len(ran) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    housekeeping.stop()
    assert sorted(ran) == ["b", "failing"]


def test_a_log_that_takes_nothing_more_raises_nothing() -> None:
    gone = io.StringIO()
    gone.close()
    log.event("delivered", stream=gone)
