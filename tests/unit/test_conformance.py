"""docs/conformance.md says what the code does."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from tests.report_cases import PRODUCER, SERIES_UID, mask_of, prediction_of, results_of, volume_of, write_ct
from triage_node.domain import Outcome
from triage_node.report import ResultUids, build_notice

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def conformance() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance", ROOT / "scripts" / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_as_the_code_has_it(conformance: ModuleType) -> None:
    text = (ROOT / "docs" / "conformance.md").read_text()
    assert conformance.with_tables(text) == text, "run python scripts/conformance.py"


def test_every_marker_is_of_a_table(conformance: ModuleType) -> None:
    text = (ROOT / "docs" / "conformance.md").read_text()
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(conformance.TABLES)


def test_what_we_make_is_of_the_classes_that_are_stated(conformance: ModuleType, tmp_path: Path) -> None:
    paths = write_ct(tmp_path)
    volume = volume_of(paths)
    notice = build_notice(
        source=paths[0],
        outcome=Outcome.NOT_ANALYZED,
        reason="NOT_HEAD",
        detail="not a head",
        producer=PRODUCER,
        uids=ResultUids(node="TRIAGE", series_uid=SERIES_UID, revision=1),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    made = [*results_of(volume, prediction_of(volume, mask_of(volume))), *notice]
    assert {one.kind: one.sop_class_uid for one in made} == conformance.SOP_CLASSES
    syntaxes = {one.kind: conformance.TRANSFER_SYNTAX_OF.get(one.kind, "1.2.840.10008.1.2.1") for one in made}
    assert {one.kind: one.transfer_syntax_uid for one in made} == syntaxes
