"""Objects that were refused: one row an object, for ever, as the ledger keeps one of each that was taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from triage_node.store.database import Database, insert_into
from triage_node.store.schema import not_taken


@dataclass(frozen=True, kw_only=True)
class NotTaken:
    """One object that was refused. All texts are printable, see `receive.callers.printable`."""

    sop_uid: str
    """As the command named it: what is refused was not always read."""
    calling_ae: str
    status: int
    """DIMSE status of the last answer."""
    reason: str
    count: int
    first_at: datetime
    last_at: datetime


def record(database: Database, told: Iterable[NotTaken]) -> None:
    """Add to what is kept. An object that was taken later has its row in the ledger, which counts more."""
    added = insert_into(database.engine.dialect.name, not_taken)
    names = ("calling_ae", "status", "reason", "last_at")
    grown = added.on_conflict_do_update(
        index_elements=[not_taken.c.sop_uid],
        set_={name: added.excluded[name] for name in names} | {"count": not_taken.c.count + added.excluded["count"]},
    )
    # in one order, so that two listeners do not lock each other out
    rows = sorted((vars(each) for each in told), key=lambda row: str(row["sop_uid"]))
    with database.transaction() as connection:
        connection.execute(grown, rows)
