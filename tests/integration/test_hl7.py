"""A RIS is told of results by HL7: what it is told, what its answers mean, and that it holds up nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from tests import ct
from tests.told import ToldSite, example
from tests.tools import free_port
from triage_node import config
from triage_node.deliver.channel import channel_of
from triage_node.store import outbox, system
from triage_node.testing import DemoPacs, DemoRis

Start = Callable[..., tuple[ToldSite, DemoRis]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a node and a RIS."""
    with ExitStack() as stack:

        def start(*answers: str, text: str = "", timeout_s: float = 10, **settings: Any) -> tuple[ToldSite, DemoRis]:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs"))
            ris = stack.enter_context(DemoRis(answers=answers, text=text))
            table = config.Hl7Destination(name="ris", host="127.0.0.1", port=ris.port, **settings)
            site = ToldSite(tmp_path, pacs, table)
            stack.callback(site.close)
            quick = replace(site.config, delivery=replace(site.config.delivery, timeout_s=timeout_s))
            site.channels["ris"] = channel_of(table, quick, clock=site.clock)
            return site, ris

        yield start


def strict(message: str) -> hl7.Message:
    """Parsed, and found valid by another implementation."""
    assert parse_message(message, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True).validate()
    return hl7.parse(message)


def field(message: hl7.Message, segment: str, number: int) -> str:
    return str(message.segment(segment)[number])


def observation(message: hl7.Message, code: str) -> hl7.Segment:
    (found,) = [each for each in message.segments("OBX") if str(each[3]).startswith(f"{code}^")]
    return found


def test_a_positive_reaches_the_ris_as_a_preliminary_stat_result(start: Start) -> None:
    site, ris = start()
    series_uid = site.publish()
    assert site.send("ris") == 1
    assert site.states("ris") == {"SENT": 1}
    (message,) = map(strict, ris.messages)
    assert field(message, "MSH", 9) == "ORU^R01^ORU_R01"
    assert [field(message, "MSH", number) for number in (12, 15, 16, 18)] == ["2.5.1", "AL", "NE", "UNICODE UTF-8"]
    assert field(message, "PID", 3) == "MRN4711^^^ST_ELSEWHERE^PI"
    assert field(message, "PID", 5) == "Müller^Jörg^^^Dr^^L^A"
    assert [field(message, "PID", number) for number in (7, 8)] == ["19500102", "M"]
    assert [field(message, "ORC", number) for number in (1, 5)] == ["SC", "IP"]
    assert [field(message, "OBR", number) for number in (2, 18, 24, 25)] == ["ACC9", "ACC9", "CT", "P"]
    assert field(message, "OBR", 4) == "24725-4^CT Head^LN"
    assert field(message, "OBR", 7).endswith("+0100")
    assert field(message, "OBR", 16) == "^Who^Doctor"
    assert field(message, "TQ1", 9) == "S^STAT^HL70485"
    finding = observation(message, "1386000")
    assert [str(finding[number]) for number in (2, 5, 8, 11)] == ["CWE", "52101004^Present^SCT", "AA", "P"]
    assert str(observation(message, "122157")[5]) == "0.98"
    assert [str(observation(message, "118565006")[number]) for number in (5, 6)] == ["12.5", "mL^milliliter^UCUM"]
    assert str(observation(message, "113014")[5]) == site.result(series_uid)["study_uid"]
    assert "subdural hemorrhage suspected" in str(observation(message, "59776-5")[5])


def test_a_negative_raises_no_priority(start: Start) -> None:
    site, ris = start(legacy_priority=True)
    site.publish("negative")
    site.send("ris")
    (message,) = map(strict, ris.messages)
    finding = observation(message, "1386000")
    assert [str(finding[number]) for number in (5, 8)] == ["272519000^Absent^SCT", "N"]
    assert field(message, "TQ1", 9) == "R^Routine^HL70485"
    assert field(message, "OBR", 27) == "^^^^^R"


@pytest.mark.parametrize(("says", "told"), [("fails", "Analysis failed: "), ("not a head", "Not analysed: ")])
def test_what_was_not_analysed_is_told_as_such_and_never_as_a_negative(start: Start, says: str, told: str) -> None:
    site, ris = start()
    site.publish(says, images=ct.head([0.0, 5.0, 10.0]) if says == "not a head" else None)
    site.clock.advance(61)
    assert site.send("ris") == 1
    (message,) = map(strict, ris.messages)
    finding = observation(message, "1386000")
    assert str(finding[5]) == "373121007^Not Evaluated^SCT"
    assert str(finding[8]) == ""
    assert str(observation(message, "59776-5")[5]).startswith(told)
    assert field(message, "TQ1", 9) == "R^Routine^HL70485"


