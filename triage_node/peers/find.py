"""Asking a peer by C-FIND: how many images a series has (PS3.4 C.6.2), what the modality worklist says (PS3.4 K)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from triage_node.errors import DeliveryError
from triage_node.peers.association import UNCOMPRESSED, Peer, associate, lost, release

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
MODALITY_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"
_NAMES: Final = {STUDY_ROOT_FIND: "Study Root", MODALITY_WORKLIST_FIND: "Modality Worklist"}
_PENDING: Final = (0xFF00, 0xFF01)


def count_instances(peer: Peer, *, calling_ae: str, study_uid: str, series_uid: str, timeout_s: float) -> int | None:
    """NumberOfSeriesRelatedInstances of a series, as `peer` knows it.

    None where it does not know the series or does not say: the attribute is optional (PS3.4 C.6.2.1.3). Raises
    DeliveryError where it cannot be asked.
    """
    query = _series_query(study_uid, series_uid)
    found = find_matches(peer, STUDY_ROOT_FIND, query, calling_ae=calling_ae, timeout_s=timeout_s)
    counts = [_count(identifier, series_uid) for identifier in found]
    return max((count for count in counts if count is not None), default=None)


def find_matches(
    peer: Peer, sop_class_uid: str, query: Dataset, *, calling_ae: str, timeout_s: float
) -> Iterator[Dataset]:
    """The identifiers that match, over one association; what is no data set is left out.

    Raises DeliveryError where the peer cannot be asked, or does not come to an end within `timeout_s`.
    """
    association = associate(peer, calling_ae, [(sop_class_uid, syntax) for syntax in UNCOMPRESSED], timeout_s)
    try:
        if not association.is_established:
            raise DeliveryError(f"{peer} does not accept C-FIND ({_NAMES[sop_class_uid]})", retryable=False)
        deadline = time.monotonic() + timeout_s
        for status, identifier in association.send_c_find(query, sop_class_uid):
            if time.monotonic() > deadline:  # each answer has its time-out, all of them have none
                association.abort()
                raise lost(peer, timeout_s)
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
    finally:
        release(association)


def _series_query(study_uid: str, series_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.NumberOfSeriesRelatedInstances = None
    return query


def _count(identifier: Dataset, series_uid: str) -> int | None:
    if identifier.get("SeriesInstanceUID", series_uid) != series_uid:
        return None  # some answer for the whole study
    try:
        return int(identifier.NumberOfSeriesRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        return None
