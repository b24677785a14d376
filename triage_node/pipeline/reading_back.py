"""SENT -> CONFIRMED by C-FIND, where a destination has no storage commitment: it is asked what it has of each series
of results. What it has not is sent again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from triage_node import log
from triage_node.deliver.dicom import DicomDestination
from triage_node.errors import DeliveryError
from triage_node.peers.find import Find, counts_of_series, instances_in, is_refused
from triage_node.pipeline.committing import TOGETHER_S
from triage_node.pipeline.parts import Parts
from triage_node.store import commitments
from triage_node.store.commitments import Sought

FIND_AFTER_S: Final = 5.0
"""A PACS may need so long to enter what it has taken; asked too early, it would get everything twice."""


def read_back(parts: Parts, destination: DicomDestination) -> bool:
    """Look for what is due at one destination; returns whether anything was."""
    now, settings = parts.clock(), parts.config.delivery
    if not commitments.has_due(parts.database, destination.name, now=now):
        return False
    attempts = settings.commitment_attempts
    dead = commitments.give_up(parts.database, destination.name, now=now, attempts=attempts, lacks="answer to C-FIND")
    if dead:
        log.event("dead letters: no answer to C-FIND", destination=destination.name, count=dead)
    later = now + timedelta(seconds=settings.commitment_timeout_s)
    sought = commitments.seek(parts.database, destination.name, now=now, ask_again_at=later, slack_s=TOGETHER_S)
    parts.step("objects sought")
    if sought:
        _look_up(parts, destination, sought)
    return True


def _look_up(parts: Parts, destination: DicomDestination, sought: Sequence[Sought]) -> None:
    """Series by series over one association; those that it is lost before are asked for later."""
    waiting: dict[tuple[str, str], list[Sought]] = defaultdict(list)
    for one in sought:
        waiting[one.study_uid, one.series_uid].append(one)
    try:
        with destination.querying() as find:
            for (study_uid, series_uid), some in list(waiting.items()):
                found = _found(parts, destination, find, study_uid, series_uid, some)
                _note(parts, destination, some, found)
                del waiting[study_uid, series_uid]
    except DeliveryError as error:
        _put_off(parts, destination.name, [one for some in waiting.values() for one in some], error)


def _found(
    parts: Parts,
    destination: DicomDestination,
    find: Find,
    study_uid: str,
    series_uid: str,
    sought: Sequence[Sought],
) -> set[str]:
    """SOP Instance UIDs of what is there: by name, or all where it counts as many of the series as it was sent."""
    try:
        named = set(instances_in(find, study_uid=study_uid, series_uid=series_uid))
    except DeliveryError as error:
        if not is_refused(error):
            raise
        named = set()
    if named:
        return named
    # before it is counted: what is sent meanwhile need not be there
    sent = commitments.sent_in_series(parts.database, destination.name, series_uid)
    counts = counts_of_series(find, study_uid=study_uid, series_uid=series_uid)
    known = [count for count in counts if count is not None]
    if counts and not known:
        raise DeliveryError(
            f"{destination.name} says neither which objects it has nor how many; remove find", retryable=False
        )
    return {one.sop_uid for one in sought} if max(known, default=0) >= sent else set()


def _note(parts: Parts, destination: DicomDestination, sought: Sequence[Sought], found: set[str]) -> None:
    settings = parts.config.delivery
    noted = commitments.note_looked_up(
        parts.database,
        destination.name,
        sought,
        found=found,
        now=parts.clock(),
        attempts=settings.commitment_attempts,
        send_again_at=lambda asks: parts.clock() + timedelta(seconds=settings.backoff_after_s(asks)),
    )
    parts.step("answer to C-FIND noted")
    log.event(
        "looked for by C-FIND",
        destination=noted.destination,
        found=noted.confirmed,
        sent_again=noted.again,
        dead_letters=noted.dead,
    )


def _put_off(parts: Parts, destination: str, sought: Sequence[Sought], error: DeliveryError) -> None:
    asks = max(one.asks for one in sought)
    later = parts.clock() + timedelta(seconds=parts.config.delivery.backoff_after_s(asks))
    commitments.put_off(parts.database, sought, error=str(error), ask_again_at=later if error.retryable else None)
    log.event(
        "results could not be looked for" + (", will ask again" if error.retryable else ": dead letters"),
        destination=destination,
        objects=len(sought),
        error=str(error),
    )
