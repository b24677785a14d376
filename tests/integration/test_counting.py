"""Asking the source how many images a series has, and what that means for completeness."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt

from tests import ct
from tests.arrivals import Clock, received
from tests.finding import find_scp, match
from tests.orthanc import running_orthanc
from tests.tools import free_port
from triage_node import config
from triage_node.admit import Admission, no_step
from triage_node.errors import DeliveryError
from triage_node.peers import Peer, count_instances, send_folder
from triage_node.pipeline.completing import complete_series
from triage_node.pipeline.counting import PATIENCE_S, SourceCounts
from triage_node.pipeline.parts import Parts
from triage_node.spool import Spool
from triage_node.store import board, claims
from triage_node.store.database import open_database

# pynetdicom's server, shut down while a caller has only just connected
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

WAIT_S = 20.0
HEAD_MM = [5.0 * index for index in range(24)]


@contextmanager
def answering(*responses: tuple[int, Dataset | None], asked: list[Dataset] | None = None) -> Iterator[int]:
    """A Study Root C-FIND SCP that answers so; yields its port."""

    def on_find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if asked is not None:
            asked.append(event.identifier)
        yield from responses

    with find_scp(on_find) as port:
        yield port


@contextmanager
def endless() -> Iterator[int]:
    """A C-FIND SCP that answers for ever."""
    ended = threading.Event()

    def on_find(_event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        while not ended.wait(0.01):
            yield series(7)

    with find_scp(on_find) as port:
        try:
            yield port
        finally:
            ended.set()


def series(count: int | None) -> tuple[int, Dataset]:
    return match("SERIES", **({} if count is None else {"NumberOfSeriesRelatedInstances": count}))


def ask(port: int, series_uid: str = "1.2.3") -> int | None:
    peer = Peer(ae_title="QR", host="127.0.0.1", port=port)
    return count_instances(peer, calling_ae="TRIAGE", study_uid="1.2", series_uid=series_uid, timeout_s=2)


class Site:
    """A node that receives, and a source that can be asked."""

    def __init__(self, folder: Path, find: str) -> None:
        self.clock = Clock()
        source = config.Source(ae_title="CT1", hosts=["127.0.0.1"], find=find)
        self.parts = Parts(
            config=config.Config(sources=(source,)),
            database=open_database(f"sqlite:///{folder / 'db.sqlite3'}"),
            spool=Spool(folder / "spool"),
            clock=self.clock,
            step=no_step,
        )
        self.admission = Admission(spool=self.parts.spool, database=self.parts.database, clock=self.clock)
        self.counts = SourceCounts(self.parts, timeout_s=2.0, again_s=0.0)

    def receive(self, images: list[Dataset]) -> None:
        """Over one association, to its end."""
        for image in images:
            self.admission.admit(received(image))
        self.admission.released("a1")

    def completes(self) -> bool:
        """Whether the timer moves a series now."""
        return complete_series(self.parts, self.counts) == 1

    def completes_soon(self) -> bool:
        """The same, while answers come in."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if self.completes():
                return True
            time.sleep(0.02)
        return False

    def waiting(self) -> claims.Receiving:
        """The series that comes in."""
        [one] = claims.receiving(self.parts.database)
        return one

    def because(self) -> str:
        """Why the series was complete."""
        [recent] = board.status(self.parts.database, now=self.clock())["recent"]
        return str(recent["ready_because"])

    def close(self) -> None:
        """Give everything back."""
        self.counts.close()
        self.parts.database.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    with ExitStack() as stack:

        def start(find: str) -> Site:
            made = Site(tmp_path, find)
            stack.callback(made.close)
            return made

        yield start


# ---------------------------------------------------------------- the query


def test_orthanc_says_how_many_images_a_series_has(tmp_path: Path) -> None:
    images = ct.head()[:5]
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        received(image)  # completes the file meta information
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    with running_orthanc(tmp_path / "orthanc", modalities={"triage": ["TRIAGE", "127.0.0.1", 1]}) as orthanc:
        peer = Peer(ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port)
        assert send_folder([folder], peer=peer, calling_ae="CT1").sent == 5
        known = {"study_uid": str(images[0].StudyInstanceUID), "series_uid": str(images[0].SeriesInstanceUID)}
        assert count_instances(peer, calling_ae="TRIAGE", timeout_s=5, **known) == 5
        assert count_instances(peer, calling_ae="TRIAGE", timeout_s=5, **{**known, "series_uid": "1.2.9"}) is None


