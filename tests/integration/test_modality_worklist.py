"""The modality worklist is asked for the order of a study: dcmtk and Orthanc answer, and no result ever waits."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from tests import ct
from tests.orthanc import running_orthanc
from tests.told import PATIENT, ToldSite
from tests.tools import free_port, require_tool
from triage_node import config, preflight
from triage_node.domain import Order, Patient, RequestedProcedure
from triage_node.pipeline import asking
from triage_node.pipeline.asking import AGAIN_S, NO_IDENTITY, NO_ORDER, SEVERAL_ORDERS, Enquiries, with_order
from triage_node.pipeline.retention import remove_old
from triage_node.service import deliver
from triage_node.store import requested, worklist
from triage_node.testing import DemoPacs, DemoRis, serve

# pynetdicom's server, shut down while a caller has only just connected
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

WAIT_S = 20.0
PAGE = Path(__file__).parents[2] / "docs" / "channels" / "modality-worklist.md"
PLUGIN = Path("/usr/share/orthanc/plugins/libModalityWorklists.so")
MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
SILENT_IMAGES = {"ReferringPhysicianName": "", "IssuerOfPatientID": ""}
"""What a modality leaves out that is not given it."""


def item(**elements: Any) -> Dataset:
    """A worklist item: the order of the study of `PATIENT`, but for what is said otherwise."""
    whole = {
        "SpecificCharacterSet": "ISO_IR 192",
        "AccessionNumber": PATIENT["AccessionNumber"],
        "ReferringPhysicianName": "Rössler^Eva",
        "PatientName": PATIENT["PatientName"],
        "PatientID": PATIENT["PatientID"],
        "IssuerOfPatientID": PATIENT["IssuerOfPatientID"],
        "PatientBirthDate": "19500102",
        "PatientSex": "M",
        "StudyInstanceUID": generate_uid(),
        "RequestedProcedureDescription": "CT head for Grünholz fall",
        "RequestedProcedureID": "RP1",
        "RequestedProcedurePriority": "STAT",
        "RouteOfAdmissions": "E",
        "CurrentPatientLocation": "ED^Bay 3",
        "PlacerOrderNumberImagingServiceRequest": "PLACER7",
    } | elements
    step = Dataset()
    step.Modality = "CT"
    step.ScheduledStationAETitle = "CT1"
    step.ScheduledProcedureStepStartDate = "20260301"
    step.ScheduledProcedureStepStartTime = "110000"
    step.ScheduledPerformingPhysicianName = ""
    step.ScheduledProcedureStepDescription = "CT head"
    step.ScheduledProcedureStepID = whole.pop("ScheduledProcedureStepID", "SPS1")
    made = Dataset()
    for keyword, value in whole.items():
        setattr(made, keyword, value)
    made.ScheduledProcedureStepSequence = [step]
    return made


def write(items: list[Dataset], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "lockfile").touch()
    for number, each in enumerate(items):
        each.file_meta = FileMetaDataset()
        each.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        each.file_meta.MediaStorageSOPClassUID = MODALITY_WORKLIST
        each.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        each.save_as(folder / f"{number}.wl", enforce_file_format=True)


@contextmanager
def wlmscpfs(folder: Path, *items: Dataset, port: int = 0) -> Iterator[int]:
    """The worklist SCP of dcmtk, AE title WL, with these items; yields its port.

    It does not return RouteOfAdmissions; the character set only by this option.
    """
    port = port or free_port()
    write(list(items), folder / "WL")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [require_tool("wlmscpfs"), "-csk", "-dfp", str(folder), str(port)], stdout=log, stderr=log
        )
    try:
        _await(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the worklist SCP did not start")


@contextmanager
def answering(*answers: Dataset | bytes) -> Iterator[int]:
    """A worklist SCP that answers so, whatever it is asked; yields its port."""

    def on_find(_event: evt.Event) -> Iterator[tuple[int, Any]]:
        for answer in answers:
            yield 0xFF00, answer
        yield 0x0000, None

    ae = AE(ae_title="WL")
    ae.add_supported_context(MODALITY_WORKLIST)
    try:
        yield serve(ae, [(evt.EVT_C_FIND, on_find)])
    finally:
        ae.shutdown()


class Asking(ToldSite):
    """A node that asks a modality worklist, and tells a RIS."""

    def __init__(self, folder: Path, pacs: DemoPacs, ris: DemoRis, ae_title: str, port: int, timeout_s: float) -> None:
        table = config.Hl7Destination(name="ris", host="127.0.0.1", port=ris.port)
        super().__init__(folder, pacs, table)
        asked = config.ModalityWorklist(ae_title=ae_title, host="127.0.0.1", port=port, timeout_s=timeout_s)
        self.config = replace(self.config, modality_worklist=asked)
        self.parts = replace(self.parts, config=self.config)
        self.ris = ris
        self.enquiries = Enquiries(self.parts)

    def arrive(self, **elements: Any) -> list[Dataset]:
        """The first image of a study; returns all of its images."""
        images = ct.head()
        for image in images:
            for keyword, value in (PATIENT | SILENT_IMAGES | elements).items():
                setattr(image, keyword, value)
        self.admit(images[:1])
        return images

    def ends(self, images: list[Dataset], **elements: Any) -> hl7.Message:
        """The study to its published end; what the RIS is told."""
        self.publish(images=images, **SILENT_IMAGES, **elements)
        assert self.send("ris") == 1
        return strict(self.ris.messages[-1])

    def order_of(self, image: Dataset, **elements: Any) -> tuple[Patient, Order]:
        """What a statement of the series of this image would say now of patient and order."""
        identity = {"patient_id": image.PatientID, "accession_number": image.AccessionNumber} | elements
        return with_order(self.parts.database, image.StudyInstanceUID, Patient(**identity), Order())

    def asked(self) -> worklist.Row:
        """The row of the only study, after one question."""
        assert self.enquiries.ask_next() == 1
        return self.row()

    def row(self) -> worklist.Row:
        """Of the only study."""
        (row,) = worklist.page(self.parts.database, worklist.Wanted()).rows
        return row


Start = Callable[..., Asking]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a node that asks who listens on a port."""
    with ExitStack() as stack:

        def start(port: int, ae_title: str = "WL", timeout_s: float = 10) -> Asking:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs"))
            ris = stack.enter_context(DemoRis())
            site = Asking(tmp_path, pacs, ris, ae_title, port, timeout_s)
            stack.callback(site.close)
            return site

        yield start


