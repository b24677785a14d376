"""A UPS worklist gets a workitem for each result: what it says, what becomes of it, and what its answers mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydicom.dataset import Dataset

from tests import ct
from tests.told import ToldSite, example
from tests.tools import free_port
from triage_node import config
from triage_node.deliver.channel import channel_of
from triage_node.errors import DeliveryError
from triage_node.store import access, opinions, outbox, system
from triage_node.testing import DemoPacs, DemoUps
from triage_node.web import Site, create_app

Start = Callable[..., tuple[ToldSite, DemoUps]]
WORKLIST = config.UpsDestination(name="worklist", ae_title="WORKLIST", host="127.0.0.1", port=1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a node and a worklist."""
    with ExitStack() as stack:

        def start(*statuses: int | str, pull: bool = True, **settings: Any) -> tuple[ToldSite, DemoUps]:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs"))
            ups = stack.enter_context(DemoUps(statuses=statuses, pull=pull))
            site = ToldSite(tmp_path, pacs, replace(WORKLIST, port=ups.port, **settings))
            stack.callback(site.close)
            return site, ups

        yield start


def read(site: ToldSite, *, unread: bool = False) -> None:
    """As the page does it."""
    user = None if unread else "ann"
    opinions.mark_read(site.parts.database, 1, user=user, now=site.clock(), tell=["worklist"])


def read_on_the_page(site: ToldSite) -> None:
    """By a browser of this machine."""
    pages = Site(config=site.config, database=site.parts.database, spool=site.parts.spool, clock=site.clock)
    client = TestClient(create_app(pages), base_url="http://127.0.0.1:8080")
    client.get(f"/enter?key={access.make_link(site.parts.database, now=site.clock())}")
    held = re.search(r'name="csrf" value="([^"]+)"', client.get("/study/1").text)
    assert held is not None
    client.post("/study/1/read", data={"csrf": held[1]})


def referred(sequence: list[Dataset]) -> list[str]:
    return [each.ReferencedSOPInstanceUID for item in sequence for each in item.ReferencedSOPSequence]


def test_a_positive_is_a_task_of_high_priority_with_all_that_there_is_to_look_at(start: Start) -> None:
    site, ups = start(procedure_step_label="Read this first", worklist_label="Head CT")
    images = ct.head()
    series_uid = site.publish(images=images)
    assert site.send("worklist") == 1
    (workitem,) = ups.workitems.values()
    assert workitem.ProcedureStepState == "SCHEDULED"
    assert workitem.ScheduledProcedureStepPriority == "HIGH"
    assert [workitem.WorklistLabel, workitem.ProcedureStepLabel] == ["Head CT", "Read this first"]
    assert workitem.ScheduledWorkitemCodeSequence[0].CodeValue == "110005"
    assert workitem.CommentsOnTheScheduledProcedureStep.startswith("subdural hemorrhage suspected")
    assert workitem.CommentsOnTheScheduledProcedureStep.endswith("Not for primary diagnosis.")
    assert [str(workitem.PatientName), workitem.PatientID] == ["Müller^Jörg^^Dr", "MRN4711"]
    assert [workitem.IssuerOfPatientID, workitem.PatientBirthDate] == ["ST_ELSEWHERE", "19500102"]
    (request,) = workitem.ReferencedRequestSequence
    assert [request.AccessionNumber, request.StudyInstanceUID] == ["ACC9", site.result(series_uid)["study_uid"]]
    made = {each["sop_uid"] for each in site.result(series_uid)["objects"]}
    assert set(referred(workitem.InputInformationSequence)) == {image.SOPInstanceUID for image in images} | made
    assert {item.DICOMRetrievalSequence[0].RetrieveAETitle for item in workitem.InputInformationSequence} == {"PACS"}
    assert "ReplacedProcedureStepSequence" not in workitem


@pytest.mark.parametrize(("says", "priority"), [("small", "MEDIUM"), ("fails", "LOW")])
def test_what_is_less_urgent_raises_no_flag(start: Start, says: str, priority: str) -> None:
    site, ups = start()
    site.publish(says)
    site.send("worklist")
    (workitem,) = ups.workitems.values()
    assert workitem.ScheduledProcedureStepPriority == priority
    assert says != "fails" or workitem.CommentsOnTheScheduledProcedureStep.startswith("Analysis failed: ")


def test_a_revision_cancels_the_task_and_makes_another_one(start: Start) -> None:
    site, ups = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("worklist")
    site.publish("negative", images=images[-1:])
    assert site.send("worklist") == 1
    assert ups.states() == ["CANCELED", "SCHEDULED"]
    old, new = ups.workitems
    assert ups.workitems[new].ScheduledProcedureStepPriority == "LOW"
    assert [each.ReferencedSOPInstanceUID for each in ups.workitems[new].ReplacedProcedureStepSequence] == [old]


