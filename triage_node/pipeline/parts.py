"""What the pipeline works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from triage_node.config import Config
from triage_node.spool import Spool
from triage_node.store.database import Database

Clock = Callable[[], datetime]
Step = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a role."""

    config: Config
    database: Database
    spool: Spool
    clock: Clock
    step: Step
