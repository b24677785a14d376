"""RECEIVING -> READY."""

from __future__ import annotations

from triage_node import log
from triage_node.complete import Arrivals, complete_because
from triage_node.pipeline.parts import Parts
from triage_node.store import claims


def complete_series(parts: Parts) -> int:
    """Move every series that is complete to READY; returns how many."""
    now = parts.clock()
    moved = 0
    for waiting in claims.receiving(parts.database):
        because = complete_because(
            Arrivals(
                images=waiting.images,
                first_image_at=waiting.first_image_at,
                last_image_at=waiting.last_image_at,
                released_at=waiting.released_at,
                positions_mm=claims.positions_mm(parts.database, waiting.series_uid) if waiting.released_at else (),
            ),
            now=now,
            quiet_s=parts.config.quiet_s(waiting.calling_ae),
            cap_s=parts.config.series.cap_s,
        )
        if because and claims.set_ready(parts.database, waiting, because, now):
            moved += 1
            log.event("series complete", series=log.ref(waiting.series_uid), images=waiting.images, because=because)
    return moved
