"""`triage-node ledger` and `rebuild`, as an administrator types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ct
from tests.arrivals import Clock, received
from triage_node import config
from triage_node.admit import Admission
from triage_node.infer.bundle import WEIGHTS_FILE, find_bundle
from triage_node.spool import Spool
from triage_node.store.database import open_database


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """A node that received three images and does not run."""
    path = tmp_path / "triage-node.toml"
    path.write_text('[node]\ndata_dir = "data"\n')
    loaded = config.load(path)
    database = open_database(loaded.database_url)
    admission = Admission(spool=Spool(loaded.node.data_dir), database=database, clock=Clock())
    for image in ct.head([0.0, 5.0, 10.0]):
        admission.admit(received(image))
    database.close()
    return path


def run(*words: str, config_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "triage_node", *words, "--config", str(config_path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


def test_the_ledger_names_every_object_and_what_became_of_it(config_path: Path) -> None:
    lines = [json.loads(line) for line in run("ledger", "--json", config_path=config_path).stdout.splitlines()]
    assert [(line["calling_ae"], line["outcome"], line["removed_at"]) for line in lines] == [
        ("CT1", "RECEIVING", None)
    ] * 3
    told = run("ledger", "--sop", lines[1]["sop_uid"], config_path=config_path)
    assert told.stdout.split("\t")[2] == lines[1]["sop_uid"]
    assert told.stderr == "1 object(s): RECEIVING 1\n"
    assert run("ledger", "--days", "1", config_path=config_path).stdout == ""  # the clock of the fixture is older
    assert len(run("ledger", "--study", lines[0]["study_uid"], config_path=config_path).stdout.splitlines()) == 3


def test_rebuild_enters_what_a_lost_database_knew(config_path: Path) -> None:
    before = run("ledger", "--json", config_path=config_path).stdout.splitlines()
    for path in (config_path.parent / "data").glob("triage-node.sqlite3*"):
        path.unlink()
    assert run("ledger", config_path=config_path).stdout == ""
    assert run("rebuild", config_path=config_path).stdout.startswith("3 spooled object(s)")
    after = run("ledger", "--json", config_path=config_path).stdout.splitlines()
    known = ("sop_uid", "series_uid", "study_uid", "outcome")
    assert _fields(before, known) == _fields(after, known)
    assert run("rebuild", config_path=config_path).stdout.startswith("0 spooled object(s)")


def test_models_lists_what_is_shipped_and_tries_one() -> None:
    listed = models()
    assert listed.stdout.startswith("default 0")
    tried = models("default")
    assert tried.stdout.startswith(listed.stdout.splitlines()[0])
    assert "intraparenchymal" in tried.stdout.splitlines()[4]


def test_models_refuses_a_damaged_bundle_in_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(find_bundle("default"), damaged)
    next(damaged.rglob(WEIGHTS_FILE)).write_bytes(b"damaged")
    said = models(str(damaged), check=False)
    assert said.returncode == 1
    assert "weights.safetensors: has sha256" in said.stderr
    assert len(said.stderr.splitlines()) == 1


def models(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "triage_node", "models", *words]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=120)


def _fields(lines: list[str], names: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {tuple(json.loads(line)[name] for name in names) for line in lines}
