"""The listener on real sockets, against dcmtk, pynetdicom and bare TCP."""

from __future__ import annotations

import errno
import queue
import socket
import ssl
import struct
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.pixels import get_decoder
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from tests.integration.tiny import encoded_dataset, write_ct
from tests.tools import free_port, require_tool
from triage_node.admit import Admission
from triage_node.config import Config, Destination, Node, Source
from triage_node.domain import ReceivedObject
from triage_node.errors import ConfigError, DeliveryError, RejectedObject
from triage_node.peers import STORAGE_COMMITMENT, OutgoingObject, Peer, StoreResult, echo, store
from triage_node.peers.association import CallingAE
from triage_node.receive import TRANSFER_SYNTAXES, Listener
from triage_node.receive.callers import Caller, Refusal, printable
from triage_node.receive.hardening import GuardedConnection, HardenedServer, Limits
from triage_node.receive.syntaxes import COMPRESSED
from triage_node.spool import Spool
from triage_node.store import board
from triage_node.store.database import open_database

WAIT_S = 20  # far more than anything here takes; a test that waits so long has failed


class Node_:
    """A listener and what it was given."""

    def __init__(self, config: Config, admit: Callable[[ReceivedObject], int] | None = None) -> None:
        self.received: list[tuple[ReceivedObject, bytes]] = []
        self.released: queue.Queue[str] = queue.Queue()
        self.can_receive = True
        self._admit = admit or self._keep
        self.listener = Listener(
            config=config, admit=self._admit, released=self.released.put, may_receive=lambda: self.can_receive
        )
        self.port = self.listener.start()
        self.peer = Peer(ae_title=config.node.ae_title, host="127.0.0.1", port=self.port)

    def _keep(self, received: ReceivedObject) -> int:
        self.received.append((received, bytes(received.dataset)))
        return 0x0000

    def store(self, *objects: OutgoingObject, calling_ae: str = "CT1") -> list[StoreResult]:
        results: list[StoreResult] = []
        store(self.peer, calling_ae=calling_ae, objects=objects, timeout_s=WAIT_S, on_result=results.append)
        return results

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def associate(self, calling_ae: str = "CT1", syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,)) -> Association:
        ae = CallingAE(ae_title=calling_ae)
        ae.add_requested_context(CTImageStorage, list(syntaxes))
        return ae.associate("127.0.0.1", self.port, ae_title=self.peer.ae_title)


def config(**node: object) -> Config:
    settings = Node(host="127.0.0.1", port=0, **node)  # type: ignore[arg-type]
    return Config(node=settings, sources=(Source(ae_title="CT1", hosts=["127.0.0.0/8"]),))


@pytest.fixture
def start() -> Iterator[Callable[..., Node_]]:
    """Starts listeners that are stopped at the end of the test."""
    with ExitStack() as stack:

        def start(settings: Config | None = None, admit: Callable[[ReceivedObject], int] | None = None) -> Node_:
            node = Node_(settings or config(), admit)
            stack.callback(node.listener.stop)
            return node

        yield start


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection (within the time-out of the socket)."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# ---------------------------------------------------------------- ordinary callers


def test_dcmtk_verifies_us(start: Callable[..., Node_]) -> None:
    node = start()
    command = [require_tool("echoscu"), "-aet", "CT1", "-aec", "TRIAGE", "127.0.0.1", str(node.port)]
    assert subprocess.run(command, check=False, timeout=WAIT_S).returncode == 0


@pytest.mark.parametrize("arguments", [["storescu"], ["storescu", "--max-send-pdu", "65536"], ["dcmsend"]])
def test_what_dcmtk_sends_arrives_byte_for_byte(
    start: Callable[..., Node_], tmp_path: Path, arguments: list[str]
) -> None:
    node = start()
    sent = write_ct(tmp_path / "ct.dcm", size=256)
    command = [require_tool(arguments[0]), *arguments[1:], "-aet", "CT1", "-aec", "TRIAGE"]
    subprocess.run([*command, "127.0.0.1", str(node.port), str(sent.path)], check=True, timeout=WAIT_S)
    [(received, dataset)] = node.received
    assert dataset == encoded_dataset(sent.path)
    assert (received.sop_uid, received.sop_class_uid) == (sent.sop_uid, sent.sop_class_uid)
    assert (received.calling_ae, received.source_address) == ("CT1", "127.0.0.1")


