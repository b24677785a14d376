"""A source asks whether its images are kept: written down first, answered over an association of our own.

What is true is looked up when it is reported, not when it was asked.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from triage_node import log
from triage_node.config import Source
from triage_node.domain import CommitmentRequest
from triage_node.errors import DeliveryError
from triage_node.peers import Peer, report_commitment
from triage_node.pipeline.parts import Parts
from triage_node.store import promises
from triage_node.store.promises import NO_SUCH_OBJECT, Promise

ANSWER_FIRST_S: Final = 1.0
"""The answer to the request goes before the report."""


def note_request(parts: Parts, calling_ae: str, request: CommitmentRequest) -> None:
    """Write down what the source of this AE title asked for."""
    now = parts.clock()
    promises.enter(parts.database, calling_ae, request, now=now, report_at=now + timedelta(seconds=ANSWER_FIRST_S))
    log.event("asked for storage commitment", calling_ae=calling_ae, objects=len(request.references))


def report_promises(parts: Parts, source: Source) -> bool:
    """Report on what is due of one source; returns whether anything was."""
    now, settings = parts.clock(), parts.config.delivery
    again_at = now + timedelta(seconds=settings.lease_s + settings.timeout_s)
    one = promises.next_due(parts.database, source.ae_title.strip(), now=now, again_at=again_at)
    if one is None or source.commitment_peer is None:
        return False
    parts.step("promise taken")
    request = CommitmentRequest(transaction_uid=one.transaction_uid, references=one.references)
    failures = _failures(parts, one)
    ae_title, host, port = source.commitment_peer
    try:
        report_commitment(
            Peer(ae_title=ae_title, host=host, port=port),
            calling_ae=source.called_ae or parts.config.node.ae_title,
            request=request,
            failures=failures,
            timeout_s=settings.timeout_s,
        )
    except DeliveryError as error:
        _note_failed(parts, source, one, error)
        return True
    parts.step("promise reported")
    promises.note(parts.database, one, report_at=None)
    kept = len(one.references) - len(failures)
    log.event("reported storage commitment", calling_ae=source.ae_title, kept=kept, failed=len(failures))
    return True


def _failures(parts: Parts, one: Promise) -> dict[str, int]:
    """By the ledger, and by the disk: what is promised must lie there."""
    failures = promises.failures(parts.database, one.references)
    for _, sop_uid in one.references:
        if sop_uid not in failures and not parts.spool.object_path(sop_uid).exists():
            failures[sop_uid] = NO_SUCH_OBJECT
    return failures


def _note_failed(parts: Parts, source: Source, one: Promise, error: DeliveryError) -> None:
    settings = parts.config.delivery
    final = one.attempts >= settings.commitment_attempts
    later = parts.clock() + timedelta(seconds=settings.backoff_after_s(one.attempts))
    promises.note(parts.database, one, report_at=None if final else later)
    log.event(
        "a storage commitment could not be reported" + (": given up" if final else ", will try again"),
        calling_ae=source.ae_title,
        attempt=one.attempts,
        error=str(error),
    )
