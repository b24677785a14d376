"""The worklist: one row for each study, in the order in which they should be read.

A study has a row from its first image on. What it shows is the result of one revision of one of its series: of the
newest published ones that which is analysed and most urgent, or else failed, or else the most telling notice.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from triage_node.domain import (
    TELLING,
    NotAnalyzedReason,
    OutboxState,
    Outcome,
    Patient,
    Priority,
    Proof,
    RequestedProcedure,
    SeriesState,
)
from triage_node.log import ref
from triage_node.store.database import Database
from triage_node.store.requested import answered
from triage_node.store.schema import OPEN_STATES, outbox, requested_procedure, revision, series, study
from triage_node.store.schema import result as result_table
from triage_node.store.studies import newest_ended

RANK: Final[Mapping[str | None, int]] = {Priority.STAT: 0, Priority.HIGH: 1, Priority.ROUTINE: 3}
UNKNOWN: Final = 2
"""Under way, failed, not analysed: nobody knows yet, so it is read before what was found negative."""
LAST: Final = 4
"""Earlier studies, fetched for comparison."""
PAGE: Final = 50
"""Rows of a page."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which rows."""

    since: datetime | None = None
    """Last image not before."""
    text: str = ""
    """Part of the patient's name or id, of the accession number or of the source."""
    show: str = ""
    """A priority, an outcome, or OPEN (under way); empty: all."""
    read: bool = False
    """Those that are marked as read, too."""
    page: int = 0


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How far the results of a row are on their way to one destination."""

    destination: str
    states: Mapping[str, int]
    """Number of objects by OutboxState."""
    proofs: Mapping[str | None, int]
    """Number of objects by Proof; None: it was not asked, or did not say."""
    unconfirmed: int
    """How many were sent and are to be confirmed yet."""
    error: str | None
    """Of an object that is dead, or waits for its next try."""
    not_accepted: str | None = None
    """What it said of a kind of object that it does not take."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One study of the list."""

    id: int
    study_uid: str
    source: str
    first_image_at: datetime
    last_image_at: datetime
    patient: Patient
    outcome: str | None
    reason: str | None
    priority: str | None
    series_uid: str | None
    """Whose result is shown; None before there is one."""
    revision_id: int | None
    revision: int | None
    reported_at: datetime | None
    detail: str | None
    result: Mapping[str, Any]
    """Of result.json: findings, probabilities, volumes_ml, volume_intervals_ml, locations, warnings. Empty where the
    node has no result."""
    open_images: int | None
    """Images of the series that are under way; None where none is."""
    open_state: str | None
    """How far the one that is farthest is."""
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    escalated_at: datetime | None
    read_at: datetime | None
    read_by: str | None
    deliveries: Sequence[Delivery]
    requested: RequestedProcedure | None
    """What the modality worklist says of its order."""
    no_order: str | None
    """Why it says nothing."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows of one page, and how many there are in all."""

    rows: Sequence[Row]
    total: int


def page(database: Database, wanted: Wanted) -> Page:
    """Rows in reading order: priority, then who waits longest."""
    with database.reading() as connection:
        ids, total = _found(connection, wanted)
        shown = connection.execute(_columns().where(study.c.id.in_(ids)).order_by(*_ORDER)).all()
        return Page(rows=_rows(connection, shown), total=total)


def row(database: Database, study_id: int) -> Row | None:
    """One row; None where there is none of this number."""
    with database.reading() as connection:
        return next(iter(_rows(connection, connection.execute(_columns().where(study.c.id == study_id)).all())), None)


