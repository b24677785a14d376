"""Names in other scripts, as the tools and the PACS that hospitals use read them in our results."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import report_cases as cases
from tests.orthanc import Orthanc, running_orthanc
from tests.tools import require_tool
from triage_node.domain import ObjectKind, Outcome, ResultObject
from triage_node.report import ResultUids, build_notice

# The iconv of glibc, with which dcmtk comes here, knows no ISO 2022 IR 87.
BY_DCMTK = [case for case in cases.NAMES if "ISO 2022 IR 87" not in case[0]]
# Orthanc reads ISO 2022 IR 87, but not behind ISO 2022 IR 13; of the images as little as of our results.
BY_ORTHANC = [case for case in cases.NAMES if case[0] != ["ISO 2022 IR 13", "ISO 2022 IR 87"]]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as pacs:
        yield pacs


def all_kinds(folder: Path, character_set: str | list[str], name: str) -> list[ResultObject]:
    """One object of each kind, under UIDs of their own."""
    paths = cases.write_ct(folder, elements={"SpecificCharacterSet": character_set, "PatientName": name})
    volume = cases.volume_of(paths)
    uids = ResultUids(node=str(character_set), series_uid=cases.SERIES_UID, revision=1)
    results = cases.results_of(volume, cases.prediction_of(volume, cases.mask_of(volume)), uids=uids)
    notice = build_notice(
        source=paths[0],
        outcome=Outcome.FAILED,
        reason="ANALYSIS_FAILED",
        detail="no reason",
        producer=cases.PRODUCER,
        uids=replace(uids, revision=2),
        created_at=cases.CREATED_AT,
    )
    made = [*results, *notice]
    assert {one.kind for one in made} == set(ObjectKind)
    return made


def as_utf8(tool: str, *arguments: str | Path) -> str:
    done = subprocess.run([require_tool(tool), *map(str, arguments)], capture_output=True, timeout=30, check=True)
    return done.stdout.decode("utf-8")


@pytest.mark.parametrize(("character_set", "name"), BY_DCMTK)
def test_dcmtk_reads_the_name_in_every_result(tmp_path: Path, character_set: str | list[str], name: str) -> None:
    for made in all_kinds(tmp_path / "ct", character_set, name):
        path = tmp_path / f"{made.kind}.dcm"
        path.write_bytes(made.data)
        assert f"[{name}]" in as_utf8("dcmdump", "+U8", "+P", "0010,0010", path)
        if made.kind in (ObjectKind.SR, ObjectKind.NOTICE_SR):
            assert f" {name} (" in as_utf8("dsrdump", "+U8", path)


@pytest.mark.parametrize(("character_set", "name"), BY_ORTHANC)
def test_the_pacs_reads_the_name_in_every_result(
    orthanc: Orthanc, tmp_path: Path, character_set: str | list[str], name: str
) -> None:
    for made in all_kinds(tmp_path, character_set, name):
        stored = orthanc.post("/instances", made.data)
        assert orthanc.get(f"/instances/{stored['ID']}/simplified-tags")["PatientName"] == name
