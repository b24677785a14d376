"""What tests need from the machine: real tools, real data, free ports. Missing parts are named, never hidden."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import pytest

# pynetdicom installs its own storescu and friends into the virtual environment, where they shadow dcmtk's.
# Debian keeps the server programs of PostgreSQL, by version, out of everybody's path.
_POSTGRESQL = ":".join(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))))
_SYSTEM_PATH = f"/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin:{_POSTGRESQL}"


def require_tool(name: str) -> str:
    """Path of a system tool. Skips, saying what is missing; fails instead where CI=true."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        _missing(f"{name} is not installed (run scripts/install-test-tools.sh as root)")
    assert path is not None
    return path


def require_file(path: str, package: str) -> str:
    """A file that a system package brings. As `require_tool` where it is missing."""
    if not Path(path).is_file():
        _missing(f"{package} is not installed (run scripts/install-test-tools.sh as root)")
    return path


def real_head_ct() -> Path:
    """Folder of the real head CT (GE, 28 slices, 18.5 degree tilt). Skips, saying so, where it is not there."""
    checkout = Path(__file__).parents[1]
    places = [Path(os.environ["TRIAGE_NODE_DATA"])] if "TRIAGE_NODE_DATA" in os.environ else []
    for place in [*places, checkout / "shared" / "data", checkout.parent / "shared" / "data"]:
        folder = place / "ct" / "ge-head-tilt"
        if folder.is_dir():
            return folder
    pytest.skip("the real head CT is not at hand: set TRIAGE_NODE_DATA to the folder that holds ct/ge-head-tilt")


_given: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago and is given to nobody else.

    Below those that the system gives to clients, so that none takes it before who asked for it.
    """
    while True:
        port = secrets.choice(range(20_000, 32_700))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"required in CI: {what}")
    pytest.skip(what)
