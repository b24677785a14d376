"""A claimed series beside the others of its study: is it its turn?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from typing import Final

from triage_node.assemble.primary import Sketch, Stand, Turn, sketch, turn
from triage_node.domain import SeriesState
from triage_node.pipeline.parts import Parts
from triage_node.store import claims, studies

AT_MOST: Final = timedelta(hours=1)
"""So long a series waits for a better one that is complete: should that one never end, this one does."""


class Place(Enum):
    """What a claimed series is in its study."""

    PRIMARY = "PRIMARY"
    WAITS = "WAITS"
    """Until a better series of the same acquisition has ended or, while that one still comes in, for a few seconds."""
    DUPLICATE = "DUPLICATE"


def place_in_study(parts: Parts, held: claims.Claim) -> Place:
    """The place of the claimed series as its study stands now. What is analysed stays primary."""
    siblings = list(_siblings(parts, held))
    own = _sketch(parts, held.series_uid) if siblings else None
    if own is None or studies.is_analyzed(parts.database, held):
        return Place.PRIMARY
    decided = turn(own, siblings)
    if decided is Turn.DUPLICATE:
        return Place.DUPLICATE
    waited = parts.clock() - held.ready_at
    patience = {
        Turn.WAIT: AT_MOST,
        Turn.WAIT_FOR_IMAGES: timedelta(seconds=parts.config.series.primary_wait_s),
    }
    return Place.WAITS if decided in patience and waited < patience[decided] else Place.PRIMARY


def rivals(parts: Parts, held: claims.Claim) -> tuple[str, ...]:
    """Series of the same acquisition that show all that the claimed one shows; none for what is primary already."""
    siblings = list(_siblings(parts, held))
    own = _sketch(parts, held.series_uid) if siblings else None
    if own is None or studies.is_analyzed(parts.database, held):
        return ()
    return tuple(
        other.series_uid for other, stand in siblings if turn(own, [(other, Stand.ANALYZED)]) is Turn.DUPLICATE
    )


def _siblings(parts: Parts, held: claims.Claim) -> Iterator[tuple[Sketch, Stand]]:
    """The other series of the study that are open or analysed, as far as they are stacks of slices."""
    for sibling in studies.siblings(parts.database, held):
        stand = _stand(sibling)
        drawn = _sketch(parts, sibling.series_uid) if stand else None
        if stand and drawn:
            yield drawn, stand


def _stand(sibling: studies.Sibling) -> Stand | None:
    if sibling.analyzed:
        return Stand.ANALYZED
    if sibling.state is SeriesState.RECEIVING:
        return Stand.RECEIVING
    return Stand.WAITING if sibling.state in (SeriesState.READY, SeriesState.ANALYZING) else None


def _sketch(parts: Parts, series_uid: str) -> Sketch | None:
    extent = studies.extent(parts.database, series_uid)
    paths = [parts.spool.object_path(uid) for uid in extent.sop_uids]
    return sketch(series_uid, paths, extent.positions_mm)