def test_a_revision_corrects_what_the_ris_was_told(start: Start) -> None:
    site, ris = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("ris")
    site.publish("negative", images=images[-1:])
    site.send("ris")
    first, second = map(strict, ris.messages)
    assert field(first, "OBR", 3) == field(second, "OBR", 3)
    assert field(first, "MSH", 10) != field(second, "MSH", 10)
    assert field(second, "OBR", 25) == "C"
    finding = observation(second, "1386000")
    assert [str(finding[number]) for number in (5, 8, 11)] == ["272519000^Absent^SCT", "N", "C"]
    assert field(second, "TQ1", 9) == "R^Routine^HL70485"


def test_a_ris_that_wants_stat_only_is_told_when_one_is_withdrawn_and_of_no_other_negative(start: Start) -> None:
    site, ris = start(send=["STAT"])
    images = ct.head()
    site.publish("negative")
    site.publish("positive", images=images[:-1])
    assert site.send("ris") == 1
    site.publish("negative", images=images[-1:])
    assert site.send("ris") == 1
    assert [str(observation(strict(each), "1386000")[8]) for each in ris.messages] == ["AA", "N"]


PRIOR = {"StudyDate": "20200101", "SeriesDate": "20200101", "AcquisitionDate": "20200101", "ContentDate": "20200101"}


def limit_age(site: ToldSite, hours: float) -> None:
    limited = replace(site.parts.config, series=replace(site.parts.config.series, max_study_age_h=hours))
    site.parts = replace(site.parts, config=limited)


@pytest.mark.parametrize("send", [["STAT"], list(config.TOLD)])
def test_a_stat_that_turns_out_to_be_a_prior_is_withdrawn_and_no_other_prior_is_told(
    start: Start, send: list[str]
) -> None:
    site, ris = start(send=send)
    images = ct.head()
    limit_age(site, 0)
    site.publish("positive", images=images[:-1], **PRIOR)
    assert site.send("ris") == 1
    limit_age(site, 24)
    site.publish("positive", images=images[-1:], **PRIOR)
    assert site.send("ris") == 1
    site.publish("positive", **PRIOR)
    site.clock.advance(61)
    assert site.send("ris") == 0
    assert [recent["reason"] for recent in site.status()["recent"]].count("PRIOR_STUDY") == 2
    message = strict(ris.messages[-1])
    assert [field(message, "OBR", 25), field(message, "TQ1", 9)] == ["C", "R^Routine^HL70485"]
    assert str(observation(message, "1386000")[5]) == "373121007^Not Evaluated^SCT"


def test_a_withdrawal_is_as_urgent_as_what_it_takes_back(start: Start) -> None:
    site, ris = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("ris")
    site.publish("small")
    site.publish("negative", images=images[-1:])
    assert site.send("ris") == 2
    assert [str(observation(strict(each), "1386000")[8]) for each in ris.messages] == ["AA", "N", "A"]


def test_what_was_not_sent_yet_is_superseded_by_the_revision(start: Start) -> None:
    site, ris = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.publish("negative", images=images[-1:])
    assert site.send("ris") == 1
    assert site.states("ris") == {"CANCELLED": 1, "SENT": 1}
    (message,) = ris.messages
    assert "|N|||C" in message


def of_one_study(*says: str, between: Callable[[], object] = lambda: None, site: ToldSite) -> None:
    """A series each, of one study."""
    first = ct.head()
    for index, each in enumerate(says):
        images = first if index == 0 else ct.head()
        site.publish(each, images=images, StudyInstanceUID=str(first[0].StudyInstanceUID))
        between()


@pytest.mark.parametrize("says", [("positive", "negative"), ("negative", "positive"), ("positive", "fails")])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_order_keeps_the_priority_of_its_study_whatever_series_is_told_last(
    start: Start, says: tuple[str, ...], at_once: bool
) -> None:
    site, ris = start(legacy_priority=True)
    of_one_study(*says, site=site, between=(lambda: site.send("ris")) if at_once else (lambda: None))
    site.send("ris")
    messages = [strict(each) for each in ris.messages]
    assert len(messages) == 2
    assert [field(messages[-1], "TQ1", 9), field(messages[-1], "OBR", 27)] == ["S^STAT^HL70485", "^^^^^S"]
    assert {str(observation(each, "1386000")[8]) for each in messages} == {"AA", "" if "fails" in says else "N"}
    assert len({field(each, "OBR", 3) for each in messages}) == 2


