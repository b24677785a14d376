"""READY -> ANALYZING -> REPORTED: claim a series, take it to its end, publish once it has settled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from time import monotonic, sleep
from typing import Any, Final

from triage_node import log
from triage_node.complete import STILL_GROWING
from triage_node.config import Config, MessageDestination, ObjectDestination
from triage_node.deliver.statement import Statement, encode
from triage_node.domain import MessageKind, NotAnalyzedReason, ObjectKind, Order, Outcome, Patient, ResultObject
from triage_node.errors import LeaseLost
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
from triage_node.pipeline.asking import with_order
from triage_node.pipeline.heartbeat import heartbeat, safe
from triage_node.pipeline.identity import read_identity
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.study import Place, place_in_study, rivals
from triage_node.report.uids import ResultUids
from triage_node.store import claims
from triage_node.store.publication import Publication, Report, publish

SENT_AS: Final[Mapping[ObjectKind | MessageKind, str]] = {
    ObjectKind.SEG: "SEG",
    ObjectKind.SR: "SR",
    ObjectKind.KEY_IMAGE: "KEY_IMAGE",
    ObjectKind.NOTICE_SR: "NOTICE",
    ObjectKind.NOTICE_IMAGE: "NOTICE",
    ObjectKind.GSPS: "GSPS",
    ObjectKind.KOS: "KOS",
    ObjectKind.LABELMAP: "LABELMAP",
}
"""What a kind of object is called in `send` of a [[destination]]."""

UNSENT: Final = frozenset({NotAnalyzedReason.PRIOR_STUDY, NotAnalyzedReason.DUPLICATE_RECONSTRUCTION})
"""A prefetched prior is no news, but to a RIS or pager that was told otherwise; of a duplicate's acquisition there is a
result."""
PUBLICATIONS: Final[Mapping[Publication, str]] = {
    Publication.PUBLISHED: "reported",
    Publication.GREW: "an image came meanwhile, the series is open again",
    Publication.YIELDED: "the study changed meanwhile, the series is looked at again",
}

RETRY_AFTER_S: Final = 2.0
"""Between two tries of a failed analysis."""
LOOK_AGAIN_AFTER_S: Final = 0.5
"""When a better series of the same acquisition is under way."""
PUBLISH_AGAIN_AFTER_S: Final = 10.0
"""When a result could not be written: disk or database are in trouble, not the series."""


def analyze_next(parts: Parts, predictor: Predict) -> bool:
    """Claim one series and take it to its end; returns whether there was one.

    Whatever goes wrong ends in another try or in FAILED with a notice, never in silence.
    """
    if not claims.has_claimable(parts.database, now=parts.clock()):
        return False
    held = claims.claim(parts.database, now=parts.clock(), lease_s=parts.config.work.lease_s)
    if held is None:
        return False
    parts.step("claimed")
    try:
        beat = partial(claims.heartbeat, parts.database, held)
        with heartbeat(parts, beat, log.ref(held.series_uid)):
            analysis = _analyze_claimed(parts, held, predictor)
            if analysis is not None:
                parts.step("analyzed")
                _publish(parts, held, analysis)
    except LeaseLost:
        log.event("lease lost, result dropped", series=log.ref(held.series_uid))
    except Exception as error:  # noqa: BLE001 - process boundary: disk or database refused what was made
        log.event("no result could be written, will try again", series=log.ref(held.series_uid), error=safe(error))
        later = parts.clock() + timedelta(seconds=PUBLISH_AGAIN_AFTER_S)
        claims.give_back(parts.database, held, not_before=later, counted=False)  # or, if that fails, by its lease
    return True


def _analyze_claimed(parts: Parts, held: claims.Claim, predictor: Predict) -> Analysis | None:
    """The analysis, or None when the claim was given back for another try."""
    paths = [parts.spool.object_path(uid) for uid in claims.sop_uids(parts.database, held.series_uid)]
    making = Making(
        producer=producer(parts.config, bundle=None),
        uids=_uids(parts, held),
        created_at=held.claimed_at.astimezone(),  # dates and times in DICOM objects are local (PS3.5 6.2, VR DA, TM)
        revision=held.revision,
        predecessor_sr=claims.previous_sr(parts.database, held),
        received_at=held.received_at,
    )
    if held.attempts > parts.config.work.attempts:
        return end_as_failed(paths, making, "the analysis was interrupted too often")
    try:
        place = place_in_study(parts, held)
        if place is Place.WAITS:
            _wait_for_a_better_series(parts, held)
            return None
        if place is Place.DUPLICATE:
            return duplicate(paths, making)
        return analyze_series(paths, parts.config, predictor, making)
    except Exception as error:  # noqa: BLE001 - process boundary: any failure becomes a try or a visible FAILED
        log.event("analysis failed", series=log.ref(held.series_uid), attempt=held.attempts, error=safe(error))
        if held.attempts < parts.config.work.attempts:
            later = parts.clock() + timedelta(seconds=RETRY_AFTER_S)
            claims.give_back(parts.database, held, not_before=later)
            return None
        return end_as_failed(paths, making, f"the analysis failed ({type(error).__name__})")


def _uids(parts: Parts, held: claims.Claim) -> ResultUids:
    return ResultUids(node=parts.config.uid_scope, series_uid=held.series_uid, revision=held.revision)


def _wait_for_a_better_series(parts: Parts, held: claims.Claim) -> None:
    later = parts.clock() + timedelta(seconds=LOOK_AGAIN_AFTER_S)
    claims.give_back(parts.database, held, not_before=later, counted=False)


def _publish(parts: Parts, held: claims.Claim, analysis: Analysis) -> None:
    _wait_until_settled(parts, held)
    identity = _identity(parts, held)
    named = [(made, _keep(parts, held, made, index)) for index, made in enumerate(analysis.objects)]
    result = {**analysis.result, "objects": [object_json(made, path) for made, path in named]}
    told = _told(parts, held, analysis, result, identity)
    parts.step("kept")
    deliver_at = parts.clock()
    if analysis.outcome == Outcome.NOT_ANALYZED:
        deliver_at += timedelta(seconds=parts.config.series.notice_after_s)
    publication = publish(
        parts.database,
        held,
        Report(
            outcome=analysis.outcome,
            reason=analysis.reason,
            detail=analysis.detail,
            priority=analysis.priority,
            result=result,
            objects=[*named, *told],
            deliveries=[*_deliveries(parts.config, analysis), *_messages(parts.config, analysis, told, wanted=True)],
            corrections=_messages(parts.config, analysis, told, wanted=False),
            not_before=deliver_at,
            though_it_grew=held.ready_because.startswith(STILL_GROWING),
            rivals=rivals(parts, held),
            patient=identity and identity[0],
        ),
        now=parts.clock(),
    )
    parts.step("published")
    if publication is Publication.PUBLISHED:
        _keep_view(parts, held, analysis)
    log.event(
        PUBLICATIONS[publication],
        series=log.ref(held.series_uid),
        revision=held.revision,
        outcome=analysis.outcome.value,
        reason=analysis.reason,
        priority=analysis.priority.value,
    )


def _keep_view(parts: Parts, held: claims.Claim, analysis: Analysis) -> None:
    """What the pages show. The result is public already: nothing here may undo it."""
    if analysis.view is None:
        return
    try:
        parts.spool.keep_view(held.series_uid, held.revision, analysis.view())
    except Exception as error:  # noqa: BLE001 - process boundary: pictures are a help, not the result
        log.event("no pictures for the pages", series=log.ref(held.series_uid), error=safe(error))


def _identity(parts: Parts, held: claims.Claim) -> tuple[Patient, Order] | None:
    sop_uid = next(iter(claims.sop_uids(parts.database, held.series_uid)), None)
    return None if sop_uid is None else read_identity(parts.spool.object_path(sop_uid))


def _keep(parts: Parts, held: claims.Claim, made: ResultObject, index: int) -> str:
    suffix = ".json" if made.kind is MessageKind.RESULT else ".dcm"
    name = f"{made.kind.value}-{index}"
    path = parts.spool.keep_result(held.series_uid, held.revision, name, made.data, suffix=suffix)
    return str(path.relative_to(parts.spool.root))


def _told(
    parts: Parts,
    held: claims.Claim,
    analysis: Analysis,
    result: Mapping[str, Any],
    identity: tuple[Patient, Order] | None,
) -> list[tuple[ResultObject, str]]:
    """The statement for destinations that are told of results; none where there is none of them.

    A duplicate is never told of: what was analysed does not become one.
    """
    duplicate_of_another = analysis.reason == NotAnalyzedReason.DUPLICATE_RECONSTRUCTION
    if duplicate_of_another or all(isinstance(each, ObjectDestination) for each in parts.config.destinations):
        return []
    uids = _uids(parts, held)
    patient, order = with_order(parts.database, held.study_uid, *identity) if identity else (None, None)
    statement = Statement(
        uid=uids.sop(MessageKind.RESULT),
        study_uid=held.study_uid,
        series_uid=held.series_uid,
        revision=held.revision,
        created_at=held.claimed_at.astimezone(),
        node=parts.config.node.ae_title,
        filler_number=uids.filler_number(),
        result=result,
        patient=patient,
        order=order,
        received=tuple(claims.references(parts.database, held.series_uid)),
        created=tuple((made.series_uid, made.sop_class_uid, made.sop_uid) for made in analysis.objects),
        supersedes=tuple(_older_uids(uids)),
    )
    made = ResultObject(
        kind=MessageKind.RESULT,
        sop_class_uid="",
        sop_uid=statement.uid,
        series_uid=uids.series(MessageKind.RESULT),
        transfer_syntax_uid="",
        data=encode(statement),
    )
    return [(made, _keep(parts, held, made, 0))]


def _older_uids(uids: ResultUids) -> Iterator[str]:
    return (replace(uids, revision=older).sop(MessageKind.RESULT) for older in range(1, uids.revision))


def _deliveries(config: Config, analysis: Analysis) -> list[tuple[str, str]]:
    if analysis.reason in UNSENT:
        return []
    return [
        (made.sop_uid, destination.name)
        for destination in config.destinations
        if isinstance(destination, ObjectDestination)
        for made in analysis.objects
        if SENT_AS[made.kind] in destination.send
    ]


def _messages(
    config: Config, analysis: Analysis, told: Sequence[tuple[ResultObject, str]], *, wanted: bool
) -> list[tuple[str, str]]:
    """To the destinations that want to be told of such a result, or to the others: of a prior nobody wants to be."""
    ended = analysis.priority.value if analysis.outcome is Outcome.ANALYZED else analysis.outcome.value
    news = analysis.reason not in UNSENT
    return [
        (made.sop_uid, destination.name)
        for destination in config.destinations
        if isinstance(destination, MessageDestination) and (news and ended in destination.send) == wanted
        for made, _ in told
    ]


def _wait_until_settled(parts: Parts, held: claims.Claim) -> None:
    """Nothing is published while images may still come: analysed early, published `settle_s` after the last one.

    Ends at once for a series that grew, since publishing opens it again; and after `settle_s` whatever the clock says.
    """
    settle_s = parts.config.series.settle_s
    deadline = monotonic() + settle_s
    while monotonic() < deadline:
        images, last_image_at = claims.growth(parts.database, held.series_uid)
        wait_s = settle_s - (parts.clock() - last_image_at).total_seconds()
        if images != held.images or wait_s <= 0:
            return
        sleep(min(wait_s, 0.2))
