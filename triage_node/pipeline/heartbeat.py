"""While a claim is worked on: its lease is extended. And what of an error may be logged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from triage_node import log
from triage_node.errors import LeaseLost, TriageNodeError
from triage_node.pipeline.parts import Parts


class Beat(Protocol):
    """Extends one lease. Raises LeaseLost."""

    def __call__(self, *, now: datetime, lease_s: float) -> None: ...


@contextmanager
def heartbeat(parts: Parts, beat: Beat, claim: str) -> Iterator[None]:
    """Extends a lease from a thread, as long as the process lives. `claim` is what events call it."""
    stop, lease_s = threading.Event(), parts.config.work.lease_s

    def go_on() -> None:
        while not stop.wait(lease_s / 6):
            try:
                beat(now=parts.clock(), lease_s=lease_s)
            except LeaseLost:
                return  # the end of the work will notice by its token
            except Exception as error:  # noqa: BLE001 - thread boundary: a busy database must not end the lease
                log.event("heartbeat failed, will go on", claim=claim, error=safe(error))

    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def safe(error: Exception) -> str:
    """What of an error may be logged: our own messages hold no patient data, others might."""
    return str(error) if isinstance(error, TriageNodeError) else type(error).__name__