def test_a_withdrawal_leaves_the_order_the_priority_of_the_rest_of_its_study(start: Start) -> None:
    site, ris = start()
    images = ct.head()
    study_uid = str(images[0].StudyInstanceUID)
    site.publish("small", StudyInstanceUID=study_uid)
    site.publish("positive", images=images[:-1])
    site.publish("negative", images=images[-1:])
    site.send("ris")
    assert [field(strict(each), "TQ1", 9) for each in ris.messages] == ["A^ASAP^HL70485"] * 2
    finding = observation(strict(ris.messages[-1]), "1386000")
    assert [str(finding[number]) for number in (8, 11)] == ["N", "C"]


def test_what_failed_and_is_not_analysed_after_all_is_corrected_though_another_series_was_analysed(
    start: Start,
) -> None:
    site, ris = start()
    images = ct.head()
    site.publish("fails", images=images[:-1])
    site.send("ris")
    site.publish("negative", StudyInstanceUID=str(images[0].StudyInstanceUID))
    site.send("ris")
    images[-1].PixelData = images[-1].PixelData[:100]
    site.publish("positive", images=images[-1:])
    site.clock.advance(61)
    site.send("ris")
    told = [str(observation(strict(each), "59776-5")[5]) for each in ris.messages]
    assert [told[0].startswith("Analysis failed: "), told[-1].startswith("Not analysed: ")] == [True, True]
    assert field(strict(ris.messages[-1]), "OBR", 25) == "C"