def test_what_is_no_task_any_more_is_canceled_and_nothing_else(start: Start) -> None:
    site, ups = start(send=["STAT"])
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("worklist")
    site.publish("negative", images=images[-1:])
    assert site.send("worklist") == 1
    assert ups.states() == ["CANCELED"]
    assert ups.requests == ["CREATE", "CANCEL"]


def test_what_was_never_sent_needs_no_cancellation(start: Start) -> None:
    site, ups = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.publish("negative", images=images[-1:])
    assert site.send("worklist") == 1
    assert ups.states() == ["SCHEDULED"]
    assert site.letters() == []


def test_a_task_in_somebodys_hands_is_theirs_and_the_new_one_is_there(start: Start) -> None:
    site, ups = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("worklist")
    ups.claim(next(iter(ups.workitems)), "1.2.3")
    site.publish("negative", images=images[-1:])
    site.send("worklist")
    assert ups.states() == ["IN PROGRESS", "SCHEDULED"]
    assert site.states("worklist") == {"SENT": 2}


def test_a_study_that_is_read_here_is_completed_there_with_every_instance_that_was_made(start: Start) -> None:
    site, ups = start()
    series_uid = site.publish()
    site.send("worklist")
    read_on_the_page(site)
    assert site.send("worklist") == 1
    (workitem,) = ups.workitems.values()
    assert workitem.ProcedureStepState == "COMPLETED"
    assert ups.requests == ["CREATE", "CREATE", "IN PROGRESS", "SET", "COMPLETED"]
    (step,) = workitem.UnifiedProcedureStepPerformedProcedureSequence
    made = {each["sop_uid"] for each in site.result(series_uid)["objects"]}
    assert set(referred(step.OutputInformationSequence)) == made
    assert step.PerformedWorkitemCodeSequence[0].CodeValue == "110005"
    assert step.PerformedStationNameCodeSequence[0].CodeValue == "TRIAGE"
    assert step.PerformedProcedureStepEndDateTime >= step.PerformedProcedureStepStartDateTime
    assert site.states("worklist") == {"SENT": 2}


def test_what_is_read_before_it_was_sent_is_completed_as_well(start: Start) -> None:
    site, ups = start(0x0110)
    site.publish("negative")
    site.send("worklist")
    read(site)
    site.clock.advance(60)
    assert site.send("worklist") == 2
    assert ups.states() == ["COMPLETED"]
    assert site.states("worklist") == {"SENT": 2}


def test_read_and_unread_and_read_again(start: Start) -> None:
    site, ups = start()
    site.publish("negative")
    site.send("worklist")
    read(site)
    read(site, unread=True)
    site.send("worklist")
    assert ups.states() == ["SCHEDULED"]
    read(site)
    assert site.send("worklist") == 1
    assert ups.states() == ["COMPLETED"]


def test_a_revision_of_a_study_that_stays_read_is_no_open_task(start: Start) -> None:
    site, ups = start()
    images = ct.head()
    site.publish("negative", images=images[:-1])
    site.send("worklist")
    read(site)
    site.send("worklist")
    site.publish("negative", images=images[-1:])
    site.send("worklist")
    assert ups.states() == ["COMPLETED", "COMPLETED"]


def test_a_task_that_somebody_claimed_is_completed_by_them_only(start: Start) -> None:
    site, ups = start()
    site.publish("negative")
    site.send("worklist")
    ups.claim(next(iter(ups.workitems)), "1.2.3")
    read(site)
    site.send("worklist")
    assert ups.states() == ["IN PROGRESS"]
    assert ups.requests[-1] == "SET"
    assert site.states("worklist") == {"SENT": 2}


def test_a_claim_that_is_refused_for_its_transaction_uid_is_somebody_elses(start: Start) -> None:
    site, ups = start()
    site.publish("negative")
    site.send("worklist")
    read(site)
    ups.answer_next(None, 0xC301)  # the N-CREATE, the claim (PS3.4 CC.2.1.2)
    site.send("worklist")
    assert site.states("worklist") == {"SENT": 2}
    assert site.letters() == []


def test_a_result_is_delivered_though_that_it_was_read_was_given_up_and_said_again(start: Start) -> None:
    site, ups = start()
    site.publish("negative")
    site.send("pacs")
    site.send("worklist")
    read(site)
    ups.answer_next(None, 0xC304)
    site.send("worklist")
    assert outbox.give_up(site.parts.database, destination="worklist", now=site.clock()) == 1
    read(site, unread=True)
    read(site)
    assert site.send("worklist") == 1
    assert ups.states() == ["COMPLETED"]
    assert {recent["state"] for recent in site.status()["recent"]} == {"DELIVERED"}


