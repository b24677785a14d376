"""A pager or a chat is told of results by signed JSON: what it is told, what its answers mean, who it can trust."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import ct
from tests.hook import Hook
from tests.told import ToldSite, example
from triage_node import config, preflight
from triage_node.deliver.channel import channel_of
from triage_node.errors import DeliveryError
from triage_node.pipeline.attention import escalate
from triage_node.store import opinions, outbox
from triage_node.testing import DemoPacs

SECRET = "a secret of the two of us"
Start = Callable[..., tuple[ToldSite, Hook]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a node and a receiver."""
    monkeypatch.setenv("PAGER_SECRET", SECRET)
    with ExitStack() as stack:

        def start(*statuses: int, timeout_s: float = 10, **settings: Any) -> tuple[ToldSite, Hook]:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs"))
            hook = stack.enter_context(Hook(statuses=statuses))
            values = {"url": f"http://127.0.0.1:{hook.port}/in/token?x=1", "secret": "env:PAGER_SECRET"} | settings
            table = config.WebhookDestination(name="pager", **values)
            site = ToldSite(tmp_path, pacs, table)
            stack.callback(site.close)
            quick = replace(site.config, delivery=replace(site.config.delivery, timeout_s=timeout_s))
            site.channels["pager"] = channel_of(table, quick, clock=site.clock)
            return site, hook

        yield start


def test_a_result_is_told_signed_and_without_identity(start: Start) -> None:
    site, hook = start()
    series_uid = site.publish()
    assert site.send("pager") == 1
    assert site.states("pager") == {"SENT": 1}
    (told,) = hook.told
    assert told.path == "/in/token?x=1"
    signed = told.headers["X-Triage-Timestamp"].encode() + b"." + told.data
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert told.headers["X-Triage-Signature"] == f"sha256={expected}"
    assert told.headers["X-Triage-Timestamp"] == str(int(site.clock().timestamp()))
    content = told.content
    assert told.headers["X-Triage-Event-Id"] == content["id"]
    assert (content["event"], content["priority"], content["suspected"]) == ("result", "STAT", True)
    assert content["volumes_ml"]["any"] == 12.5
    whole = told.data.decode() + str(told.headers)
    result = site.result(series_uid)
    for planted in ("Müller", "MRN4711", "ACC9", "Doctor", result["study_uid"], series_uid, SECRET):
        assert planted not in whole


def test_who_the_patient_is_is_told_where_the_configuration_says_so(start: Start) -> None:
    site, hook = start(identity=True)
    series_uid = site.publish()
    site.send("pager")
    content = hook.told[0].content
    assert content["patient"]["patient_name"] == "Müller^Jörg^^Dr"
    assert content["order"]["issuer_of_patient_id"] == "ST_ELSEWHERE"
    assert content["series_uid"] == series_uid


def test_a_revision_a_failure_and_a_negative_are_events_of_their_own(start: Start) -> None:
    site, hook = start()
    images = ct.head()
    site.publish("positive", images=images[:-1])
    site.send("pager")
    site.publish("negative", images=images[-1:])
    site.send("pager")
    site.publish("fails")
    site.send("pager")
    told = [(each.content["event"], each.content["priority"], each.content["suspected"]) for each in hook.told]
    assert told == [("result", "STAT", True), ("revision", "ROUTINE", False), ("failure", "NONE", None)]
    assert len({each.content["id"] for each in hook.told}) == 3


def test_a_series_that_cannot_be_read_is_told_of_all_the_same(start: Start) -> None:
    site, hook = start(identity=True)
    site.publish_damaged()
    site.send("pager")
    (told,) = hook.told
    assert told.content["event"] == "failure"
    assert told.content["text"].startswith("Analysis failed: ")
    assert (told.content["suspected"], told.content["patient"]) == (None, None)


def test_an_escalation_is_told_once_and_only_of_what_nobody_acknowledged(start: Start) -> None:
    site, hook = start(send=[])
    states = [{"REPORTED"}, set(), set()]
    site.publish("positive")
    site.publish("positive")
    opinions.acknowledge(site.parts.database, 1, user="ann", now=site.clock())
    site.send("pacs")
    for _ in range(3):
        site.clock.advance(700)
        escalate(site.parts)
        assert {recent["state"] for recent in site.status()["recent"]} == {"DELIVERED", *states.pop(0)}
        site.send("pager")
    (told,) = hook.told
    assert (told.content["event"], told.content["priority"]) == ("escalation", "STAT")
    assert told.headers["X-Triage-Event"] == "escalation"
    assert {recent["state"] for recent in site.status()["recent"]} == {"DELIVERED"}


def test_a_pager_that_was_away_is_not_rung_for_what_somebody_has_acknowledged_since(start: Start) -> None:
    site, hook = start(503, send=[])
    site.publish("positive")
    site.send("pacs")
    site.clock.advance(700)
    escalate(site.parts)
    site.send("pager")
    opinions.acknowledge(site.parts.database, 1, user="ann", now=site.clock())
    site.clock.advance(700)
    assert site.send("pager") == 0
    assert (len(hook.told), site.states("pager")) == (1, {"CANCELLED": 1})
    assert {recent["state"] for recent in site.status()["recent"]} == {"DELIVERED"}