def counts(database: Database, since: datetime | None, *, read: bool = False) -> dict[str, int]:
    """Number of studies by what is shown of them: STAT, HIGH, ROUTINE, NOT_ANALYZED, FAILED, OPEN.

    Of the unread ones, or of all with `read`.
    """
    shown = sa.case(
        (study.c.outcome.is_(None), "OPEN"),
        (study.c.outcome != Outcome.ANALYZED.value, study.c.outcome),
        else_=study.c.priority,
    )
    query = sa.select(shown, sa.func.count()).where(*_conditions(Wanted(since=since, read=read))).group_by(shown)
    with database.reading() as connection:
        return {str(name): count for name, count in connection.execute(query)}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a study."""

    at: datetime
    text: str


def events(database: Database, study_uid: str) -> list[Event]:
    """Everything that happened to the series of a study, and to their results, in order."""
    with database.reading() as connection:
        # the last result goes out in the same moment in which everything counts as delivered
        found = [*_of_results(connection, study_uid), *_of_series(connection, study_uid)]
        found += _of_order(connection, study_uid)
    return sorted(found, key=lambda event: event.at)


def result(database: Database, study_id: int) -> dict[str, Any] | None:
    """The whole result.json that the row of a study shows; None before there is one."""
    query = sa.select(revision.c.result).join(study, study.c.revision_id == revision.c.id).where(study.c.id == study_id)
    with database.reading() as connection:
        found: dict[str, Any] | None = connection.execute(query).scalar()
        return found


def read_at(database: Database, study_uid: str) -> datetime | None:
    """When a study was marked as read; None while it is not."""
    with database.reading() as connection:
        found: datetime | None = connection.execute(
            sa.select(study.c.read_at).where(study.c.study_uid == study_uid)
        ).scalar()
        return found


def refresh(connection: sa.Connection, study_uid: str, patient: Patient | None) -> None:
    """After a revision of the study was published: what its row shows, and whose it is."""
    columns = (revision.c.id, revision.c.outcome, revision.c.reason, revision.c.priority)
    shown = min(connection.execute(newest_ended(study_uid, *columns)).all(), key=_standing)
    values: dict[str, Any] = {name: getattr(shown, name) for name in ("outcome", "reason", "priority")}
    values |= {"revision_id": shown.id, "rank": _rank(shown)}
    there = sa.select(study.c.rank, study.c.calling_ae).where(study.c.study_uid == study_uid)
    before = connection.execute(there).one()
    if values["rank"] < before.rank or shown.outcome == Outcome.FAILED:
        values |= dict.fromkeys(_READING)  # what was seen before was less urgent, or is not there any more
    if patient is not None:
        values |= {name: getattr(patient, name) for name in PATIENT}
        values["searched"] = searchable(before.calling_ae, patient)
    connection.execute(study.update().where(study.c.study_uid == study_uid).values(**values))


def searchable(source: str, patient: Patient | None = None) -> str:
    """What a search looks through: a line each for source, name, id and accession number, upper and lower case alike.

    One column that is ready to be compared: to fold four of them row by row takes six times as long, and SQLite folds
    nothing but ASCII.
    """
    known = (patient.patient_name, patient.patient_id, patient.accession_number) if patient else ()
    return _folded("\n".join(text for text in (source, *known) if text))


# ---------------------------------------------------------------- steps


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


PATIENT: Final = ("patient_name", "patient_id", "birth_date", "sex", "accession_number", "description")
_READING: Final = ("acknowledged_at", "acknowledged_by", "escalated_at", "read_at", "read_by")
_SHOWN: Final = ("findings", "probabilities", "volumes_ml", "volume_intervals_ml", "locations", "warnings")


def _standing(ended: Any) -> tuple[int, int, int]:
    """Smallest first: what a row shows of a study's revisions."""
    outcome = (Outcome.ANALYZED, Outcome.FAILED, Outcome.NOT_ANALYZED).index(Outcome(ended.outcome))
    if outcome < 2:
        return outcome, RANK.get(ended.priority, UNKNOWN), ended.id
    telling = next((place for place, reason in enumerate(TELLING) if reason == ended.reason), len(TELLING))
    return outcome, telling, ended.id


def _rank(ended: Any) -> int:
    if ended.reason == NotAnalyzedReason.PRIOR_STUDY:
        return LAST
    return RANK.get(ended.priority, UNKNOWN)


