"""RECEIVING -> READY."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from triage_node import log
from triage_node.complete import MULTI_FRAME_CT, Arrivals, complete_because
from triage_node.pipeline.counting import NOT_COUNTED, Count
from triage_node.pipeline.parts import Parts
from triage_node.store import claims


def complete_series(parts: Parts, counted: Callable[[claims.Receiving], Count] = lambda _: NOT_COUNTED) -> int:
    """Move every series that is complete to READY; returns how many.

    `counted` says how many images the source has of a series; it must not block.
    """
    now = parts.clock()
    moved = 0
    for waiting in claims.receiving(parts.database):
        try:
            moved += _complete(parts, waiting, counted(waiting), now)
        except Exception as error:  # noqa: BLE001 - one series must not hold up the others
            log.event("completeness failed, will look again", series=log.ref(waiting.series_uid), error=_kind(error))
    return moved


def _complete(parts: Parts, waiting: claims.Receiving, count: Count, now: datetime) -> bool:
    database, uid, released = parts.database, waiting.series_uid, waiting.released_at is not None
    because = complete_because(
        Arrivals(
            images=waiting.images,
            open_since=waiting.open_since,
            last_image_at=waiting.last_image_at,
            released_at=waiting.released_at,
            positions_mm=claims.positions_mm(database, uid) if released else (),
            multi_frame=released and claims.holds_class(database, uid, MULTI_FRAME_CT),
            expected=count.images,
            awaited=count.awaited,
        ),
        now=now,
        quiet_s=parts.config.quiet_s(waiting.calling_ae),
        cap_s=parts.config.series.cap_s,
    )
    if because is None or not claims.set_ready(database, waiting, because, now):
        return False
    log.event("series complete", series=log.ref(uid), images=waiting.images, because=because)
    return True


def _kind(error: Exception) -> str:
    return type(error).__name__
