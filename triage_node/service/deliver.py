"""The deliver role: senders and timers, in one process at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from triage_node import log
from triage_node.deliver.channel import Channel, channel_of
from triage_node.deliver.dicom import DicomDestination
from triage_node.domain import Proof
from triage_node.pipeline.asking import Enquiries
from triage_node.pipeline.attention import call_attention, escalate
from triage_node.pipeline.committing import request_commitment
from triage_node.pipeline.completing import complete_series
from triage_node.pipeline.counting import SourceCounts
from triage_node.pipeline.delivering import deliver_next
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.promising import report_promises
from triage_node.pipeline.reading_back import read_back
from triage_node.pipeline.retention import remove_old
from triage_node.schedule import Housekeeping, Timer, Timers
from triage_node.service.presence import present, this_process
from triage_node.store import board, commitments

LEASE_S: Final = 6.0
COMPLETENESS_S: Final = 0.25
ESCALATION_S: Final = 5.0
POLL_S: Final = 0.1
HOUSEKEEPING_MIN: Final = 5

Job = Callable[[], int]
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
    senders = [thread for channel in _channels(parts) for thread in _threads(parts, channel, ended)]
    senders += _reporters(parts, ended)
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
    for thread in [*senders, *_enquirers(parts, ended)]:
        thread.start()
    while not stop.wait(LEASE_S / 4) and _hold_lease(parts, token):
        pass
    ended.set()
    timers.stop()
    counts.close()
    housekeeping.stop()
    for sender in senders:
        sender.join(timeout=parts.config.delivery.timeout_s)


def _channels(parts: Parts) -> Iterator[Channel]:
    for destination in parts.config.destinations:
        yield channel_of(destination, parts.config, clock=parts.clock)


def _threads(parts: Parts, channel: Channel, ended: threading.Event) -> Iterator[threading.Thread]:
    """One that sends; one that asks whether it arrived, so that no result waits for an answer about another."""
    jobs: dict[str, Job] = {"sender": partial(deliver_next, parts, channel)}
    if isinstance(channel, DicomDestination) and channel.commitment:
        ask = request_commitment if channel.proof is Proof.COMMITTED else read_back
        jobs["commitment"] = partial(ask, parts, channel)
    else:
        commitments.forgo(parts.database, channel.name, now=parts.clock())
    for name, job in jobs.items():
        yield threading.Thread(
            target=_until, args=(ended, job, channel.name), name=f"{name}-{channel.name}", daemon=True
        )


def _enquirers(parts: Parts, ended: threading.Event) -> Iterator[threading.Thread]:
    """One that asks the modality worklist. Nobody waits for its end either: what it asks ends with its time-out."""
    if parts.config.modality_worklist.host:
        job, name = Enquiries(parts).ask_next, "modality worklist"
        yield threading.Thread(target=_until, args=(ended, job, name), name=name, daemon=True)


def _reporters(parts: Parts, ended: threading.Event) -> list[threading.Thread]:
    """One for each source that may ask whether its images are kept."""
    asking = {source.ae_title: source for source in parts.config.sources if source.commitment_peer}
    return [
        threading.Thread(
            target=_until,
            args=(ended, partial(report_promises, parts, source), name),
            name=f"promises-{name}",
            daemon=True,
        )
        for name, source in asking.items()
    ]


def _until(ended: threading.Event, job: Job, destination: str) -> None:
    while not ended.is_set():
        try:
            busy = job()
        except Exception as error:  # noqa: BLE001 - process boundary: a sender must go on; leases give rows back
            log.event("sender failed, will go on", destination=destination, error=type(error).__name__)
            busy = 0
            ended.wait(1.0)
        if not busy:
            ended.wait(POLL_S)
