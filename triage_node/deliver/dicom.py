"""A destination that is reached by C-STORE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from triage_node.config import Destination
from triage_node.peers import OutgoingObject, Peer, StoreResult, store


class DicomDestination:
    """One [[destination]] of kind "dicom"."""

    def __init__(self, destination: Destination, *, calling_ae: str, timeout_s: float) -> None:
        self.name = destination.name
        self._peer = Peer(ae_title=destination.ae_title, host=destination.host, port=destination.port)
        self._calling_ae = calling_ae
        self._timeout_s = timeout_s

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """Send objects as they are; `on_result` is called exactly once for each. Raises nothing for a failed send."""
        store(
            self._peer,
            calling_ae=self._calling_ae,
            objects=objects,
            timeout_s=self._timeout_s,
            on_result=on_result,
        )
