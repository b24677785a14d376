"""What the web role takes images with: the admission of the listener, by HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from triage_node.admit import Admission
from triage_node.pipeline.parts import Parts
from triage_node.receive.stow import StowReceiver
from triage_node.schedule import Timers
from triage_node.service.refusals import ObjectRefusals, RefusalCounts, write_all, written


@contextmanager
def receiver(parts: Parts) -> Iterator[StowReceiver]:
    """For as long as the role runs. What a crash left without a row is entered by the listener when it starts."""
    admission = Admission(spool=parts.spool, database=parts.database, clock=parts.clock, step=parts.step)
    counts, not_taken = RefusalCounts(parts.clock), ObjectRefusals(parts.clock)
    timers = Timers(written(parts.database, counts, not_taken))
    timers.start()
    try:
        yield StowReceiver(
            config=parts.config,
            admit=admission.admit,
            released=admission.released,
            scratch=parts.spool.scratch,
            refused=counts.note,
            not_taken=not_taken.note,
            may_receive=lambda: parts.spool.free_mb() >= parts.config.node.min_free_mb,
        )
    finally:
        timers.stop()
        write_all(parts.database, counts, not_taken)
