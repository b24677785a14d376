"""Claims of workitems, in either database; what a query matches."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.arrivals import Clock
from tests.studies import arrive, end, found, not_analyzed
from tests.together import together
from triage_node.domain import Patient, Priority, StepState
from triage_node.peers.workitem import dataset
from triage_node.receive.workitems import matches
from triage_node.store import opinions, workitems, worklist
from triage_node.store.database import Database
from triage_node.store.workitems import Task


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tasks(database: Database, clock: Clock) -> list[Task]:
    return workitems.tasks(database, since=clock() - timedelta(hours=48))


def claim(database: Database, clock: Clock, task: Task, by: str) -> bool:
    return workitems.claim(database, task, f"1.2.{by}", transaction_uid=by, calling_ae="READER", now=clock())


def test_workitems_are_the_rows_of_the_page_in_their_order(database: Database, clock: Clock) -> None:
    for study, report in (
        ("1", found(Priority.ROUTINE)),
        ("2", found(Priority.STAT)),
        ("3", not_analyzed("CONTRAST")),
        ("4", found(Priority.STAT)),
        ("5", found(Priority.HIGH)),
        ("6", not_analyzed("PRIOR_STUDY")),
    ):
        end(database, clock, arrive(database, clock, study), report, patient=Patient(patient_id=study))
        clock.advance(60)
    arrive(database, clock, "7")
    listed = tasks(database, clock)
    assert [task.study_uid for task in listed] == ["2", "4", "5", "3", "1"]
    page = [row.study_uid for row in worklist.page(database, worklist.Wanted()).rows]
    assert [uid for uid in page if uid not in ("6", "7")] == [task.study_uid for task in listed]
    assert {task.state for task in listed} == {StepState.SCHEDULED}
    assert listed[0].patient.patient_id == "2"


def test_of_many_who_claim_at_once_one_has_it(database: Database, clock: Clock) -> None:
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT))
    (task,) = tasks(database, clock)
    answers = together(*(lambda by=str(number): claim(database, clock, task, by) for number in range(4)))  # type: ignore[misc]
    assert sorted(answers) == [False, False, False, True]
    (claimed,) = tasks(database, clock)
    assert claimed.state is StepState.IN_PROGRESS


def test_a_claim_of_what_was_superseded_or_read_meanwhile_is_none(database: Database, clock: Clock) -> None:
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT))
    (old,) = tasks(database, clock)
    end(database, clock, arrive(database, clock, "1"), found(Priority.HIGH))
    assert not claim(database, clock, old, "9")
    new = tasks(database, clock)[-1]
    opinions.mark_read(database, 1, user="ann", now=clock())
    assert not claim(database, clock, new, "9")


def test_a_study_in_somebody_s_hands_stays_however_old_it_is(database: Database, clock: Clock) -> None:
    end(database, clock, arrive(database, clock, "1"), found(Priority.STAT))
    (task,) = tasks(database, clock)
    assert claim(database, clock, task, "9")
    clock.advance(49 * 3600)
    (task,) = tasks(database, clock)
    assert workitems.end(database, task, StepState.COMPLETED, now=clock())
    row = worklist.row(database, 1)
    assert row is not None
    assert row.read_by == "READER (UPS)"
    assert tasks(database, clock) == []


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"PatientName": "doe*"}, True),
        ({"PatientID": "a?"}, True),
        ({"PatientID": "A?"}, False),
        ({"SOPInstanceUID": "1.2*"}, False),
        ({"SOPInstanceUID": ["1.9", "1.2.3"]}, True),
        ({"ProcedureStepLabel": None, "PatientID": None}, True),
        ({"ProcedureStepLabel": "any"}, False),
        ({"PatientBirthDate": "19500101-19501231"}, True),
        ({"PatientBirthDate": "-19491231"}, False),
        ({"ScheduledProcedureStepStartDateTime": "20260301"}, True),
        ({"ScheduledProcedureStepStartDateTime": "202602"}, False),
        ({"ScheduledProcedureStepStartDateTime": "20260301130000+0100-"}, True),
        ({"ScheduledProcedureStepStartDateTime": "-20260301125959+0100"}, False),
        ({"ScheduledProcedureStepStartDateTime": "soon"}, False),
        ({"ScheduledWorkitemCodeSequence": [dataset(CodeValue="110005")]}, True),
        ({"ScheduledWorkitemCodeSequence": [dataset(CodeValue="110001")]}, False),
        ({"ScheduledStationNameCodeSequence": [dataset(CodeValue=None)]}, True),
    ],
)
def test_what_matches_a_query(key: dict[str, object], said: bool) -> None:
    workitem = dataset(
        SOPInstanceUID="1.2.3",
        PatientName="Doe^Ann",
        PatientID="a1",
        PatientBirthDate="19500102",
        ScheduledProcedureStepStartDateTime="20260301120000+0000",
        ScheduledWorkitemCodeSequence=[dataset(CodeValue="110005")],
        ScheduledStationNameCodeSequence=None,
    )
    assert matches(dataset(**key), workitem) is said


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("*", True), ("a*a*b", True), ("*b", True), ("a*b*a", False), ("a?*b", True), ("*a*" * 20 + "c", False)],
)
def test_a_query_with_many_wild_cards_is_answered_all_the_same(pattern: str, said: bool) -> None:
    """The last one would hold the listener for hours where what a * passed over is tried again and again."""
    assert matches(dataset(PatientID=pattern), dataset(PatientID="a" * 62 + "b")) is said