def _of_series(connection: sa.Connection, study_uid: str) -> list[Event]:
    query = (
        sa.select(series, revision)
        .join(revision, revision.c.series_uid == series.c.series_uid)
        .where(series.c.study_uid == study_uid)
    )
    found = []
    for each in connection.execute(query):
        name = f"series {ref(each.series_uid)}"
        ended = " ".join(word for word in (each.outcome, each.reason or each.priority) if word)
        told = (
            (each.first_image_at if each.revision == 1 else None, f"first image of {name} from {each.calling_ae}"),
            (each.last_image_at if each.outcome else None, f"last image of {name}, {each.images} in all"),
            (each.ready_at, f"{name} complete: {each.ready_because}"),
            (each.claimed_at, f"analysis of {name}, revision {each.revision}"),
            (each.reported_at, f"result of {name}, revision {each.revision}: {ended}"),
            (each.delivered_at, f"everything of {name}, revision {each.revision}, delivered"),
            (each.removed_at if each.revision == 1 else None, f"images of {name} removed from this node"),
        )
        found += [Event(at=at, text=text) for at, text in told if at is not None]
    return found


def _of_results(connection: sa.Connection, study_uid: str) -> list[Event]:
    query = (
        sa.select(result_table.c.kind, outbox.c.destination, outbox.c.state, outbox.c.sent_at, outbox.c.proof)
        .join(result_table, result_table.c.sop_uid == outbox.c.sop_uid)
        .where(result_table.c.study_uid == study_uid, outbox.c.sent_at.is_not(None))
    )
    return [
        Event(
            at=each.sent_at,
            text=f"{each.kind.replace('_', ' ').lower()} sent to {each.destination}" + _proven(each.proof),
        )
        for each in connection.execute(query)
    ]


def _of_order(connection: sa.Connection, study_uid: str) -> list[Event]:
    known = sa.select(requested_procedure).where(requested_procedure.c.study_uid == study_uid)
    return [
        Event(at=each.asked_at, text="order found in the modality worklist")
        for each in connection.execute(known)
        if each.answer is not None
    ]


def _proven(proof: str | None) -> str:
    texts = {
        Proof.COMMITTED: ", which confirmed that it keeps it",
        Proof.FOUND: ", where it was found by C-FIND",
        Proof.MISSING: ", which does not have it",
    }
    return texts[Proof(proof)] if proof else ""


_ORDER: Final = (study.c.rank, study.c.last_image_at, study.c.id)


def _found(connection: sa.Connection, wanted: Wanted) -> tuple[Sequence[int], int]:
    """Ids of the page, and how many there are: without a look at what the rows before it show."""
    # a search looks at every row: not from one to the next by the index of the order, at three times the cost
    order = (study.c.rank + 0, *_ORDER[1:]) if wanted.text else _ORDER
    ids = sa.select(study.c.id).where(*_conditions(wanted)).order_by(*order).limit(PAGE).offset(PAGE * wanted.page)
    counting = sa.select(sa.func.count()).select_from(study).where(*_conditions(wanted))
    return connection.execute(ids).scalars().all(), connection.execute(counting).scalar_one()


def _columns() -> sa.Select[Any]:
    return (
        sa.select(
            study,
            revision.c.series_uid,
            revision.c.revision,
            revision.c.reported_at,
            revision.c.detail,
            *(revision.c.result[name].label(name) for name in _SHOWN),
            requested_procedure.c.answer,
            requested_procedure.c.problem,
        )
        .select_from(study)
        .outerjoin(revision, revision.c.id == study.c.revision_id)
        .outerjoin(requested_procedure, requested_procedure.c.study_uid == study.c.study_uid)
    )


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(study.c.last_image_at >= wanted.since)
    if not wanted.read:
        conditions.append(study.c.read_at.is_(None))
    if wanted.text:
        conditions.append(study.c.searched.contains(_folded(wanted.text), autoescape=True))
    if wanted.show in set(Outcome) - {Outcome.ANALYZED}:
        conditions.append(study.c.outcome == wanted.show)
    elif wanted.show == "OPEN":
        conditions.append(study.c.outcome.is_(None))
    elif wanted.show:
        conditions.append(study.c.priority == wanted.show)
    return conditions


