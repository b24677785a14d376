"""What the web role takes images with: the admission of the listener, by HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from triage_node.admit import Admission
from triage_node.pipeline.parts import Parts
from triage_node.receive.stow import StowReceiver
from triage_node.schedule import Timer, Timers
from triage_node.service.refusals import RefusalCounts

REFUSALS_S: Final = 1.0


@contextmanager
def receiver(parts: Parts) -> Iterator[StowReceiver]:
    """For as long as the role runs. What a crash left without a row is entered by the listener when it starts."""
    admission = Admission(spool=parts.spool, database=parts.database, clock=parts.clock, step=parts.step)
    counts = RefusalCounts(parts.clock)
    timers = Timers([Timer(name="refusals", every_s=REFUSALS_S, job=lambda: counts.write(parts.database))])
    timers.start()
    try:
        yield StowReceiver(
            config=parts.config,
            admit=admission.admit,
            released=admission.released,
            scratch=parts.spool.scratch,
            refused=counts.note,
            may_receive=lambda: parts.spool.free_mb() >= parts.config.node.min_free_mb,
        )
    finally:
        timers.stop()
