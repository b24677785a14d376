"""Images come in by STOW-RS: from others' senders, from our own, and from whoever sends what nobody should."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, VideoEndoscopicImageStorage

from tests.integration.test_dicomweb_out import channel, sent
from tests.integration.tiny import encoded_dataset, write_ct
from tests.node import Node
from tests.orthanc import running_orthanc
from triage_node import config
from triage_node.admit import Admission
from triage_node.domain import StoreAnswer
from triage_node.peers import OutgoingObject
from triage_node.receive.callers import Caller, Refusal
from triage_node.receive.listener import file_header
from triage_node.receive.stow import StowReceiver, StowRequest
from triage_node.spool import Spool, dataset_sha256
from triage_node.store import access, receipts
from triage_node.store.database import open_database
from triage_node.web import Site, WebServer, create_app

TOKEN = "a token of the web source"
BOUNDARY = "boundary-of-the-test"
CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
GUIDE = Path(__file__).parents[2] / "docs" / "channels" / "dicomweb.md"


def example(name: str) -> str:
    """Of the guide."""
    return GUIDE.read_text().split(f"<!-- example: {name} -->\n```")[1].split("\n", 1)[1].split("```")[0]


class Receiving:
    """A node's spool and database, and its pages on a port of their own."""

    def __init__(self, folder: Path, **node: Any) -> None:
        self.spool = Spool(folder / "spool")
        self.database = open_database(f"sqlite:///{folder / 'db.sqlite3'}")
        self.full = False
        self.released: list[str] = []
        self.refusals: list[tuple[Caller, Refusal]] = []
        sources = (
            config.Source(ae_title="ELSEWHERE", hosts=["10.1.2.3"], token="env:ELSEWHERE_TOKEN"),
            config.Source(ae_title="WEB1", hosts=["127.0.0.1"], token="env:TRIAGE_VNA_TOKEN"),
        )
        self.config = config.Config(
            node=config.Node(data_dir=folder / "spool", **node), sources=sources, web=config.Web(port=0)
        )
        self.admission = Admission(spool=self.spool, database=self.database, clock=lambda: datetime.now(UTC))
        self.receiver = StowReceiver(
            config=self.config,
            admit=self.admission.admit,
            released=self.released.append,
            scratch=self.spool.scratch,
            refused=lambda caller, refusal: self.refusals.append((caller, refusal)),
            may_receive=lambda: not self.full,
        )
        self.port = 0

    @contextmanager
    def serving(self, *, stow: bool = True) -> Iterator[None]:
        """The pages run."""
        site = Site(
            config=self.config,
            database=self.database,
            spool=self.spool,
            clock=lambda: datetime.now(UTC),
            stow=self.receiver if stow else None,
        )
        server = WebServer(create_app(site), self.config.web)
        thread = threading.Thread(target=server.run)
        thread.start()
        self.port = server.port
        try:
            yield
        finally:
            server.stop()
            thread.join()

    def post(
        self, body: bytes, *, path: str = "/dicom-web/studies", token: str = TOKEN, **headers: str
    ) -> tuple[int, dict[str, Any], http.client.HTTPResponse]:
        """Status, content and the answer itself."""
        sent_along = {"Authorization": f"Bearer {token}", "Content-Type": CONTENT_TYPE}
        sent_along |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("POST", path, body=body, headers=sent_along)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        return answer.status, json.loads(said) if said.startswith(b"{") else {}, answer

    def kept(self) -> list[Path]:
        """Of the received objects."""
        return list(self.spool.objects())


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Receiving]]:
    """Starts one."""
    monkeypatch.setenv("TRIAGE_VNA_TOKEN", TOKEN)
    monkeypatch.setenv("ELSEWHERE_TOKEN", "another token, of another")
    with ExitStack() as stack:

        def start(*, stow: bool = True, **node: Any) -> Receiving:
            node_ = Receiving(tmp_path / "node", **node)
            stack.callback(node_.database.close)
            stack.enter_context(node_.serving(stow=stow))
            return node_

        (tmp_path / "node").mkdir()
        yield start


