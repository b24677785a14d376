"""Who was refused lately, how often, and what would admit them. The newest are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from triage_node.store.database import Database, insert_into
from triage_node.store.schema import refusal

KEPT: Final = 200
"""Different refusals that are kept: whoever tries names at random fills no disk."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The same caller, refused for the same reason. All texts are printable, see `receive.callers.printable`."""

    calling_ae: str
    called_ae: str
    address: str
    reason: str
    advice: str
    """The line of the configuration that would admit the caller."""
    count: int
    first_at: datetime
    last_at: datetime


def record(database: Database, told: Iterable[Refused]) -> None:
    """Add to what is kept; the oldest go."""
    added = insert_into(database.engine.dialect.name, refusal)
    grown = added.on_conflict_do_update(
        index_elements=_KEY,
        set_={
            "advice": added.excluded.advice,
            "count": refusal.c.count + added.excluded.count,
            "last_at": added.excluded.last_at,
        },
    )
    newest = sa.select(refusal.c.id).order_by(refusal.c.last_at.desc(), refusal.c.id.desc()).limit(KEPT)
    # in one order, so that two listeners do not lock each other out
    rows = sorted((vars(each) for each in told), key=lambda row: [row[name] for name in _KEY])
    with database.transaction() as connection:
        connection.execute(grown, rows)
        connection.execute(refusal.delete().where(refusal.c.id.not_in(newest)))


def recent(database: Database) -> list[Refused]:
    """All that is kept, the newest first."""
    columns = [column for column in refusal.c if column.name != "id"]
    query = sa.select(*columns).order_by(refusal.c.last_at.desc(), refusal.c.id.desc())
    with database.reading() as connection:
        return [Refused(**row._mapping) for row in connection.execute(query)]


_KEY: Final = ("calling_ae", "called_ae", "address", "reason")