def test_header_and_data_set_make_a_complete_dicom_file(start: Callable[..., Node_], tmp_path: Path) -> None:
    node = start()
    sent = write_ct(tmp_path / "ct.dcm")
    assert [result.error for result in node.store(sent)] == [None]
    received, dataset = node.received[0]
    read = dcmread(BytesIO(received.header + dataset))
    assert read.file_meta.MediaStorageSOPInstanceUID == sent.sop_uid
    assert read.file_meta.TransferSyntaxUID == sent.transfer_syntax_uid
    assert (read.pixel_array == dcmread(sent.path).pixel_array).all()


def test_explicit_little_endian_wins_whatever_the_order_of_the_offer(start: Callable[..., Node_]) -> None:
    node = start()
    for offer in [(ImplicitVRLittleEndian, ExplicitVRLittleEndian), (*reversed(TRANSFER_SYNTAXES),)]:
        association = node.associate(syntaxes=offer)
        [context] = association.accepted_contexts
        association.release()
        assert context.transfer_syntax == [ExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: str(uid).rpartition(".")[2])
def test_every_compressed_syntax_we_accept_has_a_decoder(syntax: str) -> None:
    assert get_decoder(syntax).is_available


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_what_pydicom_compresses_decodes_to_the_same_pixels(syntax: str, tmp_path: Path) -> None:
    plain, packed = write_ct(tmp_path / "plain.dcm"), write_ct(tmp_path / "packed.dcm", syntax=syntax)
    assert (dcmread(packed.path).pixel_array == dcmread(plain.path).pixel_array).all()


@pytest.mark.parametrize(("syntax", "option"), [(JPEGLosslessSV1, "+e1"), (JPEGLossless, "+el")])
def test_what_dcmtk_compresses_decodes_to_the_same_pixels(syntax: str, option: str, tmp_path: Path) -> None:
    plain, packed = write_ct(tmp_path / "plain.dcm").path, tmp_path / "packed.dcm"
    subprocess.run([require_tool("dcmcjpeg"), option, str(plain), str(packed)], check=True, timeout=WAIT_S)
    dataset = dcmread(packed)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert (dataset.pixel_array == dcmread(plain).pixel_array).all()


def test_associations_store_in_parallel(start: Callable[..., Node_], tmp_path: Path) -> None:
    node = start()
    objects = [write_ct(tmp_path / f"{i}.dcm") for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = [r for group in pool.map(lambda i: node.store(*objects[i::4]), range(4)) for r in group]
    assert [result.error for result in results] == [None] * 12
    assert {received.sop_uid for received, _ in node.received} == {outgoing.sop_uid for outgoing in objects}
    assert len({received.association for received, _ in node.received}) == 4


# ---------------------------------------------------------------- callers that are refused

REFUSALS = [
    (
        {"calling_ae": "CT9", "called_ae": "TRIAGE"},
        "Calling AE title not recognised",
        'add to site.toml: [[source]] ae_title = "CT9" hosts = ["127.0.0.1"]',
    ),
    (
        {"calling_ae": "FAR", "called_ae": "TRIAGE"},
        "Calling AE title not recognised",
        'add "127.0.0.1" to hosts of [[source]] "FAR" (site.toml)',
    ),
    (
        {"calling_ae": "CT1", "called_ae": "OTHER"},
        "Called AE title not recognised",
        'the caller should call us "TRIAGE", or set called_ae = "OTHER" in [[source]] "CT1" (site.toml)',
    ),
]


@pytest.mark.parametrize(("presented", "reason", "advice"), REFUSALS, ids=["calling AE", "address", "called AE"])
def test_a_refusal_names_the_line_that_would_admit_the_caller(
    start: Callable[..., Node_],
    capsys: pytest.CaptureFixture[str],
    presented: dict[str, str],
    reason: str,
    advice: str,
) -> None:
    sources = (Source(ae_title="CT1", hosts=["127.0.0.1"]), Source(ae_title="FAR", hosts=["10.1.2.0/24"]))
    node = start(replace(config(), sources=sources, path=Path("site.toml")))
    peer = replace(node.peer, ae_title=presented["called_ae"])
    with pytest.raises(DeliveryError, match=reason):
        echo(peer, calling_ae=presented["calling_ae"], timeout_s=WAIT_S)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "association refused" in line]
    assert advice.replace('"', '\\"') in line
    assert presented["calling_ae"] in line
    assert presented["called_ae"] in line


