"""Refused callers are counted in memory and written now and then: no association waits for the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from threading import Lock
from typing import Final

from triage_node.receive.callers import Caller, Refusal, printable
from triage_node.store import refusals
from triage_node.store.database import Database
from triage_node.store.refusals import Refused

DIFFERENT: Final = 500
"""So many are told apart between two writes; the others are counted together."""
_OTHERS: Final = ("", "", "", "more different callers at a time than are told apart")


class RefusalCounts:
    """Who was refused since the last write. Safe to share between threads."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str, str, str], Refused] = {}
        self._lock = Lock()

    def note(self, caller: Caller, refusal: Refusal) -> None:
        """One more refusal."""
        names = printable(caller.calling_ae), printable(caller.called_ae), printable(caller.address, 64)
        key, advice = (*names, refusal.reason), refusal.advice[:1000]
        with self._lock:
            if key not in self._told and len(self._told) >= DIFFERENT:
                key, advice = _OTHERS, "each is in the log of the node"
            self._told[key] = _one_more(self._told.get(key), key, advice, self._clock())

    def write(self, database: Database) -> None:
        """Hand over what was counted. What the database does not take is lost here; the log has it."""
        with self._lock:
            told, self._told = self._told, {}
        if told:
            refusals.record(database, told.values())


def _one_more(before: Refused | None, key: tuple[str, str, str, str], advice: str, now: datetime) -> Refused:
    if before:
        return replace(before, count=before.count + 1, last_at=now)
    calling_ae, called_ae, address, reason = key
    return Refused(
        calling_ae=calling_ae,
        called_ae=called_ae,
        address=address,
        reason=reason,
        advice=advice,
        count=1,
        first_at=now,
        last_at=now,
    )
