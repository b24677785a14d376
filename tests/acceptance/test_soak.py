"""`triage-node serve` under random kill -9 while series stream in. TRIAGE_NODE_SOAK_SERIES says how many (20)."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.cluster import OPEN, new_series, require_kept, send
from tests.node import Node, alive
from triage_node.errors import TriageNodeError
from triage_node.store import board
from triage_node.store.schema import outbox
from triage_node.testing import DemoPacs

SERIES = int(os.environ.get("TRIAGE_NODE_SOAK_SERIES", "20"))


class Scanner(threading.Thread):
    """Sends series after series, each again and again until every image was acknowledged, as a modality does."""

    def __init__(self, node: Node, folder: Path) -> None:
        super().__init__(daemon=True)
        self.node, self.folder = node, folder
        self.sent: dict[str, tuple[Path, set[str]]] = {}

    def run(self) -> None:
        for _ in range(SERIES):
            series_uid, folder = new_series(self.folder)
            acknowledged: set[str] = set()
            while len(acknowledged) < 28:
                with suppress(TriageNodeError, AssertionError):  # killed while it took them, or not up again yet
                    acknowledged |= send(self.node, folder)
            self.sent[series_uid] = (folder, acknowledged)
            print(f"{len(self.sent)} of {SERIES} series sent", flush=True)


@pytest.mark.timeout(120 * SERIES)
def test_random_kills_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    kills: dict[str, int] = {}
    with DemoPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        node = Node(tmp_path / "node", destinations={"PACS": pacs.port}, notice_after_s=600)
        supervisor = node.start("serve")
        scanner = Scanner(node, tmp_path)
        scanner.start()
        while scanner.is_alive():
            node.wait_for(lambda: len(live_roles(node)) >= 4, what="all roles")
            time.sleep(rng.uniform(0, 10))
            kind, pid = rng.choice([*live_roles(node), ("serve", supervisor.pid)])
            os.kill(pid, signal.SIGKILL)
            kills[kind] = kills.get(kind, 0) + 1
            if kind == "serve":
                supervisor.wait()
                supervisor = node.start("serve")
        node.wait_for(lambda: not OPEN & node.status()["series"].keys(), what="the end of every series", timeout_s=300)
        node.wait_for(lambda: set(node.status()["outbox"]["pacs"]) <= {"SENT", "CANCELLED"}, what="delivery")
        print("killed:", kills)
        assert sum(kills.values()) >= SERIES / 2
        assert len(scanner.sent) == SERIES
        for series_uid, (folder, acknowledged) in scanner.sent.items():
            require_kept(node, folder, acknowledged)
            result = board.result_of(node.database, series_uid)
            assert result is not None
            assert (result["outcome"], len(result["slices"])) == ("ANALYZED", 28)
        stored = [one.sop_uid for one in pacs.objects()]
        assert len(stored) == len(set(stored))
        assert set(stored) == delivered(node)
        node.stop()


def live_roles(node: Node) -> list[tuple[str, int]]:
    """(kind, pid) of every role that beats and runs."""
    beating = board.roles(node.database, now=datetime.now(UTC))
    return [(role.kind, role.pid) for role in beating if alive(role.pid)]


def delivered(node: Node) -> set[str]:
    """What the outbox says was sent."""
    with node.database.reading() as connection:
        return set(connection.execute(sa.select(outbox.c.sop_uid).where(outbox.c.state == "SENT")).scalars())
