"""A real PostgreSQL (Debian's): one cluster for a session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from tests.tools import require_tool
from triage_node.store.database import open_database
from triage_node.store.schema import metadata

_SERVER = "postgres" if os.geteuid() == 0 else None
"""The user the server runs as: it refuses to be root's."""
_FAST = "-c fsync=off -c full_page_writes=off -c listen_addresses=''"
"""What is lost with the machine is lost with the test; nothing listens but a socket in its own folder."""


class Cluster:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        self._migrated: str | None = None

    def empty(self) -> str:
        """URL of a new database without any table."""
        name = f"test_{next(self._numbers)}"
        self._execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
        return self._url(name)

    def migrated(self) -> str:
        """URL of a database with the newest schema and no rows: the same one each time, for one test at a time."""
        if self._migrated is None:
            self._migrated = self.empty()
            open_database(self._migrated).close()
        else:  # far cheaper than another database
            tables = ", ".join(f'"{name}"' for name in metadata.tables)
            self._execute(sa.make_url(self._migrated).database or "", f"TRUNCATE {tables} RESTART IDENTITY")
        return self._migrated

    def _execute(self, name: str, statement: str) -> None:
        engine = sa.create_engine(self._url(name), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(statement))

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server with its data in a folder that goes with it. Skips or fails as tools.require_tool."""
    tools = Path(require_tool("pg_ctl")).resolve().parent
    # not pytest's folder: that one is root's alone where root runs the tests, and its name too long for a socket
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        if _SERVER:
            shutil.chown(folder, _SERVER)
        data = folder / "data"
        initdb = [tools / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        _run(initdb)
        _run([tools / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", f"{_FAST} -k {folder}", "start"])
        try:
            yield Cluster(folder)
        finally:
            _run([tools / "pg_ctl", "-D", data, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder)


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, user=_SERVER, cwd="/", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
