"""A whole node under test: `triage-node serve`, or single roles, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.tools import require_tool
from triage_node import config as configuration
from triage_node.store import board
from triage_node.store.database import open_database

SETTINGS = """\
[node]
ae_title = "TRIAGE"
host = "127.0.0.1"
port = {port}
data_dir = "data"
database = "{database}"
min_free_mb = 100

[model]
bundle = "{bundle}"

[series]
max_study_age_h = 0
settle_s = {settle_s}
notice_after_s = {notice_after_s}

[work]
lease_s = 4
attempts = {attempts}

[delivery]
backoff_s = 0.2
backoff_cap_s = {backoff_cap_s}
lease_s = 3
timeout_s = {timeout_s}
commitment_timeout_s = 3

[web]
port = 0

[[source]]
ae_title = "CT1"
hosts = ["127.0.0.1"]
quiet_s = 2
"""

DESTINATION = """
[[destination]]
name = "{name}"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}
commitment = {commitment}
"""


class Node:
    """The files and the database of a node, and its processes."""

    def __init__(
        self,
        folder: Path,
        *,
        destinations: dict[str, int],
        settle_s: float = 0.5,
        notice_after_s: float = 0,
        attempts: int = 3,
        bundle: Path | str = "default",
        database: str = "",
        commitment: bool = False,
        port: int = 0,
        timeout_s: float = 30.0,
        backoff_cap_s: float = 300.0,
        more: str = "",
    ) -> None:
        """`more` are further tables of the configuration."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config_path = folder / "triage-node.toml"
        text = SETTINGS.format(
            settle_s=settle_s,
            notice_after_s=notice_after_s,
            attempts=attempts,
            bundle=bundle,
            database=database,
            port=port,
            timeout_s=timeout_s,
            backoff_cap_s=backoff_cap_s,
        )
        for ae_title, port in destinations.items():
            text += DESTINATION.format(
                name=ae_title.lower(), ae_title=ae_title, port=port, commitment=str(commitment).lower()
            )
        self.config_path.write_text(text + more)
        self.config = configuration.load(self.config_path)
        self.database = open_database(self.config.database_url)
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> str:
        """Everything the processes wrote."""
        path = self.folder / "node.log"
        return path.read_text() if path.exists() else ""

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start `python -m MODULE ... --config`; a first word with a dot in it names another module."""
        module, words = (command[0], command[1:]) if "." in command[0] else ("triage_node", command)
        with (self.folder / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words, "--config", str(self.config_path)], stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def status(self) -> dict[str, Any]:
        """What `triage-node status` shows."""
        return board.status(self.database, now=datetime.now(UTC))

    def port(self, role: str = "listen") -> int:
        """Port of a live role; waits for it."""
        ports: list[int] = []

        def is_up() -> bool:
            ports[:] = self._ports(role)
            return bool(ports)

        self.wait_for(is_up, what=f"role {role}")
        return ports[-1]

    def wait_for(self, true: Callable[[], bool], *, what: str, timeout_s: float = 90) -> None:
        """Wait until something holds; fails with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if true():
                return
            time.sleep(0.05)
        raise AssertionError(f"waited in vain for {what}\n{json.dumps(self.status(), indent=1)}\n{self.log[-3000:]}")

    def send(self, folder: Path, *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Send a folder with dcmtk's storescu, as CT1."""
        command = [require_tool("storescu"), "-aet", "CT1", "-aec", "TRIAGE", "+sd", "+sp", "*.dcm", "-R"]
        return subprocess.run(
            [*command, "127.0.0.1", str(self.port()), str(folder)], check=check, capture_output=True, timeout=120
        )

    def restart(self) -> None:
        """End `serve` in order and start it again, with the configuration as the file says now."""
        self._end_processes()
        self.start("serve")

    def stop(self) -> None:
        """End every process in order."""
        self._end_processes()
        self.database.close()

    def _end_processes(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)
        self.processes = []

    def _ports(self, role: str) -> list[int]:
        pids_alive = [info for info in board.roles(self.database, now=datetime.now(UTC)) if alive(info.pid)]
        return [info.port or 0 for info in sorted(pids_alive, key=lambda i: i.started_at) if info.kind == role]


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@contextmanager
def running_node(folder: Path, *roles: str, destinations: dict[str, int], **settings: Any) -> Iterator[Node]:
    """A node that serves, or runs the named roles; stopped on leaving."""
    node = Node(folder, destinations=destinations, **settings)
    try:
        for role in roles or ("serve",):
            node.start(role)
        yield node
    finally:
        node.stop()


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
