"""Result objects go to a DICOMweb server by STOW-RS: to a real one, and to one that answers as no server should."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.hook import Hook
from tests.integration.test_mllp import certificate
from tests.integration.tiny import write_ct
from tests.orthanc import running_orthanc
from tests.told import ToldSite
from triage_node import config, preflight
from triage_node.deliver.channel import channel_of
from triage_node.deliver.dicomweb import DicomwebChannel, raise_for_answer
from triage_node.errors import DeliveryError
from triage_node.peers import OutgoingObject, StoreResult
from triage_node.store import outbox
from triage_node.testing import DemoPacs

TOKEN = "a token that they gave us"
Start = Callable[..., tuple[ToldSite, Hook]]


def channel(port: int, *, timeout_s: float = 10, **settings: Any) -> DicomwebChannel:
    values = {"name": "web", "url": f"http://localhost:{port}/dicom-web"} | settings
    return DicomwebChannel(config.DicomwebDestination(**values), timeout_s=timeout_s)


def sent(to: DicomwebChannel, *objects: OutgoingObject) -> list[DeliveryError | None]:
    results: list[StoreResult] = []
    to.send(objects, results.append)
    assert [result.outgoing for result in results] == list(objects)
    return [result.error for result in results]


def snippet() -> str:
    """Of the guide."""
    page = (Path(__file__).parents[2] / "docs" / "channels" / "dicomweb.md").read_text()
    return page.split("<!-- example: out -->\n```toml\n")[1].split("```")[0]


# ---------------------------------------------------------------- a real server


def test_orthanc_is_sent_every_object_once_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the configuration that the guide shows; a proxy of the environment is not asked."""
    monkeypatch.setenv("TRIAGE_PACS_TOKEN", TOKEN)
    with running_orthanc(tmp_path / "orthanc", dicomweb={}) as orthanc, DemoPacs(tmp_path / "pacs") as pacs:
        path = tmp_path / "triage-node.toml"
        path.write_text(snippet().replace("https://pacs.hospital.example", f"http://127.0.0.1:{orthanc.http_port}"))
        site = ToldSite(tmp_path, pacs, *config.load(path).destinations)
        findings = {each.what: each for each in preflight.check(site.config, load_model=lambda: "", now=site.clock())}
        assert findings["destination vna"].ok, findings["destination vna"].detail
        site.publish()
        with monkeypatch.context() as patched:
            patched.setenv("http_proxy", "http://127.0.0.1:9")
            tried = site.send("vna")
        assert site.states("vna") == {"SENT": tried}
        ours = {made.read_bytes() for made in site.parts.spool.root.glob("results/*/*/*.dcm")}
        kept = {path.read_bytes() for path in orthanc.files(tmp_path / "kept")}
        assert len(kept) == tried >= 3
        assert kept == ours
        assert {each["Modality"] for each in orthanc.instances()} == {"SEG", "SR", "OT"}
        site.close()


