"""`triage-node serve` keeps its roles running, and takes them with it when it goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.node import Node, kill, running_node
from tests.tools import require_tool

KINDS = {"listen", "work", "deliver", "web"}


def pids(node: Node) -> dict[str, int]:
    return {role["kind"]: role["pid"] for role in node.status()["roles"]}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_role_that_is_killed_comes_back_and_all_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    with running_node(tmp_path, destinations={}) as node:
        node.wait_for(lambda: pids(node).keys() == KINDS, what="all roles")
        first = pids(node)
        for pid in first.values():
            os.kill(pid, signal.SIGKILL)
        node.wait_for(
            lambda: all(pids(node).get(kind, first[kind]) != first[kind] for kind in KINDS), what="all roles again"
        )
        second = pids(node)
        with urllib.request.urlopen(f"http://127.0.0.1:{node.port('web')}/healthz", timeout=10) as answer:
            assert answer.status == 200
        subprocess.run(
            [require_tool("echoscu"), "-aet", "CT1", "-aec", "TRIAGE", "127.0.0.1", str(node.port())],
            check=True,
            timeout=20,
        )
        kill(node.processes[0])
        node.wait_for(lambda: not any(map(is_alive, second.values())), what="the roles to end")


def test_every_role_ends_in_order_when_the_node_is_stopped(tmp_path: Path) -> None:
    with running_node(tmp_path, destinations={}) as node:
        node.wait_for(lambda: pids(node).keys() == KINDS, what="all roles")
        node.processes[0].terminate()
        assert node.processes[0].wait(timeout=60) == 0
        lines = [json.loads(line) for line in node.log.splitlines()]  # all of it is events: no role was aborted
        assert {line["role"] for line in lines if line["event"] == "stopped"} == KINDS


def test_an_unknown_caller_is_refused_and_the_log_says_which_line_would_admit_it(tmp_path: Path) -> None:
    with running_node(tmp_path, "listen", destinations={}) as node:
        refused = subprocess.run(
            [require_tool("echoscu"), "-aet", "STRANGER", "-aec", "TRIAGE", "127.0.0.1", str(node.port())],
            check=False,
            timeout=20,
        )
        assert refused.returncode != 0
        assert "[[source]]" in node.log
        assert 'ae_title = \\"STRANGER\\"' in node.log
        assert str(node.config_path) in node.log


@pytest.mark.parametrize("command", ["serve", "check", "status", "listen"])
def test_a_faulty_configuration_is_one_clear_line(tmp_path: Path, command: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nae_titel = "X"\n')
    answer = subprocess.run(
        [sys.executable, "-m", "triage_node", command, "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 1
    assert answer.stderr == f'triage-node: {path}:2: [node] knows no "ae_titel"; did you mean "ae_title"?\n'


def test_check_finds_what_is_wrong_and_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, destinations={"PACS": 1})
    answer = subprocess.run(
        [sys.executable, "-m", "triage_node", "check", "--config", str(node.config_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    node.database.close()
    lines = {line[6:30].strip(): line[:4].strip() for line in answer.stdout.splitlines()[:-1]}
    assert lines == {
        "configuration": "ok",
        "spool": "ok",
        "database": "ok",
        "model": "ok",
        "listener": "ok",
        "outbox": "ok",
        "destination pacs": "FAIL",
    }
    assert answer.returncode == 1
