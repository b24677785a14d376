"""Orders of studies in the database: who is asked for next, what is kept, and until when. SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.arrivals import Clock
from tests.studies import arrive
from triage_node.domain import Patient, RequestedProcedure
from triage_node.store import requested, worklist
from triage_node.store.database import Database

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def due(database: Database, clock: Clock) -> requested.Due | None:
    return requested.next_due(database, now=clock(), since=clock() - HOUR)


def test_new_studies_are_asked_for_before_those_that_wait_and_answered_ones_no_more(
    database: Database, clock: Clock
) -> None:
    arrive(database, clock, "1.2.1", images=2)
    first = due(database, clock)
    assert first == requested.Due(study_uid="1.2.1", sop_uid="1.2.1.1.1", asks=0)
    requested.note(database, first, now=clock(), problem="p" * 500, not_before=clock() + timedelta(seconds=5))
    assert due(database, clock) is None
    arrive(database, clock, "1.2.2")
    clock.advance(5)
    second = due(database, clock)
    assert second is not None
    assert second.study_uid == "1.2.2"
    order = RequestedProcedure(accession_number="ACC", patient_location="Grünholz 3")
    requested.note(database, second, now=clock(), answer=order)
    again = due(database, clock)
    assert again == requested.Due(study_uid="1.2.1", sop_uid="1.2.1.1.1", asks=1)
    requested.note(database, again, now=clock(), answer=order)
    assert due(database, clock) is None
    assert [requested.of_study(database, uid) for uid in ("1.2.1", "1.2.2", "1.2.3")] == [order, order, None]
    assert {row.no_order for row in worklist.page(database, worklist.Wanted()).rows} == {None}


def test_an_old_study_is_not_asked_for(database: Database, clock: Clock) -> None:
    arrive(database, clock, "1.2.1")
    clock.advance(HOUR.total_seconds() + 1)
    assert due(database, clock) is None


def test_what_is_old_is_forgotten(database: Database, clock: Clock) -> None:
    for study_uid in ("1.2.1", "1.2.2"):
        arrive(database, clock, study_uid)
        found = due(database, clock)
        assert found is not None
        requested.note(database, found, now=clock(), answer=RequestedProcedure(accession_number="ACC"))
        clock.advance(60)
    requested.remove_older(database, clock() - timedelta(seconds=90))
    assert requested.of_study(database, "1.2.1") is None
    assert requested.of_study(database, "1.2.2") is not None


ORDER = RequestedProcedure(study_uid="1.2.1", patient_id="P", issuer_of_patient_id="H", accession_number="A")


@pytest.mark.parametrize(
    ("study_uid", "patient_id", "issuer", "accession_number", "is_of"),
    [
        ("1.2.1", "P", "H", "A", True),
        ("1.2.9", "P", None, "A", True),
        ("1.2.9", None, None, "A", True),
        ("1.2.1", "P", "H", None, True),
        ("1.2.9", "P", "H", None, False),
        ("1.2.1", None, "H", None, False),
        ("1.2.1", "Q", "H", "A", False),
        ("1.2.1", "P", "G", "A", False),
        ("1.2.1", "P", "H", "B", False),
        ("1.2.1", "P", "H", "a", False),
    ],
)
def test_an_order_is_of_a_study_beyond_doubt_or_not_at_all(
    study_uid: str, patient_id: str | None, issuer: str | None, accession_number: str | None, is_of: bool
) -> None:
    patient = Patient(patient_id=patient_id, accession_number=accession_number)
    assert ORDER.is_of(study_uid, patient, issuer) == is_of


def test_an_order_without_anything_is_of_nobody() -> None:
    assert not RequestedProcedure().is_of("1.2.1", Patient(), None)
    assert not RequestedProcedure(study_uid="1.2.1").is_of("1.2.1", Patient(), None)
    assert not RequestedProcedure(accession_number="A").is_of("1.2.1", Patient(patient_id="P"), None)


def test_nothing_of_an_order_is_in_its_repr() -> None:
    named = RequestedProcedure(**dict.fromkeys(vars(ORDER), "PLANTED"))
    assert "PLANTED" not in repr(named)