def test_a_server_that_has_an_object_already_takes_it_again(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc", dicomweb={}) as orthanc:
        outgoing = write_ct(tmp_path / "a.dcm")
        for _ in range(2):
            assert sent(channel(orthanc.http_port), outgoing) == [None]
        assert len(orthanc.get("/instances")) == 1
        with pytest.raises(DeliveryError, match="HTTP 404; check its url"):
            channel(orthanc.http_port, url=f"http://localhost:{orthanc.http_port}/elsewhere").probe()


# ---------------------------------------------------------------- answers


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a node and a server of which only the status is of interest."""
    with ExitStack() as stack:

        def start(*statuses: int, timeout_s: float = 10, **settings: Any) -> tuple[ToldSite, Hook]:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs"))
            hook = stack.enter_context(Hook(statuses=statuses))
            values = {"send": ["SEG"], "url": f"http://127.0.0.1:{hook.port}/tenant-x9q/"} | settings
            table = config.DicomwebDestination(name="web", **values)
            site = ToldSite(tmp_path, pacs, table)
            stack.callback(site.close)
            quick = replace(site.config, delivery=replace(site.config.delivery, timeout_s=timeout_s))
            site.channels["web"] = channel_of(table, quick, clock=site.clock)
            return site, hook

        yield start


def test_what_may_be_cured_is_sent_again_as_it_was(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = [500, 503, 507, 408, 429, 202, 301, 307, 401, 403, 404, 0]
    site, hook = start(*statuses)
    site.publish()
    for _ in statuses:
        assert site.send("web") == 1
        assert site.states("web") == {"PENDING": 1}
        site.clock.advance(301)
    assert site.send("web") == 1
    assert site.states("web") == {"SENT": 1}
    assert {told.path for told in hook.told} == {"/tenant-x9q/studies"}  # nobody went where a redirect pointed
    (seg,) = site.parts.spool.root.glob("results/*/*/SEG*.dcm")
    assert all(seg.read_bytes() in told.data for told in hook.told)
    assert "tenant-x9q" not in capsys.readouterr().err


def test_what_is_refused_as_it_is_is_a_dead_letter_until_retried(start: Start) -> None:
    statuses = [400, 409, 413, 415]
    site, _ = start(*statuses)
    site.publish()
    for status in statuses:
        site.send("web")
        assert site.letters() == [f"127.0.0.1:{site.config.destinations[1].address[10:]} answered HTTP {status}"]
        assert outbox.retry_dead(site.parts.database, destination="web", now=site.clock()) == 1
    site.send("web")
    assert site.states("web") == {"SENT": 1}


def test_a_server_that_talks_on_for_ever_is_cut_off(start: Start) -> None:
    site, _ = start(-1, timeout_s=1)
    site.publish()
    site.send("web")
    assert site.states("web") == {"PENDING": 1}
    site.clock.advance(5)
    site.send("web")
    assert site.states("web") == {"SENT": 1}


def test_a_refusal_before_all_was_sent_is_heard(tmp_path: Path) -> None:
    """And the object behind it has its chance; where nobody is there any more the rest is not tried."""
    outgoing = [write_ct(tmp_path / f"{name}.dcm", size=2048) for name in "abc"]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            for last in (False, True):
                connection, _ = server.accept()
                if last:  # before it is answered: the third would find the door open still
                    server.close()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                    while connection.recv(1 << 20):
                        pass

        threading.Thread(target=refuse).start()
        errors = sent(channel(server.getsockname()[1], timeout_s=2), *outgoing)
    assert [str(error).partition(" ")[2] for error in errors[:2]] == ["answered HTTP 413"] * 2
    assert "cannot be reached" in str(errors[2])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"token": "env:PACS_SECRET"}, f"Bearer {TOKEN}"),
        ({"user": "me", "password": "env:PACS_SECRET"}, f"Basic {b64encode(f'me:{TOKEN}'.encode()).decode()}"),
        ({}, None),
    ],
)
def test_credentials_are_looked_up_when_they_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str | None
) -> None:
    outgoing = write_ct(tmp_path / "a.dcm")
    with Hook() as hook:
        if expected:
            for secret in ("", "two\nlines", "schlüssel"):
                monkeypatch.setenv("PACS_SECRET", secret)
                (error,) = sent(channel(hook.port, **settings), outgoing)
                assert error is not None
                assert error.retryable
                assert str(error).startswith("the environment variable PACS_SECRET must hold")
            assert hook.told == []
        monkeypatch.setenv("PACS_SECRET", TOKEN)
        assert sent(channel(hook.port, **settings), outgoing) == [None]
        assert hook.told[0].headers.get("Authorization") == expected


def test_only_a_server_with_a_certificate_that_we_trust_is_sent_anything(tmp_path: Path) -> None:
    theirs, key = certificate(tmp_path, "pacs")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(theirs, key)
    outgoing = write_ct(tmp_path / "a.dcm")
    with Hook(tls=tls) as hook:
        url = f"https://localhost:{hook.port}/dicom-web"
        (error,) = sent(channel(hook.port, url=url), outgoing)
        assert "certificate" in str(error)
        assert hook.told == []
        assert sent(channel(hook.port, url=url, ca_file=str(theirs)), outgoing) == [None]


def test_what_is_no_dicom_object_or_not_the_one_announced_is_not_sent(tmp_path: Path) -> None:
    message = replace(write_ct(tmp_path / "a.dcm"), sop_class_uid="")
    other = replace(write_ct(tmp_path / "b.dcm"), sop_uid="1.2.3")
    with Hook() as hook:
        errors = sent(channel(hook.port), message, other)
        assert [error is not None and error.retryable for error in errors] == [False, False]
        assert hook.told == []


def answer(**sequences: list[dict[str, Any]]) -> bytes:
    keys = {"referenced": "00081199", "failed": "00081198", "others": "0008119A"}
    return json.dumps({keys[name]: {"vr": "SQ", "Value": items} for name, items in sequences.items()}).encode()


def item(uid: str = "1.2", reason: object = None) -> dict[str, Any]:
    told = {"00081155": {"vr": "UI", "Value": [uid]}}
    return told if reason is None else told | {"00081197": {"vr": "US", "Value": [reason]}}


JSON = "application/dicom+json"


@pytest.mark.parametrize(
    ("status", "media_type", "said"),
    [
        (200, JSON, answer(referenced=[item()])),
        (200, "application/json", b"[" + answer(referenced=[item()]) + b"]"),
        (200, JSON, b""),
        (200, JSON, b"{}"),
        (200, "text/html", b"<p>stored</p>"),
        (202, JSON, answer(referenced=[item()], failed=[item("1.3", 0xA700)])),
        (409, JSON, answer(failed=[item(reason=0x0111)])),
        (204, JSON, b""),
    ],
)
def test_what_says_that_the_object_is_there(status: int, media_type: str, said: bytes) -> None:
    raise_for_answer(status, media_type, said, sop_uid="1.2", address="pacs")


@pytest.mark.parametrize(
    ("status", "said", "retryable", "words"),
    [
        (409, answer(failed=[item(reason=0xA700)]), True, "0xA700: out of resources"),
        (409, answer(failed=[item(reason=0x0122)]), False, "0x0122: SOP class not supported"),
        (409, answer(failed=[item(reason=0xA900)]), False, "0xA900"),
        (409, answer(failed=[item(reason=0xC122)]), False, "0xC122"),
        (200, answer(failed=[item(reason=0x0110)]), True, "0x0110: processing failure"),
        (202, answer(others=[{"00081197": {"vr": "US", "Value": [0xC000]}}]), False, "0xC000"),
        (202, answer(failed=[item()]), True, "0x0110"),
        (202, answer(failed=[item(reason="many")]), True, "0x0110"),
        (202, answer(failed=[item(reason=0xB000)]), True, "0x0110"),
        (200, answer(referenced=[item("1.3")]), True, "does not say"),
        (200, b'<DicomAttribute tag="00081198"/>', True, "does not say"),
        (202, b"", True, "does not say"),
        (409, b"", False, "HTTP 409"),
        (409, b"[" * 100_000, False, "HTTP 409"),
        (409, b'{"00081198": {"Value": [7, null, {"00081155": 3}]}}', False, "HTTP 409"),
        (409, b"\xff\xfe", False, "HTTP 409"),
        (503, answer(failed=[item(reason=0xA700)]), True, "0xA700"),
        (415, answer(referenced=[item()]), False, "HTTP 415"),
    ],
)
def test_what_says_that_it_is_not(status: int, said: bytes, retryable: bool, words: str) -> None:
    with pytest.raises(DeliveryError, match=words) as caught:
        raise_for_answer(status, JSON, said, sop_uid="1.2", address="pacs")
    assert caught.value.retryable == retryable
