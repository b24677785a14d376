"""What readers do with a study and say of its result: acknowledged, read, present or not; and what that sums up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from triage_node.domain import Priority
from triage_node.store.database import Database
from triage_node.store.schema import opinion, revision, study


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What one reader says of one class of one result."""

    at: datetime
    user: str
    finding: str
    present: bool
    said: bool | None
    """What the node said; None where its bundle does not tell this class."""
    comment: str


def acknowledge(database: Database, study_id: int, *, user: str, now: datetime) -> bool:
    """Somebody has seen the flag; the first one counts. Returns whether this was the first."""
    first = study.update().where(study.c.id == study_id, study.c.acknowledged_at.is_(None))
    with database.transaction() as connection:
        return connection.execute(first.values(acknowledged_at=now, acknowledged_by=user)).rowcount == 1


def mark_read(database: Database, study_id: int, *, user: str | None, now: datetime) -> None:
    """The study is read, and thereby acknowledged; or, without `user`, is not read after all."""
    values = {"read_at": now if user else None, "read_by": user}
    with database.transaction() as connection:
        connection.execute(study.update().where(study.c.id == study_id).values(**values))
    if user:
        acknowledge(database, study_id, user=user, now=now)


def say(
    database: Database,
    study_id: int,
    revision_id: int,
    *,
    user: str,
    finding: str,
    present: bool,
    said: bool | None,
    comment: str,
    now: datetime,
) -> None:
    """One reader's word on one class. Saying it again is one more line; the last one counts."""
    values = {"user": user, "finding": finding, "present": present, "said": said, "comment": comment[:1000], "at": now}
    with database.transaction() as connection:
        connection.execute(opinion.insert().values(study_id=study_id, revision_id=revision_id, **values))


def of_study(database: Database, study_id: int) -> list[Opinion]:
    """All that was said of a study, newest first."""
    columns = [opinion.c[name] for name in ("at", "user", "finding", "present", "said", "comment")]
    query = sa.select(*columns).where(opinion.c.study_id == study_id).order_by(opinion.c.id.desc())
    with database.reading() as connection:
        return [Opinion(**found._mapping) for found in connection.execute(query)]


def escalate(database: Database, *, before: datetime, now: datetime) -> Sequence[str]:
    """STAT studies reported before a moment that nobody acknowledged are escalated, once; returns their series."""
    waiting = (
        sa.select(study.c.id, revision.c.series_uid)
        .join(revision, revision.c.id == study.c.revision_id)
        .where(
            study.c.priority == Priority.STAT.value,
            study.c.acknowledged_at.is_(None),
            study.c.escalated_at.is_(None),
            revision.c.reported_at < before,
        )
    )
    with database.transaction() as connection:
        found = connection.execute(waiting).all()
        ids = [each.id for each in found]
        connection.execute(study.update().where(study.c.id.in_(ids)).values(escalated_at=now))
    return [each.series_uid for each in found]


def agreement(database: Database) -> dict[str, dict[str, int]]:
    """By class the number of studies as readers and the node saw them: both, only_reader, only_node, neither.

    Of each study and class the last word counts. It is of the studies that readers spoke about, no random sample.
    """
    newer = opinion.alias()
    last = ~sa.exists().where(
        newer.c.study_id == opinion.c.study_id, newer.c.finding == opinion.c.finding, newer.c.id > opinion.c.id
    )
    query = (
        sa.select(opinion.c.finding, opinion.c.present, opinion.c.said, sa.func.count())
        .where(last, opinion.c.said.is_not(None))
        .group_by(opinion.c.finding, opinion.c.present, opinion.c.said)
    )
    names = {(True, True): "both", (True, False): "only_reader", (False, True): "only_node", (False, False): "neither"}
    found: dict[str, dict[str, int]] = {}
    with database.reading() as connection:
        for finding, present, said, count in connection.execute(query):
            found.setdefault(finding, dict.fromkeys(names.values(), 0))[names[present, said]] = count
    return found
