"""The work role: one series after the other, inference in a child; what people try when no series waits."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from triage_node import log
from triage_node.errors import InferenceError
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.analyzing import analyze_next
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.trying import try_next
from triage_node.service.presence import present

POLL_S: Final = 0.1


def run(parts: Parts, stop: threading.Event) -> None:
    """Analyse until `stop` is set."""
    model = parts.config.model
    predictor = InferenceProcess(_bundle_folder(model.bundle), timeout_s=model.timeout_s, device=model.device)
    with closing(predictor):
        _warm_up(predictor)
        with present(parts, "work", None):
            while not stop.is_set():
                if not _analyze_or_wait(parts, predictor, stop):
                    stop.wait(POLL_S)


def _bundle_folder(bundle: str) -> Path:
    """Where the bundle is; where it is missing the role runs all the same, so that every series ends as FAILED."""
    try:
        return find_bundle(bundle)
    except InferenceError as error:
        log.event("no model", error=str(error))
        return Path(bundle)


def _warm_up(predictor: InferenceProcess) -> None:
    """So that the first series does not wait for the weights."""
    try:
        predictor.start()
    except InferenceError as error:
        log.event("the model does not start: series will end as FAILED", error=str(error))


def _analyze_or_wait(parts: Parts, predictor: InferenceProcess, stop: threading.Event) -> bool:
    try:
        return analyze_next(parts, predictor) or try_next(parts, predictor, stopping=stop.is_set)
    except Exception as error:  # noqa: BLE001 - process boundary: a worker must go on; leases give series back
        log.event("worker failed, will go on", error=type(error).__name__)
        time.sleep(1.0)
        return False
