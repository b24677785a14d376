"""Secrets that the configuration refers to, "env:NAME" or "file:PATH", and never holds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

SHORTEST: Final = 16
"""Characters of a secret that is chosen for us: what is shorter can be guessed."""


def look_up(where: str) -> bytes:
    """The secret, looked up each time, so that a new one counts at once; empty where there is none."""
    kind, _, name = where.partition(":")
    if kind == "env":
        return os.environ.get(name, "").encode()
    with suppress(OSError):
        return Path(name).read_bytes().strip()
    return b""


def place(where: str) -> str:
    """Where it is looked up, for people."""
    kind, _, name = where.partition(":")
    return f"the environment variable {name}" if kind == "env" else f"the file {Path(name).name}"
