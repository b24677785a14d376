"""The series of one study beside each other, as their newest revisions say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from triage_node.domain import Outcome, Priority, SeriesState
from triage_node.store.claims import Claim
from triage_node.store.database import Database
from triage_node.store.schema import instance, revision, series

ENDS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Sibling:
    """Another series of the study, by its newest revision."""

    series_uid: str
    state: SeriesState
    analyzed: bool
    """Whether its newest published revision is ANALYZED."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where the images of a series lie, as far as their headers say."""

    sop_uids: tuple[str, ...]
    """Of the lowest, middle and highest images along the normal; of any where no place is known. Three at each end:
    one may be a scout, whose normal is another."""
    positions_mm: tuple[float, ...]
    """Of all images along the normal, growing."""


def siblings(database: Database, held: Claim) -> list[Sibling]:
    """The other series of the study."""
    newer = revision.alias()
    superseded = sa.exists().where(newer.c.series_uid == revision.c.series_uid, newer.c.revision > revision.c.revision)
    query = (
        sa.select(series.c.series_uid, revision.c.state)
        .join(revision, revision.c.series_uid == series.c.series_uid)
        .where(series.c.study_uid == held.study_uid, series.c.series_uid != held.series_uid)
        .where(~superseded)
        .order_by(series.c.series_uid)
    )
    with database.reading() as connection:
        analyzed = set(connection.execute(analyzed_in(held.study_uid)).scalars())
        return [
            Sibling(series_uid=row.series_uid, state=SeriesState(row.state), analyzed=row.series_uid in analyzed)
            for row in connection.execute(query)
        ]


def extent(database: Database, series_uid: str) -> Extent:
    """Where the images of a series lie."""
    query = (
        sa.select(instance.c.sop_uid, instance.c.along_normal_mm)
        .where(instance.c.series_uid == series_uid)
        .order_by(instance.c.along_normal_mm, instance.c.sop_uid)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
    placed = [row for row in rows if row.along_normal_mm is not None]
    looked_at = placed or rows
    sample = [*looked_at[:ENDS], *looked_at[len(looked_at) // 2 :][:1], *looked_at[-ENDS:]]
    return Extent(
        sop_uids=tuple(dict.fromkeys(row.sop_uid for row in sample)),
        positions_mm=tuple(row.along_normal_mm for row in placed),
    )


def is_analyzed(database: Database, held: Claim) -> bool:
    """Whether the newest published revision of this series is ANALYZED."""
    with database.reading() as connection:
        analyzed = analyzed_in(held.study_uid).where(revision.c.series_uid == held.series_uid)
        return connection.execute(analyzed.limit(1)).first() is not None


def priority_of(database: Database, study_uid: str) -> Priority:
    """The highest that the newest published revisions of its series have; NONE where nothing was analysed."""
    with database.reading() as connection:
        found = set(connection.execute(newest_ended(study_uid, revision.c.priority)).scalars())
    return next(each for each in Priority if each.value in found or each is Priority.NONE)


def analyzed_before(held: Claim) -> sa.Select[tuple[int]]:
    """Older revisions of the claimed series that were published as ANALYZED."""
    return sa.select(revision.c.id).where(
        revision.c.series_uid == held.series_uid,
        revision.c.revision < held.revision,
        revision.c.outcome == Outcome.ANALYZED.value,
    )


def replaces_what_was_told() -> sa.ColumnElement[bool]:
    """Whether a revision follows one that was published as ANALYZED or FAILED, which is told whatever became of the
    other series: what it says replaces what people have seen."""
    older = revision.alias()
    return sa.exists().where(
        older.c.series_uid == revision.c.series_uid,
        older.c.revision < revision.c.revision,
        older.c.outcome.in_((Outcome.ANALYZED.value, Outcome.FAILED.value)),
    )


def newest_ended(study_uid: str, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """`columns` of the newest published revision of each series of a study."""
    newer = revision.alias()
    superseded = sa.exists().where(
        newer.c.series_uid == revision.c.series_uid,
        newer.c.revision > revision.c.revision,
        newer.c.outcome.is_not(None),
    )
    in_study = sa.select(series.c.series_uid).where(series.c.study_uid == study_uid)
    return sa.select(*columns).where(revision.c.series_uid.in_(in_study), revision.c.outcome.is_not(None), ~superseded)


def analyzed_in(study_uid: str) -> sa.Select[tuple[str]]:
    """Series of a study that count as analysed, as their newest published revisions say."""
    return newest_ended(study_uid, revision.c.series_uid).where(revision.c.outcome == Outcome.ANALYZED.value)
