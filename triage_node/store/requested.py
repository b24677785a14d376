"""What the modality worklist says of the order behind each study, and when it is to be asked (again)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from triage_node.domain import RequestedProcedure
from triage_node.store.database import Database, insert_into
from triage_node.store.schema import instance, requested_procedure, series, study


@dataclass(frozen=True, kw_only=True)
class Due:
    """A study whose order is to be asked for now."""

    study_uid: str
    sop_uid: str | None
    """Of one of its images that are on the disk."""
    asks: int
    """How often it was asked for already."""


def next_due(database: Database, *, now: datetime, since: datetime) -> Due | None:
    """Of the studies with an image since then: the one that was asked for least, the oldest of those."""
    asks = sa.func.coalesce(requested_procedure.c.asks, 0)
    never = requested_procedure.c.study_uid.is_(None)
    query = (
        sa.select(study.c.study_uid, asks.label("asks"))
        .outerjoin(requested_procedure, requested_procedure.c.study_uid == study.c.study_uid)
        .where(study.c.last_image_at >= since, sa.or_(never, requested_procedure.c.not_before <= now))
        .order_by(asks, study.c.id)
        .limit(1)
    )
    with database.reading() as connection:
        found = connection.execute(query).first()
        if found is None:
            return None
        images = (
            sa.select(sa.func.min(instance.c.sop_uid))
            .join(series, series.c.series_uid == instance.c.series_uid)
            .where(series.c.study_uid == found.study_uid, instance.c.removed_at.is_(None))
        )
        return Due(study_uid=found.study_uid, sop_uid=connection.execute(images).scalar(), asks=found.asks)


def note(
    database: Database,
    due: Due,
    *,
    now: datetime,
    answer: RequestedProcedure | None = None,
    problem: str | None = None,
    not_before: datetime | None = None,
) -> None:
    """It was asked for: the answer, or why there is none, and when to ask again."""
    values = {
        "study_uid": due.study_uid,
        "asks": due.asks + 1,
        "asked_at": now,
        "not_before": not_before,
        "answer": answer and asdict(answer),
        "problem": problem and problem[:400],
    }
    entered = insert_into(database.engine.dialect.name, requested_procedure).on_conflict_do_update(
        index_elements=[requested_procedure.c.study_uid], set_=values
    )
    with database.transaction() as connection:
        connection.execute(entered, values)


def of_study(database: Database, study_uid: str) -> RequestedProcedure | None:
    """The answer; None before there is one."""
    query = sa.select(requested_procedure.c.answer).where(requested_procedure.c.study_uid == study_uid)
    with database.reading() as connection:
        return answered(connection.execute(query).scalar())


def answered(answer: Mapping[str, Any] | None) -> RequestedProcedure | None:
    """What a row holds."""
    return None if answer is None else RequestedProcedure(**answer)


def remove_older(database: Database, before: datetime) -> None:
    """Forget what was asked for before then."""
    with database.transaction() as connection:
        connection.execute(requested_procedure.delete().where(requested_procedure.c.asked_at < before))
