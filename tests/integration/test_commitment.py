"""Storage commitment: a result counts as delivered only when the PACS says that it keeps it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import build_role
from pynetdicom.association import Association

from tests.integration.tiny import write_ct
from tests.orthanc import running_orthanc
from tests.outgoing import Sender
from tests.tools import free_port
from triage_node import preflight
from triage_node.domain import CommitmentReport
from triage_node.errors import DeliveryError
from triage_node.peers import STORAGE_COMMITMENT
from triage_node.peers.association import CallingAE
from triage_node.pipeline.committing import note_report, request_commitment
from triage_node.store import commitments, outbox
from triage_node.testing import Commitment, DemoPacs

WAIT_S = 20.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Sender, DemoPacs]]]:
    """Starts a sender and a PACS that has storage commitment."""
    with ExitStack() as stack:

        def start(answers: Commitment | None, **settings: object) -> tuple[Sender, DemoPacs]:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs", commitment=answers))
            return stack.enter_context(Sender(tmp_path, pacs.port, **settings)), pacs

        yield start


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert true()


def wait_for_states(sender: Sender, expected: dict[str, int]) -> None:
    wait_until(lambda: sender.states() == expected)


# ---------------------------------------------------------------- the report comes


@pytest.mark.parametrize("over", ["the same association", "a new association"])
def test_what_the_pacs_keeps_is_confirmed_and_only_then_delivered(
    start: Callable[..., tuple[Sender, DemoPacs]], over: str
) -> None:
    commitment = Commitment()
    sender, _ = start(commitment)
    if over == "a new association":
        commitment.call_back = ("TRIAGE", "127.0.0.1", sender.port)
    sender.publish()
    assert sender.deliver() == 2
    assert sender.states() == {"SENT": 2}
    assert sender.revisions() == {"REPORTED": 1}
    assert sender.ask()
    wait_for_states(sender, {"CONFIRMED": 2})
    assert sender.revisions() == {"DELIVERED": 1}
    assert len(commitment.requests) == 1
    wait_until(lambda: commitment.answers == [0x0000])
    assert not sender.ask(after_s=10_000)


def test_orthanc_confirms_over_an_association_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    with (
        running_orthanc(tmp_path / "orthanc", modalities={"triage": ["TRIAGE", "127.0.0.1", port]}) as orthanc,
        Sender(tmp_path, orthanc.dicom_port, ae_title="ORTHANC", listen_on=port) as sender,
    ):
        sender.publish()
        assert sender.deliver() == 2
        assert sender.ask()
        wait_for_states(sender, {"CONFIRMED": 2})
        assert sender.revisions() == {"DELIVERED": 1}


def test_orthanc_says_what_it_has_lost_and_gets_it_again(tmp_path: Path) -> None:
    port = free_port()
    with (
        running_orthanc(tmp_path / "orthanc", modalities={"triage": ["TRIAGE", "127.0.0.1", port]}) as orthanc,
        Sender(tmp_path, orthanc.dicom_port, ae_title="ORTHANC", listen_on=port) as sender,
    ):
        sender.publish()
        sender.deliver()
        orthanc.delete(f"/instances/{orthanc.get('/instances')[0]}")
        assert sender.ask()
        wait_for_states(sender, {"CONFIRMED": 1, "PENDING": 1})
        sender.clock.advance(5)
        assert sender.deliver() == 1
        assert sender.ask()
        wait_for_states(sender, {"CONFIRMED": 2})
        assert len(orthanc.instances()) == 2


def test_without_commitment_sent_is_the_end(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(None, commitment=False)
    sender.publish()
    sender.deliver()
    assert sender.revisions() == {"DELIVERED": 1}
    assert not sender.ask(after_s=10_000)


# ---------------------------------------------------------------- the report says no


def test_what_was_not_kept_is_sent_again_until_it_is(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, pacs = start(Commitment(failures=[0x0110]))
    sender.publish()
    sender.deliver()
    sender.ask()
    wait_for_states(sender, {"CONFIRMED": 1, "PENDING": 1})
    assert sender.revisions() == {"REPORTED": 1}
    assert sender.deliver() == 0  # waits for its backoff
    sender.clock.advance(5)
    assert sender.deliver() == 1
    sender.ask()
    wait_for_states(sender, {"CONFIRMED": 2})
    assert sender.revisions() == {"DELIVERED": 1}
    assert len(pacs.objects()) == 2


def test_what_is_never_kept_is_a_dead_letter_with_its_reason(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment(failures=[0x0110] * 9), commitment_attempts=2)
    sender.publish(classes=[CTImageStorage])
    for expected in ("PENDING", "DEAD"):
        sender.clock.advance(10)
        assert sender.deliver() == 1
        sender.ask()
        wait_for_states(sender, {expected: 1})
    assert sender.letters() == ["sent, but not committed: 0x0110"]


def test_a_class_that_is_never_committed_is_a_dead_letter_at_once(
    start: Callable[..., tuple[Sender, DemoPacs]],
) -> None:
    sender, _ = start(Commitment(failures=[0x0122]))
    sender.publish()
    sender.deliver()
    sender.ask()
    wait_for_states(sender, {"CONFIRMED": 1, "DEAD": 1})
    assert sender.letters() == ["sent, but not committed: 0x0122 SOP class not supported"]
    assert outbox.retry_dead(sender.parts.database, destination=None, now=sender.clock()) == 1
    assert sender.deliver() == 1
    sender.ask()
    wait_for_states(sender, {"CONFIRMED": 2})


def test_what_a_newer_revision_superseded_is_not_sent_again(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment(failures=[0x0110]))
    sender.publish(classes=[CTImageStorage], series="1.2.3")
    sender.deliver()
    sender.publish(classes=[CTImageStorage], series="1.2.3")
    sender.ask()
    wait_for_states(sender, {"CANCELLED": 1, "PENDING": 1})


# ---------------------------------------------------------------- no report


def test_a_silent_pacs_is_asked_again_under_another_transaction(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    commitment = Commitment(silent=1)
    sender, _ = start(commitment, hold_s=0.1)
    sender.publish()
    sender.deliver()
    assert sender.ask()
    assert not sender.ask()
    assert sender.ask(after_s=900)
    wait_for_states(sender, {"CONFIRMED": 2})


def test_a_pacs_that_stays_silent_ends_in_dead_letters(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment(silent=99), commitment_attempts=2, hold_s=0.1)
    sender.publish()
    sender.deliver()
    for _ in range(3):
        assert sender.ask(after_s=901)
    assert sender.states() == {"DEAD": 2}
    assert sender.letters() == ["sent, but no storage commitment after 2 request(s)"] * 2


def test_a_pacs_that_is_away_is_asked_again_with_backoff(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, pacs = start(Commitment())
    sender.publish()
    sender.deliver()
    pacs.stop()
    assert sender.ask()
    assert sender.states() == {"SENT": 2}
    assert not sender.ask(after_s=1)
    pacs.start()
    assert sender.ask(after_s=4)
    wait_for_states(sender, {"CONFIRMED": 2})


def test_a_pacs_without_storage_commitment_is_named_in_the_dead_letter(
    start: Callable[..., tuple[Sender, DemoPacs]],
) -> None:
    sender, _ = start(None)
    sender.publish(classes=[CTImageStorage])
    sender.deliver()
    sender.ask()
    [letter] = sender.letters()
    assert "does not accept storage commitment; should it not have it, say commitment = false" in letter


def test_commitment_switched_off_leaves_nothing_waiting(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment())
    sender.publish()
    sender.deliver()
    commitments.forgo(sender.parts.database, "pacs", now=sender.clock())
    assert sender.revisions() == {"DELIVERED": 1}


# ---------------------------------------------------------------- reports out of order


def request_of(sender: Sender) -> commitments.Request:
    sender.clock.advance(2)
    later = sender.clock()
    found = commitments.open_request(sender.parts.database, "pacs", now=sender.clock(), ask_again_at=later)
    assert found is not None
    return found


def report_of(request: commitments.Request, *, failed: bool = False) -> CommitmentReport:
    uids = [uid for _, uid in request.references]
    return CommitmentReport(
        transaction_uid=request.transaction_uid,
        committed=frozenset() if failed else frozenset(uids),
        failed=dict.fromkeys(uids, 0x0110) if failed else {},
    )


def test_a_late_yes_counts_and_a_late_no_does_not(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment())
    sender.publish()
    sender.deliver()
    first, second = request_of(sender), request_of(sender)
    assert first.transaction_uid != second.transaction_uid
    assert note_report(sender.parts, report_of(first, failed=True), ["pacs"])
    assert sender.states() == {"SENT": 2}
    assert note_report(sender.parts, report_of(first), ["pacs"])
    assert sender.states() == {"CONFIRMED": 2}
    assert note_report(sender.parts, report_of(second, failed=True), ["pacs"])
    assert sender.states() == {"CONFIRMED": 2}


def test_a_report_of_another_destination_changes_nothing(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment())
    sender.publish()
    sender.deliver()
    assert not note_report(sender.parts, report_of(request_of(sender)), ["other"])
    assert sender.states() == {"SENT": 2}


def test_a_request_is_written_down_before_it_is_sent(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    """A role killed between both, or after the PACS took it: the report finds its transaction, or it is asked again."""
    commitment = Commitment()
    sender, _ = start(commitment)
    sender.publish()
    sender.deliver()
    sender.clock.advance(2)

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == "commitment written down":
            raise Killed

    with pytest.raises(Killed):
        request_commitment(replace(sender.parts, step=kill), sender.destination)
    assert commitment.requests == []
    assert not sender.ask()
    assert sender.ask(after_s=901)
    wait_for_states(sender, {"CONFIRMED": 2})


# ---------------------------------------------------------------- who may report


def associate_as_pacs(sender: Sender, *, calling_ae: str = "PACS", takes_its_role: bool = True) -> Association:
    ae = CallingAE(ae_title=calling_ae)
    ae.add_requested_context(STORAGE_COMMITMENT)
    ae.add_requested_context(CTImageStorage)
    roles = [build_role(STORAGE_COMMITMENT, scp_role=True)] if takes_its_role else []
    return ae.associate("127.0.0.1", sender.port, ae_title="TRIAGE", ext_neg=roles)


def test_a_destination_that_forgets_role_selection_is_heard_all_the_same(
    start: Callable[..., tuple[Sender, DemoPacs]],
) -> None:
    sender, _ = start(Commitment())
    sender.publish(classes=[CTImageStorage])
    sender.deliver()
    request = request_of(sender)
    report = Dataset()
    report.TransactionUID = request.transaction_uid
    report.ReferencedSOPSequence = [Dataset()]
    report.ReferencedSOPSequence[0].ReferencedSOPClassUID = CTImageStorage
    report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = request.references[0][1]
    association = associate_as_pacs(sender, takes_its_role=False)
    status, _ = association.send_n_event_report(report, 1, STORAGE_COMMITMENT, "1.2.840.10008.1.20.1.1")
    association.release()
    assert status.Status == 0x0000
    assert sender.states() == {"CONFIRMED": 1}


def test_a_destination_may_report_and_may_not_store_and_the_log_says_which_line_would_let_it(
    start: Callable[..., tuple[Sender, DemoPacs]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sender, _ = start(Commitment())
    association = associate_as_pacs(sender)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "storage refused" in line]
    assert '[[source]] ae_title = "PACS"' in json.loads(line)["advice"]
    assert [str(context.abstract_syntax) for context in association.accepted_contexts] == [STORAGE_COMMITMENT]
    with pytest.raises(ValueError, match="No presentation context"):
        association.send_c_store(dcmread(write_ct(tmp_path / "ct.dcm").path))
    association.release()


def test_a_destination_that_is_not_asked_for_commitment_is_refused(
    start: Callable[..., tuple[Sender, DemoPacs]],
) -> None:
    sender, _ = start(None, commitment=False)
    assert associate_as_pacs(sender).is_rejected


def test_a_stranger_may_not_report(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, _ = start(Commitment())
    assert associate_as_pacs(sender, calling_ae="STRANGER").is_rejected


@pytest.mark.parametrize("transaction", ["2.25.1", None])
def test_a_report_that_makes_no_sense_is_answered_so(
    start: Callable[..., tuple[Sender, DemoPacs]], transaction: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    sender, _ = start(Commitment())
    association = associate_as_pacs(sender)
    report = Dataset()
    report.TransactionUID = transaction
    if transaction is None:
        del report.TransactionUID
        report.PatientName = "DOE^JANE"
    status, _ = association.send_n_event_report(report, 1, STORAGE_COMMITMENT, "1.2.840.10008.1.20.1.1")
    association.release()
    assert status.Status == (0x0115 if transaction else 0x0110)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any("storage commitment report" in event["event"] for event in events)
    assert "DOE" not in json.dumps(events)


@pytest.mark.parametrize("has_it", [True, False])
def test_the_preflight_tells_whether_the_destination_has_storage_commitment(
    start: Callable[..., tuple[Sender, DemoPacs]], has_it: bool
) -> None:
    sender, _ = start(Commitment() if has_it else None)
    findings = preflight.check(sender.config, load_model=lambda: "none", now=sender.clock())
    [finding] = [finding for finding in findings if finding.what == "commitment of pacs"]
    assert finding.ok == has_it
    assert ("offers it" if has_it else "does not accept Storage Commitment Push Model") in finding.detail


def test_a_peer_that_cannot_be_reached_says_so(start: Callable[..., tuple[Sender, DemoPacs]]) -> None:
    sender, pacs = start(Commitment())
    pacs.stop()
    with pytest.raises(DeliveryError, match="cannot be reached"):
        sender.destination.request_commitment(
            "2.25.1", [("1.2", "1.2.3")], on_report=lambda _: True, answered=lambda: False
        )