def test_a_source_may_call_us_by_a_name_of_its_own(start: Callable[..., Node_]) -> None:
    sources = (Source(ae_title="CT1", hosts=["127.0.0.1"], called_ae="OLDNAME"),)
    node = start(replace(config(), sources=sources))
    echo(replace(node.peer, ae_title="OLDNAME"), calling_ae="CT1", timeout_s=WAIT_S)


def test_what_is_logged_of_a_caller_holds_no_control_characters() -> None:
    assert printable(' A\x1b[31m"B\\\n' + "C" * 99) == "A?[31m?B??CCCCCC"


def test_too_many_associations_are_rejected_as_transient(
    start: Callable[..., Node_], capsys: pytest.CaptureFixture[str]
) -> None:
    node = start(config(max_associations=1))
    first = node.associate()
    second = node.associate()
    assert second.is_rejected
    assert second.acceptor.primitive.result == 0x02
    assert "raise node.max_associations" in capsys.readouterr().err
    first.release()


def test_without_resources_associations_are_rejected_and_objects_refused(
    start: Callable[..., Node_], tmp_path: Path
) -> None:
    node = start()
    association = node.associate()
    node.can_receive = False
    status = association.send_c_store(dcmread(write_ct(tmp_path / "ct.dcm").path))
    assert status.Status == 0xA700
    rejected = node.associate()
    assert (rejected.is_rejected, rejected.acceptor.primitive.result) == (True, 0x02)
    association.release()
    assert not node.received


def test_a_check_that_fails_rejects() -> None:
    def broken() -> bool:
        raise ValueError

    listener = Listener(config=config(), admit=lambda _: 0, released=lambda _: None, may_receive=broken)
    port = listener.start()
    try:
        with pytest.raises(DeliveryError, match="rejected"):
            echo(Peer(ae_title="TRIAGE", host="127.0.0.1", port=port), calling_ae="CT1", timeout_s=WAIT_S)
    finally:
        listener.stop()


def test_a_refused_caller_is_told_of_and_stays_out_even_where_nobody_can_be_told() -> None:
    told: queue.Queue[tuple[str, str]] = queue.Queue()

    def broken(caller: Caller, refusal: Refusal) -> None:
        told.put((caller.calling_ae, refusal.advice))
        raise ValueError

    listener = Listener(config=config(), admit=lambda _: 0, released=lambda _: None, refused=broken)
    peer = Peer(ae_title="TRIAGE", host="127.0.0.1", port=listener.start())
    try:
        with pytest.raises(DeliveryError, match="rejected"):
            echo(peer, calling_ae="STRANGER", timeout_s=WAIT_S)
        echo(peer, calling_ae="CT1", timeout_s=WAIT_S)
    finally:
        listener.stop()
    calling_ae, advice = told.get(timeout=WAIT_S)
    assert calling_ae == "STRANGER"
    assert '[[source]] ae_title = "STRANGER"' in advice
    assert told.empty()


