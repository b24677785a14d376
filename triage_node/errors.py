"""Every exception this package raises on purpose.

    TriageNodeError
    |-- ConfigError          the configuration file is wrong: says file, line and what to write instead
    |-- UsageError           a command was asked for something it cannot do: says what to do instead
    |-- RejectedObject       a received object cannot be accepted: carries the DIMSE status to answer
    |-- NotSuitable          a series is no analysable head CT: carries a reason a radiologist understands
    |-- InferenceError       the model process failed, timed out or refused its bundle
    |-- TrainingError        training went wrong: a loss that is not finite
    |-- ReportError          a result object could not be built or failed its read-back
    |-- DeliveryError        a peer could not be reached or refused: `retryable` tells which
    |   |-- Unreachable      nobody takes connections there
    |   `-- NotAccepted      it takes no objects of this SOP class, or not so encoded
    |-- StateError           an illegal state transition was attempted (a bug)
    `-- LeaseLost            the claim was taken over by another worker; its result must be dropped

Messages never carry patient data: no names, no IDs, no element values (UIDs appear as `log.ref`).
"""

from __future__ import annotations

from enum import StrEnum


class TriageNodeError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(TriageNodeError):
    """The configuration is wrong; the message names file, line and the fix."""


class UsageError(TriageNodeError):
    """A command cannot do what was asked; the message says what to do instead."""


class RejectedObject(TriageNodeError):
    """A received object cannot be accepted. `status` is the DIMSE status to answer (PS3.4 B.2.3)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotSuitable(TriageNodeError):
    """A series is not an analysable non-contrast head CT.

    `reason` is one of `domain.NotAnalyzedReason`; `detail` is one plain sentence for the radiologist.
    """

    def __init__(self, reason: StrEnum, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class InferenceError(TriageNodeError):
    """The model process failed, ran over its time limit, or refused its bundle."""


class TrainingError(TriageNodeError):
    """Training cannot go on; the message says what to change."""


class ReportError(TriageNodeError):
    """A result object could not be built, or what was written did not read back the same."""


class DeliveryError(TriageNodeError):
    """A peer could not be reached, or refused. A retry may help where `retryable`."""

    def __init__(self, message: str, *, retryable: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status


class Unreachable(DeliveryError):
    """Nobody takes connections there: trying the rest of a batch would only take time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class NotAccepted(DeliveryError):
    """The peer takes no objects of this SOP class, or none so encoded: others may be taken."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message, retryable=False, status=status)


class StateError(TriageNodeError):
    """An illegal state transition was attempted."""


class LeaseLost(TriageNodeError):
    """Another worker holds the claim now; whatever this one computed must be dropped."""