def test_a_worklist_without_pull_keeps_its_task(start: Start) -> None:
    site, ups = start(pull=False)
    site.publish("negative")
    read(site)
    site.send("worklist")
    assert ups.states() == ["SCHEDULED"]
    assert site.states("worklist") == {"SENT": 2}
    assert "not UPS Pull" in channel_of(site.config.destinations[1], site.config, clock=site.clock).probe()  # type: ignore[union-attr]


def test_answers_that_are_lost_make_no_second_task(start: Start) -> None:
    """Each request is carried out and its answer lost, one after the other."""
    site, ups = start("silence")
    site.publish("negative")
    for _ in range(2):
        site.send("worklist")
        site.clock.advance(600)
    assert ups.states() == ["SCHEDULED"]
    read(site)
    for kept, state in enumerate(["SCHEDULED", "IN PROGRESS", "IN PROGRESS", "COMPLETED"]):
        ups.answer_next(*[None] * kept, "silence")
        site.send("worklist")
        assert ups.states() == [state]
        assert site.states("worklist") == {"SENT": 1, "PENDING": 1}
        site.clock.advance(600)
    site.send("worklist")
    assert ups.states() == ["COMPLETED"]
    assert site.states("worklist") == {"SENT": 2}


REFUSALS = (
    (0x0110, False, "processing failure"),
    (0xA700, False, "out of resources"),
    (0x0124, False, "not authorised; it must be told about us"),
    (0x0120, True, "an attribute is missing; its own log says which"),
    (0x0106, True, "an attribute is not to its liking"),
    (0xC309, True, "the state must be SCHEDULED"),
)


def test_what_refusals_mean(start: Start) -> None:
    site, ups = start(*(status for status, _, _ in REFUSALS))
    site.publish("negative")
    for status, final, said in REFUSALS:
        site.send("worklist")
        assert site.states("worklist") == ({"DEAD": 1} if final else {"PENDING": 1})
        shown = site.letters() if final else [each.error for each in system.traffic(site.parts.database, ["worklist"])]
        assert f"0x{status:04X}: {said}" in str(shown)
        site.clock.advance(600)
        assert outbox.retry_dead(site.parts.database, now=site.clock()) == final
    site.send("worklist")
    assert site.states("worklist") == {"SENT": 1}
    assert ups.states() == ["SCHEDULED"]


def test_a_refused_revision_still_takes_the_old_task_off_the_list(start: Start) -> None:
    site, ups = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("worklist")
    ups.answer_next(0x0106)
    site.publish("negative", images=images[-1:])
    site.send("worklist")
    assert ups.states() == ["CANCELED"]
    assert site.states("worklist")["DEAD"] == 1


def test_a_worklist_that_is_down_gets_its_task_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    with DemoPacs(tmp_path / "pacs") as pacs:
        site = ToldSite(tmp_path, pacs, replace(WORKLIST, port=port))
        site.publish("negative")
        site.send("worklist")
        assert site.states("worklist") == {"PENDING": 1}
        with pytest.raises(DeliveryError, match="cannot be reached"):
            site.channels["worklist"].probe()  # type: ignore[attr-defined]
        site.clock.advance(60)
        with DemoUps(port=port) as ups:
            site.send("worklist")
            assert ups.states() == ["SCHEDULED"]
            assert "offers UPS Push" in site.channels["worklist"].probe()  # type: ignore[attr-defined]
        site.close()


def test_the_guide_s_configuration_works(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs, DemoUps(ae_title="UPS_SCP") as ups:
        path = tmp_path / "triage-node.toml"
        text = example("ups", "ups")
        path.write_text(text.replace("10.20.0.7", "127.0.0.1").replace("11114", str(ups.port)))
        site = ToldSite(tmp_path, pacs, *config.load(path).destinations)
        site.publish("negative")
        site.publish()
        site.send("worklist")
        assert [workitem.ScheduledProcedureStepPriority for workitem in ups.workitems.values()] == ["HIGH"]
        site.close()


def test_a_pacs_is_no_worklist(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        site = ToldSite(tmp_path, pacs, replace(WORKLIST, ae_title="PACS", port=pacs.port))
        site.publish("negative")
        site.send("worklist")
        (letter,) = site.letters()
        assert "does not accept UPS Push; is it a UPS worklist" in letter
        site.close()
