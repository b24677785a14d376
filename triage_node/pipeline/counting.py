"""How many images a source says a series has: asked by C-FIND in threads of their own, answered from memory.

Nothing waits for a source that does not answer; one that answers is waited for, for a moment, before positions alone
say that a series is complete.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from triage_node import log
from triage_node.errors import DeliveryError
from triage_node.peers import Peer, count_instances
from triage_node.pipeline.parts import Parts
from triage_node.store.claims import Receiving

TIMEOUT_S: Final = 5.0
IDLE_S: Final = 2.0
"""A series is asked for when its association was released, or when no image came for so long."""
AGAIN_S: Final = 3.0
PATIENCE_S: Final = 2.0
FORGET_S: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class Count:
    """What is known now of one series."""

    images: int | None
    """None where the source did not say."""
    awaited: bool
    """The source is being asked, and usually answers."""


NOT_COUNTED: Final = Count(images=None, awaited=False)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    count: int | None
    held: int
    """How many images we had when it was asked for."""
    asked_at_s: float
    """Monotonic."""


class SourceCounts:
    """Asks the sources that have `find`; call it with a series, it never blocks."""

    def __init__(self, parts: Parts, *, timeout_s: float = TIMEOUT_S, again_s: float = AGAIN_S) -> None:
        self._parts = parts
        self._timeout_s = timeout_s
        self._again_s = again_s
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._asking: set[str] = set()
        self._failing: set[str] = set()
        self._peers = {
            source.ae_title: Peer(ae_title=ae_title, host=host, port=port)
            for source in parts.config.sources
            for ae_title, host, port in [source.find_peer or ("", "", 0)]
            if host
        }
        self._threads = {name: ThreadPoolExecutor(1, thread_name_prefix=f"find-{name}") for name in self._peers}

    def __call__(self, waiting: Receiving) -> Count:
        """What its source says of a series; asks where that is due."""
        if waiting.calling_ae not in self._threads:
            return NOT_COUNTED
        idle_s, released = self._idle(waiting)
        with self._lock:
            answer = self._answers.get(waiting.series_uid)
            if (released or idle_s >= IDLE_S) and self._is_due(waiting, answer):
                self._asking.add(waiting.series_uid)
                self._threads[waiting.calling_ae].submit(self._ask, waiting)
            up_to_date = answer is not None and answer.held == waiting.images
            alive = waiting.calling_ae not in self._failing
            return Count(
                images=answer.count if answer else None,
                awaited=released and alive and not up_to_date and idle_s < PATIENCE_S,
            )

    def close(self) -> None:
        """Ask no more; what is being asked ends with its time-out."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def _idle(self, waiting: Receiving) -> tuple[float, bool]:
        """For how long nothing has come, s, and whether the association of the last image was released."""
        released = waiting.released_at is not None and waiting.released_at >= waiting.last_image_at
        since = waiting.released_at if released and waiting.released_at else waiting.last_image_at
        return (self._parts.clock() - since) / timedelta(seconds=1), released

    def _is_due(self, waiting: Receiving, answer: _Answer | None) -> bool:
        if waiting.series_uid in self._asking:
            return False
        return answer is None or time.monotonic() - answer.asked_at_s >= self._again_s

    def _ask(self, waiting: Receiving) -> None:
        asked_at_s = time.monotonic()
        try:
            count = self._count(waiting)
            failed = False
        except DeliveryError as error:
            count, failed = None, True
            self._note_failure(waiting.calling_ae, str(error))
        except Exception as error:  # noqa: BLE001 - thread boundary: a series then completes without a count
            count, failed = None, True
            self._note_failure(waiting.calling_ae, type(error).__name__)
        with self._lock:
            self._asking.discard(waiting.series_uid)
            self._answers[waiting.series_uid] = _Answer(count=count, held=waiting.images, asked_at_s=asked_at_s)
            self._forget(asked_at_s)
            if not failed:
                self._failing.discard(waiting.calling_ae)

    def _count(self, waiting: Receiving) -> int | None:
        return count_instances(
            self._peers[waiting.calling_ae],
            calling_ae=self._parts.config.node.ae_title,
            study_uid=waiting.study_uid,
            series_uid=waiting.series_uid,
            timeout_s=self._timeout_s,
        )

    def _note_failure(self, calling_ae: str, error: str) -> None:
        with self._lock:
            first = calling_ae not in self._failing
            self._failing.add(calling_ae)
        if first:  # one line, not one for each series
            log.event("a source does not say how many images there are", source=calling_ae, error=error)

    def _forget(self, now_s: float) -> None:
        old = [uid for uid, answer in self._answers.items() if now_s - answer.asked_at_s > FORGET_S]
        for uid in old:
            del self._answers[uid]