# ---------------------------------------------------------------- private SOP classes

PRIVATE = "1.3.12.2.1107.5.9.1"


def test_a_private_class_is_taken_from_the_source_that_lists_it_and_from_no_other(
    start: Callable[..., Node_], tmp_path: Path
) -> None:
    lists = Source(ae_title="CT1", hosts=["127.0.0.1"], accept_classes=[PRIVATE])
    node = start(replace(config(), sources=(lists, Source(ae_title="CT2", hosts=["127.0.0.1"]))))
    ct, private = write_ct(tmp_path / "ct.dcm"), write_ct(tmp_path / "private.dcm", sop_class_uid=PRIVATE)
    assert [result.error for result in node.store(private, ct)] == [None, None]
    refused, stored = node.store(private, ct, calling_ae="CT2")
    assert stored.error is None
    assert refused.error is not None
    assert f"does not accept {PRIVATE}" in str(refused.error)
    assert [received.sop_class_uid for received, _ in node.received] == [PRIVATE, CTImageStorage, CTImageStorage]


def test_a_private_object_is_kept_and_entered_as_ignored(start: Callable[..., Node_], tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path / 'db.sqlite3'}")) as database:
        spool = Spool(tmp_path / "spool")
        admission = Admission(spool=spool, database=database, clock=lambda: datetime.now(UTC))
        lists = Source(ae_title="CT1", hosts=["127.0.0.1"], accept_classes=[PRIVATE])
        node = start(replace(config(), sources=(lists,)), admission.admit)
        private = write_ct(tmp_path / "private.dcm", sop_class_uid=PRIVATE)
        assert [result.status for result in node.store(private)] == [0x0000]
        assert board.status(database, now=datetime.now(UTC))["objects"] == {"IGNORED": 1}
        assert encoded_dataset(spool.object_path(private.sop_uid)) == encoded_dataset(private.path)


# ---------------------------------------------------------------- answers


def test_who_may_only_report_commitment_stores_nothing_over_that_context(
    start: Callable[..., Node_], tmp_path: Path
) -> None:
    """pynetdicom serves a C-STORE over whatever context it names."""
    pacs = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, commitment=True)
    node = start(replace(config(), destinations=(pacs,)))
    ae = CallingAE(ae_title="PACS")
    ae.add_requested_context(STORAGE_COMMITMENT, ExplicitVRLittleEndian)
    role = build_role(STORAGE_COMMITMENT, scp_role=True)
    association = ae.associate("127.0.0.1", node.port, ae_title="TRIAGE", ext_neg=[role])
    assert association.is_established
    (context,) = association.accepted_contexts
    context._abstract_syntax, context._as_scu = CTImageStorage, True
    status = association.send_c_store(dcmread(write_ct(tmp_path / "ct.dcm").path))
    association.release()
    assert status.Status == 0x0124
    assert node.received == []