def test_the_query_names_study_and_series_and_asks_for_the_count() -> None:
    asked: list[Dataset] = []
    with answering(series(7), (0x0000, None), asked=asked) as port:
        assert ask(port) == 7
    [query] = asked
    assert (query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID) == ("SERIES", "1.2", "1.2.3")
    assert "NumberOfSeriesRelatedInstances" in query


@pytest.mark.parametrize("responses", [[series(None), (0x0000, None)], [(0x0000, None)]], ids=["silent", "unknown"])
def test_a_source_that_does_not_say_gives_none(responses: list[tuple[int, Dataset | None]]) -> None:
    with answering(*responses) as port:
        assert ask(port) is None


def test_counts_of_other_series_are_not_taken() -> None:
    of_another = series(300)
    of_another[1].SeriesInstanceUID = "1.2.4"
    of_this = series(32)
    of_this[1].SeriesInstanceUID = "1.2.3"
    with answering(of_another, of_this, (0x0000, None)) as port:
        assert ask(port) == 32


def test_an_answer_without_end_is_given_up() -> None:
    with endless() as port, pytest.raises(DeliveryError, match="did not answer within"):
        ask(port)


def test_a_source_that_fails_is_an_error() -> None:
    with answering((0xA700, None)) as port, pytest.raises(DeliveryError, match="0xA700 to C-FIND"):
        ask(port)


# ---------------------------------------------------------------- completeness


def test_as_many_as_the_source_says_is_complete_at_once(site: Callable[[str], Site]) -> None:
    with answering(series(5), (0x0000, None)) as port:
        made = site(f"QR@127.0.0.1:{port}")
        made.receive(ct.head()[:5])  # far too few for a contiguous head
        assert made.completes_soon()
        assert made.because() == "the source says 5 images"


def test_a_contiguous_head_waits_for_what_the_source_has_more(site: Callable[[str], Site]) -> None:
    images = ct.head(HEAD_MM)
    with answering(series(len(images)), (0x0000, None)) as port:
        made = site(f"QR@127.0.0.1:{port}")
        made.receive(images[:-2])
        for _ in range(50):
            assert not made.completes()
            time.sleep(0.01)
        made.receive(images[-2:])
        assert made.completes_soon()
        assert made.because() == f"the source says {len(images)} images"


def test_what_never_comes_is_waited_for_until_the_quiet_period(site: Callable[[str], Site]) -> None:
    images = ct.head(HEAD_MM)
    with answering(series(len(images) + 3), (0x0000, None)) as port:
        made = site(f"QR@127.0.0.1:{port}")
        made.receive(images)
        deadline = time.monotonic() + WAIT_S
        while made.counts(made.waiting()).images is None and time.monotonic() < deadline:
            time.sleep(0.02)
        made.clock.advance(11)
        assert made.completes()
        assert made.because() == "no image for 10 s, but the source has 3 more"


def test_a_source_that_is_down_holds_up_nothing(site: Callable[[str], Site]) -> None:
    made = site(f"QR@127.0.0.1:{free_port()}")
    made.receive(ct.head(HEAD_MM))
    assert made.completes_soon()
    assert made.because() == "association released, contiguous over a head"


def test_a_source_that_takes_the_query_and_never_answers_costs_only_patience(site: Callable[[str], Site]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = site(f"QR@127.0.0.1:{silent.getsockname()[1]}")
        made.receive(ct.head(HEAD_MM))
        assert not made.completes()
        made.clock.advance(PATIENCE_S)
        assert made.completes()


def test_a_source_that_is_not_asked_is_as_before(site: Callable[[str], Site]) -> None:
    made = site("")
    made.receive(ct.head(HEAD_MM))
    assert made.completes()
