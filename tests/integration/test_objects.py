"""What destinations get that accept this and not that: Orthanc, storescp of dcmtk, and a PACS that refuses."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from tests import report_cases as cases
from tests.orthanc import running_orthanc
from tests.outgoing import Sender
from tests.told import ToldSite
from tests.tools import free_port, require_tool
from triage_node import config
from triage_node.domain import ObjectKind, ResultObject
from triage_node.store import board, outbox, schema, system, worklist
from triage_node.store.worklist import Wanted
from triage_node.testing import DemoPacs
from triage_node.web import words
from triage_node.web.system import _how_it_goes

LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultObject, ...]:
    volume = cases.volume_of(cases.write_ct(tmp_path_factory.mktemp("ct")))
    return cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume)))


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    with Sender(tmp_path, free_port(), commitment=False) as made:
        yield made


def deliver_all(sender: Sender) -> None:
    while sender.deliver():
        pass


def not_accepted(sender: Sender) -> dict[str, str]:
    """What the status says, by kind."""
    lines: list[dict[str, Any]] = board.status(sender.parts.database, now=sender.clock())["not_accepted"]
    return {line["kind"]: line["error"] for line in lines}


def classes_of(made: Sequence[ResultObject], *kinds: ObjectKind) -> set[str]:
    return {each.sop_class_uid for each in made if each.kind in kinds}


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_storescp(held: Path, port: int, *options: str) -> Iterator[None]:
    """storescp of dcmtk, which keeps what it gets in a folder."""
    held.mkdir()
    command = [require_tool("storescp"), *options, "-aet", "PACS", "-od", str(held), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as storescp:
        try:
            deadline = time.monotonic() + 30
            while not is_listening(port):
                assert time.monotonic() < deadline, "storescp does not listen"
                time.sleep(0.05)
            yield
        finally:
            storescp.terminate()


def test_orthanc_gets_all_but_the_label_map_and_the_segmentation_in_its_place(
    made: tuple[ResultObject, ...], tmp_path: Path
) -> None:
    with (
        running_orthanc(tmp_path / "orthanc") as pacs,
        Sender(tmp_path, pacs.dicom_port, ae_title="ORTHANC", commitment=False) as sender,
    ):
        sender.publish(made=made, send={"SR", "GSPS", "KOS", "LABELMAP"})
        deliver_all(sender)
        held = {dcmread(path).SOPClassUID for path in pacs.files(tmp_path / "held")}
    assert held == classes_of(made, ObjectKind.SR, ObjectKind.GSPS, ObjectKind.KOS, ObjectKind.SEG)
    assert sender.states() == {"SENT": 4, "NOT_ACCEPTED": 1}
    assert sender.revisions() == {"DELIVERED": 1}
    assert f"does not accept LABELMAP ({LABEL_MAP}) as RLE Lossless or uncompressed" in not_accepted(sender)["LABELMAP"]


def test_storescp_that_takes_implicit_only_gets_the_same_objects_in_it(
    made: tuple[ResultObject, ...], sender: Sender, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    with running_storescp(held, sender.table.port, "+xi"):
        sender.publish(made=made)
        deliver_all(sender)
    read = [dcmread(path) for path in held.iterdir()]
    assert {dataset.SOPClassUID for dataset in read} == classes_of(made, *ObjectKind) - {LABEL_MAP}
    assert {dataset.file_meta.TransferSyntaxUID for dataset in read} == {ImplicitVRLittleEndian}
    sent = {each.sop_uid: dcmread(BytesIO(each.data)) for each in made}
    for dataset in read:
        if "PixelData" in dataset:
            dataset["PixelData"].VR = "OB"  # in Implicit VR it is OW, PS3.5 A.1
        assert dataset == sent[dataset.SOPInstanceUID]


@pytest.mark.parametrize(
    ("accepted", "arrives_as"), [([RLELossless], RLELossless), ([ExplicitVRLittleEndian], ExplicitVRLittleEndian)]
)
def test_a_label_map_goes_compressed_where_that_is_accepted(
    made: tuple[ResultObject, ...], sender: Sender, tmp_path: Path, accepted: list[str], arrives_as: str
) -> None:
    with DemoPacs(tmp_path / "pacs", port=sender.table.port, syntaxes_of={LABEL_MAP: accepted}) as pacs:
        sender.publish(made=made, send={"LABELMAP"})
        deliver_all(sender)
        (stored,) = pacs.objects()
        read = dcmread(stored.path)
    (sent,) = (each for each in made if each.kind is ObjectKind.LABELMAP)
    assert read.file_meta.TransferSyntaxUID == arrives_as
    assert stored.sop_uid == sent.sop_uid
    assert (read.pixel_array == dcmread(BytesIO(sent.data)).pixel_array).all()


def test_who_takes_no_presentation_state_gets_the_key_images(
    made: tuple[ResultObject, ...], sender: Sender, tmp_path: Path
) -> None:
    with DemoPacs(tmp_path / "pacs", port=sender.table.port, accept_classes=[SecondaryCaptureImageStorage]) as pacs:
        sender.publish(made=made, send={"GSPS", "KOS"})
        deliver_all(sender)
        (stored,) = pacs.objects()
    assert stored.sop_class_uid == SecondaryCaptureImageStorage
    assert sender.states() == {"NOT_ACCEPTED": 2, "SENT": 1}
    assert set(not_accepted(sender)) == {"GSPS", "KOS"}
    assert sender.letters() == []
    database = sender.parts.database
    (row,) = worklist.page(database, Wanted()).rows
    (delivery,) = row.deliveries
    said = words._delivered(delivery)
    assert said["mood"] == "good"
    assert said["text"].startswith("in pacs, but for what it does not accept: PACS at ")
    (traffic,) = system.traffic(database, ["pacs"])
    assert _how_it_goes(traffic, sender.table) == ("there, but for 2 objects of kinds that it does not accept", "good")


def test_a_result_of_which_nothing_is_accepted_is_dead_and_can_be_sent_again(
    made: tuple[ResultObject, ...], sender: Sender, tmp_path: Path
) -> None:
    with DemoPacs(tmp_path / "strict", port=sender.table.port, accept_classes=[]):
        sender.publish(made=made, send={"SEG", "SR", "LABELMAP"})
        deliver_all(sender)
    assert sender.states() == {"DEAD": 3}
    assert sender.revisions() == {"REPORTED": 1}
    assert outbox.retry_dead(sender.parts.database, now=sender.clock()) == 3
    with DemoPacs(tmp_path / "pacs", port=sender.table.port):
        deliver_all(sender)
    assert sender.states() == {"SENT": 3}


def test_a_status_that_says_the_class_is_not_supported_counts_as_such(
    made: tuple[ResultObject, ...], sender: Sender, tmp_path: Path
) -> None:
    with DemoPacs(tmp_path / "pacs", port=sender.table.port, statuses=[0x0122]):
        sender.publish(made=made, send={"KOS", "SR"})
        deliver_all(sender)
    assert sender.states() == {"SENT": 1, "NOT_ACCEPTED": 1}


# ---------------------------------------------------------------- the guide


def test_each_profile_of_the_guide_gets_what_it_asks_for(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/channels/dicom.md").read_text()
    site_file = tmp_path / "triage-node.toml"
    site_file.write_text(page.split("<!-- example: profiles -->\n```toml\n")[1].split("```")[0])
    shown = [each for each in config.load(site_file).destinations if isinstance(each, config.Destination)]
    with DemoPacs(tmp_path / "pacs") as pacs:
        here = [
            replace(each, name=f"{each.name}-", ae_title="PACS", host="127.0.0.1", port=pacs.port) for each in shown
        ]
        with closing(ToldSite(tmp_path, pacs, *here)) as site:
            site.publish("positive")
            for each in here:
                site.send(each.name)
            kinds = kinds_sent(site)
    assert len(here) == 4
    for each in here:
        assert kinds[each.name] == {(kind, "SENT") for kind in each.send if kind != "NOTICE"}


def kinds_sent(site: ToldSite) -> dict[str, set[tuple[str, str]]]:
    """Kind and state of what is for each destination."""
    query = sa.select(schema.outbox.c.destination, schema.result.c.kind, schema.outbox.c.state).join(
        schema.result, schema.result.c.sop_uid == schema.outbox.c.sop_uid
    )
    found: dict[str, set[tuple[str, str]]] = {}
    with site.parts.database.reading() as connection:
        for destination, kind, state in connection.execute(query):
            found.setdefault(destination, set()).add((kind, state))
    return found
