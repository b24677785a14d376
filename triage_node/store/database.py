"""Opening the database. SQLite by default: WAL, BEGIN IMMEDIATE, durable commits; PostgreSQL by its URL.

On SQLite a write transaction is alone. On PostgreSQL several run beside each other, and what one has read another may
change: an invariant over rows needs a constraint, a condition in the very statement that writes, or `alone`. Rows are
locked in one order: series by UID, then studies by UID.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import OperationalError
from time import monotonic, sleep
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite

from triage_node.errors import ConfigError

BUSY_TIMEOUT_MS = 10_000
"""How long a transaction waits for another process's; ours last milliseconds."""

Insert = sqlite.Insert | postgresql.Insert

_READING: Final[Mapping[str, Mapping[str, Any]]] = {
    "sqlite": {"read_only": True},
    # by default each statement would see what was committed before it, not what the one before it saw
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


class Database:
    """An engine and its two kinds of transaction. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        # an error message that quotes parameters would quote UIDs
        # pre-ping: a server that was started again is a pause, no failed analysis
        self.engine = sa.create_engine(url, hide_parameters=True, pool_pre_ping=not url.startswith("sqlite"))
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One short write transaction; commits on leaving, rolls back on an exception."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent read; takes no write lock."""
        with self.engine.connect() as connection:
            yield connection.execution_options(**_READING[self.engine.dialect.name])

    def migrate(self) -> None:
        """Bring the schema to the newest version; several processes may try at once."""
        scripts = ScriptDirectory.from_config(_alembic_config())
        with self.engine.begin() as connection:
            alone(connection, "migrate")
            if MigrationContext.configure(connection).get_current_revision() == scripts.get_current_head():
                return
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def describe(self) -> str:
        """What it is, after one write transaction proved that it takes one; no password."""
        with self.transaction() as connection:
            connection.execute(sa.text("SELECT 1"))
        return self.engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database at `url`, migrated. Creates the folder of a SQLite file.

    Raises ConfigError, without the URL's password, where it cannot be opened or written.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        database = Database(url)
        database.migrate()
    except ImportError:
        raise ConfigError(
            "the driver of the database is not installed; for PostgreSQL write postgresql+psycopg:// in its URL and "
            "pip install 'triage-node[postgresql]'"
        ) from None
    except sa.exc.SQLAlchemyError as error:
        why = getattr(error, "orig", None) or error
        raise ConfigError(
            f"the database cannot be used ({type(error).__name__}: {str(why)[:200]}); check its URL and rights"
        ) from None
    return database


def alone(connection: sa.Connection, name: str) -> None:
    """One write transaction at a time goes on from here under this name, until it ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))


def storable(text: str) -> str:
    """What a form brings, without the NUL that PostgreSQL takes in no text."""
    return text.replace("\x00", " ")


def insert_into(dialect_name: str, table: sa.Table) -> Insert:
    """An INSERT that may say what to do where the row is there already."""
    return sqlite.insert(table) if dialect_name == "sqlite" else postgresql.insert(table)


def _alembic_config() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _use_wal(cursor: Any) -> None:
    """The change to WAL takes the whole file, and SQLite does not wait for that: whoever meets another one that opens
    the same new file is told "locked" at once (5 of 4,000 openings, four at a time)."""
    deadline = monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except OperationalError:
            if monotonic() > deadline:
                raise
            sleep(0.01)


def _prepare_sqlite(engine: sa.Engine) -> None:
    # The driver must not begin transactions by itself: a write transaction that starts as a read one can fail with
    # SQLITE_BUSY when it upgrades, whatever the busy timeout. (SQLAlchemy, "Serializable isolation / Savepoints".)
    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")  # in WAL, NORMAL may lose the last commits at a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
