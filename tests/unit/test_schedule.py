"""Timers and the log: what must go on whatever happens."""

from __future__ import annotations

import io
import threading

from triage_node import log
from triage_node.schedule import Timer, Timers


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


def test_a_log_that_takes_nothing_more_raises_nothing() -> None:
    gone = io.StringIO()
    gone.close()
    log.event("delivered", stream=gone)
