"""The listen role: the SCPs."""

from __future__ import annotations

import gc
import threading

from triage_node.admit import Admission
from triage_node.pipeline.committing import note_report
from triage_node.pipeline.parts import Parts
from triage_node.receive import Listener
from triage_node.service.presence import present


def run(parts: Parts, stop: threading.Event) -> None:
    """Receive until `stop` is set; first enter what a crash left without a row."""
    admission = Admission(spool=parts.spool, database=parts.database, clock=parts.clock, step=parts.step)
    admission.recover()
    listener = Listener(
        config=parts.config,
        admit=admission.admit,
        released=admission.released,
        reported=lambda report, destinations: note_report(parts, report, destinations),
        may_receive=lambda: parts.spool.free_mb() >= parts.config.node.min_free_mb,
    )
    port = listener.start()
    gc.freeze()  # what is loaded by now stays: collections of what images leave behind need not look at it
    try:
        with present(parts, "listen", port):
            stop.wait()
    finally:
        listener.stop()