def _rows(connection: sa.Connection, found: Sequence[Any]) -> list[Row]:
    deliveries = _deliveries(connection, [each.revision_id for each in found if each.revision_id is not None])
    opened = _open(connection, [each.study_uid for each in found])
    return [
        Row(
            id=each.id,
            study_uid=each.study_uid,
            source=each.calling_ae,
            first_image_at=each.first_image_at,
            last_image_at=each.last_image_at,
            patient=Patient(**{name: getattr(each, name) for name in PATIENT}),
            outcome=each.outcome,
            reason=each.reason,
            priority=each.priority,
            series_uid=each.series_uid,
            revision_id=each.revision_id,
            revision=each.revision,
            reported_at=each.reported_at,
            detail=each.detail,
            result={name: value for name in _SHOWN if (value := getattr(each, name)) is not None},
            open_images=opened.get(each.study_uid, (None, None))[0],
            open_state=opened.get(each.study_uid, (None, None))[1],
            **{name: getattr(each, name) for name in _READING},
            deliveries=deliveries.get(each.revision_id, ()),
            requested=answered(each.answer),
            no_order=each.problem,
        )
        for each in found
    ]


def _deliveries(connection: sa.Connection, revision_ids: Sequence[int]) -> dict[int, list[Delivery]]:
    """By revision, a line for each destination."""
    query = (
        sa.select(
            outbox.c.revision_id,
            outbox.c.destination,
            outbox.c.state,
            outbox.c.proof,
            sa.func.count().label("objects"),
            sa.func.count(outbox.c.commitment_due).label("due"),
            sa.func.max(outbox.c.error).label("error"),
        )
        .where(outbox.c.revision_id.in_(revision_ids))
        .group_by(outbox.c.revision_id, outbox.c.destination, outbox.c.state, outbox.c.proof)
        .order_by(outbox.c.revision_id, outbox.c.destination)
    )
    told: dict[tuple[int, str], dict[str, Any]] = {}
    for each in connection.execute(query):
        one = told.setdefault((each.revision_id, each.destination), _nothing_known())
        one["states"][each.state] += each.objects
        one["proofs"][each.proof] += each.objects if each.state != OutboxState.CANCELLED else 0
        one["unconfirmed"] += each.due if each.state == OutboxState.SENT else 0
        if each.state in (OutboxState.DEAD.value, OutboxState.PENDING.value, OutboxState.SENDING.value):
            one["error"] = one["error"] or each.error
        if each.state == OutboxState.NOT_ACCEPTED.value:
            one["not_accepted"] = each.error
    found: dict[int, list[Delivery]] = {}
    for (revision_id, destination), one in told.items():
        found.setdefault(revision_id, []).append(Delivery(destination=destination, **one))
    return found


def _nothing_known() -> dict[str, Any]:
    return {"states": Counter(), "proofs": Counter(), "unconfirmed": 0, "error": None}


def _open(connection: sa.Connection, study_uids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Of studies with series under way: number of their images, and the state of the one that is farthest."""
    query = (
        sa.select(series.c.study_uid, series.c.images, revision.c.state)
        .join(revision, revision.c.series_uid == series.c.series_uid)
        .where(series.c.study_uid.in_(study_uids), revision.c.state.in_(OPEN_STATES))
    )
    found: dict[str, tuple[int, str]] = {}
    order = [state.value for state in SeriesState]
    for each in connection.execute(query):
        images, state = found.get(each.study_uid, (0, order[0]))
        found[each.study_uid] = images + each.images, max(state, each.state, key=order.index)
    return found
