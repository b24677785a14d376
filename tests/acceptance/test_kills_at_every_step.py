"""Every role dies by kill -9 at every named step, again and again, while series stream in; Orthanc takes the results.

TRIAGE_NODE_KILLS says how often in all (200).
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.cluster import OPEN, new_series, require_kept, send
from tests.node import Node
from tests.orthanc import Orthanc, running_orthanc
from triage_node.errors import TriageNodeError
from triage_node.store import board
from triage_node.store.receipts import receipts
from triage_node.store.schema import outbox, result, revision

KILLS = int(os.environ.get("TRIAGE_NODE_KILLS", "200"))
STEPS = {
    "listen": ("identified", "spooled", "entered"),
    "work": ("claimed", "analyzed", "kept", "published"),
    "deliver": ("parcels claimed", "answered", "noted"),
}
IMAGES = 28


class Mortal(threading.Thread):
    """A role that is started again whenever it died at the step that it was given; the least used step comes next."""

    def __init__(self, node: Node, role: str, killed: Counter[str], rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.node, self.role, self.killed, self.rng = node, role, killed, rng
        self.ended = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        while not self.ended.is_set():
            step = min(STEPS[self.role], key=lambda name: (self.killed[name], self.rng.random()))
            times = self.rng.randint(1, 2 * IMAGES if self.role == "listen" else 2)
            self.process = self.node.start("tests.killable", self.role, step, "--times", str(times))
            while self.process.poll() is None and not self.ended.wait(0.05):
                pass
            if self.process.poll() == -9:
                self.killed[step] += 1

    def immortal(self) -> None:
        """Let what runs die or end, and start the role as it is shipped."""
        self.ended.set()
        self.join()
        assert self.process
        self.process.kill()
        self.process.wait()
        self.node.start(self.role)


class Scanner(threading.Thread):
    """Sends series after series, each until every image was acknowledged, and keeps a record of its own."""

    def __init__(self, node: Node, folder: Path) -> None:
        super().__init__(daemon=True)
        self.node, self.folder, self.stop = node, folder, threading.Event()
        self.record: dict[str, tuple[Path, set[str]]] = {}

    def run(self) -> None:
        while not self.stop.is_set():
            series_uid, folder = new_series(self.folder)
            acknowledged: set[str] = set()
            while len(acknowledged) < IMAGES:
                with suppress(TriageNodeError, AssertionError):  # dead while it took them, or not up again yet
                    acknowledged |= send(self.node, folder)
            self.record[series_uid] = (folder, acknowledged)


@pytest.mark.timeout(60 + 30 * KILLS)
def test_kills_at_every_step_lose_and_double_nothing(tmp_path: Path) -> None:
    killed: Counter[str] = Counter()
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        destinations = {"ORTHANC": orthanc.dicom_port}
        node = Node(tmp_path / "node", destinations=destinations, notice_after_s=600, attempts=1000)
        mortals = [Mortal(node, role, killed, random.Random(role)) for role in STEPS]
        scanner = Scanner(node, tmp_path)
        for thread in (*mortals, scanner):
            thread.start()
        while killed.total() < KILLS or min(killed[step] for steps in STEPS.values() for step in steps) < 3:
            time.sleep(5)
            assert scanner.is_alive()
            print(f"{killed.total()} of {KILLS} kills, {len(scanner.record)} series acknowledged", flush=True)
        for mortal in mortals:
            mortal.immortal()
        scanner.stop.set()
        scanner.join()
        wait_for_the_end(node)
        print("killed at:", dict(killed))
        audit(node, orthanc, scanner.record)
        node.stop()


def wait_for_the_end(node: Node) -> None:
    node.wait_for(lambda: not OPEN & node.status()["series"].keys(), what="the end of every series", timeout_s=900)
    node.wait_for(
        lambda: set(node.status()["outbox"]["orthanc"]) <= {"SENT", "CANCELLED"}, what="delivery", timeout_s=300
    )


def audit(node: Node, orthanc: Orthanc, record: dict[str, tuple[Path, set[str]]]) -> None:
    """The scanner's record against spool, ledger, results, outbox and Orthanc."""
    ledger = {receipt.sop_uid: receipt for receipt in receipts(node.database)}
    for series_uid, (folder, acknowledged) in record.items():
        assert len(acknowledged) == IMAGES
        require_kept(node, folder, acknowledged)
        assert {ledger[sop_uid].outcome for sop_uid in acknowledged} == {"ANALYZED"}
        ended = board.result_of(node.database, series_uid)
        assert ended is not None
        assert (ended["outcome"], len(ended["slices"])) == ("ANALYZED", IMAGES)
        stored = orthanc.in_study(ended["study_uid"])
        assert {tags["SOPInstanceUID"] for tags in stored} == delivered(node, series_uid)
        assert {made["sop_uid"] for made in ended["objects"]} <= delivered(node, series_uid)
    print(f"audited {len(record)} series, {sum(len(acked) for _, acked in record.values())} images")


def delivered(node: Node, series_uid: str) -> set[str]:
    """What the outbox says was sent of a series: of each published revision one report, no object twice."""
    query = (
        sa.select(outbox.c.sop_uid, result.c.kind, revision.c.revision)
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .join(revision, revision.c.id == outbox.c.revision_id)
        .where(outbox.c.state == "SENT", revision.c.series_uid == series_uid)
    )
    with node.database.reading() as connection:
        rows = connection.execute(query).all()
    reports = Counter(row.revision for row in rows if row.kind in ("SR", "NOTICE_SR"))
    assert set(reports.values()) == {1}
    return {row.sop_uid for row in rows}
