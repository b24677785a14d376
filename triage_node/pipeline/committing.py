"""SENT -> CONFIRMED: a destination is asked whether it keeps what it was sent, and its report is noted.

The report may come to the process that asked or to the listener; either only writes the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from triage_node import log
from triage_node.deliver.dicom import DicomDestination
from triage_node.domain import CommitmentReport
from triage_node.errors import DeliveryError
from triage_node.pipeline.parts import Parts
from triage_node.store import commitments

TOGETHER_S: Final = 1.0
"""What was sent within this time is asked for together."""


def request_commitment(parts: Parts, destination: DicomDestination) -> bool:
    """Ask one destination for what is due; returns whether anything was."""
    now, settings = parts.clock(), parts.config.delivery
    if not commitments.has_due(parts.database, destination.name, now=now):
        return False
    dead = commitments.give_up(parts.database, destination.name, now=now, attempts=settings.commitment_attempts)
    if dead:
        log.event("dead letters: no storage commitment", destination=destination.name, count=dead)
    request = commitments.open_request(
        parts.database,
        destination.name,
        now=now,
        ask_again_at=now + timedelta(seconds=settings.commitment_timeout_s),
        slack_s=TOGETHER_S,
    )
    parts.step("commitment written down")
    if request:
        _ask(parts, destination, request)
    return True


def note_report(parts: Parts, report: CommitmentReport, destinations: Sequence[str]) -> bool:
    """Note what a destination answered; returns False where none of `destinations` was asked by this transaction."""
    settings = parts.config.delivery
    noted = commitments.note_report(
        parts.database,
        report,
        destinations=destinations,
        now=parts.clock(),
        attempts=settings.commitment_attempts,
        send_again_at=lambda asks: parts.clock() + timedelta(seconds=settings.backoff_after_s(asks)),
    )
    parts.step("commitment noted")
    if noted is None:
        log.event("a storage commitment report of no transaction of ours", transaction=log.ref(report.transaction_uid))
        return False
    log.event(
        "storage commitment",
        destination=noted.destination,
        confirmed=noted.confirmed,
        sent_again=noted.again,
        dead_letters=noted.dead,
        reasons=", ".join(sorted({f"0x{reason:04X}" for reason in report.failed.values()})) or None,
    )
    return True


def _ask(parts: Parts, destination: DicomDestination, request: commitments.Request) -> None:
    try:
        destination.request_commitment(
            request.transaction_uid,
            request.references,
            on_report=lambda report: note_report(parts, report, [destination.name]),
            answered=lambda: commitments.is_answered(parts.database, request.transaction_uid),
        )
    except DeliveryError as error:
        _note_refused(parts, destination.name, request, error)
    parts.step("commitment requested")


def _note_refused(parts: Parts, destination: str, request: commitments.Request, error: DeliveryError) -> None:
    later = parts.clock() + timedelta(seconds=parts.config.delivery.backoff_after_s(request.asks))
    commitments.refuse(parts.database, request, error=str(error), ask_again_at=later if error.retryable else None)
    log.event(
        "storage commitment could not be asked for" + (", will ask again" if error.retryable else ": dead letters"),
        destination=destination,
        objects=len(request.references),
        error=str(error),
    )
