"""One series through the stages: assemble, infer, decide, report -> Analysis, with its result.json.

Whatever comes, from the PACS, as files or on the page for trying, ends up here; neither clock nor UID source is read,
both are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

from pydicom import dcmread

from triage_node import log, report
from triage_node.assemble import assemble
from triage_node.config import ON_DEMAND, Config
from triage_node.decide import decide
from triage_node.domain import (
    CLASSES,
    DISCLAIMER,
    BundleRef,
    Decision,
    Location,
    NotAnalyzedReason,
    ObjectKind,
    Outcome,
    Prediction,
    Priority,
    Producer,
    ResultObject,
    Volume,
)
from triage_node.errors import NotSuitable
from triage_node.locate import locate
from triage_node.picture import picture_volume, read_picture
from triage_node.pipeline.heartbeat import safe
from triage_node.report.uids import ResultUids

GUESSED: Final = "Made from a picture: its window, its scale and the slices beside it are guessed."
"""What a reader must know of the result of a picture."""


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
        also=[ObjectKind(name) for name in ON_DEMAND if any(name in each.send for each in config.destinations)],
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


def analyze_picture(path: Path, predictor: Predict) -> Analysis:
    """One PNG or JPEG of a slice through inference alone: no priority, no objects, and volumes are unknown.

    Raises UsageError where it is no readable picture, and InferenceError.
    """
    started = monotonic()
    volume = replace(picture_volume(read_picture(path)), warnings=(GUESSED,))
    prediction = replace(predictor.predict(volume), volumes_ml=dict.fromkeys(CLASSES), volume_intervals_ml={})
    decision = decide(prediction, (), {})
    detail = decision.reason if decision.suspected else f"{decision.reason} in this slice; the rest was not seen"
    return Analysis(
        outcome=Outcome.ANALYZED,
        priority=Priority.NONE,
        reason=None,
        detail=detail,
        objects=(),
        result={
            **_outcome_json(Outcome.ANALYZED, None, detail, Priority.NONE),
            **_prediction_json(volume, prediction, decision, {}),
            "timings_s": {"infer": round(monotonic() - started, 3)},
        },
        view=partial(report.build_picture_view, volume, prediction, decision),
    )


def failed(paths: Sequence[Path], making: Making, detail: str) -> Analysis:
    """A series that could not be analysed although it should have been: visible, never silent."""
    return _notice(paths, making, Outcome.FAILED, "ANALYSIS_FAILED", detail)


def end_as_failed(paths: Sequence[Path], making: Making, detail: str) -> Analysis:
    """As `failed`; without a notice where none can be made."""
    try:
        return failed(paths, making, detail)
    except Exception as error:  # noqa: BLE001 - process boundary: FAILED must be recorded even without a notice
        log.event("no notice could be made for a failed series", error=safe(error))
        return Analysis(
            outcome=Outcome.FAILED,
            priority=Priority.NONE,
            reason="ANALYSIS_FAILED",
            detail=detail,
            objects=(),
            result={**_outcome_json(Outcome.FAILED, "ANALYSIS_FAILED", detail, Priority.NONE), **_nothing_known()},
        )


def duplicate(paths: Sequence[Path], making: Making) -> Analysis:
    """A series whose acquisition was analysed in another reconstruction."""
    reason = NotAnalyzedReason.DUPLICATE_RECONSTRUCTION
    detail = "Another reconstruction of the same acquisition was analysed."
    return _notice(paths, making, Outcome.NOT_ANALYZED, reason.value, detail)


def object_json(made: ResultObject, path: str) -> dict[str, str]:
    """One line of `objects` in result.json."""
    return {"kind": made.kind.value, "sop_uid": made.sop_uid, "path": path}


# ---------------------------------------------------------------- steps


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
    return Analysis(
        outcome=outcome,
        priority=Priority.NONE,
        reason=reason,
        detail=detail,
        objects=objects,
        result={**_base_json(paths[0], outcome, reason, detail, Priority.NONE), **_nothing_known()},
    )


def _nothing_known() -> dict[str, Any]:
    return {
        "probabilities": dict.fromkeys(CLASSES),
        "volumes_ml": dict.fromkeys(CLASSES),
        "volume_intervals_ml": dict.fromkeys(CLASSES),
        "subdural_chronic": None,
        "suspected": None,
        "findings": [],
        "locations": {},
        "boxes": None,
        "slices": [],
        "header": {},
        "warnings": [],
        "bundle": None,
        "timings_s": {},
    }


def _base_json(source: Path, outcome: Outcome, reason: str | None, detail: str, priority: Priority) -> dict[str, Any]:
    header = dcmread(source, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
    uids = {"study_uid": str(header.StudyInstanceUID), "series_uid": str(header.SeriesInstanceUID)}
    return uids | _outcome_json(outcome, reason, detail, priority)


def _outcome_json(outcome: Outcome, reason: str | None, detail: str, priority: Priority) -> dict[str, Any]:
    return {
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
        "suspected": decision.suspected,
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
    """Which image a slice is; of a multi-frame image which frame, too (from 1). Of a picture nothing."""
    if not volume.sop_uids:
        return {}
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
