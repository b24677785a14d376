"""The demo, as a new user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import ct
from tests.tools import real_head_ct
from triage_node.domain import CLASSES

KEYS = {"study_uid", "series_uid", "outcome", "reason", "priority", "probabilities", "volumes_ml", "slices", "header"}
MORE_KEYS = {"warnings", "bundle", "timings_s", "objects"}


def demo(*words: str) -> tuple[dict[str, Any], str]:
    """Run it; its one JSON line and what a person saw."""
    answer = subprocess.run(
        [sys.executable, "-m", "triage_node", "demo", *words, "--once", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        stdin=subprocess.DEVNULL,
    )
    assert answer.returncode == 0, answer.stderr
    (line,) = answer.stdout.splitlines()
    return json.loads(line), answer.stderr


def test_the_demo_flags_a_simulated_subdural_and_shows_what_the_pacs_holds() -> None:
    result, seen = demo()
    assert result.keys() >= KEYS | MORE_KEYS
    assert result["outcome"] == "ANALYZED"
    assert result["priority"] in ("STAT", "HIGH")
    assert result["probabilities"].keys() == result["volumes_ml"].keys() == set(CLASSES)
    assert len(result["bundle"]["sha256"]) == 64
    assert {stored["modality"] for stored in result["pacs"]} == {"SEG", "SR", "OT"}
    assert result["identity_intact"]
    assert "Last image to last result" in seen
    assert "100%" in seen
    assert "Not for primary diagnosis" in seen


def test_the_demo_takes_a_real_series() -> None:
    result, _ = demo(str(real_head_ct()))
    assert result["outcome"] == "ANALYZED"
    assert len(result["slices"]) == 28
    assert "SR" in {stored["modality"] for stored in result["pacs"]}
    assert result["identity_intact"]


def test_the_demo_shows_why_a_series_was_not_analysed(tmp_path: Path) -> None:
    ct.save(ct.head([0.0, 5.0, 10.0]), tmp_path)
    result, seen = demo(str(tmp_path))
    assert (result["outcome"], result["reason"]) == ("NOT_ANALYZED", "TOO_FEW_SLICES")
    assert "NOT_ANALYZED" in seen


def test_a_folder_without_ct_is_one_clear_line(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "triage_node", "demo", str(tmp_path), "--once"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 1
    assert answer.stderr == f"triage-node: {tmp_path} holds no DICOM CT image; give the folder of a head CT series\n"
