"""A statement as an HL7 message: valid by another implementation, whatever stands in the images."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from pydicom.sr._concepts_dict import concepts

from tests import report_cases as cases
from triage_node.config import Hl7Destination
from triage_node.deliver import statement as statements
from triage_node.deliver.oru import CODES, escape, oru
from triage_node.deliver.statement import Statement, message_id
from triage_node.domain import Order, Patient
from triage_node.errors import DeliveryError
from triage_node.pipeline.identity import read_identity
from triage_node.report.codes import Concept

SETTINGS = Hl7Destination(name="ris", host="h", port=1)
RESULT: dict[str, Any] = {
    "outcome": "ANALYZED",
    "reason": None,
    "detail": "subdural hemorrhage suspected, p 0.97, 12.0 mL, left",
    "priority": "STAT",
    "suspected": True,
    "findings": ["subdural"],
    "probabilities": {"any": 0.998},
    "volumes_ml": {"any": 12.04},
    "warnings": ["Gantry tilt of 10 degrees."],
    "bundle": {"name": "tiny", "version": "1", "sha256": "0"},
}
PATIENT = Patient(patient_name="Doe^Jane", patient_id="7", birth_date="19500102", sex="F", accession_number="A1")


def stated(
    *, revision: int = 1, patient: Patient | None = PATIENT, order: Order | None = None, **result: Any
) -> Statement:
    return Statement(
        uid="2.25.1",
        study_uid="1.2.3",
        series_uid="1.2.3.4",
        revision=revision,
        created_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        node="TRIAGE",
        filler_number="F1",
        result=RESULT | result,
        patient=patient,
        order=order or Order(),
    )


def message_of(statement: Statement, **settings: Any) -> str:
    assert statement.patient is not None
    assert statement.order is not None
    values = vars(SETTINGS) | settings
    return oru(statement, statement.patient, statement.order, Hl7Destination(**values), statement.priority)


def valid(message: str) -> hl7.Message:
    assert parse_message(message, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    return hl7.parse(message)


def test_the_whole_message_is_what_it_was() -> None:
    """Every field where HL7 v2.5.1 counts it; an off-by-one would show here."""
    order = Order(issuer_of_patient_id="HOSP", study_at="20260301113000+0100", referring_physician="Who^Doctor")
    assert message_of(stated(order=order), receiving_application="RIS", legacy_priority=True).split("\r") == [
        "MSH|^~\\&|TRIAGE||RIS||20260301120000+0000||ORU^R01^ORU_R01|49B1B035C2CF7AA7535E|P|2.5.1|||AL|NE"
        "||UNICODE UTF-8",
        "PID|1||7^^^HOSP^PI||Doe^Jane^^^^^L^A||19500102|F",
        "PV1|1|U||||||^Who^Doctor",
        "ORC|SC|A1|F1^TRIAGE||IP||||20260301120000+0000|||^Who^Doctor",
        "OBR|1|A1|F1^TRIAGE|24725-4^CT Head^LN|||20260301113000+0100|||||||||^Who^Doctor||A1||||20260301120000+0000"
        "||CT|P||^^^^^S",
        "TQ1|1||||||||S^STAT^HL70485",
        "OBX|1|CWE|1386000^Intracranial hemorrhage^SCT||52101004^Present^SCT|||AA|||P|||20260301120000+0000",
        "OBX|2|NM|122157^Probability^DCM||0.99|1^no units^UCUM|||||P|||20260301120000+0000",
        "OBX|3|NM|118565006^Volume^SCT||12.0|mL^milliliter^UCUM|||||P|||20260301120000+0000",
        "OBX|4|TX|59776-5^Findings^LN||subdural hemorrhage suspected, p 0.97, 12.0 mL, left~Gantry tilt of 10 degrees."
        "~Model: tiny 1~Research software. Not for primary diagnosis.||||||P|||20260301120000+0000",
        "OBX|5|ST|113014^DICOM Study^DCM||1.2.3||||||O|||20260301120000+0000",
        "",
    ]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (None, ""),
        ("ED", "ED"),
        ("ED^Bay 3^B^HOSP", "ED^Bay 3^B^HOSP"),
        ("ED^Bay 3^B^HOSP^X", "^^^^^^^^ED\\S\\Bay 3\\S\\B\\S\\HOSP\\S\\X"),
        ("Emergency department, bay 3", "^^^^^^^^Emergency department, bay 3"),
        ("W" * 64, "^^^^^^^^" + "W" * 60),
        ("a|b&c", "a\\F\\b\\T\\c"),
        ("&" * 64, "^^^^^^^^" + "\\T\\" * 20),
    ],
)
def test_where_the_patient_is_stands_in_pv1_3(location: str | None, told: str) -> None:
    message = message_of(stated(order=Order(patient_location=location)))
    valid(message)
    assert message.split("\r")[2] == f"PV1|1|U|{told}".rstrip("|")


@pytest.mark.parametrize(("patient_class", "told"), [("E", "E"), ("I", "I"), ("Emergency", "U"), ("|", "U"), ("", "U")])
def test_a_patient_class_is_told_where_it_is_one(patient_class: str, told: str) -> None:
    assert str(valid(message_of(stated(order=Order(patient_class=patient_class)))).segment("PV1")[2]) == told


def test_what_was_ordered_stands_in_obr_44() -> None:
    message = valid(message_of(stated(order=Order(requested_procedure="CT head & neck", requested_priority="LOW"))))
    assert str(message.segment("OBR")[44]) == "^CT head \\T\\ neck"
    assert str(message.segment("TQ1")[9]) == "S^STAT^HL70485"


def test_codes_are_those_of_the_objects_and_of_the_standard() -> None:
    ours = {(row.value.value, row.value.scheme): row.value.meaning for row in Concept}
    theirs = {
        code: names for scheme in ("LN", "DCM") for each in concepts[scheme].values() for code, names in each.items()
    }
    for value, meaning, scheme in CODES.values():
        assert ours.get((value, scheme), meaning) == meaning
        assert (value, scheme) in ours or value in theirs or value == "mL"  # UCUM


HOSTILE = [
    "a|b^c&d\\e^f~g",
    "\\X0D\\OBX|9|^~\\&",
    "O\rOBX|9|ST|x||y",
    "=^=^",
    "^^^^",
    "&" * 64 + "^" + "\\" * 64 + "^" + "~" * 64 + "^" + "|" * 64 + "^" + "&" * 64 + "=" + "&" * 64,
    "x\x0b\x1c\r\ny",
    "\u202e\u0000^\x7f",
    "",
    "''\"\"",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("character_set", ["UNICODE UTF-8", "8859/1"])
def test_no_text_breaks_out_of_its_field(text: str, character_set: str) -> None:
    number = text[:64]  # as much as is kept of an element
    patient = Patient(patient_name=text, patient_id=number, birth_date=text, sex=text, accession_number=number)
    order = Order(
        issuer_of_patient_id=number,
        referring_physician=text,
        placer_order_number=number,
        patient_location=number,
        patient_class=number,
        requested_procedure=number,
    )
    statement = stated(patient=patient, order=order, detail=text, warnings=[text])
    message = valid(message_of(statement, character_set=character_set))
    assert [str(segment[0]) for segment in message] == ["MSH", "PID", "PV1", "ORC", "OBR", "TQ1", *["OBX"] * 5]
    assert [len(message.segment(name)) for name in ("MSH", "PID", "TQ1")] == [19, 9 if text else 6, 10]
    assert not {"\x0b", "\x1c", "\n"} & set(str(message))


def test_what_is_escaped_comes_back() -> None:
    patient = Patient(patient_name="O|Brien&Sons~\\^Jane", patient_id="4|7")
    message = hl7.parse(message_of(stated(patient=patient)))
    assert message["PID.F5.R1.C1"] == "O|Brien&Sons~\\"
    assert message["PID.F3.R1.C1"] == "4|7"
    assert escape("a\rb") == "a b"


@pytest.mark.parametrize(("charset", "name"), cases.NAMES)
def test_names_in_any_character_set_arrive(tmp_path: Path, charset: str | list[str], name: str) -> None:
    (path,) = cases.write_ct(tmp_path, slices=1, elements={"SpecificCharacterSet": charset, "PatientName": name})
    identity = read_identity(path)
    assert identity is not None
    patient, order = identity
    message = valid(message_of(stated(patient=patient, order=order)))
    kinds = [str(repetition).split("^")[-1] for repetition in message.segment("PID")[5]]
    assert kinds == list("AIP"[: name.count("=") + 1])
    for component in name.replace("=", "^").split("^"):
        assert component in str(message.segment("PID")[5])


def test_a_long_sentence_is_more_lines() -> None:
    sentence = "The series has a gap & its slices are tilted. " * 6
    message = valid(message_of(stated(warnings=[sentence.strip()])))
    lines = [str(repetition) for repetition in message.segments("OBX")[3][5]]
    assert " ".join(lines[1:-2]) == sentence.strip().replace("&", "\\T\\")


def test_a_long_issuer_is_not_cut() -> None:
    order = Order(issuer_of_patient_id="The Regional Hospital Trust & Partners")
    message = valid(message_of(stated(order=order)))
    assert message["PID.F3.R1.C4.S2"] == "The Regional Hospital Trust & Partners"


def test_a_name_that_latin_1_lacks_still_arrives_as_a_message() -> None:
    patient = Patient(patient_name="Dvořák^Jiří", patient_id="7")
    data = message_of(stated(patient=patient), character_set="8859/1").encode("latin-1", errors="replace")
    assert "Dvo?ák^Ji?í" in data.decode("latin-1")


@pytest.mark.parametrize(
    ("elements", "study_at"),
    [
        ({"TimezoneOffsetFromUTC": "-0500"}, "20010203040000-0500"),
        ({"StudyTime": "0405", "TimezoneOffsetFromUTC": "+0100"}, "20010203040500+0100"),
        ({"StudyTime": "040506.123", "TimezoneOffsetFromUTC": "+0100"}, "20010203040506+0100"),
        ({"StudyTime": ""}, "20010203"),
        ({"StudyDate": ""}, None),
        ({"StudyDate": "18991231"}, None),
        ({"StudyDate": "00010101", "StudyTime": ""}, None),
        ({"StudyDate": "99991231", "StudyTime": "235959", "TimezoneOffsetFromUTC": "+0000"}, "99991231235959+0000"),
    ],
)
def test_when_the_study_was_has_its_offset(tmp_path: Path, elements: dict[str, str], study_at: str | None) -> None:
    (path,) = cases.write_ct(tmp_path, slices=1, elements=elements)
    identity = read_identity(path)
    assert identity is not None
    assert identity[1].study_at == study_at


def test_without_an_offset_it_is_that_of_this_machine(tmp_path: Path) -> None:
    (path,) = cases.write_ct(tmp_path, slices=1)
    identity = read_identity(path)
    assert identity is not None
    local = datetime(2001, 2, 3, 4).astimezone()
    assert identity[1].study_at == local.strftime("%Y%m%d%H%M%S%z")


def test_a_time_that_no_clock_has_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    elements = {"StudyDate": "99991231", "StudyTime": "235959", "ReferringPhysicianName": "Who^Doctor"}
    (path,) = cases.write_ct(tmp_path, slices=1, elements=elements)
    identity = read_identity(path)
    monkeypatch.undo()
    time.tzset()
    assert identity is not None
    assert (identity[1].study_at, identity[1].referring_physician) == (None, "Who^Doctor")


def test_a_statement_comes_back_from_its_file(tmp_path: Path) -> None:
    statement = stated(order=Order(study_at="20260301"))
    path = tmp_path / "result.json"
    path.write_bytes(statements.encode(statement))
    assert statements.read(path) == statement
    assert "Doe" not in repr(statement)


@pytest.mark.parametrize(("content", "retryable"), [(None, True), (b"{", False), (b"[]", False), (b"{}", False)])
def test_a_file_that_is_no_statement_says_so(tmp_path: Path, content: bytes | None, retryable: bool) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DeliveryError, match="the file of the result") as caught:
        statements.read(tmp_path / "result.json")
    assert caught.value.retryable == retryable


def test_a_message_id_fits_into_msh_10() -> None:
    assert len(message_id("2.25." + "9" * 39)) == 20
    assert message_id("2.25.1") != message_id("2.25.2")
