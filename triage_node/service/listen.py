"""The listen role: the SCPs."""

from __future__ import annotations

import gc
import threading

from triage_node.admit import Admission
from triage_node.pipeline.committing import note_report
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.promising import note_request
from triage_node.pipeline.workitems import NodeWorklist
from triage_node.receive import Listener
from triage_node.schedule import Timers
from triage_node.service.presence import present
from triage_node.service.refusals import ObjectRefusals, RefusalCounts, write_all, written


def run(parts: Parts, stop: threading.Event) -> None:
    """Receive until `stop` is set; first enter what a crash left without a row."""
    admission = Admission(spool=parts.spool, database=parts.database, clock=parts.clock, step=parts.step)
    admission.recover()
    counts, not_taken = RefusalCounts(parts.clock), ObjectRefusals(parts.clock)
    listener = Listener(
        config=parts.config,
        admit=admission.admit,
        released=admission.released,
        reported=lambda report, destinations: note_report(parts, report, destinations),
        asked=lambda calling_ae, request: note_request(parts, calling_ae, request),
        worklist=NodeWorklist(parts),
        refused=counts.note,
        not_taken=not_taken.note,
        may_receive=lambda: parts.spool.free_mb() >= parts.config.node.min_free_mb,
    )
    timers = Timers(written(parts.database, counts, not_taken))
    port = listener.start()
    timers.start()
    gc.freeze()  # what is loaded by now stays: collections of what images leave behind need not look at it
    try:
        with present(parts, "listen", port):
            stop.wait()
    finally:
        listener.stop()
        timers.stop()
        write_all(parts.database, counts, not_taken)