def test_an_object_larger_than_we_take_is_cut_off_before_it_fills_the_memory(
    start: Callable[..., Node_], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = start(config(max_object_mb=1))
    large = dcmread(write_ct(tmp_path / "ct.dcm").path)
    large.add_new(0x00091010, "OB", bytes(3_000_000))
    large.save_as(tmp_path / "large.dcm")
    small = write_ct(tmp_path / "small.dcm")
    (refused,) = node.store(replace(small, path=tmp_path / "large.dcm", sop_uid=str(large.SOPInstanceUID)))
    assert refused.error is not None
    assert node.received == []
    assert "an object is larger than node.max_object_mb" in capsys.readouterr().err
    assert [result.error for result in node.store(small)] == [None]


def test_images_sent_without_waiting_for_answers_are_all_answered(start: Callable[..., Node_], tmp_path: Path) -> None:
    """More than may wait in memory: reading pauses, and goes on."""
    node = start()
    images = [dcmread(write_ct(tmp_path / f"{number}.dcm").path) for number in range(12)]
    association = node.associate()
    association._reactor_checkpoint.clear()  # its own thread takes no answer
    answered = []
    for number, image in enumerate(images, start=1):
        request = C_STORE()
        request.MessageID, request.Priority = number, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        request.DataSet = BytesIO(encode(image, False, True) or b"")
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    for _ in images:
        _, answer = association.dimse.get_msg(block=True)
        assert answer is not None
        answered.append(answer.Status)
    association._reactor_checkpoint.set()
    association.release()
    assert answered == [0x0000] * 12
    assert len(node.received) == 12


def test_a_failed_object_gets_its_status_and_the_association_lives_on(
    start: Callable[..., Node_], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = iter([RejectedObject(0xA900, "no match"), OSError(errno.ENOSPC, "full"), ValueError("DOE^JANE"), None])

    def admit(received: ReceivedObject) -> int:
        error = next(outcomes)
        if error:
            raise error
        return 0x0000

    node = start(admit=admit)
    results = node.store(*[write_ct(tmp_path / f"{i}.dcm", patient_name="DOE^JANE") for i in range(4)])
    assert [result.status for result in results] == [0xA900, 0xA700, 0xC211, 0x0000]
    node.released.get(timeout=WAIT_S)
    log = capsys.readouterr().err
    assert log.count("object refused") == 3
    assert "DOE" not in log
    assert not any(result.outgoing.sop_uid in log for result in results)


def test_a_malformed_uid_is_kept_and_quoted_nowhere(
    start: Callable[..., Node_], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        node = start()
        association = node.associate()
        dataset = dcmread(write_ct(tmp_path / "ct.dcm").path)
        dataset.SOPInstanceUID = "DOE^JANE"
        assert association.send_c_store(dataset).Status == 0x0000
        association.release()
        node.released.get(timeout=WAIT_S)
    received, _ = node.received[0]
    assert received.sop_uid == "DOE^JANE"
    assert b"DOE^JANE" in received.header
    assert "DOE" not in capsys.readouterr().err + "".join(str(warning.message) for warning in caught)


def drop(association: Association) -> None:
    connection = association.dul.socket.socket
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.mark.parametrize("end", [Association.release, Association.abort, drop])
def test_the_end_of_an_association_is_told_once_however_it_ends(
    start: Callable[..., Node_], tmp_path: Path, end: Callable[[Association], None]
) -> None:
    node = start()
    association = node.associate()
    for i in range(2):
        association.send_c_store(dcmread(write_ct(tmp_path / f"{i}.dcm").path))
    end(association)
    assert node.released.get(timeout=WAIT_S) == node.received[0][0].association
    association.join(WAIT_S)
    node.listener.stop()
    assert node.released.empty()


def test_an_association_that_stored_nothing_is_not_told(start: Callable[..., Node_]) -> None:
    node = start()
    echo(node.peer, calling_ae="CT1", timeout_s=WAIT_S)
    node.listener.stop()
    assert node.released.empty()


# ---------------------------------------------------------------- bad peers


def test_a_peer_that_stalls_inside_a_pdu_is_cut(
    start: Callable[..., Node_], capsys: pytest.CaptureFixture[str]
) -> None:
    node = start(config(stall_timeout_s=0.3))
    with node.connect() as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, 200) + b"\x00\x01")
        assert is_closed(connection)
    assert "it stalled inside a PDU" in capsys.readouterr().err


def test_a_peer_that_trickles_is_cut_too(start: Callable[..., Node_]) -> None:
    node = start(config(stall_timeout_s=0.3))
    with node.connect() as connection:
        connection.settimeout(0.05)
        connection.sendall(struct.pack(">BBL", 1, 0, 2000))
        with pytest.raises(ConnectionError):
            for _ in range(400):  # 20 s of one byte each 50 ms
                connection.sendall(b"\x00")
                try:
                    if connection.recv(1) == b"":
                        raise ConnectionError
                except TimeoutError:
                    pass


def test_a_peer_that_says_nothing_is_closed(start: Callable[..., Node_]) -> None:
    node = start(config(stall_timeout_s=0.3))
    with node.connect() as connection:
        assert is_closed(connection)


def test_an_idle_association_is_ended(start: Callable[..., Node_]) -> None:
    node = start(config(idle_timeout_s=1.0))
    association = node.associate()
    association.join(WAIT_S)
    assert association.is_aborted


def test_stalled_peers_keep_nobody_else_out(start: Callable[..., Node_]) -> None:
    node = start(config(stall_timeout_s=60.0, max_associations=4))
    with ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(node.connect())
            connection.sendall(struct.pack(">BBL", 1, 0, 200) + b"\x00\x01")
        echo(node.peer, calling_ae="CT1", timeout_s=WAIT_S)


@pytest.mark.parametrize("length", [(1 << 20) + 1, 600_000_000])
def test_an_oversize_request_is_cut_before_it_is_buffered(
    start: Callable[..., Node_], capsys: pytest.CaptureFixture[str], length: int
) -> None:
    node = start(config(stall_timeout_s=60.0))
    with node.connect() as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, length))
        assert is_closed(connection)  # though not one byte of it was sent
    assert f"a PDU of {length} bytes was announced" in capsys.readouterr().err


