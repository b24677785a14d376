"""Prediction and Decision -> DICOM objects; and the notice "not analysed, because".

Every object belongs to the received study, says what made it and that it is not for primary diagnosis, carries the
priority in its series description, and is read back and compared before it is returned. The same arguments give the
same bytes: clock and UIDs are arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from triage_node.domain import (
    Decision,
    Location,
    ObjectKind,
    Outcome,
    Prediction,
    Priority,
    Producer,
    ResultObject,
    Volume,
)
from triage_node.errors import ReportError
from triage_node.report.checks import require_sound
from triage_node.report.findings import Finding, key_slices, reported_findings
from triage_node.report.groups import Evidence
from triage_node.report.gsps import build_gsps
from triage_node.report.instance import Context, plain, read_header
from triage_node.report.key_image import draw_key_image
from triage_node.report.kos import build_kos
from triage_node.report.notice import build_notice_sr, draw_notice
from triage_node.report.secondary_capture import build_secondary_capture
from triage_node.report.seg import build_seg
from triage_node.report.sr import build_sr
from triage_node.report.stack import source_slices
from triage_node.report.uids import ResultUids
from triage_node.report.view import build_picture_view, build_view

__all__ = ["ResultUids", "build_notice", "build_picture_view", "build_results", "build_view", "series_description"]

NOTICE_DESCRIPTIONS: Final = {
    Outcome.NOT_ANALYZED: f"AI {Priority.NONE}: not analysed",
    Outcome.FAILED: f"AI {Priority.NONE}: analysis failed",
}


def build_results(
    *,
    volume: Volume,
    prediction: Prediction,
    decision: Decision,
    locations: Mapping[str, Location],
    producer: Producer,
    uids: ResultUids,
    created_at: datetime,
    revision: int,
    predecessor_sr: tuple[str, str] | None = None,
    also: Collection[ObjectKind] = (),
) -> tuple[ResultObject, ...]:
    """All objects of one analysed series: SEG (if anything is segmented), SR (always), key images (if positive); and
    of those that are made on demand `also` these kinds: LABELMAP (as SEG), GSPS and KOS (if positive).

    `locations` is where each class lies, from `locate.locate`; `created_at` is aware; `revision` is that of `uids`;
    `predecessor_sr` is (SOP Class UID, SOP Instance UID) of the SR that this one supersedes. Raises ReportError.
    """
    _require_consistent(volume, prediction, decision, uids, created_at, revision)
    context = Context(
        source=read_header(volume.paths[0]),
        producer=producer,
        bundle=prediction.bundle,
        uids=uids,
        created_at=created_at,
        series_description=series_description(decision, partial=volume.partial is not None),
    )
    slices = source_slices(volume, context)
    findings = reported_findings(volume, prediction, decision, locations)
    shown = key_slices(prediction, findings)
    seg = _seg(prediction, findings, slices, context)
    sr = build_sr(
        prediction=prediction,
        decision=decision,
        findings=findings,
        evidence=Evidence(slices=slices, key_slices=[slices[index] for index in shown], seg=seg),
        comments=volume.warnings,
        whole_head=volume.partial is None,
        predecessor=predecessor_sr,
        context=context,
    )
    pictured = shown if decision.suspected else ()
    key_images = _key_images(volume, prediction, decision, findings, pictured, slices, context)
    on_demand = _on_demand(also, prediction, decision, findings, pictured, slices, context)
    objects = (*((seg,) if seg else ()), sr, *key_images, *on_demand)
    known = {*volume.sop_uids, *((seg.sop_uid,) if seg else ()), *((predecessor_sr[1],) if predecessor_sr else ())}
    _require_sound(objects, context, volume.paths[0], known)
    return objects


def build_notice(
    *,
    source: Path,
    outcome: Outcome,
    reason: str,
    detail: str,
    producer: Producer,
    uids: ResultUids,
    created_at: datetime,
) -> tuple[ResultObject, ...]:
    """SR and page that say why a series was not analysed.

    `source` is one received file of the series, `outcome` NOT_ANALYZED or FAILED, `reason` its code, `detail` one
    plain sentence. Raises ReportError.
    """
    if outcome not in NOTICE_DESCRIPTIONS:
        raise ReportError(f"no notice is made for {outcome}")
    context = Context(
        source=read_header(source),
        producer=producer,
        bundle=producer.bundle,
        uids=uids,
        created_at=created_at,
        series_description=NOTICE_DESCRIPTIONS[outcome],
    )
    notice = build_notice_sr(outcome, reason, detail, context)
    page = build_secondary_capture(
        draw_notice(outcome, reason, detail, producer.node_name),
        kind=ObjectKind.NOTICE_IMAGE,
        index=0,
        sources=[context.source],
        derivation="Notice: not analysed",
        context=context,
    )
    _require_sound((notice, page), context, source, {str(context.source.SOPInstanceUID)})
    return (notice, page)


def series_description(decision: Decision, *, partial: bool = False) -> str:
    """What every study list shows: "AI STAT: ICH suspected". A negative of a `partial` head says that it is one."""
    said = "ICH suspected" if decision.suspected else "no ICH detected"
    return f"AI {decision.priority}: {'part of head, ' if partial and not decision.suspected else ''}{said}"


# ---------------------------------------------------------------- steps


def _require_consistent(
    volume: Volume,
    prediction: Prediction,
    decision: Decision,
    uids: ResultUids,
    created_at: datetime,
    revision: int,
) -> None:
    if created_at.tzinfo is None:
        raise ReportError("created_at must be aware")
    if uids.revision != revision:
        raise ReportError("the UIDs are those of another revision")
    if decision.priority == Priority.NONE:
        raise ReportError("an analysed series has a priority")
    if prediction.mask is not None and prediction.mask.shape != volume.hu.shape:
        raise ReportError("the mask is not on the slices of the volume")


def _require_sound(objects: Sequence[ResultObject], context: Context, source: Path, known: set[str]) -> None:
    """Against the source as it is on disk, whatever became of `context.source` in between."""
    fresh = replace(context, source=read_header(source))
    for made in objects:
        require_sound(made, fresh, known=known)


def _seg(
    prediction: Prediction,
    findings: Sequence[Finding],
    slices: Sequence[Dataset],
    context: Context,
    kind: ObjectKind = ObjectKind.SEG,
) -> ResultObject | None:
    if prediction.mask is None or not any(finding.segmented for finding in findings):
        return None
    return build_seg(prediction.mask, findings, slices, prediction.bundle, context, kind=kind)


def _on_demand(
    also: Collection[ObjectKind],
    prediction: Prediction,
    decision: Decision,
    findings: Sequence[Finding],
    pictured: Sequence[int],
    slices: Sequence[Dataset],
    context: Context,
) -> list[ResultObject]:
    made = []
    if ObjectKind.LABELMAP in also and (labelmap := _seg(prediction, findings, slices, context, ObjectKind.LABELMAP)):
        made.append(labelmap)
    if ObjectKind.GSPS in also and pictured:
        made += build_gsps(prediction, findings, pictured, slices, context)
    if ObjectKind.KOS in also and pictured:
        made.append(build_kos(decision, [slices[index] for index in pictured], context))
    return made


def _key_images(
    volume: Volume,
    prediction: Prediction,
    decision: Decision,
    findings: Sequence[Finding],
    shown: Sequence[int],
    slices: Sequence[Dataset],
    context: Context,
) -> list[ResultObject]:
    return [
        build_secondary_capture(
            draw_key_image(volume=volume, prediction=prediction, decision=decision, findings=findings, index=index),
            kind=ObjectKind.KEY_IMAGE,
            index=number,
            sources=[slices[index]],
            derivation=plain(f"Key image in a brain window: {decision.reason}"),
            context=context,
        )
        for number, index in enumerate(shown)
    ]