def test_an_escalation_is_not_told_where_none_is_wanted(start: Start) -> None:
    site, hook = start(escalations=False)
    site.publish("positive")
    site.send("pager")
    site.clock.advance(700)
    escalate(site.parts)
    assert site.send("pager") == 0
    assert [each.content["event"] for each in hook.told] == ["result"]


def test_the_configuration_and_the_check_that_the_guide_shows_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAGE_PAGER_SECRET", SECRET)
    with DemoPacs(tmp_path / "pacs") as pacs, Hook() as hook:
        path = tmp_path / "triage-node.toml"
        path.write_text(
            example("webhook", "webhook").replace("https://pager.hospital.example", f"http://127.0.0.1:{hook.port}")
        )
        site = ToldSite(tmp_path, pacs, *config.load(path).destinations)
        site.publish("negative")
        assert site.send("pager") == 0
        site.publish("positive")
        assert site.send("pager") == 1
        (told,) = hook.told
        site.close()
    names: dict[str, Any] = {}
    exec(example("verify", "webhook"), names)
    signed = [told.headers["X-Triage-Timestamp"], told.data, told.headers["X-Triage-Signature"]]
    now = site.clock().timestamp()
    assert names["is_ours"](SECRET.encode(), *signed, now=now)
    assert not names["is_ours"](SECRET.encode(), *signed, now=now + 301)
    assert not names["is_ours"](b"another", *signed, now=now)
    assert not names["is_ours"](SECRET.encode(), signed[0], told.data + b" ", signed[2], now=now)


# ---------------------------------------------------------------- answers


def test_what_another_try_may_cure_is_told_again_under_the_same_id(start: Start) -> None:
    statuses = [500, 503, 408, 425, 429, 301, 302, 307, 0]
    site, hook = start(*statuses)
    site.publish()
    for _ in statuses:
        assert site.send("pager") == 1
        assert site.states("pager") == {"PENDING": 1}
        assert site.send("pager") == 0  # waits for its backoff
        site.clock.advance(301)
    assert site.send("pager") == 1
    assert site.states("pager") == {"SENT": 1}
    assert {told.path for told in hook.told} == {"/in/token?x=1"}  # nobody went where a redirect pointed
    assert len(hook.told) == len(statuses) + 1
    assert len({told.data for told in hook.told}) == 1
    assert len({told.headers["X-Triage-Event-Id"] for told in hook.told}) == 1
    assert len({told.headers["X-Triage-Signature"] for told in hook.told}) == len(hook.told)  # each of its own time


def test_a_refusal_is_a_dead_letter_until_retried(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = [400, 401, 404, 410]
    site, hook = start(*statuses)
    site.publish()
    for status in statuses:
        site.send("pager")
        (letter,) = site.letters()
        assert f"answered HTTP {status}" in letter
        assert "token" not in letter + capsys.readouterr().err  # what stands in a url is often a secret
        assert outbox.retry_dead(site.parts.database, destination="pager", now=site.clock()) == 1
    site.send("pager")
    assert site.states("pager") == {"SENT": 1}
    assert len({told.content["id"] for told in hook.told}) == 1


def test_a_receiver_that_talks_on_for_ever_is_cut_off(start: Start) -> None:
    site, _ = start(-1, timeout_s=1)
    site.publish()
    site.send("pager")
    assert site.states("pager") == {"PENDING": 1}
    site.clock.advance(5)
    site.send("pager")
    assert site.states("pager") == {"SENT": 1}


def test_a_connection_that_took_all_the_time_is_not_used(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    site, hook = start(timeout_s=0.2)
    look_up = socket.getaddrinfo

    def slowly(*where: Any, **how: Any) -> Any:
        time.sleep(1)
        return look_up(*where, **how)

    site.publish()
    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    site.send("pager")
    assert site.states("pager") == {"PENDING": 1}
    assert hook.told == []


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_host_that_cannot_be_is_out_of_reach(start: Start, host: str) -> None:
    site, _ = start(url=f"https://{host}/x")
    site.publish()
    site.send("pager")
    assert site.states("pager") == {"PENDING": 1}
    findings = {each.what: each for each in preflight.check(site.config, load_model=lambda: "", now=site.clock())}
    assert "cannot be reached" in findings["destination pager"].detail


def test_a_secret_that_is_missing_or_short_holds_events_back_and_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site, hook = start(secret=f"file:{tmp_path / 'secret'}")
    site.publish()
    site.send("pager")
    (tmp_path / "secret").write_text("short\n")
    site.clock.advance(5)
    site.send("pager")
    assert site.states("pager") == {"PENDING": 1}
    assert hook.told == []
    with pytest.raises(DeliveryError, match=r"the file secret must hold a secret of 16 characters"):
        site.channels["pager"].probe()  # type: ignore[attr-defined]
    (tmp_path / "secret").write_text(SECRET + "\n")
    site.clock.advance(10)
    site.send("pager")
    assert site.states("pager") == {"SENT": 1}


def test_check_says_whether_a_receiver_is_there_and_tells_it_nothing(start: Start) -> None:
    site, hook = start()
    findings = {each.what: each for each in preflight.check(site.config, load_model=lambda: "", now=site.clock())}
    assert findings["destination pager"].ok
    assert json.dumps(findings["destination pager"].detail).count("token") == 0
    assert hook.told == []
