"""What people see of the database: the state of roles, series and outbox. No identity leaves through here.

Series are shown by `log.ref`, the fingerprint that the log lines use.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from triage_node.domain import OutboxState
from triage_node.log import ref
from triage_node.store.database import Database, insert_into
from triage_node.store.schema import instance, lease, outbox, quarantined, result, revision, role, series

ALIVE_S = 15.0
"""A role that did not report for this long counts as gone; it reports every few seconds."""


@dataclass(frozen=True, kw_only=True)
class RoleInfo:
    """One process of the node."""

    name: str
    kind: str
    pid: int
    port: int | None
    started_at: datetime
    seen_at: datetime


# ---------------------------------------------------------------- roles and leases


def seen(info: RoleInfo, at: datetime) -> RoleInfo:
    """The same role, alive at `at`."""
    return replace(info, seen_at=at)


def report_role(database: Database, info: RoleInfo) -> None:
    """Say that a process is alive."""
    values = {
        "kind": info.kind,
        "pid": info.pid,
        "port": info.port,
        "started_at": info.started_at,
        "seen_at": info.seen_at,
    }
    with database.transaction() as connection:
        if not connection.execute(role.update().where(role.c.name == info.name).values(**values)).rowcount:
            connection.execute(role.insert().values(name=info.name, **values))


def forget_role(database: Database, name: str) -> None:
    """Say that a process ended in order."""
    with database.transaction() as connection:
        connection.execute(role.delete().where(role.c.name == name))


def roles(database: Database, *, now: datetime) -> list[RoleInfo]:
    """The processes that are alive."""
    query = sa.select(role).where(role.c.seen_at >= now - timedelta(seconds=ALIVE_S)).order_by(role.c.name)
    with database.reading() as connection:
        return [RoleInfo(**row._mapping) for row in connection.execute(query)]


def hold_lease(database: Database, name: str, token: str, *, now: datetime, lease_s: float) -> bool:
    """Take or extend a lease that one process at a time may hold; returns whether `token` holds it."""
    values = {"name": name, "token": token, "until": now + timedelta(seconds=lease_s)}
    taken = insert_into(database.engine.dialect.name, lease).on_conflict_do_update(
        index_elements=[lease.c.name],
        set_=values,
        where=sa.or_(lease.c.token == token, lease.c.until <= now),
    )
    with database.transaction() as connection:
        return connection.execute(taken.execution_options(preserve_rowcount=True), values).rowcount == 1


def drop_lease(database: Database, name: str, token: str) -> None:
    """Give a lease back at an orderly end."""
    with database.transaction() as connection:
        connection.execute(lease.delete().where(lease.c.name == name, lease.c.token == token))


# ---------------------------------------------------------------- status


def status(database: Database, *, now: datetime, recent: int = 20) -> dict[str, Any]:
    """Roles, counts and the newest series, ready for JSON."""
    with database.reading() as connection:
        return {
            "time": now.isoformat(),
            "roles": [_role(info) for info in roles(database, now=now)],
            "objects": _counts(connection, instance.c.outcome),
            "quarantined": connection.execute(sa.select(sa.func.count()).select_from(quarantined)).scalar_one(),
            "series": _counts(connection, revision.c.state),
            "outcomes": _counts(connection, revision.c.outcome),
            "outbox": _outbox_counts(connection),
            "dead_letters": _dead_letters(connection),
            "not_accepted": _not_accepted(connection),
            "recent": _recent(connection, recent),
        }


def result_of(database: Database, series_uid: str) -> dict[str, Any] | None:
    """The result.json of the newest published revision of a series, or None."""
    query = (
        sa.select(revision.c.result)
        .where(revision.c.series_uid == series_uid, revision.c.outcome.is_not(None))
        .order_by(revision.c.revision.desc())
        .limit(1)
    )
    with database.reading() as connection:
        found: dict[str, Any] | None = connection.execute(query).scalar()
        return found


def _role(info: RoleInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "kind": info.kind,
        "pid": info.pid,
        "port": info.port,
        "started_at": info.started_at.isoformat(),
    }


def _counts(connection: sa.Connection, column: sa.Column[Any]) -> dict[str, int]:
    query = sa.select(column, sa.func.count()).where(column.is_not(None)).group_by(column)
    return {str(value): count for value, count in connection.execute(query)}


def _outbox_counts(connection: sa.Connection) -> dict[str, dict[str, int]]:
    query = sa.select(outbox.c.destination, outbox.c.state, sa.func.count()).group_by(
        outbox.c.destination, outbox.c.state
    )
    counts: dict[str, dict[str, int]] = {}
    for destination, state, count in connection.execute(query):
        counts.setdefault(destination, {})[state] = count
    return counts


def _dead_letters(connection: sa.Connection) -> list[dict[str, Any]]:
    query = (
        sa.select(outbox.c.destination, result.c.kind, revision.c.series_uid, outbox.c.status, outbox.c.error)
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .join(revision, revision.c.id == outbox.c.revision_id)
        .where(outbox.c.state == OutboxState.DEAD.value)
        .order_by(outbox.c.id)
        .limit(100)
    )
    return [
        {
            "destination": row.destination,
            "kind": row.kind,
            "series": ref(row.series_uid),
            "status": None if row.status is None else f"0x{row.status:04X}",
            "error": row.error,
        }
        for row in connection.execute(query)
    ]


def _not_accepted(connection: sa.Connection) -> list[dict[str, Any]]:
    """What destinations do not take, by kind of object: the rest of those results went there."""
    query = (
        sa.select(outbox.c.destination, result.c.kind, sa.func.count().label("objects"), sa.func.max(outbox.c.error))
        .join(result, result.c.sop_uid == outbox.c.sop_uid)
        .where(outbox.c.state == OutboxState.NOT_ACCEPTED.value)
        .group_by(outbox.c.destination, result.c.kind)
        .order_by(outbox.c.destination, result.c.kind)
    )
    names = ("destination", "kind", "objects", "error")
    return [dict(zip(names, row, strict=True)) for row in connection.execute(query)]


def _recent(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    columns = ("state", "outcome", "reason", "priority", "ready_because", "reported_at", "delivered_at")
    query = (
        sa.select(
            revision.c.id,
            series.c.series_uid,
            revision.c.revision,
            series.c.images,
            series.c.last_image_at,
            *(revision.c[name] for name in columns),
        )
        .join(series, series.c.series_uid == revision.c.series_uid)
        .order_by(revision.c.id.desc())
        .limit(limit)
    )
    rows = connection.execute(query).all()
    sent = _sent_by_revision(connection, [row.id for row in rows])
    return [
        {
            "series": ref(row.series_uid),
            "revision": row.revision,
            "images": row.images,
            "last_image_at": row.last_image_at.isoformat(),
            **{name: _plain(getattr(row, name)) for name in columns},
            "outbox": dict(sent.get(row.id, {})),
        }
        for row in rows
    ]


def _sent_by_revision(connection: sa.Connection, revision_ids: list[int]) -> dict[int, Counter[str]]:
    query = sa.select(outbox.c.revision_id, outbox.c.state).where(outbox.c.revision_id.in_(revision_ids))
    counts: dict[int, Counter[str]] = {}
    for revision_id, state in connection.execute(query):
        counts.setdefault(revision_id, Counter())[state] += 1
    return counts


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