def part(data: bytes, media_type: str = "application/dicom") -> bytes:
    return f"--{BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n".encode() + data + b"\r\n"


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def told(content: dict[str, Any]) -> tuple[list[str], list[tuple[str, int]], list[int]]:
    """UIDs that are stored, that failed and why, why the unnamed failed."""

    def items(key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = content.get(key, {}).get("Value", [])
        return found

    def uid(item: dict[str, Any]) -> str:
        return str(item["00081155"]["Value"][0])

    def reason(item: dict[str, Any]) -> int:
        return int(item["00081197"]["Value"][0])

    failed = [(uid(item), reason(item)) for item in items("00081198")]
    return [uid(item) for item in items("00081199")], failed, [reason(item) for item in items("0008119A")]


# ---------------------------------------------------------------- senders


def test_what_the_guide_shows_stores_a_series_as_c_store_does(
    start: Callable[..., Receiving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is dicomweb-client."""
    node = start()
    objects = [write_ct(tmp_path / f"{number}.dcm", size=700) for number in range(3)]  # it sends these in chunks
    names: dict[str, Any] = {"folder": tmp_path}
    exec(example("send").replace("https://triage.hospital.example", f"http://127.0.0.1:{node.port}"), names)
    stored = {item.ReferencedSOPInstanceUID for item in names["answer"].ReferencedSOPSequence}
    assert stored == {one.sop_uid for one in objects}
    for one in objects:
        kept = node.spool.object_path(one.sop_uid)
        assert encoded_dataset(kept) == encoded_dataset(one.path)
        assert dcmread(kept).file_meta.SourceApplicationEntityTitle == "WEB1"
    rows = list(receipts.receipts(node.database))
    assert {(row.calling_ae, row.sop_uid) for row in rows} == {("WEB1", one.sop_uid) for one in objects}
    assert len(node.released) == 1
    (source,) = tomllib.loads(example("in"))["source"]
    path = tmp_path / "triage-node.toml"
    path.write_text(example("in"))
    assert config.load(path).sources[0].token == source["token"] == "env:TRIAGE_VNA_TOKEN"


def test_orthanc_sends_to_us(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    server = {"Url": f"http://127.0.0.1:{node.port}/dicom-web", "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
    outgoing = write_ct(tmp_path / "a.dcm")
    with running_orthanc(tmp_path / "orthanc", dicomweb={"Servers": {"node": server}}) as orthanc:
        stored = orthanc.post("/instances", outgoing.path.read_bytes())
        order = {"Resources": [stored["ID"]], "Synchronous": True}
        orthanc.post("/dicom-web/servers/node/stow", json.dumps(order).encode())
    assert encoded_dataset(node.spool.object_path(outgoing.sop_uid)) == encoded_dataset(outgoing.path)


def test_what_we_send_we_take_and_again_and_other_bytes_are_put_aside(
    start: Callable[..., Receiving], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = start()
    outgoing = write_ct(tmp_path / "a.dcm", patient_name="PLANTED^NAME")
    to = channel(node.port, token="env:TRIAGE_VNA_TOKEN", url=f"http://127.0.0.1:{node.port}/dicom-web/")
    assert sent(to, outgoing, outgoing) == [None, None]
    first = encoded_dataset(outgoing.path)
    changed = dcmread(outgoing.path)
    changed.SeriesDescription = "another"
    changed.save_as(outgoing.path)
    assert sent(to, outgoing) == [None]
    assert encoded_dataset(node.spool.object_path(outgoing.sop_uid)) == first
    assert len(list((node.spool.root / "quarantine").iterdir())) == 1
    log = capsys.readouterr().err
    assert "quarantined" in log
    for planted in (outgoing.sop_uid, "PLANTED", TOKEN):
        assert planted not in log


def test_a_source_without_a_token_or_a_node_without_any_takes_nothing(
    start: Callable[..., Receiving], tmp_path: Path
) -> None:
    node = start(stow=False)
    status, _, _ = node.post(body(part(write_ct(tmp_path / "a.dcm").path.read_bytes())))
    assert (status, node.kept()) == (404, [])


def test_the_web_role_takes_images_where_the_configuration_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process, its settings, and a restart of nothing else: the ledger has it."""
    monkeypatch.setenv("TRIAGE_VNA_TOKEN", TOKEN)
    node = Node(tmp_path / "node", destinations={})
    text = node.config_path.read_text().replace('ae_title = "CT1"', 'ae_title = "CT1"\ntoken = "env:TRIAGE_VNA_TOKEN"')
    node.config_path.write_text(text)
    outgoing = write_ct(tmp_path / "a.dcm")
    try:
        node.start("web")
        url = f"http://127.0.0.1:{node.port('web')}/dicom-web"
        (refused,) = sent(channel(0, url=url), outgoing)
        assert "HTTP 401" in str(refused)
        assert sent(channel(0, url=url, token="env:TRIAGE_VNA_TOKEN"), outgoing) == [None]
        (row,) = receipts.receipts(node.database)
        assert (row.calling_ae, row.sop_uid, row.outcome) == ("CT1", outgoing.sop_uid, "RECEIVING")
    finally:
        node.stop()


# ---------------------------------------------------------------- who may not


def test_only_the_token_of_a_source_from_its_address_lets_in(
    start: Callable[..., Receiving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of the pages does not, and nothing is read as a form."""
    node = start()
    key = access.make_link(node.database, now=datetime.now(UTC))
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=20)
    connection.request("GET", f"/enter?key={key}")
    cookie = str(connection.getresponse().getheader("set-cookie")).partition(";")[0]
    connection.close()
    assert cookie.startswith("triage-node-")
    data = body(part(write_ct(tmp_path / "a.dcm").path.read_bytes()))
    shown = ["", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer another token, of another"]
    for authorization in shown:
        status, _, answer = node.post(data, Authorization=authorization, Cookie=cookie)
        assert (status, answer.getheader("www-authenticate")) == (401, "Bearer")
    assert {(caller.calling_ae, refusal.reason) for caller, refusal in node.refusals} == {
        ("(no token)", "no token of a [[source]]"),
        ("ELSEWHERE", "this token is not known from this address"),
    }
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as waiting:
        waiting.sendall(b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        waiting.sendall(b"Expect: 100-continue\r\n\r\n")
        assert waiting.recv(1000).startswith(b"HTTP/1.1 401 ")
    monkeypatch.setenv("TRIAGE_VNA_TOKEN", "short")
    assert node.post(data, token="short")[0] == 401
    assert node.kept() == []


def test_what_a_proxy_says_of_an_address_is_no_way_in(start: Callable[..., Receiving]) -> None:
    node = start()
    assert node.post(body(), X_Forwarded_For="nobody")[0] == 401


# ---------------------------------------------------------------- what nobody should send


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("multipart/form-data; boundary=x", 415),
        ("application/dicom", 415),
        ('multipart/related; type="application/dicom+json"; boundary=x', 415),
        ('multipart/related; type="application/dicom"', 415),
        (f'multipart/related; type="application/dicom"; boundary={"x" * 1000}', 400),
        (f"multipart/related; type=application/dicom; boundary={BOUNDARY}", 400),
        ('multipart/related; type="application/dicom"; boundary=another', 400),
        ("", 415),
    ],
)
def test_a_request_of_another_kind_is_refused(start: Callable[..., Receiving], content_type: str, code: int) -> None:
    assert start().post(b"no part", Content_Type=content_type)[0] == code


def test_a_request_that_breaks_off_says_what_it_brought(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    first, second = (write_ct(tmp_path / f"{name}.dcm") for name in "ab")
    whole = body(part(first.path.read_bytes()), part(second.path.read_bytes()))
    for cut in (len(whole) - 4, len(whole) - 300):
        status, content, _ = node.post(whole[:cut])
        assert status == 400
        assert first.sop_uid in told(content)[0]
    status, content, _ = node.post(part(first.path.read_bytes()) + b"--wrong\r\n")
    assert (status, told(content)) == (400, ([], [], []))
    assert node.post(body())[0] == 400
    between = part(first.path.read_bytes()) + f"--{BOUNDARY}\r\n".encode()
    status, content, _ = node.post(between)  # what was to follow never came
    assert (status, first.sop_uid in told(content)[0]) == (400, True)
    assert node.post(whole)[0] == 200
    assert not list((node.spool.root / "incoming").iterdir())


def test_a_part_that_is_no_object_fails_itself_only(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    good = write_ct(tmp_path / "good.dcm")
    data = good.path.read_bytes()
    video = write_ct(tmp_path / "video.dcm", sop_class_uid=VideoEndoscopicImageStorage)
    unknown = write_ct(tmp_path / "unknown.dcm", sop_class_uid="1.2.3.4")
    other = write_ct(tmp_path / "other.dcm")
    named_other = other.path.read_bytes().replace(other.sop_uid.encode(), b"9" * len(other.sop_uid), 1)
    huffman = file_header(good.sop_class_uid, "1.2.77", "1.2.840.10008.1.2.4.52", "X") + b"data"
    cut = data[: 132 + 60]
    parts = [part(b""), part(b"no DICOM" * 100), part(data, "text/html"), part(cut)]
    parts += [part(path.read_bytes()) for path in (unknown.path, video.path, good.path)]
    parts += [part(named_other), part(huffman)]
    status, content, answer = node.post(body(*parts))
    stored, failed, unnamed = told(content)
    assert status == 202
    assert answer.getheader("content-type") == "application/dicom+json"
    assert stored == [video.sop_uid, good.sop_uid]
    assert failed == [(unknown.sop_uid, 0x0122), ("9" * len(other.sop_uid), 0xA900), ("1.2.77", 0xC122)]
    assert unnamed == [0xC000] * 4
    assert len(node.kept()) == 2
    status, content, _ = node.post(body(part(named_other)))
    assert (status, told(content)[0]) == (409, [])


def test_a_uid_is_no_path_and_no_pattern(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    before = {path for path in tmp_path.rglob("*") if "spool" not in path.parts}
    for uid in ("../../../escaped", "/escaped", "a\\..\\b", "%2e%2e", "<script>"):
        image = dcmread(write_ct(tmp_path / "x.dcm").path)
        data_set = encoded_dataset(tmp_path / "x.dcm")
        padded = uid.encode().ljust(len(image.SOPInstanceUID) + len(image.SOPInstanceUID) % 2, b"\0")
        data = data_set.replace(str(image.SOPInstanceUID).encode().ljust(len(padded), b"\0"), padded)
        head = file_header(image.SOPClassUID, uid, image.file_meta.TransferSyntaxUID, "X")
        status, content, _ = node.post(body(part(head + data)))
        assert (status, told(content)[0]) == (200, [uid])
        assert node.post(body(part(head + data)), path=f"/dicom-web/studies/{quote(uid, safe='')}")[0] in (400, 404)
    (tmp_path / "x.dcm").unlink()
    assert {path for path in tmp_path.rglob("*") if "spool" not in path.parts} == before
    assert all(len(path.stem) == 64 for path in node.kept())


def test_an_object_of_another_study_than_the_path_says_is_refused(
    start: Callable[..., Receiving], tmp_path: Path
) -> None:
    node = start()
    outgoing = write_ct(tmp_path / "a.dcm")
    data = body(part(outgoing.path.read_bytes()))
    status, content, _ = node.post(data, path="/dicom-web/studies/1.2.3")
    assert (status, told(content)[1]) == (409, [(outgoing.sop_uid, 0xA900)])
    assert node.kept() == []
    study_uid = dcmread(outgoing.path).StudyInstanceUID
    assert node.post(data, path=f"/dicom-web/studies/{study_uid}")[0] == 200


def test_a_part_that_is_too_large_ends_the_request_and_what_came_before_is_told(
    start: Callable[..., Receiving], tmp_path: Path
) -> None:
    node = start(max_object_mb=1)
    good = write_ct(tmp_path / "good.dcm")
    status, content, _ = node.post(body(part(good.path.read_bytes()), part(b"x" * 1_500_000)))
    assert (status, told(content)[0]) == (413, [good.sop_uid])
    assert len(node.released) == 1


@pytest.mark.parametrize("why", ["watermark", "scratch", "disk", "database"])
def test_without_room_nothing_is_taken_and_the_sender_may_come_again(
    start: Callable[..., Receiving], tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()
    outgoing = write_ct(tmp_path / "a.dcm", size=300)
    if why == "watermark":
        node.full = True
    elif why == "scratch":
        monkeypatch.setattr(node.receiver, "_scratch", partial(Path("/dev/full").open, "r+b"))
    elif why == "disk":
        monkeypatch.setattr(node.spool, "_incoming", tmp_path / "gone")
        monkeypatch.setattr(node.receiver, "_scratch", lambda: (tmp_path / "scratch").open("w+b"))
    else:
        node.database.engine.dispose()
        for path in (tmp_path / "node").glob("db.sqlite3*"):
            path.write_bytes(b"no database" * 100)
    status, content, answer = node.post(body(part(outgoing.path.read_bytes())))
    assert (status, answer.getheader("retry-after")) == (503, "30")
    assert told(content) == ([], [(outgoing.sop_uid, 0xA700)] if why in ("disk", "database") else [], [])
    assert node.receiver._open.total() == 0


def test_who_stalls_is_cut_off_and_keeps_nobody_out(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start(stall_timeout_s=0.5, max_associations_per_address=1)
    data = body(part(write_ct(tmp_path / "a.dcm").path.read_bytes()))
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as stalling:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        stalling.sendall(f"{head}Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        stalling.sendall(data[:200])
        deadline = time.monotonic() + 20
        while not node.receiver._open.total():
            assert time.monotonic() < deadline
        assert node.post(data)[0] == 503  # only one at a time from one address
        assert b" 408 " in stalling.recv(1000)
    assert node.post(data)[0] == 200


def begun(node: Receiving) -> StowRequest:
    request = node.receiver.begin(
        authorization=f"Bearer {TOKEN}", content_type=CONTENT_TYPE, address="127.0.0.1", study_uid=""
    )
    assert isinstance(request, StowRequest)
    return request


def test_memory_does_not_grow_with_the_image(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    outgoing: OutgoingObject = write_ct(tmp_path / "a.dcm", size=4096)  # 32 MB
    data = body(part(outgoing.path.read_bytes()))
    request = begun(node)
    tracemalloc.start()
    try:
        assert all(request.take(data[at : at + 65536]) for at in range(0, len(data), 65536))
        answer: StoreAnswer = request.end()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.code == 200
    assert peak_bytes < 4_000_000
    assert dataset_sha256(node.spool.object_path(outgoing.sop_uid)) == dataset_sha256(outgoing.path)


def test_however_a_request_is_cut_into_chunks_it_is_the_same(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    outgoing = write_ct(tmp_path / "a.dcm", size=8)
    data = b"\r\n" + body(part(outgoing.path.read_bytes() + b"\r\n--almost\r\n-"), part(outgoing.path.read_bytes()))
    for size in (1, 7, 1000):
        request = begun(node)
        for at in range(0, len(data), size):
            request.take(data[at : at + size])
        assert request.end().code == 200
    assert len(node.kept()) == 1


def test_big_endian_is_taken_too(start: Callable[..., Receiving], tmp_path: Path) -> None:
    node = start()
    image = Dataset(dcmread(write_ct(tmp_path / "a.dcm", size=8).path))
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    image.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert node.post(body(part((tmp_path / "b.dcm").read_bytes())))[0] == 200
    assert encoded_dataset(node.kept()[0]) == encoded_dataset(tmp_path / "b.dcm")
