"""What the pages work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from triage_node.config import Config
from triage_node.spool import Spool
from triage_node.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Site:
    """The parts of the pages."""

    config: Config
    database: Database
    spool: Spool
    clock: Callable[[], datetime]
