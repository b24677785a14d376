"""The predictor in a child process that can be killed and has a time limit. Imports no torch.

The child stays warm between volumes. Whenever it ends (killed, crashed, over its time) the call under way raises
InferenceError and the next one starts a fresh child.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from triage_node.domain import Prediction, Volume
from triage_node.errors import InferenceError
from triage_node.infer.framing import Arrays, prediction_from_frame, read_frame, volume_frame, write_frame

_CLOSE_S: Final = 2.0
"""A child whose input is closed ends by itself within this time, or is killed."""

_PATIENT_THREADS: Final = ("/usr/bin/env", "OMP_WAIT_POLICY=PASSIVE")
"""Spinning OpenMP threads halve the speed of the child, and of its neighbours, where cores are busy (measured)."""


class InferenceProcess:
    """One warm child. Use from one thread at a time; `close` it, or use it as a context manager."""

    def __init__(
        self, bundle_dir: str | Path, *, timeout_s: float, start_timeout_s: float = 120.0, device: str = "auto"
    ) -> None:
        """`timeout_s` limits one volume; `start_timeout_s` the start of the child and the loading of the bundle."""
        self._command = [*_PATIENT_THREADS, sys.executable, "-m", "triage_node.infer.child", str(bundle_dir), device]
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, where one is running."""
        return self._child.pid if self._is_running() and self._child else None

    def start(self) -> None:
        """Start the child unless it runs. InferenceError where the bundle is refused."""
        if self._is_running():
            return
        self.close()
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with self._within(self._start_timeout_s) as (_, answers):
            header, _ = read_frame(answers)
        if "error" in header:
            self.close()
            raise InferenceError(header["error"])

    def predict(self, volume: Volume) -> Prediction:
        """Analyse one volume in the child. InferenceError where it fails, dies or runs over `timeout_s`."""
        self.start()
        request, pixels = volume_frame(volume)
        with self._within(self._timeout_s) as (volumes, answers):
            write_frame(volumes, request, pixels)
            answer = read_frame(answers)
        return _prediction(*answer)

    def close(self) -> None:
        """End the child. May be called again; a later `predict` starts a new one."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with suppress(BrokenPipeError):  # it ended with our last frame unread
            child.stdin.close()
        try:
            child.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @contextmanager
    def _within(self, limit_s: float) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """The pipes of the child, which is killed at `limit_s`: reads and writes then end at once."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(limit_s, kill)
        timer.daemon = True
        timer.start()
        try:
            yield child.stdin, child.stdout
        except (EOFError, OSError, ValueError) as error:
            child.kill()
            self.close()
            raise InferenceError(_how_it_ended(child, timed_out.is_set(), limit_s)) from error
        finally:
            timer.cancel()


def _how_it_ended(child: subprocess.Popen[bytes], timed_out: bool, limit_s: float) -> str:
    if timed_out:
        return f"the model ran over its time limit of {limit_s:g} s and was stopped"
    return f"the model process ended unexpectedly (exit status {child.returncode})"


def _prediction(header: Mapping[str, Any], arrays: Arrays) -> Prediction:
    if "error" in header:
        raise InferenceError(header["error"])
    return prediction_from_frame(header, arrays)
