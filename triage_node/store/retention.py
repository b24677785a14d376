"""What may be removed from the disk, and that it was. The ledger keeps its rows for ever.

Removal is decided in one transaction (`series.removal_at`), then the files go, then that is noted
(`series.removed_at`, `instance.removed_at`): killed in between, the next pass finishes it. From the decision on a late
image of the series opens no revision, so that nothing is ever analysed from half a series.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from triage_node.domain import InstanceOutcome, SeriesState
from triage_node.store.database import Database
from triage_node.store.schema import instance, revision, series


def decide_removal(database: Database, *, before: datetime, now: datetime, limit: int) -> int:
    """Decide that the images of up to `limit` series go, oldest first: delivered, last image before `before`."""
    unfinished = sa.exists().where(
        revision.c.series_uid == series.c.series_uid, revision.c.state != SeriesState.DELIVERED.value
    )
    oldest = (
        sa.select(series.c.series_uid)
        .where(series.c.removal_at.is_(None), series.c.last_image_at < before, ~unfinished)
        .order_by(series.c.last_image_at)
        .limit(limit)
    )
    with database.transaction() as connection:
        # stated twice: PostgreSQL checks again what the row says after it waited for a late image, not the subquery
        chosen = series.update().where(
            series.c.series_uid.in_(oldest), series.c.removal_at.is_(None), series.c.last_image_at < before
        )
        return connection.execute(chosen.values(removal_at=now)).rowcount


def to_remove(database: Database) -> list[str]:
    """Series whose removal was decided and not noted yet."""
    query = sa.select(series.c.series_uid).where(series.c.removal_at.is_not(None), series.c.removed_at.is_(None))
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def images(database: Database, series_uid: str) -> list[str]:
    """SOP Instance UIDs of the images of a series that are still on the disk, late ones among them."""
    query = sa.select(instance.c.sop_uid).where(instance.c.series_uid == series_uid, instance.c.removed_at.is_(None))
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def unfinished(database: Database) -> set[str]:
    """Series that are in flight: open, or with a result that is not delivered."""
    query = sa.select(revision.c.series_uid).where(revision.c.state != SeriesState.DELIVERED.value)
    with database.reading() as connection:
        return set(connection.execute(query).scalars())


def loose_objects(database: Database, *, before: datetime, limit: int) -> list[str]:
    """SOP Instance UIDs of stored objects that belong to no series that is analysed, oldest first."""
    query = (
        sa.select(instance.c.sop_uid)
        .where(
            instance.c.outcome != InstanceOutcome.SERIES.value,
            instance.c.removed_at.is_(None),
            instance.c.received_at < before,
        )
        .order_by(instance.c.received_at)
        .limit(limit)
    )
    with database.reading() as connection:
        return list(connection.execute(query).scalars())


def note_removed(database: Database, sop_uids: Sequence[str], *, series_uid: str | None, now: datetime) -> None:
    """The files of these objects are gone, and with them those of the series, if they were all it had."""
    with database.transaction() as connection:
        connection.execute(instance.update().where(instance.c.sop_uid.in_(sop_uids)).values(removed_at=now))
        if series_uid is not None:
            left = sa.exists().where(instance.c.series_uid == series_uid, instance.c.removed_at.is_(None))
            gone = series.update().where(series.c.series_uid == series_uid, ~left)
            connection.execute(gone.values(removed_at=now))
