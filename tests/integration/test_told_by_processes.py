"""The sender as a process: killed at any step it tells nobody under a second identity, and no channel waits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.hook import Hook
from tests.integration.test_hl7 import field, strict
from tests.node import kill
from tests.told import ToldSite
from triage_node import config
from triage_node.testing import DemoPacs, DemoRis, DemoUps

WAIT_S = 60.0
SETTINGS = """\
[node]
data_dir = "spool"
database = "sqlite:///{folder}/db.sqlite3"
[delivery]
backoff_s = 0.2
lease_s = 4
timeout_s = 3
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
[[destination]]
name = "ris"
kind = "hl7"
host = "127.0.0.1"
port = {ris}
[[destination]]
name = "pager"
kind = "webhook"
url = "http://127.0.0.1:{hook}/"
secret = "env:PAGER_SECRET"
[[destination]]
name = "worklist"
kind = "ups"
ae_title = "WORKLIST"
host = "127.0.0.1"
port = {ups}
"""


@dataclass(kw_only=True)
class Ward:
    """A node with one positive result, and everybody who is to be told of it."""

    site: ToldSite
    pacs: DemoPacs
    ris: DemoRis
    hook: Hook
    ups: DemoUps
    start: Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Callable[..., Ward]]:
    """Opens it; the RIS answers as is said."""
    with ExitStack() as stack:

        def open_ward(*answers: str) -> Ward:
            pacs = stack.enter_context(DemoPacs(tmp_path / "pacs"))
            ris = stack.enter_context(DemoRis(answers=answers))
            hook = stack.enter_context(Hook())
            ups = stack.enter_context(DemoUps())
            path = tmp_path / "triage-node.toml"
            path.write_text(
                SETTINGS.format(folder=tmp_path, pacs=pacs.port, ris=ris.port, hook=hook.port, ups=ups.port)
            )
            site = ToldSite(tmp_path, pacs, *config.load(path).destinations[1:], max_study_age_h=0)
            stack.callback(site.close)
            site.clock.now = datetime.now(UTC)
            site.publish()
            site.clock.now = datetime.now(UTC)

            def start(*command: str) -> subprocess.Popen[bytes]:
                environment = os.environ | {"PAGER_SECRET": "a secret of the two of us"}
                words = [sys.executable, "-m", *command, "--config", str(path)]
                process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
                stack.callback(lambda: process.poll() is None and kill(process))
                return process

            return Ward(site=site, pacs=pacs, ris=ris, hook=hook, ups=ups, start=start)

        yield open_ward


@pytest.mark.parametrize("step", ["parcels claimed", "answered", "noted"])
def test_a_sender_killed_at_a_step_tells_everybody_under_one_identity(ward: Callable[..., Ward], step: str) -> None:
    opened = ward()
    assert opened.start("tests.killable", "deliver", step).wait(timeout=WAIT_S) == -9
    opened.start("triage_node", "deliver")
    opened.site.wait_for_states(WAIT_S, pacs={"SENT"}, ris={"SENT"}, pager={"SENT"}, worklist={"SENT"})
    messages = opened.ris.messages
    assert {field(strict(message), "MSH", 10) for message in messages} == {field(strict(messages[0]), "MSH", 10)}
    assert len(set(messages)) == 1
    assert len({told.headers["X-Triage-Event-Id"] for told in opened.hook.told}) == 1
    assert opened.ups.states() == ["SCHEDULED"]
    (recent,) = opened.site.status()["recent"]
    assert recent["state"] == "DELIVERED"


def test_a_ris_that_never_answers_holds_up_neither_the_pacs_nor_the_pager(ward: Callable[..., Ward]) -> None:
    opened = ward(*["silence"] * 100)
    opened.start("triage_node", "deliver")
    opened.ris.wait_for(1, WAIT_S)
    opened.site.wait_for_states(WAIT_S, pacs={"SENT"}, pager={"SENT"}, worklist={"SENT"})
    assert set(opened.site.states("ris")) <= {"SENDING", "PENDING"}