def test_what_is_superseded_while_another_message_is_on_its_way_is_not_told(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ris = start()
    images = ct.head()
    site.publish("positive")
    site.publish("positive", images=images[:-1])
    take = ris._take

    def meanwhile(message: str) -> bytes | None:
        if len(ris.messages) == 0:
            site.publish("negative", images=images[-1:])
        return take(message)

    monkeypatch.setattr(ris, "_take", meanwhile)
    assert site.send("ris") == 2
    assert site.states("ris") == {"SENT": 2, "CANCELLED": 1}
    assert [str(observation(strict(each), "1386000")[8]) for each in ris.messages] == ["AA", "N"]


def test_the_configuration_that_the_guide_shows_tells_a_ris(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs, DemoRis() as ris:
        path = tmp_path / "triage-node.toml"
        path.write_text(example("hl7", "hl7").replace("10.20.0.9", "127.0.0.1").replace("2575", str(ris.port)))
        site = ToldSite(tmp_path, pacs, *config.load(path).destinations)
        site.publish(IssuerOfPatientID="")
        assert site.send("ris") == 1
        assert site.states("ris") == {"SENT": 1}
        (message,) = map(strict, ris.messages)
        assert [field(message, "MSH", number) for number in (5, 6)] == ["RIS", "HOSPITAL"]
        assert field(message, "PID", 3) == "MRN4711^^^HOSPITAL^PI"
        site.close()


# ---------------------------------------------------------------- answers


def test_a_refusal_is_a_dead_letter_with_its_code_and_goes_again_under_the_same_id(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = ["AE", "AR", "CE", "CR"]
    site, ris = start(*codes, text="no order ACC9 of MRN4711 MÜLLER in this RIS")
    site.publish()
    for code in codes:
        assert site.send("ris") == 1
        (letter,) = site.letters()
        assert f"answered {code}" in letter
        assert "207 application internal error" in letter
        shown = letter + capsys.readouterr().err
        assert not [word for word in ("order", "ACC9", "MRN4711", "MÜLLER", "in this RIS") if word in shown]
        assert site.send("ris") == 0
        assert outbox.retry_dead(site.parts.database, destination="ris", now=site.clock()) == 1
    assert site.send("ris") == 1
    assert site.states("ris") == {"SENT": 1}
    assert len(ris.messages) == len(codes) + 1
    assert len(set(ris.messages)) == 1


NO_ANSWERS = {
    "close": "closed the connection",
    "garbage": "no MLLP frame",
    "noise": "no acknowledgement",
    "another": "acknowledged another message",
    "silence": "did not answer within 1 s",
    "stall": "did not answer within 1 s",
    "XX": "unknown code",
}


def test_what_is_no_answer_is_sent_again_as_it_was(start: Start) -> None:
    site, ris = start(*NO_ANSWERS, timeout_s=1)
    site.publish()
    for said in NO_ANSWERS.values():
        assert site.send("ris") == 1
        assert site.states("ris") == {"PENDING": 1}
        (traffic,) = [each for each in system.traffic(site.parts.database, ["ris"]) if each.destination == "ris"]
        assert said in (traffic.error or "")
        assert site.send("ris") == 0  # waits for its backoff
        site.clock.advance(301)
    assert site.send("ris") == 1
    assert site.states("ris") == {"SENT": 1}
    assert len(ris.messages) == len(NO_ANSWERS) + 1
    assert len(set(ris.messages)) == 1


def test_a_late_acknowledgement_is_never_taken_for_that_of_the_next_message(start: Start) -> None:
    site, ris = start("silence", "late", timeout_s=1)
    site.publish("positive")
    site.publish("small")
    assert site.send("ris") == 2
    assert site.states("ris") == {"PENDING": 2}
    site.clock.advance(10)
    site.send("ris")
    assert site.states("ris") == {"SENT": 2}
    assert len(ris.messages) == 4
    assert len(set(ris.messages)) == 2


def test_a_message_that_the_ris_chokes_on_holds_up_none_behind_it(start: Start) -> None:
    site, ris = start("close")
    site.publish("positive")
    site.publish("small")
    assert site.send("ris") == 2
    assert site.states("ris") == {"PENDING": 1, "SENT": 1}
    assert len(ris.messages) == 2


def test_a_commit_and_an_application_acknowledgement_of_one_message_are_not_two(start: Start) -> None:
    site, _ = start("twice", "CA")
    site.publish("positive")
    site.publish("small")
    assert site.send("ris") == 2
    assert site.states("ris") == {"SENT": 2}


def test_the_most_urgent_is_told_first_when_the_ris_is_back(start: Start) -> None:
    site, ris = start()
    away = replace(site.config.destinations[1], port=free_port())
    here = site.channels["ris"]
    site.channels["ris"] = channel_of(away, site.config, clock=site.clock)
    for says in ("negative", "small", "positive"):
        site.publish(says)
    for _ in range(20):
        site.send("ris")
        site.clock.advance(301)
    assert site.states("ris") == {"PENDING": 3}
    assert site.send("pacs") > 0
    assert set(site.states("pacs")) == {"SENT"}
    site.channels["ris"] = here
    site.send("ris")
    assert [field(strict(each), "TQ1", 9)[0] for each in ris.messages] == ["S", "A", "R"]


def test_what_waits_for_a_ris_is_a_dead_letter_where_a_pacs_has_its_name_now(start: Start) -> None:
    site, _ = start()
    site.publish()
    pacs = replace(site.config.destinations[0], name="ris")
    site.channels["ris"] = channel_of(pacs, site.config, clock=site.clock)
    assert site.send("ris") == 1
    (letter,) = site.letters()
    assert "takes DICOM objects only" in letter


# ---------------------------------------------------------------- whose result it is


def test_who_the_patient_is_stands_in_the_message_and_nowhere_else(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    site, ris = start("close")
    series_uid = site.publish()
    site.send("ris")
    site.clock.advance(5)
    site.send("ris")
    shown = json.dumps([site.result(series_uid), site.status()], ensure_ascii=False) + capsys.readouterr().err
    for planted in ("Müller", "MRN4711", "ST_ELSEWHERE", "ACC9", "Doctor"):
        assert planted in ris.messages[0]
        assert planted not in shown


def test_a_result_of_nobody_is_a_dead_letter_and_not_sent(start: Start) -> None:
    site, ris = start()
    site.publish_damaged()
    site.send("ris")
    (letter,) = site.letters()
    assert "do not say whose result it is" in letter
    assert ris.messages == []
    assert outbox.give_up(site.parts.database, destination="ris", now=site.clock()) == 1
    site.send("pacs")
    assert (site.letters(), {each["state"] for each in site.status()["recent"]}) == ([], {"DELIVERED"})


def test_a_node_without_such_destinations_keeps_no_identity_beside_its_results(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        site = ToldSite(tmp_path, pacs)
        site.publish()
        assert not list(site.parts.spool.root.glob("results/**/*.json"))
        site.close()
