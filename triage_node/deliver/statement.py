"""How one revision of a series ended, as every channel that is no DICOM tells it: one file, written at publication.

Everything that a message needs is in it, so that sending reads no image, and sending again tells the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from triage_node.domain import Order, Outcome, Patient, Priority, Reference
from triage_node.errors import DeliveryError


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The content of an object of the kind RESULT."""

    uid: str
    """Of that object."""
    study_uid: str
    series_uid: str
    revision: int
    created_at: datetime
    node: str
    """AE title of this node."""
    filler_number: str
    """Of the series: the same in all its revisions."""
    result: Mapping[str, Any]
    """The public result.json. Of a series whose files cannot be read it names neither study nor series."""
    patient: Patient | None
    """None where the images do not say: then no system could match the result."""
    order: Order | None
    received: tuple[Reference, ...] = ()
    """The images of the series."""
    created: tuple[Reference, ...] = ()
    """The objects that were made of them."""
    supersedes: tuple[str, ...] = ()
    """The `uid` of the older revisions of the series, whether or not anybody was told of them."""

    @property
    def outcome(self) -> Outcome:
        """How the revision ended."""
        return Outcome(self.result["outcome"])

    @property
    def priority(self) -> Priority:
        """NONE where nothing was analysed."""
        return Priority(self.result["priority"])

    @property
    def suspected(self) -> bool | None:
        """Whether hemorrhage is; None where nothing was analysed."""
        return self.result["suspected"] if self.outcome is Outcome.ANALYZED else None

    @property
    def text(self) -> str:
        """The sentence for the radiologist."""
        return sentence(self.outcome, str(self.result["detail"]))


def sentence(outcome: Outcome, detail: str) -> str:
    """What is said of a result: what was not analysed is never taken for a negative."""
    before = {Outcome.NOT_ANALYZED: "Not analysed: ", Outcome.FAILED: "Analysis failed: "}
    return before.get(outcome, "") + detail


def message_id(uid: str) -> str:
    """What a message about an object is known by, whatever the channel and however often it is sent: 20 characters."""
    return hashlib.sha256(uid.encode()).hexdigest()[:20].upper()


def encode(statement: Statement) -> bytes:
    """As a file."""
    identity = {name: value and asdict(value) for name, value in _identity(statement).items()}
    values = {name: value for name, value in vars(statement).items() if name not in identity}
    whole = {**values, "created_at": statement.created_at.isoformat(), "identity": identity}
    return json.dumps(whole, indent=1).encode()


def read(path: Path) -> Statement:
    """From a file. Raises DeliveryError where that cannot be."""
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise DeliveryError(f"the file of the result cannot be read ({error.strerror})", retryable=True) from error
    except (ValueError, LookupError, TypeError) as error:
        raise DeliveryError("the file of the result holds something else", retryable=False) from error


def _decoded(data: bytes) -> Statement:
    values = json.loads(data)
    identity = values.pop("identity")
    values |= {name: tuple(map(tuple, values.get(name, ()))) for name in ("received", "created")}
    values |= {"supersedes": tuple(values.get("supersedes", ()))}  # files of older versions have none of these
    return Statement(
        **values | {"created_at": datetime.fromisoformat(values["created_at"])},
        patient=identity["patient"] and Patient(**identity["patient"]),
        order=identity["order"] and Order(**identity["order"]),
    )


def _identity(statement: Statement) -> dict[str, Patient | Order | None]:
    return {"patient": statement.patient, "order": statement.order}
