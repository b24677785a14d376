"""The composition root: builds each role from its parts.

    listen    C-STORE and C-ECHO in, durable before success
    work      claims series and analyses them, inference in a child process
    deliver   the outbox, one sender thread per destination, and the timers; one holder at a time by a lease
    web       the status page

They meet only in the database and the spool; any of them may be killed at any instant. Each role loads only what it
needs; `supervise` keeps them running.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Final, cast

from triage_node.admit import no_step
from triage_node.config import Config
from triage_node.pipeline.parts import Parts, Step
from triage_node.spool import Spool
from triage_node.store.database import open_database

ROLES: Final = ("listen", "work", "deliver", "web")

Role = Callable[[Parts, threading.Event], None]


def utc_now() -> datetime:
    """The clock of a running node."""
    return datetime.now(UTC)


def role(kind: str) -> Role:
    """The function `run` of a role's module, loaded now: no other role's libraries come with it."""
    if kind not in ROLES:
        raise ValueError(f"{kind} is no role")
    return cast(Role, import_module(f"triage_node.service.{kind}").run)


def run_role(kind: str, config: Config, stop: threading.Event, *, step: Step = no_step) -> None:
    """Run one role until `stop` is set."""
    parts = Parts(
        config=config,
        database=open_database(config.database_url),
        spool=Spool(config.node.data_dir),
        clock=utc_now,
        step=step,
    )
    try:
        role(kind)(parts, stop)
    finally:
        parts.database.close()