def strict(message: str) -> hl7.Message:
    """Parsed, and found valid by another implementation."""
    assert parse_message(message, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    return hl7.parse(message)


def field(message: hl7.Message, segment: str, number: int) -> str:
    found = message.segment(segment)
    return str(found[number]) if len(found) > number else ""


# ---------------------------------------------------------------- what it adds


def test_what_dcmtk_says_of_the_order_is_on_the_page_and_in_the_message(tmp_path: Path, start: Start) -> None:
    with wlmscpfs(tmp_path / "wl", item(), item(AccessionNumber="OTHER", PatientID="OTHER")) as port:
        site = start(port)
        images = site.arrive()
        row = site.asked()
        assert row.requested is not None
        assert (row.requested.requested_priority, row.requested.patient_location) == ("STAT", "ED^Bay 3")
        assert row.no_order is None
        assert site.enquiries.ask_next() == 0  # once
        message = site.ends(images)
    assert [field(message, "PV1", number) for number in (2, 3, 8)] == ["U", "ED^Bay 3", "^Rössler^Eva"]
    assert [field(message, "OBR", number) for number in (2, 16, 18, 44)] == [
        "PLACER7",
        "^Rössler^Eva",
        "ACC9",
        "^CT head for Grünholz fall",
    ]
    assert field(message, "PID", 3) == "MRN4711^^^ST_ELSEWHERE^PI"
    assert field(message, "TQ1", 9) == "S^STAT^HL70485"
    assert "order found in the modality worklist" in [
        event.text for event in worklist.events(site.parts.database, row.study_uid)
    ]


def test_orthanc_is_asked_by_study_where_the_images_have_no_accession_number(tmp_path: Path, start: Start) -> None:
    if not PLUGIN.is_file():
        require_tool("libModalityWorklists.so of Debian's orthanc")
    folder = tmp_path / "items"
    images = ct.head()
    study_uid = images[0].StudyInstanceUID
    others = [item(AccessionNumber="ACC1"), item(AccessionNumber="ACC2", RequestedProcedurePriority="LOW")]
    write([item(StudyInstanceUID=study_uid), *others], folder)
    with running_orthanc(
        tmp_path / "orthanc",
        modalities={"triage": ["TRIAGE", "127.0.0.1", 1]},
        Plugins=[str(PLUGIN)],
        Worklists={"Enable": True, "Database": str(folder)},
    ) as orthanc:
        site = start(orthanc.dicom_port, "ORTHANC")
        images = site.arrive(StudyInstanceUID=study_uid, AccessionNumber="")
        row = site.asked()
        assert row.requested is not None
        assert row.requested.accession_number == "ACC9"
    patient, order = site.order_of(images[0])
    assert (patient.accession_number, order.placer_order_number) == ("ACC9", "PLACER7")
    assert (order.patient_location, order.patient_class) == ("ED^Bay 3", "E")


def test_the_images_win_and_the_priority_of_the_order_changes_nothing(tmp_path: Path, start: Start) -> None:
    with wlmscpfs(tmp_path / "wl", item()) as port:
        site = start(port)
        said = PATIENT | {
            "PlacerOrderNumberImagingServiceRequest": "OURS"
        }  # by each image: any may be asked whose it is
        images = site.arrive(**said)
        site.asked()
        site.publish("negative", images=images, **said)
        assert site.send("ris") == 1
    message = strict(site.ris.messages[-1])
    assert [field(message, "PV1", 8), field(message, "OBR", 2)] == ["^Who^Doctor", "OURS"]
    assert field(message, "TQ1", 9) == "R^Routine^HL70485"
    assert site.row().priority == "ROUTINE"


def test_steps_of_one_order_are_one_order(tmp_path: Path, start: Start) -> None:
    study_uid = generate_uid()
    steps = [item(StudyInstanceUID=study_uid, ScheduledProcedureStepID=name) for name in ("A", "B")]
    with wlmscpfs(tmp_path / "wl", *steps) as port:
        site = start(port)
        site.arrive()
        assert site.asked().requested is not None


# ---------------------------------------------------------------- what must not count


def test_two_different_orders_are_not_used_and_that_is_said(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    with wlmscpfs(tmp_path / "wl", item(), item(CurrentPatientLocation="Ward 9")) as port:
        site = start(port)
        images = site.arrive()
        row = site.asked()
        assert (row.requested, row.no_order) == (None, SEVERAL_ORDERS)
        site.clock.advance(AGAIN_S[-1])
        assert site.enquiries.ask_next() == 0
    assert site.order_of(images[0])[1] == Order()
    said = capsys.readouterr()
    assert "several different orders, none is used" in said.out + said.err


def test_of_two_orders_the_one_that_names_the_study_counts(tmp_path: Path, start: Start) -> None:
    images = ct.head()
    ours = item(StudyInstanceUID=images[0].StudyInstanceUID, CurrentPatientLocation="Ward 9")
    with wlmscpfs(tmp_path / "wl", item(), ours) as port:
        site = start(port)
        site.arrive(StudyInstanceUID=images[0].StudyInstanceUID)
        row = site.asked()
        assert row.requested is not None
        assert row.requested.patient_location == "Ward 9"


@pytest.mark.parametrize(
    "elements",
    [
        {"AccessionNumber": "ACC99"},
        {"AccessionNumber": "acc9"},
        {"PatientID": "MRN4712"},
        {"AccessionNumber": ""},
        {"AccessionNumber": "", "PatientID": ""},
    ],
)
def test_an_answer_to_another_question_is_nobodys_order(start: Start, elements: dict[str, str]) -> None:
    """As of a worklist that does not match by what it was asked for."""
    with answering(item(**elements)) as port:
        site = start(port)
        site.arrive()
        row = site.asked()
        assert (row.requested, row.no_order) == (None, NO_ORDER)


def test_an_issuer_that_is_another_refutes(start: Start) -> None:
    with answering(item(IssuerOfPatientID="ANOTHER_HOSPITAL")) as port:
        site = start(port)
        site.arrive(IssuerOfPatientID="ST_ELSEWHERE")
        assert site.asked().no_order == NO_ORDER


def test_an_order_is_not_told_of_images_of_somebody_else_in_the_same_study(start: Start) -> None:
    with answering(item()) as port:
        site = start(port)
        images = site.arrive()
        assert site.asked().requested is not None
    assert site.order_of(images[0])[1].patient_location == "ED^Bay 3"
    assert site.order_of(images[0], patient_id="MRN4712")[1] == Order()
    assert site.order_of(images[0], accession_number="ACC10")[1] == Order()


@pytest.mark.parametrize("number", ["*", "ACC?", "A" * 40])
def test_a_key_that_matches_others_too_is_no_key(number: str) -> None:
    patient = Patient(accession_number=number)
    assert asking.query_for("1.2.3", patient) is None
    query = asking.query_for("1.2.3", replace(patient, patient_id="MRN"))
    assert query is not None
    assert (query.AccessionNumber, query.PatientID, query.StudyInstanceUID) == (None, "MRN", "1.2.3")
    assert "SpecificCharacterSet" not in query
    assert asking.query_for("no UID", replace(patient, patient_id="MRN")) is None
    foreign = asking.query_for("1.2.3", replace(patient, patient_id="Grünholz"))
    assert foreign is not None
    assert foreign.SpecificCharacterSet == "ISO_IR 192"


def test_images_that_name_nobody_are_not_asked_for(start: Start) -> None:
    site = start(free_port())
    site.arrive(AccessionNumber="", PatientID="")
    assert site.asked().no_order == NO_IDENTITY
    site.clock.advance(AGAIN_S[-1])
    assert site.enquiries.ask_next() == 0


# ---------------------------------------------------------------- a worklist that is no help


def test_one_that_is_down_is_asked_again_a_few_times_while_the_study_is_young(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    site = start(port)
    site.arrive()
    assert "cannot be reached" in str(site.asked().no_order)
    assert site.enquiries.ask_next() == 0
    site.clock.advance(AGAIN_S[0])
    assert "cannot be reached" in str(site.asked().no_order)
    with wlmscpfs(tmp_path / "wl", item(), port=port):
        site.clock.advance(AGAIN_S[1])
        assert site.asked().requested is not None
    said = capsys.readouterr()
    assert (said.out + said.err).count("the modality worklist does not answer") == 1
    assert "MRN4711" not in said.out + said.err


def test_it_is_given_up_after_the_last_wait_and_for_an_old_study(start: Start) -> None:
    site = start(free_port())
    site.arrive()
    for wait_s in (*AGAIN_S, 0):
        site.asked()
        site.clock.advance(wait_s)
    site.clock.advance(1)
    assert site.enquiries.ask_next() == 0
    site.arrive()
    site.clock.advance(asking.YOUNG.total_seconds() + 1)
    assert site.enquiries.ask_next() == 0


@pytest.mark.filterwarnings("ignore:Failed to decode byte string")
@pytest.mark.parametrize("elements", [{"PatientID": ["MRN4711", "X"]}, {"AccessionNumber": [Dataset()]}])
def test_nonsense_is_no_order(start: Start, elements: dict[str, Any]) -> None:
    answer = item()
    for keyword, value in elements.items():  # the second one in another VR than it has
        answer.add_new(keyword, "SQ" if isinstance(value[0], Dataset) else "LO", value)
    with answering(answer) as port:
        site = start(port)
        site.arrive()
        row = site.asked()
    assert (row.requested, row.no_order) == (None, NO_ORDER)


def test_one_that_fails_is_no_order(start: Start) -> None:
    with answering(b"no data set") as port:
        site = start(port)
        site.arrive()
        assert "answered 0xC312 to C-FIND" in str(site.asked().no_order)


def test_one_that_talks_no_dicom_is_no_order(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        site = start(server.getsockname()[1])
        site.arrive()
        row = site.asked()
    assert row.requested is None
    assert row.no_order is not None


def test_results_are_out_while_a_worklist_that_never_answers_still_keeps_us_waiting(start: Start) -> None:
    """By the order of events: it took the call before the study was published, and has not answered when the RIS, the
    PACS and the worklist page have the result."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        site = start(silent.getsockname()[1], timeout_s=60)
        stop = threading.Event()
        role = threading.Thread(target=deliver.run, args=(site.parts, stop))
        images = site.arrive()
        role.start()
        try:
            call, _ = silent.accept()
            with call:  # until then it says nothing
                asked = call.recv(6)
                assert asked[:1] == b"\x01"  # A-ASSOCIATE-RQ (PS3.8 9.3.2)
                site.publish(images=images, **SILENT_IMAGES)
                site.wait_for_states(WAIT_S, ris={"SENT"}, pacs={"SENT"})
                told = strict(site.ris.messages[-1])
                assert [field(told, "PV1", number) for number in (2, 3)] == ["U", ""]
                assert field(told, "TQ1", 9) == "S^STAT^HL70485"
                row = site.row()
                assert row.reported_at is not None
                assert (row.requested, row.no_order) == (None, None)  # still unanswered
        finally:
            stop.set()
            role.join(WAIT_S)
    assert not role.is_alive()


def test_what_is_said_after_publication_is_shown_and_makes_no_revision(tmp_path: Path, start: Start) -> None:
    with wlmscpfs(tmp_path / "wl", item()) as port:
        site = start(port)
        message = site.ends(site.arrive())
        assert field(message, "PV1", 3) == ""
        row = site.asked()
    assert row.requested is not None
    assert row.revision == 1
    assert row.open_state is None
    assert site.send("ris") == 0


# ---------------------------------------------------------------- upkeep


def test_what_was_said_is_removed_with_the_results(start: Start) -> None:
    with answering(item()) as port:
        site = start(port)
        site.arrive()
        study_uid = site.asked().study_uid
    assert isinstance(requested.of_study(site.parts.database, study_uid), RequestedProcedure)
    site.clock.now += timedelta(days=site.config.retention.results_days + 1)
    remove_old(site.parts)
    assert requested.of_study(site.parts.database, study_uid) is None


def test_the_check_says_of_the_example_whether_it_is_there(tmp_path: Path, start: Start) -> None:
    shown = PAGE.read_text().split("<!-- example: modality-worklist -->\n```toml\n")[1].split("```")[0]
    path = tmp_path / "triage-node.toml"
    with wlmscpfs(tmp_path / "wl") as port:
        path.write_text(shown.replace("10.20.0.9", "127.0.0.1").replace("RIS_MWL", "WL").replace("104", str(port)))
        site = start(port)
        site.config = replace(site.config, modality_worklist=config.load(path).modality_worklist)
        found = {each.what: each for each in preflight.check(site.config, load_model=lambda: "", now=site.clock())}
        assert found["modality worklist"].ok
    found = {each.what: each for each in preflight.check(site.config, load_model=lambda: "", now=site.clock())}
    assert not found["modality worklist"].ok
    assert "cannot be reached" in found["modality worklist"].detail
