"""The outbox to its destinations: every status is noted; a failure waits for its backoff, a hopeless one is dead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from triage_node import log
from triage_node.deliver.channel import Channel
from triage_node.deliver.dicom import DicomDestination
from triage_node.domain import INSTEAD, MessageKind, OutboxState, Proof
from triage_node.errors import NotAccepted
from triage_node.peers import OutgoingObject, StoreResult
from triage_node.pipeline.committing import TOGETHER_S
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.reading_back import FIND_AFTER_S
from triage_node.store import outbox, studies, worklist


def deliver_next(parts: Parts, destination: Channel) -> int:
    """Send what is due for one destination; returns how many objects were tried."""
    if not outbox.has_due(parts.database, destination.name, now=parts.clock()):
        return 0
    claim = partial(outbox.claim_parcels, parts.database, destination.name, limit=destination.at_a_time)
    parcels = claim(now=parts.clock(), lease_s=parts.config.delivery.lease_s)
    parts.step("parcels claimed")
    by_uid = {parcel.sop_uid: parcel for parcel in parcels}
    outgoing = [_outgoing(parts, parcel) for parcel in parcels]
    if outgoing:
        destination.send(outgoing, lambda result: _note_sent(parts, destination, by_uid, result))
    return len(outgoing)


def _outgoing(parts: Parts, parcel: outbox.Parcel) -> OutgoingObject:
    told = parcel.kind in set(MessageKind)
    return OutgoingObject(
        path=parts.spool.root / parcel.path,
        sop_class_uid=parcel.sop_class_uid,
        sop_uid=parcel.sop_uid,
        transfer_syntax_uid=parcel.transfer_syntax_uid,
        kind=parcel.kind,
        study_priority=studies.priority_of(parts.database, parcel.study_uid) if told else None,
        read_at=worklist.read_at(parts.database, parcel.study_uid) if told else None,
    )


def _note_sent(parts: Parts, destination: Channel, by_uid: Mapping[str, outbox.Parcel], result: StoreResult) -> None:
    parcel = by_uid[result.outgoing.sop_uid]
    parts.step("answered")
    if result.error is None:
        now = parts.clock()
        due = now + timedelta(seconds=_ask_after_s(destination)) if destination.commitment else None
        outbox.mark_sent(parts.database, parcel, status=result.status or 0, now=now, commitment_due=due)
        log.event("delivered", destination=destination.name, kind=parcel.kind, object=log.ref(parcel.sop_uid))
    else:
        _note_failed(parts, destination.name, parcel, result)
    parts.step("noted")


def _ask_after_s(destination: Channel) -> float:
    read_back = isinstance(destination, DicomDestination) and destination.proof is Proof.FOUND
    return FIND_AFTER_S if read_back else TOGETHER_S


def _note_failed(parts: Parts, destination: str, parcel: outbox.Parcel, result: StoreResult) -> None:
    assert result.error is not None
    if isinstance(result.error, NotAccepted):
        _note_not_accepted(parts, destination, parcel, result)
        return
    settings = parts.config.delivery
    final = not result.error.retryable or parcel.attempts >= settings.attempts
    log.event(
        "dead letter" if final else "delivery failed, will try again",
        destination=destination,
        kind=parcel.kind,
        object=log.ref(parcel.sop_uid),
        attempt=parcel.attempts,
        error=str(result.error),
    )
    error = str(result.error)
    if final:
        outbox.mark_dead(parts.database, parcel, status=result.status, error=error)
        return
    later = parts.clock() + timedelta(seconds=settings.backoff_after_s(parcel.attempts))
    outbox.mark_failed(parts.database, parcel, status=result.status, error=error, not_before=later)


def _note_not_accepted(parts: Parts, destination: str, parcel: outbox.Parcel, result: StoreResult) -> None:
    error = str(result.error)
    state = outbox.mark_not_accepted(
        parts.database,
        parcel,
        instead=INSTEAD.get(parcel.kind),
        status=result.status,
        error=error,
        now=parts.clock(),
    )
    log.event(
        "dead letter" if state is OutboxState.DEAD else "not accepted by the destination, the rest goes on",
        destination=destination,
        kind=parcel.kind,
        object=log.ref(parcel.sop_uid),
        error=error,
    )
