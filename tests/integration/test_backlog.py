"""Destinations that were down, are slow, or refuse: each object has a clear end, none is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage, SegmentationStorage

from tests.outgoing import Sender
from tests.tools import free_port
from triage_node import cli
from triage_node.domain import Priority
from triage_node.store import outbox
from triage_node.testing import DemoPacs


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    with Sender(tmp_path, free_port(), commitment=False) as made:
        yield made


def test_after_twenty_tries_in_vain_all_arrives_and_the_urgent_first(sender: Sender, tmp_path: Path) -> None:
    order = [Priority.ROUTINE, Priority.NONE, Priority.HIGH, Priority.STAT]
    published = {priority: sender.publish(priority=priority) for priority in order}
    for _ in range(20):
        assert sender.deliver() == 8
        assert sender.deliver() == 0  # waits for its backoff
        sender.clock.advance(300)
    assert sender.states() == {"PENDING": 8}
    with DemoPacs(tmp_path / "pacs", port=sender.table.port) as pacs:
        assert sender.deliver() == 8
        arrived = [stored.sop_uid for stored in pacs.objects()]
    urgent_first = [Priority.STAT, Priority.HIGH, Priority.NONE, Priority.ROUTINE]
    assert arrived == [uid for priority in urgent_first for uid in published[priority]]
    assert sender.revisions() == {"DELIVERED": 4}


def test_what_becomes_urgent_overtakes_a_backlog(sender: Sender, tmp_path: Path) -> None:
    for _ in range(20):
        sender.publish(priority=Priority.ROUTINE)
    with DemoPacs(tmp_path / "pacs", port=sender.table.port) as pacs:
        sender.deliver()
        urgent = sender.publish(priority=Priority.STAT)
        sent = sender.deliver()
        arrived = [stored.sop_uid for stored in pacs.objects()][-sent:]
        assert arrived[: len(urgent)] == urgent
        while sender.deliver():
            pass
        assert len(pacs.objects()) == 42


def test_a_destination_that_stays_away_ends_in_dead_letters_that_a_retry_sends(tmp_path: Path) -> None:
    with Sender(tmp_path, free_port(), commitment=False, attempts=3) as sender:
        sender.publish()
        for _ in range(3):
            assert sender.deliver() == 2
            sender.clock.advance(300)
        assert sender.states() == {"DEAD": 2}
        assert all("cannot be reached; is it running" in letter for letter in sender.letters())
        outbox.retry_dead(sender.parts.database, destination="pacs", now=sender.clock())
        with DemoPacs(tmp_path / "pacs", port=sender.table.port):
            assert sender.deliver() == 2
        assert sender.states() == {"SENT": 2}


def test_a_destination_slower_than_its_timeout_is_tried_again_and_gets_each_object_once(tmp_path: Path) -> None:
    with Sender(tmp_path, free_port(), commitment=False, timeout_s=0.5) as sender:
        published = sender.publish()
        with DemoPacs(tmp_path / "slow", port=sender.table.port, delay_s=1.5):
            assert sender.deliver() == 2
            assert sender.states() == {"PENDING": 2}
        with DemoPacs(tmp_path / "pacs", port=sender.table.port) as pacs:
            sender.clock.advance(5)
            assert sender.deliver() == 2
            assert [stored.sop_uid for stored in pacs.objects()] == published
        assert sender.revisions() == {"DELIVERED": 1}


@pytest.mark.parametrize("refuses", ["class", "syntax"])
def test_what_is_refused_is_named_in_status_and_the_rest_goes_through(
    sender: Sender, tmp_path: Path, capsys: pytest.CaptureFixture[str], refuses: str
) -> None:
    published = sender.publish(classes=[SegmentationStorage, EncapsulatedPDFStorage, CTImageStorage])
    options = (
        {"accept_classes": [SegmentationStorage, CTImageStorage]}
        if refuses == "class"
        else {"syntaxes_of": {EncapsulatedPDFStorage: ["1.2.840.10008.1.2.5"]}}
    )
    with DemoPacs(tmp_path / "pacs", port=sender.table.port, **options) as pacs:  # type: ignore[arg-type]
        assert sender.deliver() == 3
        assert [stored.sop_uid for stored in pacs.objects()] == [published[0], published[2]]
    assert sender.states() == {"SENT": 2, "NOT_ACCEPTED": 1}
    assert sender.revisions() == {"DELIVERED": 1}
    site = tmp_path / "triage-node.toml"
    site.write_text(f'[node]\ndatabase = "sqlite:///{tmp_path / "db.sqlite3"}"\n')
    capsys.readouterr()
    assert cli.main(["status", "--json", "--config", str(site)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["dead_letters"] == []
    [line] = status["not_accepted"]
    assert (line["destination"], line["kind"], line["objects"]) == ("pacs", "SEG", 1)
    assert "does not accept Encapsulated PDF Storage (1.2.840.10008.5.1.4.1.1.104.1)" in line["error"]
    assert "as Explicit VR Little Endian" in line["error"]
