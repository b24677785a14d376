"""Calling peers: against the demo PACS, dcmtk and peers that misbehave, on real sockets."""

from __future__ import annotations

import gc
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts

from tests.integration.tiny import encoded_dataset, write_ct
from tests.tools import free_port
from triage_node.config import Destination
from triage_node.deliver.dicom import DicomDestination
from triage_node.errors import DeliveryError
from triage_node.peers import OutgoingObject, Peer, StoreResult, echo, raise_for_status, send_folder, store
from triage_node.testing import DemoPacs, serve

WAIT_S = 20


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Callable[..., DemoPacs]]:
    """Starts demo PACSs that are stopped at the end of the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(DemoPacs(tmp_path / "pacs", **options))


def peer_of(pacs: DemoPacs) -> Peer:
    return Peer(ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port)


def store_all(peer: Peer, *objects: OutgoingObject, timeout_s: float = WAIT_S) -> list[StoreResult]:
    results: list[StoreResult] = []
    store(peer, calling_ae="TRIAGE", objects=objects, timeout_s=timeout_s, on_result=results.append)
    return results


# ---------------------------------------------------------------- reaching a peer


def test_echo_of_a_running_peer(pacs: Callable[..., DemoPacs]) -> None:
    echo(peer_of(pacs()), calling_ae="TRIAGE", timeout_s=WAIT_S)


def test_a_peer_that_is_not_there_is_retryable_and_named() -> None:
    port = free_port()
    with pytest.raises(DeliveryError, match=f"PACS at 127.0.0.1:{port} cannot be reached; is it running") as caught:
        echo(Peer(ae_title="PACS", host="127.0.0.1", port=port), calling_ae="TRIAGE", timeout_s=2)
    assert caught.value.retryable


def test_a_host_name_that_does_not_resolve_is_retryable() -> None:
    with pytest.raises(DeliveryError, match="check host and port") as caught:
        echo(Peer(ae_title="PACS", host="no-such-host.invalid", port=104), calling_ae="TRIAGE", timeout_s=2)
    assert caught.value.retryable


def test_a_peer_that_knows_another_title_is_retryable_and_says_what_to_check(pacs: Callable[..., DemoPacs]) -> None:
    peer = replace(peer_of(pacs()), ae_title="WRONG")
    with pytest.raises(DeliveryError, match='"WRONG" is not its AE title; check ae_title') as caught:
        echo(peer, calling_ae="TRIAGE", timeout_s=WAIT_S)
    assert caught.value.retryable


def test_a_server_that_never_answers_is_retryable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = Peer(ae_title="PACS", host="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(DeliveryError, match="did not answer as a DICOM node") as caught:
            echo(peer, calling_ae="TRIAGE", timeout_s=0.3)
    assert caught.value.retryable


def test_a_connection_to_a_peer_that_talks_no_dicom_is_closed() -> None:
    closed = threading.Event()

    def talk() -> None:
        connection, _ = server.accept()
        with connection, suppress(ConnectionError):
            connection.settimeout(WAIT_S)
            connection.sendall(b"no DICOM" * 100_000)
            while connection.recv(4096):
                pass
        closed.set()

    gc.disable()  # it would close what is left open
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=talk, daemon=True).start()
            with pytest.raises(DeliveryError, match="did not answer as a DICOM node"):
                echo(Peer(ae_title="PACS", host="127.0.0.1", port=server.getsockname()[1]), calling_ae="T", timeout_s=2)
            assert closed.wait(WAIT_S)
    finally:
        gc.enable()


# ---------------------------------------------------------------- storing


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_files_are_sent_byte_for_byte(pacs: Callable[..., DemoPacs], tmp_path: Path, syntax: str) -> None:
    demo = pacs()
    sent = write_ct(tmp_path / "ct.dcm", size=300, syntax=syntax)
    dataset = encoded_dataset(sent.path)
    header = sent.path.read_bytes().removesuffix(dataset)
    group_length = struct.pack("<HH2sHL", 0x0008, 0x0000, b"UL", 4, 0)  # retired; whoever re-encodes drops it
    sent.path.write_bytes(header + group_length + dataset)
    assert [(r.status, r.error) for r in store_all(peer_of(demo), sent)] == [(0x0000, None)]
    [stored] = demo.objects()
    assert encoded_dataset(stored.path) == encoded_dataset(sent.path)
    assert (stored.sop_uid, stored.modality, stored.series_description) == (sent.sop_uid, "CT", "tiny")


def test_each_object_gets_the_status_that_the_peer_gave_it(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    statuses = [0xA700, 0xC000, 0xB000, 0x0111, 0x0124]
    demo = pacs(statuses=statuses)
    objects = [write_ct(tmp_path / f"{i}.dcm") for i in range(6)]
    results = store_all(peer_of(demo), *objects)
    assert [result.outgoing for result in results] == objects
    assert [result.status for result in results] == [*statuses, 0x0000]
    assert [result.error.retryable if result.error else None for result in results] == [
        True,
        False,
        None,
        None,
        True,
        None,
    ]


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (0x0110, True),
        (0x0117, False),
        (0x0122, False),
        (0x0124, True),
        (0x0211, True),
        (0xA701, True),
        (0xA900, False),
        (0xC123, False),
        (0xFE00, True),
    ],
)
def test_failures_are_retryable_or_not_by_their_class(status: int, retryable: bool) -> None:
    with pytest.raises(DeliveryError, match=f"0x{status:04X}") as caught:
        raise_for_status(status, Peer(ae_title="PACS", host="10.1.2.3", port=104))
    assert (caught.value.retryable, caught.value.status) == (retryable, status)


def test_a_refused_class_is_named_and_the_others_are_stored(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    demo = pacs(accept_classes=[CTImageStorage])
    pdf = write_ct(tmp_path / "pdf.dcm", sop_class_uid=EncapsulatedPDFStorage)
    ct = write_ct(tmp_path / "ct.dcm")
    refused, stored = store_all(peer_of(demo), pdf, ct)
    assert stored.error is None
    assert refused.error is not None
    assert not refused.error.retryable
    assert "does not accept Encapsulated PDF Storage" in str(refused.error)
    assert "Explicit VR Little Endian" in str(refused.error)


def test_a_peer_that_refuses_every_class_refuses_each_object(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    demo = pacs(accept_classes=[MRImageStorage])
    [result] = store_all(peer_of(demo), write_ct(tmp_path / "ct.dcm"))
    assert result.error is not None
    assert "does not accept CT Image Storage" in str(result.error)
    assert not result.error.retryable


def test_more_classes_than_one_association_has_contexts_for_are_all_sent(
    pacs: Callable[..., DemoPacs], tmp_path: Path
) -> None:
    demo = pacs()
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts[:130]]
    objects = [write_ct(tmp_path / f"{i}.dcm", sop_class_uid=uid, size=4) for i, uid in enumerate(classes)]
    results = store_all(peer_of(demo), *objects)
    assert [result.error for result in results] == [None] * 130
    assert {stored.sop_class_uid for stored in demo.objects()} == set(classes)


def test_a_file_that_is_gone_or_another_fails_alone(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    demo = pacs()
    good, gone = write_ct(tmp_path / "good.dcm"), write_ct(tmp_path / "gone.dcm")
    other = replace(write_ct(tmp_path / "other.dcm"), sop_uid="1.2.3")
    gone.path.unlink()
    results = store_all(peer_of(demo), gone, other, good)
    assert [result.error is None for result in results] == [False, False, True]
    assert "cannot be read (No such file or directory)" in str(results[0].error)
    assert "holds another object" in str(results[1].error)


def test_an_unreachable_peer_gives_every_object_a_retryable_result(tmp_path: Path) -> None:
    objects = [write_ct(tmp_path / f"{i}.dcm") for i in range(3)]
    results = store_all(Peer(ae_title="PACS", host="127.0.0.1", port=free_port()), *objects, timeout_s=2)
    assert [result.outgoing for result in results] == objects
    assert all(result.error and result.error.retryable for result in results)


def test_a_peer_too_slow_to_answer_is_retryable_for_this_object_and_the_rest(
    pacs: Callable[..., DemoPacs], tmp_path: Path
) -> None:
    demo = pacs(delay_s=2.0)
    results = store_all(peer_of(demo), write_ct(tmp_path / "a.dcm"), write_ct(tmp_path / "b.dcm"), timeout_s=0.5)
    assert [bool(result.error and result.error.retryable) for result in results] == [True, True]


@pytest.mark.timeout(60)
def test_a_connection_that_is_cut_is_not_waited_for(tmp_path: Path) -> None:
    def cut(event: evt.Event) -> int:
        event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return 0x0000

    ae = AE(ae_title="PACS")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    try:
        peer = Peer(ae_title="PACS", host="127.0.0.1", port=serve(ae, [(evt.EVT_C_STORE, cut)]))
        objects = [write_ct(tmp_path / f"{number}.dcm") for number in range(5)]
        results = [result for _ in range(10) for result in store_all(peer, *objects, timeout_s=300)]
    finally:
        ae.shutdown()
    assert [bool(result.error and result.error.retryable) for result in results] == [True] * 50


def test_our_fakes_close_a_connection_that_the_caller_has_reset() -> None:
    opened: list[socket.socket] = []
    ended = threading.Event()
    ae = AE(ae_title="PACS")
    ae.add_supported_context(CTImageStorage)
    handlers = [
        (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket)),
        (evt.EVT_CONN_CLOSE, lambda _event: ended.set()),
    ]
    try:
        with socket.create_connection(("127.0.0.1", serve(ae, handlers))) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.send(b"\x01")
        assert ended.wait(WAIT_S)
        ae.shutdown()
        assert [connection.fileno() for connection in opened] == [-1]
    finally:
        ae.shutdown()


def test_a_peer_that_stops_reading_does_not_hang_us(tmp_path: Path) -> None:
    let_go = threading.Event()

    def stop_reading(event: evt.Event) -> None:
        if event.pdu.pdu_type == 0x04:
            let_go.wait(WAIT_S)

    ae = AE(ae_title="PACS")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    try:
        peer = Peer(ae_title="PACS", host="127.0.0.1", port=serve(ae, [(evt.EVT_PDU_RECV, stop_reading)]))
        [result] = store_all(peer, write_ct(tmp_path / "big.dcm", size=4000), timeout_s=0.5)  # 32 MB
    finally:
        let_go.set()
        ae.shutdown()
    assert result.error is not None
    assert result.error.retryable


def test_a_destination_sends_to_the_peer_of_its_table(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    demo = pacs()
    table = Destination(name="main", ae_title="PACS", host="127.0.0.1", port=demo.port)
    destination = DicomDestination(table, calling_ae="TRIAGE", timeout_s=WAIT_S)
    results: list[StoreResult] = []
    destination.send([write_ct(tmp_path / "ct.dcm")], results.append)
    assert (destination.name, [result.error for result in results]) == ("main", [None])


# ---------------------------------------------------------------- sending folders


def test_a_folder_is_sent_with_notes_about_what_is_not_dicom(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    demo = pacs()
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    for i in range(3):
        write_ct(folder / f"{i}.dcm")
    (folder / "README.txt").write_text("not an image")
    (folder / "empty").touch()
    found, done = [], []
    report = send_folder(
        [tmp_path / "folder"], peer=peer_of(demo), calling_ae="CT1", on_found=found.append, on_result=done.append
    )
    assert (report.sent, report.failed, found, len(done)) == (3, (), [3], 3)
    assert [(path.name, note) for path, note in report.skipped] == [
        ("README.txt", "not a DICOM file"),
        ("empty", "not a DICOM file"),
    ]
    assert len(demo.objects()) == 3


@pytest.mark.parametrize("accepted", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_compressed_ct_is_decompressed_for_a_peer_that_wants_it_plain(
    pacs: Callable[..., DemoPacs], tmp_path: Path, accepted: str
) -> None:
    demo = pacs(accept_syntaxes=[accepted])
    plain = write_ct(tmp_path / "plain.dcm")
    packed = write_ct(tmp_path / "packed.dcm", syntax=JPEGLSLossless)
    assert store_all(peer_of(demo), packed)[0].error is not None
    report = send_folder([packed.path], peer=peer_of(demo), calling_ae="CT1")
    assert (report.sent, report.failed) == (1, ())
    [stored] = demo.objects()
    received = dcmread(stored.path)
    assert received.SOPInstanceUID == packed.sop_uid
    assert received.file_meta.TransferSyntaxUID == accepted
    assert (received.pixel_array == dcmread(plain.path).pixel_array).all()


def test_failures_of_a_folder_are_in_its_report(pacs: Callable[..., DemoPacs], tmp_path: Path) -> None:
    demo = pacs(statuses=[0xA700])
    objects = [write_ct(tmp_path / f"{i}.dcm") for i in range(2)]
    report = send_folder([o.path for o in objects], peer=peer_of(demo), calling_ae="CT1")
    assert (report.sent, [result.status for result in report.failed]) == (1, [0xA700])


# ---------------------------------------------------------------- the fakes themselves


def test_the_demo_pacs_says_what_it_holds_when_waiting_is_in_vain(pacs: Callable[..., DemoPacs]) -> None:
    with pytest.raises(TimeoutError, match="the PACS holds 0 objects"):
        pacs().wait_for(lambda objects: bool(objects), 0.05)


def test_a_killer_kills_at_its_step_and_no_other() -> None:
    script = (
        "from triage_node.testing import killer; s = killer('b'); s('a'); print('a', flush=True); s('b'); print('b')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (-9, "a\n")
