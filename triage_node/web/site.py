"""What the pages work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from triage_node.config import Config
from triage_node.domain import StoreAnswer
from triage_node.spool import Spool
from triage_node.store.database import Database


class StoreRequest(Protocol):
    """A STOW-RS request while it comes in."""

    def take(self, chunk: bytes) -> bool:
        """The next bytes; whether any more are wanted."""

    def end(self, *, code: int = 0) -> StoreAnswer:
        """The answer; with `code`, an HTTP status, it broke off. To be called exactly once."""


class StowReceiver(Protocol):
    """What takes images that come by STOW-RS: `receive.stow`, which the pages do not load."""

    def begin(
        self, *, authorization: str, content_type: str, address: str, study_uid: str = ""
    ) -> StoreRequest | StoreAnswer:
        """A request that may send its parts, to be ended whatever happens; else the answer to it."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The parts of the pages."""

    config: Config
    database: Database
    spool: Spool
    clock: Callable[[], datetime]
    stow: StowReceiver | None = None
    """None where no source sends by STOW-RS."""
