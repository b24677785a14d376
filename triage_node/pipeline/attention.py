"""What waits for a person: said in the log every few minutes for as long as it lasts, and by `triage-node check`."""

from __future__ import annotations

from datetime import timedelta

from triage_node import log
from triage_node.config import WebhookDestination
from triage_node.pipeline.parts import Parts
from triage_node.store import opinions, outbox


def call_attention(parts: Parts) -> None:
    """One event for each kind of thing that only a person can move on."""
    configured = {destination.name for destination in parts.config.destinations}
    letters = outbox.dead_letters(parts.database)
    if letters:
        log.event("dead letters wait", count=letters, advice="see `triage-node status`, then `triage-node retry`")
    for name in outbox.destinations_in_use(parts.database):
        if name not in configured:
            log.event("results wait for a destination that is not configured", destination=name)
    if parts.spool.free_mb() < parts.config.node.min_free_mb:
        log.event("the disk is full: images are refused", free_mb=round(parts.spool.free_mb()))


def escalate(parts: Parts) -> None:
    """STAT results that nobody acknowledged in time: an event each, once, and row and webhooks say so."""
    within_min = parts.config.web.acknowledge_within_min
    if within_min:
        now = parts.clock()
        before = now - timedelta(minutes=within_min)
        destinations = parts.config.destinations
        tell = [each.name for each in destinations if isinstance(each, WebhookDestination) and each.escalations]
        for series_uid in opinions.escalate(parts.database, before=before, now=now, tell=tell):
            log.event("a STAT result is not acknowledged", series=log.ref(series_uid), within_min=within_min)
