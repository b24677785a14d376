"""A batch of objects, told one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from triage_node.errors import DeliveryError, Unreachable
from triage_node.peers import OutgoingObject, StoreResult


def tell_each(
    objects: Sequence[OutgoingObject],
    tell: Callable[[OutgoingObject], None],
    on_result: Callable[[StoreResult], None],
) -> None:
    """Tell of each, and say of each what became of it. `tell` raises DeliveryError.

    One that the peer chokes on holds up none behind it; but where nobody is there, the rest is not tried.
    """
    away: Unreachable | None = None
    for outgoing in objects:
        error: DeliveryError | None = away
        if away is None:
            try:
                tell(outgoing)
            except DeliveryError as caught:
                error = caught
            except Exception as caught:  # noqa: BLE001 - boundary of one message: a fault of ours holds up no other
                error = DeliveryError(f"it could not be told ({type(caught).__name__})", retryable=False)
        away = error if isinstance(error, Unreachable) else None
        on_result(StoreResult(outgoing=outgoing, status=error.status if error else None, error=error))
