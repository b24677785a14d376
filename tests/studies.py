"""Studies in a database, as the listener, a worker and a sender would have left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.arrivals import Clock
from triage_node.domain import (
    CLASSES,
    Instance,
    InstanceOutcome,
    ObjectKind,
    Outcome,
    Patient,
    Priority,
    ResultObject,
)
from triage_node.store import claims, ledger
from triage_node.store.database import Database
from triage_node.store.publication import Publication, Report, publish


def image(study: str, series_uid: str, number: int, clock: Clock) -> Instance:
    """One received image of a series, 5 mm above the one before."""
    return Instance(
        sop_uid=f"{series_uid}.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_uid=study,
        series_uid=series_uid,
        modality="CT",
        sha256="0" * 64,
        size_bytes=1,
        position_mm=(0.0, 0.0, 5.0 * number),
        normal=(0.0, 0.0, 1.0),
        calling_ae="CT1",
        source_address="127.0.0.1",
        association="a1",
        received_at=clock(),
        outcome=InstanceOutcome.SERIES,
    )


def arrive(database: Database, clock: Clock, study: str, *, series: str = "1", images: int = 1) -> str:
    """Images of one series of a study; returns the Series Instance UID."""
    series_uid = f"{study}.{series}"
    first = len(claims.sop_uids(database, series_uid))
    arrivals = [image(study, series_uid, first + number + 1, clock) for number in range(images)]
    ledger.record(database, [ledger.Arrived(instance=arrived) for arrived in arrivals])
    return series_uid


def found(priority: Priority, *, volume_ml: float = 0.0, subtype: str = "subdural") -> Report:
    """The report of an analysed series: nothing found for ROUTINE."""
    present = priority != Priority.ROUTINE
    chance = 0.97 if present else 0.02
    probabilities: dict[str, float | None] = dict.fromkeys(CLASSES, 0.02)
    probabilities |= {"any": chance, subtype: chance}
    volumes: dict[str, float | None] = dict.fromkeys(CLASSES, 0.0) | {"any": volume_ml, subtype: volume_ml}
    result = {
        "findings": [subtype] if present else [],
        "probabilities": probabilities,
        "volumes_ml": volumes,
        "volume_intervals_ml": dict.fromkeys(CLASSES),
        "locations": {subtype: {"laterality": "left", "slices": [3, 9]}} if present else {},
        "warnings": [],
        "slices": [],
        "bundle": {"name": "test", "version": "1", "sha256": "0" * 64},
    }
    return _report(Outcome.ANALYZED, priority, None, "said", result)


def not_analyzed(reason: str) -> Report:
    """The report of a series that was not analysed."""
    return _report(Outcome.NOT_ANALYZED, Priority.NONE, reason, "because of the test", {})


def failed() -> Report:
    """The report of a series whose analysis failed, and no notice of it could be made either."""
    detail = "the analysis failed (ValueError)"
    result = {"outcome": "FAILED", "reason": "ANALYSIS_FAILED", "detail": detail}
    return _report(Outcome.FAILED, Priority.NONE, "ANALYSIS_FAILED", detail, result)


def _report(outcome: Outcome, priority: Priority, reason: str | None, detail: str, result: Mapping[str, Any]) -> Report:
    return Report(
        outcome=outcome,
        reason=reason,
        detail=detail,
        priority=priority,
        result=result,
        objects=[],
        deliveries=[],
        not_before=Clock()(),
    )


def end(
    database: Database,
    clock: Clock,
    series_uid: str,
    report: Report,
    *,
    patient: Patient | None = None,
    to: Sequence[str] = (),
) -> None:
    """A series to its published end, with one object for each destination."""
    for waiting in claims.receiving(database):
        if waiting.series_uid == series_uid:
            assert claims.set_ready(database, waiting, "test", clock())
    held = claims.claim(database, now=clock(), lease_s=60)
    assert held is not None
    assert held.series_uid == series_uid
    made = ResultObject(
        kind=ObjectKind.SR,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_uid=f"{series_uid}.9.{held.revision}",
        series_uid=f"{series_uid}.9",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        data=b"bytes",
    )
    values = vars(report) | {
        "objects": [(made, f"results/{made.sop_uid}.dcm")] if to else [],
        "deliveries": [(made.sop_uid, name) for name in to],
        "not_before": clock(),
        "patient": patient,
    }
    assert publish(database, held, Report(**values), now=clock()) is Publication.PUBLISHED
