"""What the modality worklist says of the order behind a study: asked by C-FIND in a thread of its own.

Nothing waits for the answer. It counts for what is published after it came, and on the pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import RE_VALID_UID

from triage_node import log
from triage_node.domain import Order, Patient, RequestedProcedure
from triage_node.elements import READ_ERRORS
from triage_node.peers import MODALITY_WORKLIST_FIND, Peer, find_matches
from triage_node.pipeline.heartbeat import safe
from triage_node.pipeline.identity import read_identity, texts
from triage_node.pipeline.parts import Parts
from triage_node.store import requested
from triage_node.store.database import Database

AGAIN_S: Final = (2.0, 5.0, 15.0, 60.0, 180.0)
"""How long to wait after each question that brought no order; then it is asked no more."""
YOUNG: Final = timedelta(minutes=10)
"""Nobody is asked for a study that has had no image for so long."""

NO_ORDER: Final = "the modality worklist has no order that is surely of this study"
SEVERAL_ORDERS: Final = "the modality worklist has several different orders for this study: none is used"
NO_IDENTITY: Final = "the images do not say whose study it is: the modality worklist was not asked"

_KEPT: Final[Mapping[str, tuple[str, int]]] = {
    "study_uid": ("StudyInstanceUID", 64),
    "patient_id": ("PatientID", 64),
    "issuer_of_patient_id": ("IssuerOfPatientID", 64),
    "accession_number": ("AccessionNumber", 64),
    "referring_physician": ("ReferringPhysicianName", 400),
    "placer_order_number": ("PlacerOrderNumberImagingServiceRequest", 64),
    "patient_location": ("CurrentPatientLocation", 64),
    "patient_class": ("RouteOfAdmissions", 64),
    "requested_procedure": ("RequestedProcedureDescription", 64),
    "requested_priority": ("RequestedProcedurePriority", 16),
}
"""Element and length kept, as in `identity`."""
_STEP: Final = ("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate",
                "ScheduledProcedureStepStartTime", "ScheduledPerformingPhysicianName")  # fmt: skip
"""The keys of the scheduled step that every SCP matches (PS3.4 table K.6-1): all empty, any step counts."""


class Enquiries:
    """Asks the modality worklist for the orders of young studies, one at a time."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.config.modality_worklist
        self._parts = parts
        self._peer = Peer(ae_title=settings.ae_title, host=settings.host, port=settings.port)
        self._timeout_s = settings.timeout_s
        self._failing = False

    def ask_next(self) -> int:
        """Ask for one study, if one is due; returns how many that were."""
        now = self._parts.clock()
        due = requested.next_due(self._parts.database, now=now, since=now - YOUNG)
        if due is None:
            return 0
        identity = read_identity(self._parts.spool.object_path(due.sop_uid)) if due.sop_uid else None
        query = query_for(due.study_uid, identity[0]) if identity else None
        if identity is None or query is None:
            requested.note(self._parts.database, due, now=now, problem=NO_IDENTITY)
            return 1
        orders, problem = self._ask(due.study_uid, identity, query)
        if len(orders) > 1:
            log.event("several different orders, none is used", study=log.ref(due.study_uid))
            requested.note(self._parts.database, due, now=self._parts.clock(), problem=SEVERAL_ORDERS)
        elif orders:
            requested.note(self._parts.database, due, now=self._parts.clock(), answer=orders.pop())
        else:
            self._ask_again(due, problem)
        return 1

    def _ask(
        self, study_uid: str, identity: tuple[Patient, Order], query: Dataset
    ) -> tuple[set[RequestedProcedure], str]:
        """The orders that are of the study, and why there is none."""
        options: dict[str, Any] = {"calling_ae": self._parts.config.node.ae_title, "timeout_s": self._timeout_s}
        try:
            answers = find_matches(self._peer, MODALITY_WORKLIST_FIND, query, **options)
            orders = orders_of(study_uid, *identity, answers)
        except Exception as error:  # noqa: BLE001 - thread boundary: whatever it answers, the next study is asked for
            self._note_failure(safe(error))
            return set(), f"the modality worklist was asked in vain: {safe(error)}"
        self._failing = False
        return orders, NO_ORDER

    def _note_failure(self, error: str) -> None:
        if not self._failing:  # one line, not one for each study
            log.event("the modality worklist does not answer; results do not wait for it", error=error)
        self._failing = True

    def _ask_again(self, due: requested.Due, problem: str) -> None:
        now = self._parts.clock()
        wait_s = AGAIN_S[due.asks] if due.asks < len(AGAIN_S) else None
        not_before = None if wait_s is None else now + timedelta(seconds=wait_s)
        requested.note(self._parts.database, due, now=now, problem=problem, not_before=not_before)


def with_order(database: Database, study_uid: str, patient: Patient, order: Order) -> tuple[Patient, Order]:
    """Identity and order, what the images do not say filled from what the modality worklist has said until now."""
    said = requested.of_study(database, study_uid)
    if said is None or not said.is_of(study_uid, patient, order.issuer_of_patient_id):
        return patient, order
    issuer = said.issuer_of_patient_id if patient.patient_id and said.patient_id else None
    return (
        replace(patient, accession_number=patient.accession_number or said.accession_number),
        replace(
            order,
            issuer_of_patient_id=order.issuer_of_patient_id or issuer,
            referring_physician=order.referring_physician or said.referring_physician,
            placer_order_number=order.placer_order_number or said.placer_order_number,
            patient_location=said.patient_location,
            patient_class=said.patient_class,
            requested_procedure=said.requested_procedure,
            requested_priority=said.requested_priority,
        ),
    )


# ---------------------------------------------------------------- steps


def query_for(study_uid: str, patient: Patient) -> Dataset | None:
    """By accession number, else by study; by patient id besides. None where nothing names the order."""
    patient_id, accession_number = _key(patient.patient_id, 64), _key(patient.accession_number, 16)
    if not accession_number and not (patient_id and re.fullmatch(RE_VALID_UID, study_uid)):
        return None
    query = Dataset()
    for keyword, _ in _KEPT.values():
        setattr(query, keyword, None)
    step = Dataset()
    for keyword in _STEP:
        setattr(step, keyword, None)
    query.ScheduledProcedureStepSequence = [step]
    query.PatientID = patient_id
    if accession_number:
        query.AccessionNumber = accession_number
    else:
        query.StudyInstanceUID = study_uid
    if not f"{patient_id}{accession_number}".isascii():
        query.SpecificCharacterSet = "ISO_IR 192"
    return query


def _key(value: str | None, most: int) -> str | None:
    """A key that matches one value only (PS3.4 C.2.2.2.4: * and ? match any), and that the element can hold."""
    return value if value and len(value) <= most and not set("*?\\") & set(value) else None


def orders_of(study_uid: str, patient: Patient, order: Order, answers: Iterable[Dataset]) -> set[RequestedProcedure]:
    """The different orders among the answers that are of this study; those that name it, where any does.

    A step more of the same order is no other one.
    """
    read = [_read(answer) for answer in answers]
    ours = {each for each in read if each and each.is_of(study_uid, patient, order.issuer_of_patient_id)}
    return {each for each in ours if each.study_uid == study_uid} or ours


def _read(answer: Dataset) -> RequestedProcedure | None:
    try:
        return RequestedProcedure(**texts(answer, _KEPT))
    except READ_ERRORS:
        return None
