"""Structured events, one JSON object a line on standard error.

Identity is never a value: no names, no patient IDs, no accession numbers. A UID appears only as `ref(uid)`, the
same short fingerprint that `triage-node status` and the status page show, so that a line can be followed without
naming anyone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

Value = str | int | float | bool | None


def ref(uid: str) -> str:
    """A short fingerprint of a UID for logs and pages: 12 hex digits."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def event(name: str, /, *, stream: TextIO | None = None, **fields: Value) -> None:
    """Write one event. `name` is a few plain words, fields are short plain values.

    A log that takes nothing more (full disk, reader gone) stops no image and no result.
    """
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": name, **fields}
    target = stream or sys.stderr
    with suppress(OSError, ValueError):
        target.write(json.dumps(record, ensure_ascii=False) + "\n")
        target.flush()


def quiet_libraries() -> None:
    """Silence libraries: what they say of data sets quotes values, and a timer that is late is no event."""
    for name in ("pydicom", "pynetdicom", "highdicom", "apscheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
