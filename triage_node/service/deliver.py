"""The deliver role: senders and timers, in one process at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from triage_node import log
from triage_node.deliver.dicom import DicomDestination
from triage_node.pipeline.attention import call_attention, escalate
from triage_node.pipeline.committing import request_commitment
from triage_node.pipeline.completing import complete_series
from triage_node.pipeline.counting import SourceCounts
from triage_node.pipeline.delivering import deliver_next
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.retention import remove_old
from triage_node.schedule import Housekeeping, Timer, Timers
from triage_node.service.presence import present, this_process
from triage_node.store import board, commitments

LEASE_S: Final = 6.0
COMPLETENESS_S: Final = 0.25
ESCALATION_S: Final = 5.0
POLL_S: Final = 0.1
HOUSEKEEPING_MIN: Final = 5

Job = Callable[[Parts, DicomDestination], int]
"""What a thread does for a destination, over and over; returns 0 where there was nothing to do."""


def run(parts: Parts, stop: threading.Event) -> None:
    """Senders and timers, while this process holds the lease."""
    with present(parts, "deliver", None):
        token = this_process()
        while not stop.is_set():
            if _hold_lease(parts, token):
                _deliver_while_held(parts, token, stop)
            else:
                stop.wait(1.0)
        board.drop_lease(parts.database, "deliver", token)


def _hold_lease(parts: Parts, token: str) -> bool:
    return board.hold_lease(parts.database, "deliver", token, now=parts.clock(), lease_s=LEASE_S)


def _deliver_while_held(parts: Parts, token: str, stop: threading.Event) -> None:
    """Sender threads of each destination, and the completeness timer, until the lease is lost or the role stops."""
    ended = threading.Event()
    senders = [thread for destination in _destinations(parts) for thread in _threads(parts, destination, ended)]
    counts = SourceCounts(parts)
    timers = Timers(
        [
            Timer(name="complete", every_s=COMPLETENESS_S, job=lambda: complete_series(parts, counts)),
            Timer(name="escalate", every_s=ESCALATION_S, job=lambda: escalate(parts)),
        ]
    )
    housekeeping = Housekeeping(
        {"attention": lambda: call_attention(parts), "retention": lambda: remove_old(parts)},
        every_min=HOUSEKEEPING_MIN,
    )
    timers.start()
    housekeeping.start()
    for sender in senders:
        sender.start()
    while not stop.wait(LEASE_S / 4) and _hold_lease(parts, token):
        pass
    ended.set()
    timers.stop()
    counts.close()
    housekeeping.stop()
    for sender in senders:
        sender.join(timeout=parts.config.delivery.timeout_s)


def _destinations(parts: Parts) -> Iterator[DicomDestination]:
    node, timeout_s = parts.config.node, parts.config.delivery.timeout_s
    for destination in parts.config.destinations:
        yield DicomDestination(destination, calling_ae=node.ae_title, timeout_s=timeout_s)


def _threads(parts: Parts, destination: DicomDestination, ended: threading.Event) -> Iterator[threading.Thread]:
    """One that sends; one that asks for commitment, so that no result waits for an answer about another."""
    jobs: dict[str, Job] = {"sender": deliver_next}
    if destination.commitment:
        jobs["commitment"] = request_commitment
    else:
        commitments.forgo(parts.database, destination.name, now=parts.clock())
    for name, job in jobs.items():
        yield threading.Thread(
            target=_until, args=(ended, job, parts, destination), name=f"{name}-{destination.name}", daemon=True
        )


def _until(ended: threading.Event, job: Job, parts: Parts, destination: DicomDestination) -> None:
    while not ended.is_set():
        try:
            busy = job(parts, destination)
        except Exception as error:  # noqa: BLE001 - process boundary: a sender must go on; leases give rows back
            log.event("sender failed, will go on", destination=destination.name, error=type(error).__name__)
            busy = 0
            ended.wait(1.0)
        if not busy:
            ended.wait(POLL_S)
