"""One series through the stages: assemble, infer, decide, report -> Analysis, with its result.json.

The worker and `triage-node analyze` both end up here; neither clock nor UID source is read, both are arguments.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from pydicom import dcmread

from triage_node import log, report
from triage_node.admit import CT_CLASSES
from triage_node.assemble import assemble
from triage_node.assemble.primary import Sketch, Stand, Turn, preference, sketch, turn
from triage_node.config import Config
from triage_node.decide import decide
from triage_node.domain import (
    CLASSES,
    DISCLAIMER,
    BundleRef,
    Decision,
    Location,
    NotAnalyzedReason,
    Outcome,
    Prediction,
    Priority,
    Producer,
    ResultObject,
    Volume,
)
from triage_node.elements import READ_ERRORS
from triage_node.errors import InferenceError, NotSuitable, UsageError
from triage_node.locate import locate
from triage_node.report.uids import ResultUids


class Predict(Protocol):
    """Volume in, Prediction out: infer's process or its in-process twin."""

    def predict(self, volume: Volume) -> Prediction:
        """Raises InferenceError."""


@dataclass(frozen=True, kw_only=True)
class Making:
    """What the results of one revision are made with: every clock and UID comes from here."""

    producer: Producer
    uids: ResultUids
    created_at: datetime
    revision: int = 1
    predecessor_sr: tuple[str, str] | None = None
    """(SOP Class UID, SOP Instance UID) of the SR of the revision that this one supersedes."""
    received_at: datetime | None = None
    """When the first image came: how old a study was on arrival decides whether it is a prior. None: `created_at`."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """How one series ended, before anything is published."""

    outcome: Outcome
    priority: Priority
    reason: str | None
    """A NotAnalyzedReason, or ANALYSIS_FAILED; None where analysed."""
    detail: str
    """One sentence for the radiologist."""
    objects: tuple[ResultObject, ...]
    result: dict[str, Any]
    """The public result.json but for `objects`."""
    view: Callable[[], Mapping[str, bytes]] | None = None
    """Makes the files that the pages show, by name, in about a second; None where nothing was analysed."""


def producer(config: Config, *, bundle: BundleRef | None) -> Producer:
    """This node, as every result names it."""
    return Producer(node_name=config.node.ae_title, software_version=version("triage-node"), bundle=bundle)


def analyze_series(paths: Sequence[Path], config: Config, predictor: Predict, making: Making) -> Analysis:
    """Take the files of one series to their end. NotSuitable becomes a notice; other errors pass."""
    started = monotonic()
    try:
        volume = assemble(paths, oldest=_oldest(config, making.received_at or making.created_at))
    except NotSuitable as unsuitable:
        return _notice(paths, making, Outcome.NOT_ANALYZED, unsuitable.reason.value, unsuitable.detail)
    assembled = monotonic()
    prediction = predictor.predict(volume)
    inferred = monotonic()
    locations = locate(volume, prediction.mask)
    decision = decide(prediction, config.rules, locations)
    objects = report.build_results(
        volume=volume,
        prediction=prediction,
        decision=decision,
        locations=locations,
        producer=producer(config, bundle=prediction.bundle),
        uids=making.uids,
        created_at=making.created_at,
        revision=making.revision,
        predecessor_sr=making.predecessor_sr,
    )
    timings_s = {"assemble": assembled - started, "infer": inferred - assembled, "report": monotonic() - inferred}
    return Analysis(
        outcome=Outcome.ANALYZED,
        priority=decision.priority,
        reason=None,
        detail=decision.reason,
        objects=objects,
        result={
            **_base_json(paths[0], Outcome.ANALYZED, None, decision.reason, decision.priority),
            **_prediction_json(volume, prediction, decision, locations),
            "timings_s": {name: round(seconds, 3) for name, seconds in timings_s.items()},
        },
        view=partial(report.build_view, volume, prediction, decision, locations),
    )


def failed(paths: Sequence[Path], making: Making, detail: str) -> Analysis:
    """A series that could not be analysed although it should have been: visible, never silent."""
    return _notice(paths, making, Outcome.FAILED, "ANALYSIS_FAILED", detail)


def duplicate(paths: Sequence[Path], making: Making) -> Analysis:
    """A series whose acquisition was analysed in another reconstruction."""
    reason = NotAnalyzedReason.DUPLICATE_RECONSTRUCTION
    detail = "Another reconstruction of the same acquisition was analysed."
    return _notice(paths, making, Outcome.NOT_ANALYZED, reason.value, detail)


def analyze_folder(
    folder: Path, out: Path, *, config: Config, predictor: Predict, now: datetime
) -> list[dict[str, Any]]:
    """The same stages on files: writes the objects and result.json of each CT series below `out`.

    Returns the result.json values. Raises UsageError when the folder holds no CT image.
    """
    found = _series_in(folder)
    drawn = [made for series_uid, paths in found.items() if (made := sketch(series_uid, paths))]
    sketches = {made.series_uid: made for made in sorted(drawn, key=preference, reverse=True)}
    analyzed: dict[str, list[tuple[Sketch, Stand]]] = {}
    results = []
    for series_uid in dict.fromkeys([*sketches, *found]):
        own, paths = sketches.get(series_uid), found[series_uid]
        making = _making_for_files(series_uid, config, now)
        siblings = analyzed.setdefault(_study_uid(paths[0]), [])
        if own and turn(own, siblings) is Turn.DUPLICATE:
            analysis = duplicate(paths, making)
        else:
            analysis = _analyze_files(paths, config, predictor, making)
        if own and analysis.outcome == Outcome.ANALYZED:
            siblings.append((own, Stand.ANALYZED))
        results.append(_write(out / log.ref(series_uid), analysis))
    return results


def object_json(made: ResultObject, path: str) -> dict[str, str]:
    """One line of `objects` in result.json."""
    return {"kind": made.kind.value, "sop_uid": made.sop_uid, "path": path}


# ---------------------------------------------------------------- steps


def _making_for_files(series_uid: str, config: Config, now: datetime) -> Making:
    uids = ResultUids(node=config.uid_scope, series_uid=series_uid, revision=1)
    return Making(producer=producer(config, bundle=None), uids=uids, created_at=now)


def _analyze_files(paths: Sequence[Path], config: Config, predictor: Predict, making: Making) -> Analysis:
    try:
        return analyze_series(paths, config, predictor, making)
    except InferenceError:
        raise  # no other series would fare better
    except Exception as error:  # noqa: BLE001 - boundary of one series: the others of the folder go on
        log.event("analysis failed", series=log.ref(making.uids.series_uid), error=type(error).__name__)
        return failed(paths, making, f"the analysis failed ({type(error).__name__})")


def _series_in(folder: Path) -> dict[str, list[Path]]:
    """CT files below a folder by SeriesInstanceUID; what is no DICOM file is passed over."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder that holds the DICOM files")
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"])
            class_uid, series_uid = (str(header.get(keyword) or "") for keyword in ("SOPClassUID", "SeriesInstanceUID"))
        except READ_ERRORS:
            continue
        if class_uid in CT_CLASSES and series_uid:
            found.setdefault(series_uid, []).append(path)
    if not found:
        raise UsageError(f"{folder} holds no DICOM CT image; give the folder of a head CT series")
    return found


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


