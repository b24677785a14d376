"""A role says in the database, every few seconds, that it is alive and where it listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from triage_node import log
from triage_node.pipeline.parts import Parts
from triage_node.schedule import Timer, Timers
from triage_node.store import board

REPORT_S: Final = 3.0


def this_process() -> str:
    """Host and process id, in 52 characters at most: PostgreSQL takes no more than a column's width."""
    return f"{socket.gethostname()[-44:]}:{os.getpid()}"


@contextmanager
def present(parts: Parts, kind: str, port: int | None) -> Iterator[None]:
    """This role is alive, from entering to leaving."""
    info = board.RoleInfo(
        name=f"{kind}@{this_process()}",
        kind=kind,
        pid=os.getpid(),
        port=port,
        started_at=parts.clock(),
        seen_at=parts.clock(),
    )

    def report() -> None:
        board.report_role(parts.database, board.seen(info, parts.clock()))

    report()
    log.event("listening" if port is not None else "running", role=kind, pid=info.pid, port=port)
    timers = Timers([Timer(name="role", every_s=REPORT_S, job=report)])
    timers.start()
    try:
        yield
    finally:
        timers.stop()
        board.forget_role(parts.database, info.name)
        log.event("stopped", role=kind, pid=info.pid)
