"""What a row of the worklist says, in plain words: the same on the page and in its JSON twin."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from triage_node.domain import (
    NOT_ANALYZED_TEXT,
    OPERATING_POINT,
    NotAnalyzedReason,
    OutboxState,
    Outcome,
    Patient,
    Priority,
    Proof,
    SeriesState,
    delivery_text,
    probability_text,
)
from triage_node.store.worklist import Delivery, Row

FLAGS: Final[Mapping[str, str]] = {
    "STAT": "STAT",
    "HIGH": "HIGH",
    "ROUTINE": "Routine",
    "NOT_ANALYZED": "Not analysed",
    "FAILED": "Failed",
    "OPEN": "Under way",
}
"""What a row is filed under, and how it is called."""
_URGENT: Final = (Priority.STAT, Priority.HIGH)
_UNDER_WAY: Final[Mapping[str, str]] = {
    SeriesState.RECEIVING: "Receiving images ({images} so far)",
    SeriesState.READY: "Waiting for analysis ({images} images)",
    SeriesState.ANALYZING: "Being analysed ({images} images)",
}


def flag(row: Row) -> str:
    """A key of FLAGS."""
    if row.outcome is None:
        return "OPEN"
    return row.outcome if row.outcome != Outcome.ANALYZED else str(row.priority)


def finding(row: Row) -> str:
    """What was found, or why nothing is known."""
    under_way = _UNDER_WAY[row.open_state].format(images=row.open_images) if row.open_state else ""
    if row.outcome is None:
        return under_way or "No images"
    said = ended(row.outcome, row.reason, row.detail, row.priority, row.result)
    return f"{said}. New images came: {under_way[0].lower()}{under_way[1:]}" if under_way else said


def ended(outcome: str, reason: str | None, detail: str | None, priority: str | None, result: Mapping[str, Any]) -> str:
    """What was found in a series, or why nothing is known."""
    if outcome == Outcome.NOT_ANALYZED:
        known = NOT_ANALYZED_TEXT.get(NotAnalyzedReason(reason)) if reason in set(NotAnalyzedReason) else None
        return f"Not analysed: {known or detail or reason}"
    if outcome == Outcome.FAILED:
        return sentence(detail or "the analysis failed")
    findings = result.get("findings") or []
    if findings:
        return "; ".join(_found(name, result) for name in findings)
    sure = ((result.get("probabilities") or {}).get("any") or 0.0) >= OPERATING_POINT
    return _found("any", result) if sure or priority in _URGENT else "No hemorrhage detected"


def confidence(row: Row) -> str:
    """The highest probability of what is reported; empty where nothing was analysed."""
    named = [row.result.get("probabilities", {}).get(name) for name in (*row.result.get("findings", ()), "any")]
    known = [probability for probability in named if probability is not None]
    return probability_text(known[0]) if known and row.outcome == Outcome.ANALYZED else ""


def delivery(row: Row) -> list[dict[str, str]]:
    """For each destination its name, what became of the results, and whether that is good, waiting or bad."""
    return [_delivered(one) for one in row.deliveries]


def sentence(text: str) -> str:
    """As a line begins."""
    return f"{text[:1].upper()}{text[1:]}"


def class_title(name: str) -> str:
    """A class of CLASSES as a line begins with it."""
    return "Any hemorrhage" if name == "any" else name.capitalize()


def patient_name(patient: Patient) -> str:
    """FAMILY^GIVEN^MIDDLE as people write it: FAMILY, GIVEN MIDDLE; other writings of the name behind it."""
    return _person(patient.patient_name or "") or "(no name)"


def patient_facts(patient: Patient) -> str:
    """Id, date of birth and sex, as far as they are known."""
    born = patient.birth_date or ""
    if len(born) == 8 and born.isdigit():
        born = f"{born[:4]}-{born[4:6]}-{born[6:]}"
    facts = [patient.patient_id, f"born {born}" if born else "", patient.sex]
    return " · ".join(fact for fact in facts if fact)


def order(row: Row) -> dict[str, str]:
    """What the modality worklist says, as far as it is known; nothing where the images say another patient or order."""
    said = row.requested
    if said is None or (row.patient.patient_id and not said.is_of(row.study_uid, row.patient, None)):
        return {}
    known = {
        "priority": said.requested_priority,
        "location": said.patient_location,
        "referring_physician": said.referring_physician and _person(said.referring_physician),
        "procedure": said.requested_procedure,
        "accession_number": said.accession_number,
    }
    return {name: text for name, text in known.items() if text}


def ago(since: datetime, now: datetime) -> str:
    """A time as 45 s, 12 min, 3 h 05 min or 2 d 4 h; static/worklist.js says the same."""
    seconds = max(0, int((now - since).total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


# ---------------------------------------------------------------- steps


def _person(name: str) -> str:
    written = []
    for group in name.split("="):
        family, *others = [part.strip() for part in group.split("^")]
        given = " ".join(part for part in others[:2] if part)
        written.append(", ".join(part for part in (family, given) if part))
    return " · ".join(text for text in written if text)


def _found(name: str, result: Mapping[str, Any]) -> str:
    """Such as: Subdural, 23 mL, left."""
    volume_ml = (result.get("volumes_ml") or {}).get(name)
    side = ((result.get("locations") or {}).get(name) or {}).get("laterality")
    parts = ["Hemorrhage suspected" if name == "any" else name.capitalize()]
    if volume_ml is not None:
        parts.append(f"{volume_ml:.0f} mL" if volume_ml >= 10 else f"{volume_ml:.1f} mL")
    if side:
        parts.append(side)
    return ", ".join(parts)


def _delivered(one: Delivery) -> dict[str, str]:
    states = {OutboxState(state) for state in one.states if state != OutboxState.CANCELLED}
    proofs = {Proof(proof) for proof, objects in one.proofs.items() if proof and objects}
    if OutboxState.DEAD in states and Proof.MISSING in proofs:
        said, mood = f"missing in {one.destination}: {one.error or 'it does not say why'}", "bad"
    elif OutboxState.DEAD in states:
        said, mood = f"{one.destination} refused: {one.error or 'no reason given'}", "bad"
    elif states & {OutboxState.PENDING, OutboxState.SENDING} and Proof.MISSING in proofs:
        said, mood = f"missing in {one.destination}: sending again", "waiting"
    elif states & {OutboxState.PENDING, OutboxState.SENDING} and one.error:
        said, mood = f"{one.destination}: trying again ({one.error})", "waiting"
    elif states & {OutboxState.PENDING, OutboxState.SENDING}:
        said, mood = f"on its way to {one.destination}", "waiting"
    elif states == {OutboxState.CONFIRMED}:
        how = " and ".join(sorted({delivery_text(OutboxState.CONFIRMED, proof) for proof in proofs}))
        said, mood = f"in {one.destination}, {how}", "good"
    elif one.unconfirmed:
        said, mood = f"sent to {one.destination}, not confirmed yet", "waiting"
    elif OutboxState.NOT_ACCEPTED in states:
        said, mood = f"in {one.destination}, but for what it does not accept: {one.not_accepted}", "good"
    elif states:
        said, mood = f"in {one.destination}", "good"
    else:
        said, mood = f"not sent to {one.destination}: superseded", "waiting"
    return {"destination": one.destination, "text": said, "mood": mood}
