"""The same stages on files: of the folder that `triage-node analyze` is given, or of what is tried on the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread

from triage_node import log
from triage_node.admit import ct_series
from triage_node.assemble.primary import Sketch, Stand, Turn, preference, sketch, turn
from triage_node.config import Config
from triage_node.domain import Outcome
from triage_node.elements import READ_ERRORS
from triage_node.errors import InferenceError, UsageError
from triage_node.pipeline.analysis import (
    Analysis,
    Making,
    Predict,
    analyze_series,
    duplicate,
    end_as_failed,
    object_json,
    producer,
)
from triage_node.report.uids import ResultUids

Before = Callable[[int, int], None]
"""Called before each series with its number, from 1, and how many there are."""


def analyze_folder(
    folder: Path, out: Path, *, config: Config, predictor: Predict, now: datetime
) -> list[dict[str, Any]]:
    """Writes the objects and result.json of each CT series of a folder below `out`.

    Returns the result.json values. Raises as `analyze_files`.
    """
    analyses = analyze_files(folder, config=config, predictor=predictor, now=now)
    return [_write(result_folder(out, series_uid), analysis) for series_uid, analysis in analyses]


def result_folder(out: Path, series_uid: str) -> Path:
    """Where `analyze_folder` writes what it made of a series."""
    return out / log.ref(series_uid)


def analyze_files(
    folder: Path,
    *,
    config: Config,
    predictor: Predict,
    now: datetime,
    before: Before = lambda number, count: None,
    keep_going: bool = False,
) -> Iterator[tuple[str, Analysis]]:
    """Series Instance UID and analysis of each CT series of a folder, one at a time; of a study the best first.

    Raises UsageError when the folder holds no CT image, and InferenceError; to `keep_going`, that ends one series only.
    """
    found = _series_in(folder)
    drawn = [made for series_uid, paths in found.items() if (made := sketch(series_uid, paths))]
    sketches = {made.series_uid: made for made in sorted(drawn, key=preference, reverse=True)}
    analyzed: dict[str, list[tuple[Sketch, Stand]]] = {}
    for number, series_uid in enumerate(dict.fromkeys([*sketches, *found]), start=1):
        before(number, len(found))
        own, paths = sketches.get(series_uid), found[series_uid]
        making = _making(series_uid, config, now)
        siblings = analyzed.setdefault(_study_uid(paths[0]), [])
        if own and turn(own, siblings) is Turn.DUPLICATE:
            analysis = duplicate(paths, making)
        else:
            analysis = _analyze(paths, config, predictor, making, keep_going=keep_going)
        if own and analysis.outcome == Outcome.ANALYZED:
            siblings.append((own, Stand.ANALYZED))
        yield series_uid, analysis


# ---------------------------------------------------------------- steps


def _making(series_uid: str, config: Config, now: datetime) -> Making:
    uids = ResultUids(node=config.uid_scope, series_uid=series_uid, revision=1)
    return Making(producer=producer(config, bundle=None), uids=uids, created_at=now)


def _analyze(
    paths: Sequence[Path], config: Config, predictor: Predict, making: Making, *, keep_going: bool
) -> Analysis:
    try:
        return analyze_series(paths, config, predictor, making)
    except Exception as error:  # boundary of one series: the others of the folder go on
        if isinstance(error, InferenceError) and not keep_going:
            raise  # who waits for the command is told at once
        log.event("analysis failed", series=log.ref(making.uids.series_uid), error=type(error).__name__)
        return end_as_failed(paths, making, f"the analysis failed ({type(error).__name__})")


def _series_in(folder: Path) -> dict[str, list[Path]]:
    """CT files below a folder by SeriesInstanceUID; what is no DICOM file is passed over."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder that holds the DICOM files")
    found: dict[str, list[Path]] = {}
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        if series_uid := ct_series(path):
            found.setdefault(series_uid, []).append(path)
    if not found and any(map(_without_class, files)):
        raise UsageError(
            f"{folder}: its CT images name no SOP Class, as those of RSNA 2019, and no PACS could send them; ask a "
            "bundle about them with: triage-node evaluate --dataset rsna"
        )
    if not found:
        raise UsageError(f"{folder} holds no DICOM CT image; give the folder of a head CT series")
    return found


def _without_class(path: Path) -> bool:
    """Whether it is a CT image as competitions give them away: what names its kind was taken out."""
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"])
    except READ_ERRORS:
        return False
    return header.get("Modality") == "CT" and "SOPClassUID" not in header


def _study_uid(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).get("StudyInstanceUID", ""))


def _write(out: Path, analysis: Analysis) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    listed = []
    for index, made in enumerate(analysis.objects):
        path = out / f"{made.kind.value}-{index}.dcm"
        path.write_bytes(made.data)
        listed.append(object_json(made, str(path)))
    result = {**analysis.result, "objects": listed}
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
