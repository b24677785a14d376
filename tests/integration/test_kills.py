"""kill -9 of each role at each step, and a restart: nothing acknowledged is lost, no result exists twice."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from tests.node import Node, kill
from triage_node.peers import Peer, StoreResult, send_folder
from triage_node.simulate import axial_geometry, simulate_head, write_series
from triage_node.spool import Spool, dataset_sha256
from triage_node.store import board
from triage_node.testing import DemoPacs

SEEDS = count(1)
OPEN = {"RECEIVING", "READY", "ANALYZING"}


class Cluster:
    """The four roles as processes of their own, and a PACS."""

    def __init__(self, folder: Path, pacs: DemoPacs) -> None:
        self.folder = folder
        self.pacs = pacs
        self.node = Node(folder / "node", destinations={"PACS": pacs.port}, notice_after_s=600)
        self.roles = {role: self.node.start(role) for role in ("listen", "work", "deliver")}

    def replace(self, role: str, *command: str) -> subprocess.Popen[bytes]:
        """Kill a role and start another process in its place."""
        kill(self.roles[role])
        self.roles[role] = self.node.start(*command)
        self.node.wait_for(lambda: self._is_up(role), what=f"{role} to start")
        return self.roles[role]

    def new_series(self) -> tuple[str, Path]:
        """A small simulated head CT with blood: (Series Instance UID, folder)."""
        seed = next(SEEDS)
        geometry = axial_geometry(slices=28, rows=96, columns=96, pixel_spacing_mm=2.4)
        head = simulate_head(seed=seed, subtypes=("intraparenchymal",), geometry=geometry, lesion_volume_ml=40)
        folder = self.folder / f"series-{seed}"
        series_uid = f"2.25.{1000 + seed}"
        write_series(head, folder, seed=seed, created_at=datetime.now(UTC), series_uid=series_uid)
        return series_uid, folder

    def send(self, folder: Path) -> set[str]:
        """Send a series; returns what was acknowledged."""
        acknowledged: set[str] = set()

        def note(result: StoreResult) -> None:
            if result.error is None:
                acknowledged.add(result.outgoing.sop_uid)

        peer = Peer(ae_title="TRIAGE", host="127.0.0.1", port=self.node.port())
        send_folder([folder], peer=peer, calling_ae="CT1", on_result=note)
        return acknowledged

    def _is_up(self, role: str) -> bool:
        pid = self.roles[role].pid
        return any(info.pid == pid for info in board.roles(self.node.database, now=datetime.now(UTC)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("kills")
    with DemoPacs(folder / "pacs", ae_title="PACS") as pacs:
        made = Cluster(folder, pacs)
        yield made
        made.node.stop()


def require_all_is_well(cluster: Cluster, series_uid: str, folder: Path, acknowledged: set[str]) -> None:
    """The sender's record against spool, ledger, results and PACS."""
    node = cluster.node
    node.wait_for(lambda: board.result_of(node.database, series_uid) is not None, what="a result")
    node.wait_for(lambda: not OPEN & node.status()["series"].keys(), what="the last revision")
    node.wait_for(lambda: set(node.status()["outbox"]["pacs"]) <= {"SENT", "CANCELLED"}, what="delivery")
    sent = {dataset_sha256(path) for path in folder.glob("*.dcm")}
    kept = {dataset_sha256(path) for path in node_paths(node, acknowledged)}
    assert kept <= sent
    assert len(kept) == len(acknowledged)
    result = board.result_of(node.database, series_uid)
    assert result is not None
    assert result["outcome"] == "ANALYZED"
    made = {one["sop_uid"] for one in result["objects"]}
    in_pacs = [stored for stored in cluster.pacs.objects() if stored.study_uid == result["study_uid"]]
    assert {stored.sop_uid for stored in in_pacs} == made
    assert Counter(stored.modality for stored in in_pacs)["SR"] == 1


def node_paths(node: Node, sop_uids: set[str]) -> list[Path]:
    return [Spool(node.config.node.data_dir).object_path(uid) for uid in sop_uids]


@pytest.mark.parametrize("step", ["identified", "spooled", "entered"])
def test_a_listener_killed_while_receiving_loses_nothing_it_acknowledged(cluster: Cluster, step: str) -> None:
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("listen", "tests.killable", "listen", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=30) == -9
    cluster.replace("listen", "listen")
    acknowledged |= cluster.send(folder)
    assert len(acknowledged) == 28
    require_all_is_well(cluster, series_uid, folder, acknowledged)


def test_a_listener_killed_after_an_image_was_acknowledged_keeps_it(cluster: Cluster) -> None:
    series_uid, folder = cluster.new_series()
    acknowledged = cluster.send(folder)
    cluster.replace("listen", "listen")
    require_all_is_well(cluster, series_uid, folder, acknowledged)


@pytest.mark.parametrize("step", ["claimed", "analyzed", "kept", "published"])
def test_a_worker_killed_in_flight_is_replaced_and_the_result_exists_once(cluster: Cluster, step: str) -> None:
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("work", "tests.killable", "work", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=60) == -9
    cluster.replace("work", "work")
    require_all_is_well(cluster, series_uid, folder, acknowledged)


@pytest.mark.parametrize("step", ["parcels claimed", "answered", "noted"])
def test_a_sender_killed_in_flight_sends_the_same_objects_again(cluster: Cluster, step: str) -> None:
    series_uid, folder = cluster.new_series()
    dying = cluster.replace("deliver", "tests.killable", "deliver", step)
    acknowledged = cluster.send(folder)
    assert dying.wait(timeout=60) == -9
    cluster.replace("deliver", "deliver")
    require_all_is_well(cluster, series_uid, folder, acknowledged)
