"""The roles of a node as processes that a test can kill, a scanner that sends to them, and a PACS."""

from __future__ import annotations

import subprocess
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from tests.node import Node, kill
from triage_node.peers import Peer, StoreResult, send_folder
from triage_node.simulate import axial_geometry, simulate_head, write_series
from triage_node.spool import Spool, dataset_sha256
from triage_node.store import board
from triage_node.testing import DemoPacs

SEEDS = count(1)
OPEN = {"RECEIVING", "READY", "ANALYZING"}


def new_series(parent: Path) -> tuple[str, Path]:
    """A small simulated head CT with blood: (Series Instance UID, folder)."""
    seed = next(SEEDS)
    geometry = axial_geometry(slices=28, rows=96, columns=96, pixel_spacing_mm=2.4)
    head = simulate_head(seed=seed, subtypes=("intraparenchymal",), geometry=geometry, lesion_volume_ml=40)
    folder = parent / f"series-{seed}"
    series_uid = f"2.25.{1000 + seed}"
    write_series(head, folder, seed=seed, created_at=datetime.now(UTC), series_uid=series_uid)
    return series_uid, folder


def send(node: Node, folder: Path) -> set[str]:
    """Send a series; returns what was acknowledged."""
    acknowledged: set[str] = set()

    def note(result: StoreResult) -> None:
        if result.error is None:
            acknowledged.add(result.outgoing.sop_uid)

    peer = Peer(ae_title="TRIAGE", host="127.0.0.1", port=node.port())
    send_folder([folder], peer=peer, calling_ae="CT1", on_result=note)
    return acknowledged


class Cluster:
    """The four roles as processes of their own, and a PACS."""

    def __init__(self, folder: Path, pacs: DemoPacs, *, commitment: bool = False) -> None:
        self.folder = folder
        self.pacs = pacs
        self.node = Node(folder / "node", destinations={"PACS": pacs.port}, notice_after_s=600, commitment=commitment)
        self.settled = {"CONFIRMED" if commitment else "SENT", "CANCELLED"}
        self.roles = {role: self.node.start(role) for role in ("listen", "work", "deliver")}

    def replace(self, role: str, *command: str) -> subprocess.Popen[bytes]:
        """Kill a role and start another process in its place."""
        kill(self.roles[role])
        self.roles[role] = self.node.start(*command)
        self.node.wait_for(lambda: self._is_up(role), what=f"{role} to start")
        return self.roles[role]

    def new_series(self) -> tuple[str, Path]:
        """A small simulated head CT with blood: (Series Instance UID, folder)."""
        return new_series(self.folder)

    def send(self, folder: Path) -> set[str]:
        """Send a series; returns what was acknowledged."""
        return send(self.node, folder)

    def _is_up(self, role: str) -> bool:
        pid = self.roles[role].pid
        return any(info.pid == pid for info in board.roles(self.node.database, now=datetime.now(UTC)))


def require_all_is_well(cluster: Cluster, series_uid: str, folder: Path, acknowledged: set[str]) -> None:
    """The sender's record against spool, ledger, results and PACS."""
    node = cluster.node
    node.wait_for(lambda: board.result_of(node.database, series_uid) is not None, what="a result")
    node.wait_for(lambda: not OPEN & node.status()["series"].keys(), what="the last revision")
    node.wait_for(lambda: set(node.status()["outbox"]["pacs"]) <= cluster.settled, what="delivery")
    require_kept(node, folder, acknowledged)
    result = board.result_of(node.database, series_uid)
    assert result is not None
    assert result["outcome"] == "ANALYZED"
    made = {one["sop_uid"] for one in result["objects"]}
    in_pacs = [stored for stored in cluster.pacs.objects() if stored.study_uid == result["study_uid"]]
    assert {stored.sop_uid for stored in in_pacs} == made
    assert Counter(stored.modality for stored in in_pacs)["SR"] == 1


def require_kept(node: Node, folder: Path, acknowledged: set[str]) -> None:
    """Every acknowledged image is in the spool, as it was sent."""
    spool = Spool(node.config.node.data_dir)
    sent = {dataset_sha256(path) for path in folder.glob("*.dcm")}
    kept = {dataset_sha256(spool.object_path(uid)) for uid in acknowledged}
    assert kept <= sent
    assert len(kept) == len(acknowledged)
