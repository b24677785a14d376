"""MLLP through TLS, and answers that no RIS should give."""

from __future__ import annotations

import random
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.tools import free_port, require_tool
from tests.unit.test_oru import PATIENT, stated
from triage_node.config import Config, Hl7Destination
from triage_node.deliver import statement as statements
from triage_node.deliver.batch import tell_each
from triage_node.deliver.channel import message_channel_of
from triage_node.deliver.hl7 import Hl7Channel
from triage_node.domain import Order
from triage_node.errors import DeliveryError, Unreachable
from triage_node.peers import OutgoingObject, StoreResult
from triage_node.peers.mllp import END, START, MllpConnection
from triage_node.testing import DemoRis


@pytest.fixture
def told(tmp_path: Path) -> OutgoingObject:
    """A statement on disk."""
    path = tmp_path / "result.json"
    path.write_bytes(statements.encode(stated(patient=PATIENT, order=Order())))
    return OutgoingObject(path=path, sop_class_uid="", sop_uid="2.25.1", transfer_syntax_uid="", kind="RESULT")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Of "localhost", signed by itself: (certificate, key)."""
    key, chain = folder / f"{name}-key.pem", folder / f"{name}.pem"
    command = [require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(chain), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


def send(told: OutgoingObject, port: int, *, timeout_s: float = 10, **settings: object) -> DeliveryError | None:
    values = {"name": "ris", "host": "localhost", "port": port} | settings
    results: list[StoreResult] = []
    Hl7Channel(Hl7Destination(**values), timeout_s=timeout_s).send([told], results.append)  # type: ignore[arg-type]
    (result,) = results
    return result.error


def test_a_ris_behind_tls_is_told_where_both_know_each_other(tmp_path: Path, told: OutgoingObject) -> None:
    theirs, their_key = certificate(tmp_path, "ris")
    ours, our_key = certificate(tmp_path, "node")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours))
    tls.load_cert_chain(theirs, their_key)
    tls.verify_mode = ssl.CERT_REQUIRED
    settings = {"tls": True, "ca_file": str(theirs), "certificate": str(ours), "private_key": str(our_key)}
    with DemoRis(tls=tls) as ris:
        assert send(told, ris.port, **settings) is None
        assert len(ris.messages) == 1
        stranger = send(told, ris.port, tls=True, ca_file=str(ours))
        assert stranger is not None
        assert stranger.retryable
        assert "certificate" in str(stranger)
        unknown = send(told, ris.port, tls=True, ca_file=str(theirs))
        assert unknown is not None
        assert unknown.retryable
        assert len(ris.messages) == 1


def test_check_connects_to_a_ris_and_tells_it_nothing() -> None:
    with DemoRis() as ris:
        config = Config(destinations=(Hl7Destination(name="ris", host="127.0.0.1", port=ris.port),))
        channel = message_channel_of(config.destinations[0], config, clock=lambda: datetime.now(UTC))  # type: ignore[arg-type]
        assert channel.probe() == f"takes connections at 127.0.0.1:{ris.port}"
        assert ris.messages == []
    with pytest.raises(Unreachable):
        channel.probe()


def test_tls_is_never_left_out(tmp_path: Path, told: OutgoingObject) -> None:
    with DemoRis() as ris:
        error = send(told, ris.port, tls=True, timeout_s=2)
        assert error is not None
        assert error.retryable
        missing = send(told, ris.port, tls=True, ca_file=str(tmp_path / "none.pem"))
        assert "PEM file" in str(missing)
        assert not any("PID|" in message for message in ris.messages)


def test_who_is_not_there_is_asked_again(told: OutgoingObject) -> None:
    error = send(told, free_port())
    assert error is not None
    assert error.retryable
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_that_cannot_be_is_asked_again(told: OutgoingObject, host: str) -> None:
    assert isinstance(send(told, 1, host=host), Unreachable)


def test_an_encrypted_key_is_an_error_and_asks_nobody(tmp_path: Path, told: OutgoingObject) -> None:
    chain, key = certificate(tmp_path, "node")
    locked = tmp_path / "locked.pem"
    command = [
        require_tool("openssl"),
        "pkey",
        "-in",
        str(key),
        "-aes256",
        "-passout",
        "pass:word",
        "-out",
        str(locked),
    ]
    subprocess.run(command, check=True, capture_output=True)
    error = send(told, 1, tls=True, certificate=str(chain), private_key=str(locked))
    assert "PEM file" in str(error)


def test_where_nobody_is_there_the_rest_of_a_batch_is_not_tried_and_fails_as_well(told: OutgoingObject) -> None:
    tried: list[OutgoingObject] = []
    results: list[StoreResult] = []

    def tell(outgoing: OutgoingObject) -> None:
        tried.append(outgoing)
        faults = [DeliveryError("choked", retryable=True), KeyError("ours"), Unreachable("nobody")]
        raise faults[len(tried) - 1]

    tell_each([told] * 5, tell, results.append)
    assert len(tried) == 3
    assert [str(result.error) for result in results] == ["choked", "it could not be told (KeyError)", *["nobody"] * 3]


def test_frames_are_told_apart_however_they_come() -> None:
    with DemoRis(answers=["twice"]) as ris, MllpConnection("127.0.0.1", ris.port, timeout_s=10) as connection:
        connection.send(b"MSH|^~\\&|A||||||ORU|ID1|P|2.5.1\r")
        first, second = connection.receive(), connection.receive()
        assert b"MSA|CA|ID1" in first
        assert b"MSA|AA|ID1" in second


class Babbler(DemoRis):
    """Answers with whatever it is given."""

    def __init__(self, *answers: bytes) -> None:
        super().__init__()
        self._bytes = list(answers)

    def _take(self, message: str) -> bytes | None:
        self.messages.append(message)
        return self._bytes.pop(0)


def test_no_answer_whatsoever_does_more_than_send_it_again(told: OutgoingObject) -> None:
    draw = random.Random(1)
    pieces = [
        b"MSH",
        b"|",
        b"^~\\&",
        b"\r",
        b"\n",
        b"MSA",
        b"AA",
        b"ERR",
        b"\xff",
        b"\\",
        b"",
        b"FHS",
        b"BHS",
        b"~",
        b"MSH|^~\\&|",
    ]
    answers = [START + b"".join(draw.choices(pieces, k=draw.randrange(12))) + END for _ in range(300)]
    with Babbler(*answers) as babbler:
        for _ in answers:
            error = send(told, babbler.port)
            assert error is not None
            assert error.retryable
    with Babbler(b"\x0b" + b"A" * 200_000) as babbler:
        assert "no MLLP frame" in str(send(told, babbler.port))
