"""Who is at the pages: sessions, one-time links, and the trail of who looked at what.

Tokens are kept as their sha256: who reads the database cannot come in with what it holds.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from triage_node.config import ROLES
from triage_node.store.database import Database, storable
from triage_node.store.schema import audit, entry_link, search, session

LINK_FOR: Final = timedelta(hours=8)
"""How long a one-time link waits for its use."""
_SEEN_EVERY: Final = timedelta(minutes=1)
"""A session's last sight is written this often, not with every request."""


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who sent a request."""

    user: str
    role: str
    csrf: str
    """What a form must bring back."""

    def may(self, role: str) -> bool:
        """Whether what this role may do is open to them."""
        return ROLES.index(self.role) >= ROLES.index(role)


def make_link(database: Database, *, now: datetime) -> str:
    """A token that lets one browser in, once."""
    token = secrets.token_urlsafe(24)
    with database.transaction() as connection:
        connection.execute(entry_link.delete().where(entry_link.c.made_at < now - LINK_FOR))
        connection.execute(entry_link.insert().values(token_sha256=_digest(token), made_at=now))
    return token


def use_link(database: Database, token: str, *, now: datetime) -> bool:
    """Whether the token lets in; it never does again."""
    with database.transaction() as connection:
        used = entry_link.delete().where(
            entry_link.c.token_sha256 == _digest(token), entry_link.c.made_at >= now - LINK_FOR
        )
        return connection.execute(used).rowcount == 1


def begin(database: Database, *, user: str, role: str, now: datetime, idle: timedelta) -> str:
    """A new session; returns its token. Sessions that were idle too long go."""
    token = secrets.token_urlsafe(32)
    values = {"user": user, "role": role, "csrf": secrets.token_urlsafe(16), "began_at": now, "seen_at": now}
    with database.transaction() as connection:
        connection.execute(session.delete().where(session.c.seen_at < now - idle))
        connection.execute(session.insert().values(token_sha256=_digest(token), **values))
    return token


def visitor(database: Database, token: str, *, now: datetime, idle: timedelta) -> Visitor | None:
    """Whose session it is; None where it is none, or was idle too long."""
    ours = session.c.token_sha256 == _digest(token)
    with database.reading() as connection:
        found = connection.execute(sa.select(session).where(ours, session.c.seen_at >= now - idle)).first()
    if found is None:
        return None
    if now - found.seen_at > _SEEN_EVERY:
        with database.transaction() as connection:
            connection.execute(session.update().where(ours).values(seen_at=now))
    return Visitor(user=found.user, role=found.role, csrf=found.csrf)


def end(database: Database, token: str) -> None:
    """Log out."""
    with database.transaction() as connection:
        connection.execute(session.delete().where(session.c.token_sha256 == _digest(token)))


def end_all_but(database: Database, users: dict[str, str]) -> None:
    """Sessions of users that the configuration does not know any more, or gives another role, end."""
    with database.transaction() as connection:
        for found in connection.execute(sa.select(session.c.user, session.c.role).distinct()).all():
            if users.get(found.user) != found.role:
                connection.execute(session.delete().where(session.c.user == found.user, session.c.role == found.role))


def note(
    database: Database, *, at: datetime, user: str, address: str, action: str, study_id: int | None = None
) -> None:
    """One line of the trail."""
    values = {"at": at, "user": user[:64], "address": address[:64], "action": action, "study_id": study_id}
    with database.transaction() as connection:
        connection.execute(audit.insert().values(**values))


def keep_search(database: Database, *, user: str, text: str, now: datetime, keep: timedelta) -> str:
    """What stands for a searched text in URLs: histories and proxies keep those, and the text may be a name."""
    search_id = secrets.token_hex(8)
    with database.transaction() as connection:
        connection.execute(search.delete().where(search.c.made_at < now - keep))
        connection.execute(search.insert().values(id=search_id, user=user, text=storable(text), made_at=now))
    return search_id


def searched(database: Database, search_id: str, *, user: str) -> str | None:
    """The text of a search of this user; None where it is forgotten."""
    query = sa.select(search.c.text).where(search.c.id == search_id, search.c.user == user)
    with database.reading() as connection:
        text: str | None = connection.execute(query).scalar()
        return text


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Who did what."""

    at: datetime
    user: str
    address: str
    action: str
    study_id: int | None


def trail(database: Database, *, study_id: int | None = None, limit: int = 100) -> list[Trace]:
    """The newest lines, of one study or of all."""
    columns = [audit.c[name] for name in ("at", "user", "address", "action", "study_id")]
    query = sa.select(*columns).order_by(audit.c.id.desc()).limit(limit)
    if study_id is not None:
        query = query.where(audit.c.study_id == study_id)
    with database.reading() as connection:
        return [Trace(**found._mapping) for found in connection.execute(query)]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
