"""One object to its status, by whatever way it came: the process boundary of everything behind `admit`."""

from __future__ import annotations

from collections.abc import Callable

from triage_node import log
from triage_node.domain import ReceivedObject, StoreStatus
from triage_node.errors import RejectedObject

NotTaken = Callable[[str, str, int, str], None]
"""Is told which object was refused: SOP Instance UID, calling AE title, status, reason. Must not wait."""


def status_of(
    received: ReceivedObject,
    *,
    admit: Callable[[ReceivedObject], int],
    may_receive: Callable[[], bool],
    not_taken: NotTaken,
) -> int:
    """The status to answer (PS3.4 B.2.3). Raises nothing; what is refused is logged and told."""
    try:
        if not may_receive():
            return refused(received, StoreStatus.OUT_OF_RESOURCES, "no resources", not_taken)
        return admit(received)
    except RejectedObject as error:
        return refused(received, error.status, str(error), not_taken)
    except OSError as error:
        return refused(received, StoreStatus.OUT_OF_RESOURCES, error.strerror or type(error).__name__, not_taken)
    except Exception as error:  # noqa: BLE001 - a status must be answered; messages may hold values
        return refused(received, StoreStatus.HANDLER_FAILED, type(error).__name__, not_taken)


def is_stored(status: int) -> bool:
    """Whether a status says that the object is here: warnings do."""
    return status == StoreStatus.SUCCESS or status >> 12 == 0xB


def refused(received: ReceivedObject, status: int, reason: str, not_taken: NotTaken) -> int:
    """Log and tell a refusal; returns its status."""
    log.event(
        "object refused",
        ref=log.ref(received.sop_uid),
        association=received.association,
        status=f"0x{status:04X}",
        reason=reason,
    )
    not_taken(received.sop_uid, received.calling_ae, status, reason)
    return status