def _oldest(config: Config, received_at: datetime) -> datetime | None:
    hours = config.series.max_study_age_h
    return received_at - timedelta(hours=hours) if hours else None


def _notice(paths: Sequence[Path], making: Making, outcome: Outcome, reason: str, detail: str) -> Analysis:
    objects = report.build_notice(
        source=paths[0],
        outcome=outcome,
        reason=reason,
        detail=detail,
        producer=making.producer,
        uids=making.uids,
        created_at=making.created_at,
    )
    empty: dict[str, Any] = {
        "probabilities": dict.fromkeys(CLASSES),
        "volumes_ml": dict.fromkeys(CLASSES),
        "volume_intervals_ml": dict.fromkeys(CLASSES),
        "subdural_chronic": None,
        "findings": [],
        "locations": {},
        "boxes": None,
        "slices": [],
        "header": {},
        "warnings": [],
        "bundle": None,
        "timings_s": {},
    }
    return Analysis(
        outcome=outcome,
        priority=Priority.NONE,
        reason=reason,
        detail=detail,
        objects=objects,
        result={**_base_json(paths[0], outcome, reason, detail, Priority.NONE), **empty},
    )


def _base_json(source: Path, outcome: Outcome, reason: str | None, detail: str, priority: Priority) -> dict[str, Any]:
    header = dcmread(source, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
    return {
        "study_uid": str(header.StudyInstanceUID),
        "series_uid": str(header.SeriesInstanceUID),
        "outcome": outcome.value,
        "reason": reason,
        "detail": detail,
        "priority": priority.value,
        "disclaimer": DISCLAIMER,
    }


def _prediction_json(
    volume: Volume, prediction: Prediction, decision: Decision, locations: Mapping[str, Location]
) -> dict[str, Any]:
    return {
        "probabilities": _rounded(prediction.probabilities, 4),
        "volumes_ml": _rounded(prediction.volumes_ml, 2),
        "volume_intervals_ml": {name: _ends(prediction.volume_intervals_ml.get(name)) for name in CLASSES},
        **_rounded({"subdural_chronic": prediction.subdural_chronic}, 4),
        "findings": list(decision.findings),
        # of a negative none, so that stray voxels do not look like a finding
        "locations": {n: _location_json(location) for n, location in locations.items() if decision.suspected},
        "boxes": _boxes_json(prediction, decision),
        "slices": [
            {
                **_slice_json(volume, index),
                "probabilities": _rounded({name: _number(p) for name, p in zip(CLASSES, row, strict=True)}, 4),
            }
            for index, row in enumerate(prediction.slice_probabilities)
        ],
        "header": dict(volume.header),
        "warnings": list(volume.warnings),
        "bundle": asdict(prediction.bundle),
    }


def _boxes_json(prediction: Prediction, decision: Decision) -> list[dict[str, Any]] | None:
    """Slices are counted from 1, from feet to head; edges are in pixels of the image (PS3.3 C.18.6.1.1)."""
    if prediction.boxes is None:
        return None
    return [
        {
            "subtype": box.subtype,
            "slice": box.slice_index + 1,
            "probability": round(box.probability, 4),
            "edges_px": [round(edge, 1) for edge in (box.left, box.top, box.right, box.bottom)],
        }
        for box in prediction.boxes
        if decision.suspected
    ]


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(end, 2) for end in interval]


def _slice_json(volume: Volume, index: int) -> dict[str, Any]:
    """Which image a slice is; of a multi-frame image which frame, too (from 1)."""
    frame_number = volume.frame_number(index)
    frame = {} if frame_number is None else {"frame_number": frame_number}
    return {"sop_uid": volume.sop_uids[index], **frame}


def _location_json(location: Location) -> dict[str, Any]:
    """Slices are counted from 1, from feet to head; instance numbers are the scanner's."""
    first, last = location.slices
    return {
        "laterality": location.laterality and location.laterality.value,
        "slices": [first + 1, last + 1],
        "instance_numbers": location.instance_numbers and list(location.instance_numbers),
        "z_mm": [round(z, 1) for z in location.z_mm],
    }


def _rounded(values: Mapping[str, float | None], digits: int) -> dict[str, float | None]:
    return {name: None if value is None else round(value, digits) for name, value in values.items()}


def _number(value: float) -> float | None:
    """JSON has no NaN: of a class that the bundle does not output nothing is said."""
    return None if math.isnan(value) else float(value)
