"""Refused callers and objects are counted in memory and written now and then: none waits for the database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from threading import Lock
from typing import Final

from triage_node.receive.callers import Caller, Refusal, printable
from triage_node.schedule import Timer
from triage_node.store import not_taken, refusals
from triage_node.store.database import Database
from triage_node.store.not_taken import NotTaken
from triage_node.store.refusals import Refused

REFUSALS_S: Final = 1.0
"""From one write to the next."""
DIFFERENT: Final = 500
"""So many are told apart between two writes; the others are counted together."""
OBJECTS: Final = 10_000
"""So many objects are kept between two writes; of what is refused beyond, only the log tells."""
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


class ObjectRefusals:
    """Which objects were refused since the last write, and why. Safe to share between threads."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._told: dict[str, NotTaken] = {}
        self._lock = Lock()

    def note(self, sop_uid: str, calling_ae: str, status: int, reason: str) -> None:
        """One more refusal."""
        now, name = self._clock(), printable(sop_uid, 64)
        with self._lock:
            before = self._told.get(name)
            if before is None and len(self._told) >= OBJECTS:
                return
            self._told[name] = NotTaken(
                sop_uid=name,
                calling_ae=printable(calling_ae),
                status=status,
                reason=printable(reason, 200),
                count=before.count + 1 if before else 1,
                first_at=before.first_at if before else now,
                last_at=now,
            )

    def write(self, database: Database) -> None:
        """Hand over what was noted. What the database does not take is lost here; the log has it."""
        with self._lock:
            told, self._told = self._told, {}
        if told:
            not_taken.record(database, told.values())


def written(database: Database, callers: RefusalCounts, objects: ObjectRefusals) -> list[Timer]:
    """Timers that write them."""
    return [
        Timer(name="refusals", every_s=REFUSALS_S, job=lambda: callers.write(database)),
        Timer(name="refused objects", every_s=REFUSALS_S, job=lambda: objects.write(database)),
    ]


def write_all(database: Database, callers: RefusalCounts, objects: ObjectRefusals) -> None:
    """The rest, when a role stops."""
    with suppress(Exception):  # the log has them, and nothing may hold up a role that stops
        callers.write(database)
        objects.write(database)
