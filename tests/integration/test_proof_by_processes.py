"""The roles as processes: what was sent is looked for, what is asked is promised, and a kill forgets neither."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests import ct
from tests.finding import find_scp
from tests.integration.test_promises import WELL_KNOWN, Scanner, reference
from tests.integration.test_read_back import Pacs
from tests.node import kill
from tests.outgoing import Sender
from tests.tools import free_port
from triage_node import config
from triage_node.peers import STORAGE_COMMITMENT
from triage_node.peers.association import CallingAE
from triage_node.store import board
from triage_node.store.database import Database, open_database
from triage_node.store.receipts import receipts
from triage_node.testing import DemoPacs

# pynetdicom's server, shut down while a caller has only just connected
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

WAIT_S = 60.0
SETTINGS = """\
[node]
host = "127.0.0.1"
port = 0
data_dir = "spool"
database = "sqlite:///{folder}/db.sqlite3"
min_free_mb = 1
[retention]
images_days = 0
free_mb = 0
[delivery]
commitment_timeout_s = 1
[[source]]
ae_title = "CT1"
hosts = ["127.0.0.1"]
commitment_to = "127.0.0.1:{scanner}"
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
find = "QR@127.0.0.1:{find}"
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a role, of the configuration in the folder of the test."""
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            words = [sys.executable, "-m", *command, "--config", str(tmp_path / "triage-node.toml")]
            process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            stack.callback(lambda: process.poll() is None and kill(process))
            return process

        yield start


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert true()


def configure(folder: Path, *, pacs: int = 1, find: int = 1, scanner: int = 1) -> config.Config:
    path = folder / "triage-node.toml"
    path.write_text(SETTINGS.format(folder=folder, pacs=pacs, find=find, scanner=scanner))
    return config.load(path)


def listening_port(database: Database) -> int:
    ports: list[int] = []

    def is_up() -> bool:
        ports[:] = [
            one.port for one in board.roles(database, now=datetime.now(UTC)) if one.kind == "listen" and one.port
        ]
        return bool(ports)

    wait_until(is_up)
    return ports[-1]


def test_a_sender_killed_while_it_looks_asks_again_and_sends_nothing_twice(tmp_path: Path, start: Start) -> None:
    pacs = Pacs()
    with (
        find_scp(pacs.on_find) as find,
        DemoPacs(tmp_path / "pacs") as demo,
        Sender(tmp_path, demo.port, find=f"QR@127.0.0.1:{find}") as sender,
    ):
        pacs.has = sender.publish()
        assert sender.deliver() == 2
        before = [stored.received_at for stored in demo.objects()]
        configure(tmp_path, pacs=demo.port, find=find)
        assert start("tests.killable", "deliver", "objects sought").wait(timeout=WAIT_S) == -9
        assert pacs.levels == []
        start("triage_node", "deliver")
        wait_until(lambda: sender.states() == {"CONFIRMED": 2})
        assert sender.revisions() == {"DELIVERED": 1}
        assert [stored.received_at for stored in demo.objects()] == before


def test_a_scanner_asks_is_told_and_the_ledger_knows_what_was_refused(tmp_path: Path, start: Start) -> None:
    scanner, port = Scanner(), free_port()
    database = open_database(configure(tmp_path, scanner=port).database_url)
    kept, broken = ct.head([0.0, 5.0], matrix=16)
    del broken.StudyInstanceUID
    ct.save([kept, broken], tmp_path / "images")
    ae = CallingAE(ae_title="CT1")
    for sop_class_uid in (STORAGE_COMMITMENT, kept.SOPClassUID):
        ae.add_requested_context(sop_class_uid)
    start("triage_node", "listen")
    with scanner.listening(port):
        association = ae.associate("127.0.0.1", listening_port(database), ae_title="TRIAGE")
        assert [association.send_c_store(image).Status for image in (kept, broken)] == [0x0000, 0xC000]
        status, _ = association.send_n_action(asking_for([kept, broken]), 1, STORAGE_COMMITMENT, WELL_KNOWN)
        association.release()
        assert status.Status == 0x0000
        start("triage_node", "deliver")
        wait_until(lambda: bool(scanner.reports))
        [(_, _, report)] = scanner.reports
        assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [kept.SOPInstanceUID]
        assert [item.ReferencedSOPInstanceUID for item in report.FailedSOPSequence] == [broken.SOPInstanceUID]
    wait_until(lambda: len(list(receipts(database))) == 2)
    refused = [one for one in receipts(database) if one.outcome == "REFUSED"]
    assert [(one.sop_uid, one.reason) for one in refused] == [
        (str(broken.SOPInstanceUID), "0xC000 the object carries no StudyInstanceUID")
    ]
    database.close()


def asking_for(images: list[Dataset]) -> Dataset:
    request = Dataset()
    request.TransactionUID = "2.25.77"
    request.ReferencedSOPSequence = []
    for image in images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference(image)
        request.ReferencedSOPSequence.append(item)
    return request