def test_an_oversize_data_pdu_ends_the_association(start: Callable[..., Node_]) -> None:
    node = start(config(stall_timeout_s=60.0))
    association = node.associate()
    association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 140_000))
    association.join(WAIT_S)
    assert association.is_aborted


def test_one_address_cannot_take_all_places(start: Callable[..., Node_], capsys: pytest.CaptureFixture[str]) -> None:
    node = start(config(stall_timeout_s=60.0, max_associations_per_address=2))
    with node.connect() as first, node.connect() as second, node.connect() as third:
        assert is_closed(third)
        assert "node.max_associations_per_address" in capsys.readouterr().err
        second.close()
        assert is_released(node)
        first.close()


def is_released(node: Node_) -> bool:
    """Whether a place becomes free: the server notices a closed connection in its own time."""
    for _ in range(200):
        try:
            echo(node.peer, calling_ae="CT1", timeout_s=WAIT_S)
        except DeliveryError:
            threading.Event().wait(0.02)
        else:
            return True
    return False


def test_a_silent_peer_does_not_block_a_tls_handshake_of_others(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=str(certificate))
    ae = CallingAE(ae_title="TRIAGE")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.add_requested_context("1.2.840.10008.1.1")
    server = ae.make_server(
        ("127.0.0.1", 0),
        ssl_context=context,
        server_class=HardenedServer,
        request_handler=GuardedConnection,
        limits=Limits(stall_timeout_s=60.0, message_bytes=1_000_000, connections=9, connections_per_address=9),
        ended=lambda _: None,
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.server_address[1]
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S):
            association = ae.associate("127.0.0.1", port, tls_args=(trust, "localhost"))
            assert association.send_c_echo().Status == 0x0000
            association.release()
    finally:
        server.shutdown()
        thread.join()


# ---------------------------------------------------------------- start and stop


def test_stop_ends_every_thread_whatever_is_open() -> None:
    before = set(threading.enumerate())
    node = Node_(config(stall_timeout_s=60.0))
    with node.connect(), node.connect() as stalled:
        stalled.sendall(struct.pack(">BBL", 1, 0, 200))
        association = node.associate()
        node.listener.stop()
        association.join(WAIT_S)
    assert [t.name for t in threading.enumerate() if t not in before] == []


def test_a_taken_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = config()
        settings = replace(settings, node=replace(settings.node, port=taken.getsockname()[1]))
        listener = Listener(config=settings, admit=lambda _: 0, released=lambda _: None)
        with pytest.raises(ConfigError, match=r"cannot listen on node\.host .* node\.port"):
            listener.start()
    assert free_port()
