"""What a source says that it has of one day, against what has arrived here: study by study, series by series.

Nothing is kept meanwhile but the Study Instance UIDs of the day and what one series lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from triage_node.config import Config, Destination
from triage_node.errors import DeliveryError, UsageError
from triage_node.peers import Peer, querying
from triage_node.peers.find import Find, instances_in, instances_of, is_refused, uid_of
from triage_node.store import ledger
from triage_node.store.database import Database
from triage_node.store.receipts import REFUSED, Receipt, refusals_of

MISSING: Final = "MISSING"
TIMEOUT_S: Final = 60.0
WITHIN_S: Final = 600.0
"""For all answers to one query."""
ASKED_TOGETHER: Final = 500
"""Objects that the database is asked for at a time."""


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """One CT series that the source has."""

    study_uid: str
    series_uid: str
    there: int
    """Images at the source."""
    received: int
    """Of them, here; or images of the series, where the source only counts them."""
    lost: tuple[Receipt, ...]
    """Those that the node does not have: MISSING, or REFUSED and why. One for all where the source only counts."""

    @property
    def missing(self) -> int:
        """How many the node does not have."""
        return max(self.there - self.received, 0)

    @property
    def counts(self) -> dict[str, int]:
        """All numbers, as people read them."""
        refused = sum(each.outcome == REFUSED for each in self.lost)
        told = {"at the source": self.there, "received": self.received, "missing": self.missing}
        return told | {"of these refused": refused}


def source_of(config: Config, name: str) -> Peer:
    """Whom to ask: a [[source]] by its AE title, or a [[destination]] by its name, with `find`.

    Raises UsageError, which tells those that there are.
    """
    named = {each.name: each.find_peer for each in config.destinations if isinstance(each, Destination)}
    named |= {each.ae_title: each.find_peer for each in config.sources if each.find_peer}
    asked = {each: peer for each, peer in named.items() if peer}
    if name not in asked:
        known = f"those that can: {', '.join(asked)}" if asked else 'give its [[source]] a find = "host:port"'
        raise UsageError(f'"{name}" cannot be asked what it has; {known}')
    ae_title, host, port = asked[name]
    return Peer(ae_title=ae_title, host=host, port=port)


def reconcile(
    database: Database,
    peer: Peer,
    *,
    calling_ae: str,
    day: str,
    on_study: Callable[[int, int], None] = lambda *_: None,
    timeout_s: float = TIMEOUT_S,
    within_s: float = WITHIN_S,
) -> Iterator[Reconciled]:
    """Every CT series that `peer` has of the studies of a day, YYYYMMDD; `on_study` is told which of how many is done.

    Raises DeliveryError where it does not answer.
    """
    with querying(peer, calling_ae=calling_ae, timeout_s=timeout_s, within_s=within_s) as find:
        found = find("STUDY", StudyDate=day, ModalitiesInStudy="CT", StudyInstanceUID=None)
        studies = list(dict.fromkeys(uid for each in found if (uid := uid_of(each, "StudyInstanceUID"))))
        on_study(0, len(studies))
        for number, study_uid in enumerate(studies, start=1):
            for series in _ct_series(find, study_uid):
                yield _by_image(database, find, peer, study_uid, series)
            on_study(number, len(studies))


# ---------------------------------------------------------------- steps


def _ct_series(find: Find, study_uid: str) -> list[Dataset]:
    asked = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": None, "NumberOfSeriesRelatedInstances": None}
    # a source may pass over a key, and give what it has of other studies and modalities
    return [
        each
        for each in find("SERIES", **asked, Modality="CT")
        if uid_of(each, "SeriesInstanceUID")
        and (each.get("Modality") or "CT") == "CT"
        and (uid_of(each, "StudyInstanceUID") or study_uid) == study_uid
    ]


def _by_image(database: Database, find: Find, peer: Peer, study_uid: str, series: Dataset) -> Reconciled:
    """By the names of the images; by their number where the source does not name them, or not all of them."""
    named = {"study_uid": study_uid, "series_uid": uid_of(series, "SeriesInstanceUID")}
    counted = instances_of(series)
    try:
        images = list(dict.fromkeys(instances_in(find, **named)))
    except DeliveryError as error:
        if not is_refused(error):
            raise
        images = []
    if not images or len(images) < (counted or 0):
        return _by_count(database, peer, named, counted)
    lost = _lost(database, peer, images, named)
    return Reconciled(**named, there=len(images), received=len(images) - len(lost), lost=tuple(lost))


def _lost(database: Database, peer: Peer, images: Sequence[str], named: Mapping[str, str]) -> list[Receipt]:
    absent = {uid for some in _together(images) for uid in ledger.unknown(database, some)}
    refusals = {uid: why for some in _together(sorted(absent)) for uid, why in refusals_of(database, some).items()}
    return [
        _receipt(peer, named, sop_uid=uid, outcome=REFUSED if uid in refusals else MISSING, reason=refusals.get(uid))
        for uid in images
        if uid in absent
    ]


def _together(sop_uids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (sop_uids[first : first + ASKED_TOGETHER] for first in range(0, len(sop_uids), ASKED_TOGETHER))


def _by_count(database: Database, peer: Peer, named: Mapping[str, str], there: int | None) -> Reconciled:
    if there is None:
        raise DeliveryError(f"{peer} says neither which images a series has nor how many", retryable=False)
    received = ledger.count_of_series(database, named["series_uid"])
    less = f"{there - received} image(s); which ones {peer.ae_title} does not say"
    lost = [_receipt(peer, named, sop_uid="", outcome=MISSING, reason=less)] if received < there else []
    return Reconciled(**named, there=there, received=received, lost=tuple(lost))


def _receipt(peer: Peer, named: Mapping[str, str], *, sop_uid: str, outcome: str, reason: str | None) -> Receipt:
    return Receipt(
        received_at=None,
        calling_ae=peer.ae_title,
        sop_uid=sop_uid,
        **named,
        outcome=outcome,
        reason=reason,
        priority=None,
        results="",
        removed_at=None,
    )
