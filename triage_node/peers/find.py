"""Asking a peer by C-FIND: what it has (Study Root, PS3.4 C.6.2), what the modality worklist says (PS3.4 K)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom.association import Association

from triage_node.errors import DeliveryError
from triage_node.peers.association import UNCOMPRESSED, Peer, associate, lost, release

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
MODALITY_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"
_NAMES: Final = {STUDY_ROOT_FIND: "Study Root", MODALITY_WORKLIST_FIND: "Modality Worklist"}
_PENDING: Final = (0xFF00, 0xFF01)
_OUT_OF_RESOURCES: Final = 0xA700  # PS3.4 C.4.1.1.4

Find = Callable[..., Iterator[Dataset]]
"""`find(level, **keys)`: the matches of one query. A key that is None is asked for, any other one must match."""


@contextmanager
def querying(peer: Peer, *, calling_ae: str, timeout_s: float, within_s: float | None = None) -> Iterator[Find]:
    """Queries over one association, one after the other.

    Each answer may take `timeout_s`, all of a query together `within_s`, by default as long. A query raises
    DeliveryError where it cannot be asked or is refused, and then with the `status`.
    """
    with _associated(peer, STUDY_ROOT_FIND, calling_ae=calling_ae, timeout_s=timeout_s) as ask:
        yield lambda level, **keys: ask(_query(level, keys), within_s=within_s or timeout_s)


def find_matches(
    peer: Peer, sop_class_uid: str, query: Dataset, *, calling_ae: str, timeout_s: float
) -> Iterator[Dataset]:
    """The identifiers that match one query, over an association of its own; what is no data set is left out.

    Raises DeliveryError where the peer cannot be asked, or does not come to an end within `timeout_s`.
    """
    with _associated(peer, sop_class_uid, calling_ae=calling_ae, timeout_s=timeout_s) as ask:
        yield from ask(query, within_s=timeout_s)


def is_refused(error: DeliveryError) -> bool:
    """Whether the peer cannot answer such a query at all (PS3.4 C.4.1.1.4), another one perhaps."""
    return error.status is not None and error.status != _OUT_OF_RESOURCES


def count_instances(peer: Peer, *, calling_ae: str, study_uid: str, series_uid: str, timeout_s: float) -> int | None:
    """NumberOfSeriesRelatedInstances of a series, as `peer` knows it.

    None where it does not know the series or does not say: the attribute is optional (PS3.4 C.6.2.1.3). Raises
    DeliveryError where it cannot be asked.
    """
    with querying(peer, calling_ae=calling_ae, timeout_s=timeout_s) as find:
        counts = counts_of_series(find, study_uid=study_uid, series_uid=series_uid)
        return max((count for count in counts if count is not None), default=None)


def counts_of_series(find: Find, *, study_uid: str, series_uid: str) -> list[int | None]:
    """What each match of a series says: nothing where it is not known, None where it has no number."""
    named = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    found = find("SERIES", **named, NumberOfSeriesRelatedInstances=None)
    # an answer for another series is one for the whole study
    return [instances_of(each) for each in found if each.get("SeriesInstanceUID", series_uid) == series_uid]


def instances_in(find: Find, *, study_uid: str, series_uid: str) -> Iterator[str]:
    """SOP Instance UIDs of a series. The query may be refused: not every peer answers at IMAGE level."""
    found = find("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid, SOPInstanceUID=None)
    return (uid for each in found if (uid := uid_of(each, "SOPInstanceUID")))


def uid_of(found: Dataset, keyword: str) -> str:
    """A UID of a match; empty where there is none that could be one (PS3.5 9.1)."""
    uid = str(found.get(keyword) or "")
    return uid if len(uid) <= 64 and uid.isascii() and uid.isprintable() else ""


def instances_of(found: Dataset) -> int | None:
    """NumberOfSeriesRelatedInstances of a match; None where it does not say."""
    try:
        return int(found.NumberOfSeriesRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        return None


@contextmanager
def _associated(
    peer: Peer, sop_class_uid: str, *, calling_ae: str, timeout_s: float
) -> Iterator[Callable[..., Iterator[Dataset]]]:
    association = associate(peer, calling_ae, [(sop_class_uid, syntax) for syntax in UNCOMPRESSED], timeout_s)
    try:
        if not association.is_established:
            raise DeliveryError(f"{peer} does not accept C-FIND ({_NAMES[sop_class_uid]})", retryable=False)
        yield partial(_matches, association, peer, sop_class_uid, timeout_s=timeout_s)
    finally:
        release(association)


def _matches(
    association: Association, peer: Peer, sop_class_uid: str, query: Dataset, *, timeout_s: float, within_s: float
) -> Iterator[Dataset]:
    deadline = time.monotonic() + within_s
    try:
        for status, identifier in association.send_c_find(query, sop_class_uid):
            if time.monotonic() > deadline:  # each answer has its time-out, all of them have none
                association.abort()
                raise lost(peer, within_s)
            code = status.get("Status")
            if code is None:
                association.kill()
                raise lost(peer, timeout_s)
            if code in _PENDING and identifier is not None:
                yield identifier
            elif code not in (*_PENDING, 0x0000):
                raise DeliveryError(f"{peer} answered 0x{code:04X} to C-FIND", retryable=True, status=code)
    except RuntimeError as error:  # the association ended while we looked
        raise lost(peer, timeout_s) from error


def _query(level: str, keys: dict[str, str | None]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query
