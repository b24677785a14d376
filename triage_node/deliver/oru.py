"""A statement as an HL7 v2.5.1 ORU^R01 message.

Segments are written as {field number: value}, so that each stands where the standard counts it. Clauses are of the
HL7 v2.5.1 chapters: MSH and escapes in 2, PID and PV1 in 3, ORC and TQ1 in 4, OBR and OBX in 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from textwrap import wrap
from typing import Final

from triage_node.config import Hl7Destination
from triage_node.deliver.statement import Statement, message_id
from triage_node.domain import DISCLAIMER, Order, Outcome, Patient, Priority, probability_text

PRIORITIES: Final[Mapping[Priority, tuple[str, str]]] = {
    Priority.STAT: ("S", "STAT"),
    Priority.HIGH: ("A", "ASAP"),
    Priority.ROUTINE: ("R", "Routine"),
    Priority.NONE: ("R", "Routine"),
}
"""TQ1-9, table 0485, by the priority of the study."""
ABNORMAL: Final[Mapping[Priority, str]] = {Priority.STAT: "AA", Priority.HIGH: "A", Priority.ROUTINE: "A"}
"""OBX-8 of what is suspected, table 0078; "N" of a negative, and nothing where nothing was analysed."""
PRELIMINARY, CORRECTED, NO_RESULT = "P", "C", "O"
"""OBR-25 (table 0123) and OBX-11 (table 0085). O: a detail of the order, as the Study Instance UID is."""

Coded = tuple[str, str, str]
CODES: Final[Mapping[str, Coded]] = {
    "service": ("24725-4", "CT Head", "LN"),
    "hemorrhage": ("1386000", "Intracranial hemorrhage", "SCT"),
    "present": ("52101004", "Present", "SCT"),
    "absent": ("272519000", "Absent", "SCT"),
    "not evaluated": ("373121007", "Not Evaluated", "SCT"),
    "probability": ("122157", "Probability", "DCM"),
    "volume": ("118565006", "Volume", "SCT"),
    "no units": ("1", "no units", "UCUM"),
    "mL": ("mL", "milliliter", "UCUM"),
    "findings": ("59776-5", "Findings", "LN"),
    "study": ("113014", "DICOM Study", "DCM"),
}
"""Code, meaning, scheme. The same as in the objects (report.codes), which would bring its libraries with it."""

_ESCAPES: Final = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"})
_LONGEST_NAME: Final = 60
"""Of a family or given name, escaped; XPN takes 250 characters in all."""
_LONGEST_NAMESPACE: Final = 20
_LONGEST_LINE: Final = 199
_LONGEST_LOCATION: Final = 60
"""Of a description, escaped; PL takes 80 characters in all."""
_PATIENT_CLASSES: Final = frozenset("EIOPRBCNU")
"""PV1-2, table 0004; U where nobody said one."""
_PATIENT_INTERNAL: Final = "PI"
_SEXES: Final = {"M": "M", "F": "F", "O": "O"}

Fields = Mapping[int, str]


def oru(
    statement: Statement, patient: Patient, order: Order, settings: Hl7Destination, study_priority: Priority
) -> str:
    """The message, its segments ended by carriage returns. A pure function of the statement and the study's priority.

    The series of a study share its order: TQ1 and OBR-27 say how urgent that is, and one harmless series must not take
    the priority of another one back. OBX say what this series shows.
    """
    placer = order.placer_order_number or patient.accession_number or ""
    filler = f"{statement.filler_number}^{_cut(statement.node, _LONGEST_NAMESPACE)}"
    status = CORRECTED if statement.revision > 1 else PRELIMINARY
    referring = _person(order.referring_physician)
    code, word = PRIORITIES[study_priority]
    created_at = _moment(statement.created_at)
    return "".join(
        [
            _header(statement, settings),
            _segment("PID", _pid(patient, order, settings)),
            _segment("PV1", {1: "1", 2: _patient_class(order), 3: _location(order), 8: referring}),
            _segment("ORC", {1: "SC", 2: escape(placer), 3: filler, 5: "IP", 9: created_at, 12: referring}),
            _segment(
                "OBR",
                {
                    1: "1",
                    2: escape(placer),
                    3: filler,
                    4: _code("service"),
                    7: order.study_at or "",
                    16: referring,
                    18: escape(patient.accession_number or ""),
                    22: created_at,
                    24: "CT",
                    25: status,
                    27: f"^^^^^{code}" if settings.legacy_priority else "",
                    44: f"^{escape(order.requested_procedure)}" if order.requested_procedure else "",
                },
            ),
            _segment("TQ1", {1: "1", 9: f"{code}^{word}^HL70485"}),
            *(
                _segment("OBX", {1: str(number), 11: status, 14: created_at, **observation})
                for number, observation in enumerate(_observations(statement), start=1)
            ),
        ]
    )


def escape(text: str) -> str:
    """One line of text without anything that HL7 would take for a separator (2.7)."""
    return "".join(c if c.isprintable() else " " for c in text).translate(_ESCAPES)


# ---------------------------------------------------------------- segments


def _header(statement: Statement, settings: Hl7Destination) -> str:
    fields = {
        2: "^~\\&",
        3: settings.sending_application or _cut(statement.node, _LONGEST_NAMESPACE),
        4: settings.sending_facility,
        5: settings.receiving_application,
        6: settings.receiving_facility,
        7: _moment(statement.created_at),
        9: "ORU^R01^ORU_R01",
        10: message_id(statement.uid),
        11: settings.processing_id,
        12: "2.5.1",
        15: "AL",
        16: "NE",
        18: settings.character_set,
    }
    return _segment("MSH", {number - 1: value for number, value in fields.items()})  # MSH-1 is the separator itself


def _pid(patient: Patient, order: Order, settings: Hl7Destination) -> Fields:
    authority = _authority(order.issuer_of_patient_id) or settings.assigning_authority
    birth_date = patient.birth_date or ""
    return {
        1: "1",
        3: f"{escape(patient.patient_id or '')}^^^{authority}^{_PATIENT_INTERNAL}",
        5: _names(patient.patient_name),
        7: birth_date if len(birth_date) == 8 and birth_date.isascii() and birth_date.isdigit() else "",
        8: _SEXES.get(patient.sex, "U") if patient.sex else "",
    }


def _patient_class(order: Order) -> str:
    return order.patient_class if order.patient_class in _PATIENT_CLASSES else "U"


def _location(order: Order) -> str:
    """As a PL: point of care, room, bed, facility where it is so short, as what a broker copied from HL7; else text."""
    parts = [escape(part.strip()) for part in (order.patient_location or "").split("^")]
    if len(parts) <= 4 and max(map(len, parts)) <= _LONGEST_NAMESPACE:
        return "^".join(parts)
    return "^" * 8 + _cut(order.patient_location or "", _LONGEST_LOCATION)


def _observations(statement: Statement) -> Iterator[Fields]:
    """What the radiologist acts on first; then the figures, the sentence, and which study it is."""
    answer, abnormal = _answer(statement)
    yield {2: "CWE", 3: _code("hemorrhage"), 5: _code(answer), 8: abnormal}
    probability, volume_ml = (statement.result[name]["any"] for name in ("probabilities", "volumes_ml"))
    if probability is not None:
        yield {2: "NM", 3: _code("probability"), 5: probability_text(probability), 6: _code("no units")}
    if volume_ml is not None:
        yield {2: "NM", 3: _code("volume"), 5: f"{volume_ml:.1f}", 6: _code("mL")}
    yield {2: "TX", 3: _code("findings"), 5: "~".join(line for text in _texts(statement) for line in _lines(text))}
    yield {2: "ST", 3: _code("study"), 5: escape(statement.study_uid), 11: NO_RESULT}


def _answer(statement: Statement) -> tuple[str, str]:
    """Observation value and abnormal flag. Silence is never a negative: what was not analysed says so."""
    if statement.suspected is None:
        return "not evaluated", ""
    return ("present", ABNORMAL[statement.priority]) if statement.suspected else ("absent", "N")


def _texts(statement: Statement) -> Iterator[str]:
    yield statement.text
    yield from statement.result["warnings"]
    if statement.outcome is Outcome.ANALYZED:
        yield "Model: {name} {version}".format(**statement.result["bundle"])
    yield DISCLAIMER


def _lines(text: str) -> list[str]:
    """Escaped. What is longer than readers may take is more lines, cut between words."""
    whole = escape(text)
    return [whole] if len(whole) <= _LONGEST_LINE else [escape(line) for line in wrap(text, _LONGEST_LINE // 3)]


# ---------------------------------------------------------------- fields


def _segment(name: str, fields: Fields) -> str:
    last = max(number for number, value in fields.items() if value)
    return "|".join([name, *(fields.get(number, "") for number in range(1, last + 1))]) + "\r"


def _code(name: str) -> str:
    return "^".join(escape(part) for part in CODES[name])


def _moment(at: datetime) -> str:
    return at.strftime("%Y%m%d%H%M%S%z")


def _authority(issuer: str | None) -> str:
    """As an HD inside a CX. What is too long for a namespace is a local identifier: cut it would name another one."""
    text = escape(issuer or "")
    return text if len(text) <= _LONGEST_NAMESPACE else f"&{text}&L"


def _names(patient_name: str | None) -> str:
    """A DICOM PN as repetitions of XPN: alphabetic, ideographic, phonetic (PS3.5 6.2.1.2)."""
    groups = zip((patient_name or "").split("="), "AIP", strict=False)
    names = [f"{'^'.join(_parts(group))}^^L^{kind}" for group, kind in groups if group.strip("^ ")]
    return "~".join(names) or "^^^^^^U"  # a name of unspecified type: nobody said one


def _person(name: str | None) -> str:
    """A DICOM PN as XCN, without an identifier: nobody gave us one."""
    alphabetic = (name or "").split("=")[0]
    return "^" + "^".join(_parts(alphabetic)).rstrip("^") if alphabetic.strip("^ ") else ""


def _parts(group: str) -> list[str]:
    """Family, given, middle, suffix, prefix: PN has the last two the other way round."""
    family, given, middle, prefix, suffix = [*group.split("^", 4), "", "", "", "", ""][:5]
    long, short = _LONGEST_NAME, _LONGEST_NAME // 2
    return [
        _cut(part, most)
        for part, most in ((family, long), (given, long), (middle, short), (suffix, short), (prefix, short))
    ]


def _cut(text: str, most: int) -> str:
    """Escaped, and never cut inside an escape."""
    text = text.strip()
    while len(escape(text)) > most:
        text = text[:-1]
    return escape(text)
