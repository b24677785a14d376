"""What every kind of destination is to the outbox, and the channel that a [[destination]] stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from triage_node.config import (
    AnyDestination,
    Config,
    Destination,
    DicomwebDestination,
    MessageDestination,
    UpsDestination,
    WebhookDestination,
)
from triage_node.deliver.dicom import DicomDestination
from triage_node.deliver.dicomweb import DicomwebChannel
from triage_node.deliver.hl7 import Hl7Channel
from triage_node.deliver.ups import UpsChannel
from triage_node.deliver.webhook import WebhookChannel
from triage_node.peers import OutgoingObject, StoreResult


class Channel(Protocol):
    """One destination."""

    @property
    def name(self) -> str:
        """Of its [[destination]]."""

    @property
    def commitment(self) -> bool:
        """Whether it must confirm what it was sent, by storage commitment or as it is found there by C-FIND."""

    @property
    def at_a_time(self) -> int:
        """How many objects are claimed and sent together. A message is claimed alone: what is superseded meanwhile is
        not told, what is more urgent goes next, and no lease runs out while those before it wait for an answer."""

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """Send objects as they are; `on_result` is called exactly once for each. Raises nothing for a failed send."""


def channel_of(destination: AnyDestination, config: Config, *, clock: Callable[[], datetime]) -> Channel:
    """The channel by the kind of the destination."""
    if isinstance(destination, Destination):
        return DicomDestination(destination, calling_ae=config.node.ae_title, timeout_s=config.delivery.timeout_s)
    if isinstance(destination, DicomwebDestination):
        return DicomwebChannel(destination, timeout_s=config.delivery.timeout_s)
    return message_channel_of(destination, config, clock=clock)


def message_channel_of(
    destination: MessageDestination, config: Config, *, clock: Callable[[], datetime]
) -> Hl7Channel | WebhookChannel | UpsChannel:
    """The channel of a destination that is told of results."""
    if isinstance(destination, WebhookDestination):
        return WebhookChannel(destination, timeout_s=config.delivery.timeout_s, clock=clock)
    if isinstance(destination, UpsDestination):
        return UpsChannel(destination, config)
    return Hl7Channel(destination, timeout_s=config.delivery.timeout_s)
