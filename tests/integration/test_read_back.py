"""C-FIND read-back: a result counts as delivered only when it is found at a PACS that has no storage commitment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import evt

from tests.finding import Answers, find_scp, match
from tests.orthanc import running_orthanc
from tests.outgoing import Sender
from tests.tools import free_port
from triage_node import config, preflight
from triage_node.domain import Proof
from triage_node.errors import ConfigError
from triage_node.store import worklist
from triage_node.store.receipts import receipts
from triage_node.testing import DemoPacs
from triage_node.web import words

# pynetdicom's server, shut down while a caller has only just connected
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

AFTER_S = 6.0


class Pacs:
    """What a PACS answers to C-FIND: the objects that it says it has, by level."""

    def __init__(self) -> None:
        self.has: list[str] = []
        self.count: int | None = None
        self.refuses_images = False
        self.levels: list[str] = []

    def on_find(self, event: evt.Event) -> Answers:
        """The answer to one query."""
        level = event.identifier.QueryRetrieveLevel
        self.levels.append(level)
        if level == "IMAGE" and self.refuses_images:
            yield 0xA900, None
            return
        if level == "IMAGE":
            yield from (match("IMAGE", SOPInstanceUID=uid) for uid in self.has)
        elif self.count is None or self.count:
            counted = {} if self.count is None else {"NumberOfSeriesRelatedInstances": self.count}
            yield match("SERIES", **counted)
        yield 0x0000, None


@contextmanager
def sending(folder: Path, pacs: Pacs, **settings: object) -> Iterator[Sender]:
    """A node whose results go to one place and are looked for in another."""
    with (
        find_scp(pacs.on_find) as port,
        DemoPacs(folder / "pacs") as demo,
        Sender(folder, demo.port, find=f"QR@127.0.0.1:{port}", **settings) as sender,  # type: ignore[arg-type]
    ):
        yield sender


def results_in_ledger(sender: Sender) -> set[str]:
    return {receipt.results for receipt in receipts(sender.parts.database)}


def on_the_worklist(sender: Sender) -> list[str]:
    [row] = worklist.page(sender.parts.database, worklist.Wanted()).rows
    return [each["text"] for each in words.delivery(row)]


def test_orthanc_is_asked_what_it_has_and_gets_again_what_it_lost(tmp_path: Path) -> None:
    with (
        running_orthanc(tmp_path / "orthanc", modalities={"triage": ["TRIAGE", "127.0.0.1", 1]}) as orthanc,
        Sender(tmp_path, orthanc.dicom_port, ae_title="ORTHANC", find=f"127.0.0.1:{orthanc.dicom_port}") as sender,
    ):
        sender.publish()
        assert sender.deliver() == 2
        assert sender.revisions() == {"REPORTED": 1}
        assert on_the_worklist(sender) == ["sent to pacs, not confirmed yet"]
        assert not sender.ask(after_s=1)  # a PACS may need a moment
        orthanc.delete(f"/instances/{orthanc.get('/instances')[0]}")
        assert sender.ask(after_s=AFTER_S)
        assert sender.states() == {"CONFIRMED": 1, "PENDING": 1}
        assert results_in_ledger(sender) == {"pacs: 1 found by C-FIND, 1 missing, sent again"}
        assert on_the_worklist(sender) == ["missing in pacs: sending again"]
        sender.clock.advance(5)
        assert sender.deliver() == 1
        assert sender.ask(after_s=AFTER_S)
        assert sender.states() == {"CONFIRMED": 2}
        assert sender.revisions() == {"DELIVERED": 1}
        assert len(orthanc.instances()) == 2
        assert results_in_ledger(sender) == {"pacs: 2 found by C-FIND"}
        assert on_the_worklist(sender) == ["in pacs, found by C-FIND"]
        assert not sender.ask(after_s=10_000)


def test_what_is_never_found_is_a_dead_letter(tmp_path: Path) -> None:
    pacs = Pacs()
    pacs.has, pacs.count = ["1.2.3"], 1
    with sending(tmp_path, pacs, commitment_attempts=2) as sender:
        sender.publish(classes=[CTImageStorage])
        for expected in ("PENDING", "DEAD"):
            sender.clock.advance(10)
            assert sender.deliver() == 1
            assert sender.ask(after_s=AFTER_S)
            assert sender.states() == {expected: 1}
        assert sender.letters() == ["sent, but not found there by C-FIND"]
        assert results_in_ledger(sender) == {"pacs: 1 missing"}
        assert on_the_worklist(sender) == ["missing in pacs: sent, but not found there by C-FIND"]


@pytest.mark.parametrize(("count", "states"), [(2, {"CONFIRMED": 2}), (1, {"PENDING": 2}), (0, {"PENDING": 2})])
def test_a_pacs_that_refuses_image_level_is_asked_for_the_number(
    tmp_path: Path, count: int, states: dict[str, int]
) -> None:
    pacs = Pacs()
    pacs.refuses_images, pacs.count = True, count
    with sending(tmp_path, pacs) as sender:
        sender.publish()
        sender.deliver()
        assert sender.ask(after_s=AFTER_S)
        assert pacs.levels == ["IMAGE", "SERIES"]  # one query for both objects, of one series
        assert sender.states() == states


def test_a_pacs_that_says_neither_names_nor_numbers_is_named_in_the_dead_letter(tmp_path: Path) -> None:
    pacs = Pacs()
    pacs.refuses_images = True
    with sending(tmp_path, pacs) as sender:
        sender.publish(classes=[CTImageStorage])
        sender.deliver()
        sender.ask(after_s=AFTER_S)
        assert sender.letters() == ["pacs says neither which objects it has nor how many; remove find"]


def test_a_pacs_that_cannot_be_asked_is_asked_again_with_backoff_and_sent_nothing(tmp_path: Path) -> None:
    with (
        DemoPacs(tmp_path / "pacs") as demo,
        Sender(tmp_path, demo.port, find=f"127.0.0.1:{free_port()}", commitment_attempts=2) as sender,
    ):
        sender.publish()
        sender.deliver()
        assert sender.ask(after_s=AFTER_S)
        assert sender.states() == {"SENT": 2}
        assert not sender.ask(after_s=1)
        assert sender.ask(after_s=4)
        assert sender.deliver() == 0
        assert sender.ask(after_s=10)
        assert sender.letters() == ["sent, but no answer to C-FIND after 2 request(s)"] * 2


def test_the_example_of_the_guide_loads_and_asks_where_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/channels/proof.md").read_text()
    path = tmp_path / "triage-node.toml"
    path.write_text(page.split("<!-- example: find -->\n```toml\n")[1].split("```")[0])
    [destination] = config.load(path).destinations
    assert isinstance(destination, config.Destination)
    assert (destination.proof, destination.find_peer) == (Proof.FOUND, ("QR_SCP", "10.1.2.3", 105))


def test_one_way_to_confirm_is_enough_and_the_preflight_looks_at_it(tmp_path: Path) -> None:
    with sending(tmp_path, Pacs()) as sender:
        [finding] = [
            finding
            for finding in preflight.check(sender.config, load_model=lambda: "none", now=sender.clock())
            if finding.what == "find of pacs"
        ]
        assert finding.ok
    path = tmp_path / "triage-node.toml"
    path.write_text(
        '[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "h"\nport = 104\ncommitment = true\nfind = "h:104"\n'
    )
    with pytest.raises(ConfigError, match=r"triage-node.toml:7: a destination confirms in one way; remove find"):
        config.load(path)
