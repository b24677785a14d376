"""What readers do with a study and say of its result: acknowledged, read, present or not; and what that sums up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from triage_node.domain import Priority
from triage_node.store import outbox
from triage_node.store.database import Database, storable
from triage_node.store.schema import opinion, revision, series, study


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
    """Somebody has seen the flag; the first one counts, and the pager is not rung any more. Returns whether this was
    the first."""
    first = study.update().where(study.c.id == study_id, study.c.acknowledged_at.is_(None))
    with database.transaction() as connection:
        if connection.execute(first.values(acknowledged_at=now, acknowledged_by=user)).rowcount != 1:
            return False
    outbox.recall(database, study_id, now=now)
    return True


def mark_read(database: Database, study_id: int, *, user: str | None, now: datetime, tell: Sequence[str] = ()) -> None:
    """The study is read, and thereby acknowledged; or, without `user`, is not read after all.

    That it is read the destinations `tell` are told in the same transaction.
    """
    with database.transaction() as connection:
        study_uid = lock_study(connection, study_id)
        note_read(connection, study_uid, user=user, now=now, tell=tell)
    if user:
        acknowledge(database, study_id, user=user, now=now)


def lock_study(connection: sa.Connection, study_id: int) -> str:
    """The UID of a study of which nothing is published meanwhile."""
    study_uid: str = connection.execute(sa.select(study.c.study_uid).where(study.c.id == study_id)).scalar_one()
    in_study = sa.select(series.c.series_uid).where(series.c.study_uid == study_uid)
    connection.execute(in_study.order_by(series.c.series_uid).with_for_update())
    return study_uid


def note_read(
    connection: sa.Connection, study_uid: str, *, user: str | None, now: datetime, tell: Sequence[str] = ()
) -> None:
    """In the transaction that holds the study: it is read, or not after all."""
    values = {"read_at": now if user else None, "read_by": user}
    connection.execute(study.update().where(study.c.study_uid == study_uid).values(**values))
    if user and tell:  # after the study, as escalate locks them
        outbox.announce_read(connection, study_uid, tell, now)


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
    values = {
        "user": user,
        "finding": finding,
        "present": present,
        "said": said,
        "comment": storable(comment)[:1000],
        "at": now,
    }
    with database.transaction() as connection:
        connection.execute(opinion.insert().values(study_id=study_id, revision_id=revision_id, **values))


def of_study(database: Database, study_id: int) -> list[Opinion]:
    """All that was said of a study, newest first."""
    columns = [opinion.c[name] for name in ("at", "user", "finding", "present", "said", "comment")]
    query = sa.select(*columns).where(opinion.c.study_id == study_id).order_by(opinion.c.id.desc())
    with database.reading() as connection:
        return [Opinion(**found._mapping) for found in connection.execute(query)]


def escalate(database: Database, *, before: datetime, now: datetime, tell: Sequence[str] = ()) -> Sequence[str]:
    """STAT studies reported before a moment that nobody acknowledged are escalated, once; returns their series.

    The destinations `tell` are told in the same transaction.
    """
    waiting = (
        sa.select(study.c.id, study.c.revision_id, revision.c.series_uid)
        .join(revision, revision.c.id == study.c.revision_id)
        .where(
            study.c.priority == Priority.STAT.value,
            study.c.acknowledged_at.is_(None),
            study.c.read_at.is_(None),
            study.c.escalated_at.is_(None),
            revision.c.reported_at < before,
        )
        .order_by(study.c.study_uid)
        .with_for_update(of=study)  # what is acknowledged or withdrawn meanwhile is not told
    )
    with database.transaction() as connection:
        found = connection.execute(waiting).all()
        ids = [each.id for each in found]
        connection.execute(study.update().where(study.c.id.in_(ids)).values(escalated_at=now))
        for each in found if tell else ():
            outbox.announce(connection, each.revision_id, tell, now)
    return [each.series_uid for each in found]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Studies as readers and the node saw them."""

    classes: dict[str, dict[str, int]]
    """By class the number of studies: both say it is there, only_reader, only_node, neither."""
    studies: int
    """That somebody gave an opinion on."""
    bundles: Sequence[str]
    """Name and version of those whose results are judged."""


def agreement(database: Database, *, since: datetime | None = None) -> Agreement:
    """Of the opinions since a moment, or of all. They are of the studies that readers spoke about, no random sample.

    Of each study and class the last word counts.
    """
    newer = opinion.alias()
    last = ~sa.exists().where(
        newer.c.study_id == opinion.c.study_id, newer.c.finding == opinion.c.finding, newer.c.id > opinion.c.id
    )
    judged = sa.and_(last, opinion.c.said.is_not(None), *([opinion.c.at >= since] if since else []))
    saying = (opinion.c.finding, opinion.c.present, opinion.c.said)
    counting = sa.select(*saying, sa.func.count()).where(judged).group_by(*saying)
    made_by = revision.c.result["bundle"]
    bundles = (
        sa.select(made_by["name"].as_string(), made_by["version"].as_string())
        .join(opinion, opinion.c.revision_id == revision.c.id)
        .where(judged)
        .distinct()
    )
    studies = sa.select(sa.func.count(opinion.c.study_id.distinct())).where(judged)
    names = {(True, True): "both", (True, False): "only_reader", (False, True): "only_node", (False, False): "neither"}
    found: dict[str, dict[str, int]] = {}
    with database.reading() as connection:
        for finding, present, said, count in connection.execute(counting):
            found.setdefault(finding, dict.fromkeys(names.values(), 0))[names[present, said]] = count
        return Agreement(
            classes=found,
            studies=connection.execute(studies).scalar_one(),
            bundles=sorted(f"{name} {version}" for name, version in connection.execute(bundles)),
        )
