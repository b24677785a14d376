"""The UPS Pull, Watch and Query SCP (PS3.4 CC): callers query the node's results as workitems, claim and end them.

Workitems are made by the node alone: UPS Push is not offered, nor are event reports.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pynetdicom import evt

from triage_node import log
from triage_node.peers.ups import (
    CHANGE_STATE,
    REQUEST_CANCEL,
    SUBSCRIBE,
    SUCCESS,
    SUSPEND_GLOBAL,
    UNKNOWN,
    UNSUBSCRIBE,
)

# PS3.7 annex C
NOT_AUTHORISED: Final = 0x0124
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_ACTION: Final = 0x0123
INVALID_ARGUMENT: Final = 0x0115
RESOURCE_LIMITATION: Final = 0x0213
# PS3.4 CC.2
PENDING: Final = 0xFF00
CANCEL: Final = 0xFE00
UNABLE_TO_PROCESS: Final = 0xC000
NO_EVENT_REPORTS: Final = 0xC315

_NOT_MATCHED: Final = frozenset({"SpecificCharacterSet", "TransactionUID", "TimezoneOffsetFromUTC"})
_ALWAYS: Final = ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID")
_MOMENT: Final = r"\d{4,14}(?:\.\d{1,6})?(?:[+-]\d{4})?"


@dataclass(frozen=True, kw_only=True)
class Offered:
    """One workitem, its attributes made when they are asked for."""

    uid: str
    attributes: Callable[[bool], Dataset]
    """All of them but the Transaction UID; those of Input Information only where the argument is True."""


class Worklist(Protocol):
    """Workitems as callers see them. Methods that change one return the status to answer (PS3.4 CC.2)."""

    def offered(self) -> Sequence[Offered]:
        """All there are, what is to be read first in front."""

    def find(self, uid: str) -> Offered | None:
        """One of them."""

    def change_state(self, uid: str, state: str, transaction_uid: str, calling_ae: str) -> int:
        """Claim, complete or cancel (CC.2.1)."""

    def request_cancel(self, uid: str) -> int:
        """Somebody would have it canceled (CC.2.2)."""

    def change(self, uid: str, modified: Dataset) -> int:
        """Its claimer says what was done (CC.2.6)."""


def find(event: evt.Event, worklist: Worklist | None) -> Iterator[tuple[int, Dataset | None]]:
    """C-FIND (CC.2.8). Every key is matched; what is returned is in the order of the worklist."""
    if worklist is None:
        yield NOT_AUTHORISED, None
        return
    try:
        keys = event.identifier
        for each in worklist.offered():
            if event.is_cancelled:
                yield CANCEL, None
                return
            attributes = each.attributes("InputInformationSequence" in keys)
            if matches(keys, attributes):
                yield PENDING, _answer(keys, attributes)
    except Exception as error:  # noqa: BLE001 - a DIMSE status must be answered; messages may hold values
        log.event("a query of workitems failed", error=type(error).__name__)
        yield UNABLE_TO_PROCESS, None


def get(event: evt.Event, worklist: Worklist | None) -> tuple[int, Dataset | None]:
    """N-GET (CC.2.7)."""
    if worklist is None:
        return NOT_AUTHORISED, None
    try:
        found = worklist.find(str(event.request.RequestedSOPInstanceUID))  # type: ignore[union-attr]
        if found is None:
            return UNKNOWN, None
        wanted = {int(tag) for tag in event.attribute_identifiers}
        return SUCCESS, _only(wanted, found.attributes(True)) if wanted else found.attributes(True)
    except Exception as error:  # noqa: BLE001 - as above
        log.event("a workitem could not be told", error=type(error).__name__)
        return PROCESSING_FAILURE, None


def act(event: evt.Event, worklist: Worklist | None, calling_ae: str) -> int:
    """N-ACTION: change state (CC.2.1), request cancel (CC.2.2); subscriptions (CC.2.3) are refused."""
    if worklist is None:
        return NOT_AUTHORISED
    uid = str(event.request.RequestedSOPInstanceUID)  # type: ignore[union-attr]
    if event.action_type in (SUBSCRIBE, UNSUBSCRIBE, SUSPEND_GLOBAL):
        return NO_EVENT_REPORTS
    if event.action_type not in (CHANGE_STATE, REQUEST_CANCEL):
        return NO_SUCH_ACTION
    if event.action_type == REQUEST_CANCEL:
        return _told("cancel", uid, lambda: worklist.request_cancel(uid))
    return _told("state", uid, lambda: _change_state(event, worklist, uid, calling_ae))


def change(event: evt.Event, worklist: Worklist | None) -> int:
    """N-SET (CC.2.6)."""
    if worklist is None:
        return NOT_AUTHORISED
    uid = str(event.request.RequestedSOPInstanceUID)  # type: ignore[union-attr]
    return _told("set", uid, lambda: worklist.change(uid, event.modification_list))


# ---------------------------------------------------------------- matching


def matches(keys: Dataset, attributes: Dataset) -> bool:
    """Whether every key of a query matches (PS3.4 C.2.2.2)."""
    return all(_matches(key, attributes.get(key.tag)) for key in keys if key.keyword not in _NOT_MATCHED)


def _matches(key: DataElement, found: DataElement | None) -> bool:
    if key.VR == "SQ":
        asked = next(iter(key.value or []), Dataset())
        return not _asks(asked) or any(matches(asked, item) for item in (found.value if found else []))
    if key.is_empty:
        return True
    values = _texts(found) if found is not None and not found.is_empty else []
    return any(_fits(key.VR, pattern, value) for pattern in _texts(key) for value in values)


def _asks(keys: Dataset) -> bool:
    """Whether a query says anything: empty keys match whatever there is, and nothing."""
    return any(_asks(next(iter(key.value or []), Dataset())) if key.VR == "SQ" else not key.is_empty for key in keys)


def _texts(element: DataElement) -> list[str]:
    return [str(value) for value in element.value] if element.VM > 1 else [str(element.value)]


def _fits(vr: str, pattern: str, value: str) -> bool:
    if vr == "DT":
        return _is_within(pattern, value)
    if vr == "DA" and "-" in pattern:
        first, last = pattern.split("-", 1)
        return first <= value <= (last or "9" * 8)
    if vr == "UI":
        return pattern == value
    return re.fullmatch(_wild(pattern), value, flags=re.DOTALL | (re.IGNORECASE if vr == "PN" else 0)) is not None


def _wild(pattern: str) -> str:
    """Of * and ?. What a * passed over is not tried again (atomic groups): many of them must not hold the listener."""
    first, *rest = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    return first + "".join(f"(?>.*?{part})" for part in rest[:-1]) + "".join(f".*{last}" for last in rest[-1:])


def _is_within(pattern: str, value: str) -> bool:
    """Of DT: a moment, as far as it is said, or a range of them."""
    if re.fullmatch(_MOMENT, pattern):
        first = last = pattern
    else:
        span = re.fullmatch(f"({_MOMENT})?-({_MOMENT})?", pattern)
        first, last = (span[1] or "1900", span[2] or "9000") if span else ("9000", "1900")
    return _moment(first, "0101000000") <= _moment(value, "0101000000") <= _moment(last, "1231235959")


def _moment(text: str, rest: str) -> datetime:
    """What a DT leaves out is `rest`: the first or the last moment that it can mean. Without offset it is of here."""
    said, offset = re.split(r"\D", text)[0], re.search(r"[+-]\d{4}$", text)
    whole = said + rest[len(said) - 4 :]
    year, month = int(whole[:4]), int(whole[4:6])
    day = min(int(whole[6:8]), monthrange(year, month)[1])
    moment = f"{year:04d}{month:02d}{day:02d}{whole[8:]}"
    if offset is None:
        return datetime.strptime(moment, "%Y%m%d%H%M%S").astimezone()
    return datetime.strptime(moment + offset[0], "%Y%m%d%H%M%S%z")


# ---------------------------------------------------------------- steps


def _answer(keys: Dataset, attributes: Dataset) -> Dataset:
    """What was asked for, empty where it is not known; never the Transaction UID."""
    answer = Dataset()
    for key in keys:
        empty: Any = [] if key.VR == "SQ" else None
        known = attributes.get(key.tag)
        answer.add(known or DataElement(key.tag, key.VR, empty, validation_mode=IGNORE))
    for keyword in _ALWAYS:
        answer[keyword] = attributes[keyword]
    return answer


def _only(tags: set[int], attributes: Dataset) -> Dataset:
    some = Dataset()
    for element in attributes:
        if element.tag in tags or element.keyword in _ALWAYS:
            some.add(element)
    return some


def _change_state(event: evt.Event, worklist: Worklist, uid: str, calling_ae: str) -> int:
    request = event.action_information
    state, transaction_uid = str(request.get("ProcedureStepState", "")), str(request.get("TransactionUID") or "")
    if len(transaction_uid) > 64:
        return INVALID_ARGUMENT
    return worklist.change_state(uid, state, transaction_uid, calling_ae)


def _told(what: str, uid: str, do: Callable[[], int]) -> int:
    """The status of what was done, also in the log; the boundary of everything behind the worklist."""
    try:
        status = do()
    except Exception as error:  # noqa: BLE001 - as above
        log.event("a workitem could not be changed", request=what, object=log.ref(uid), error=type(error).__name__)
        return PROCESSING_FAILURE
    log.event("workitem", request=what, object=log.ref(uid), status=f"0x{status:04X}")
    return status
