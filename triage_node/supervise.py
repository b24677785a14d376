"""`triage-node serve`: starts the roles as processes of their own and starts again what dies.

A role that is started here reads its standard input: when the supervisor is gone, however it went, the pipe closes and
the role ends in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from triage_node import log
from triage_node.config import Config

RESTART_AFTER_S: Final = (0.2, 1.0, 5.0, 15.0)
"""Pause before a dead role is started again, by how often it died in a row."""
STEADY_S: Final = 30.0
"""A role that ran this long starts again with the first pause."""
STOP_S: Final = 20.0
"""Time a role has for an orderly end."""


@dataclass
class _Child:
    """One role's process and its history."""

    kind: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    start_at: float = field(default_factory=monotonic)


def serve(config_path: Path, config: Config, stop: threading.Event) -> None:
    """Run listen, work (as many as configured), deliver and web until `stop` is set."""
    kinds = ["listen", "deliver", "web", *["work"] * config.work.workers]
    children = [_Child(kind=kind) for kind in kinds]
    try:
        while not stop.is_set():
            for child in children:
                _keep_running(child, config_path)
            stop.wait(0.1)
    finally:
        _stop_all(children)


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT end the process in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def stop_with_parent(stop: threading.Event) -> None:
    """End in order when the supervisor's pipe on standard input closes."""

    def watch() -> None:
        # not through sys.stdin.buffer: the interpreter aborts at its end while a thread holds that lock
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _keep_running(child: _Child, config_path: Path) -> None:
    if child.process is not None and child.process.poll() is not None:
        ran_s = monotonic() - child.started
        child.deaths = 0 if ran_s > STEADY_S else child.deaths
        pause_s = RESTART_AFTER_S[min(child.deaths, len(RESTART_AFTER_S) - 1)]
        log.event("role died", role=child.kind, code=child.process.returncode, restart_in_s=pause_s)
        child.deaths += 1
        child.start_at = monotonic() + pause_s
        child.process = None
    if child.process is None and monotonic() >= child.start_at:
        command = [sys.executable, "-m", "triage_node", child.kind, "--config", str(config_path), "--supervised"]
        child.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        child.started = monotonic()


def _stop_all(children: list[_Child]) -> None:
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = monotonic() + STOP_S
    for process in running:
        try:
            process.wait(timeout=max(0.1, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
