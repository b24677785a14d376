"""One object to its status, by whatever way it came: the process boundary of everything behind `admit`."""

from __future__ import annotations

from collections.abc import Callable

from triage_node import log
from triage_node.domain import ReceivedObject, StoreStatus
from triage_node.errors import RejectedObject


def status_of(
    received: ReceivedObject, *, admit: Callable[[ReceivedObject], int], may_receive: Callable[[], bool]
) -> int:
    """The status to answer (PS3.4 B.2.3). Raises nothing; what is refused is logged."""
    try:
        if not may_receive():
            return refused(received, StoreStatus.OUT_OF_RESOURCES, "no resources")
        return admit(received)
    except RejectedObject as error:
        return refused(received, error.status, str(error))
    except OSError as error:
        return refused(received, StoreStatus.OUT_OF_RESOURCES, error.strerror or type(error).__name__)
    except Exception as error:  # noqa: BLE001 - a status must be answered; messages may hold values
        return refused(received, StoreStatus.HANDLER_FAILED, type(error).__name__)


def is_stored(status: int) -> bool:
    """Whether a status says that the object is here: warnings do."""
    return status == StoreStatus.SUCCESS or status >> 12 == 0xB


def refused(received: ReceivedObject, status: int, reason: str) -> int:
    """Log a refusal; returns its status."""
    log.event(
        "object refused",
        ref=log.ref(received.sop_uid),
        association=received.association,
        status=f"0x{status:04X}",
        reason=reason,
    )
    return status
