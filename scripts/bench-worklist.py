"""The pages over a long history: how long the worklist takes to answer, and whether the memory of its process grows.

    python scripts/bench-worklist.py [--series N] [--requests N] [--database URL] [--out FILE.json]

A database is filled with N series of as many days as a busy site needs for them (100,000 by default), each with its
result, four result objects and their deliveries; `triage-node web` serves it, and one client asks page after page, as
a browser on loopback does, while 20 others hold the stream of live updates open. --database takes the URL of an empty
database (PostgreSQL); SQLite in a temporary folder otherwise. Times are those of the client; memory is PSS
(/proc/PID/smaps_rollup).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np
from benching import free_port, progress, pss_mib, running

from triage_node.domain import CLASSES, SUBTYPES, Patient
from triage_node.store import schema
from triage_node.store.database import Database, open_database
from triage_node.store.worklist import LAST, RANK, UNKNOWN, searchable

SERIES_PER_DAY = 120
SLICES = 32
STREAMS = 20
BATCH = 2000
ENDS = {
    ("ANALYZED", None, "STAT"): 0.07,
    ("ANALYZED", None, "HIGH"): 0.04,
    ("ANALYZED", None, "ROUTINE"): 0.6,
    ("NOT_ANALYZED", "CONTRAST_ENHANCED", "NONE"): 0.1,
    ("NOT_ANALYZED", "PRIOR_STUDY", "NONE"): 0.17,
    ("FAILED", "ANALYSIS_FAILED", "NONE"): 0.02,
}
OBJECTS = ("SR", "SEG", "KEY_IMAGE", "KEY_IMAGE")
PAGES = {
    "worklist": "/",
    "worklist.json": "/worklist.json",
    "STAT only": "/?show=STAT",
    "all of all years": "/?older=true&read=true",
    "its page 200": "/?older=true&read=true&page=200",
    "its last page": "/?older=true&read=true&page={last}",
    "search by name": "/?search={search}",
    "a study": "/study/{study}",
    "system": "/system/parts",
}


def main() -> None:
    """Fill, serve, ask, print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="bench-worklist-", dir=arguments.folder) as folder:
        url = arguments.database or f"sqlite:///{folder}/node.sqlite3"
        database = open_database(url)
        _fill(database, arguments.series)
        database.close()
        with _pages(Path(folder), url) as (base, pid):
            visitor = _Visitor(base, Path(folder) / "node.toml")
            told = _measure(visitor, pid, arguments.requests)
    progress("")
    _print(told, arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


# ---------------------------------------------------------------- a long history


def _fill(database: Database, series: int) -> None:
    """The newest series ended a minute ago; of those older than two days nearly all are read."""
    rng, now = np.random.default_rng(1), datetime.now(UTC)
    ends, weights = list(ENDS), np.array(list(ENDS.values()))
    for first in range(0, series, BATCH):
        numbers = range(first, min(first + BATCH, series))
        rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("series", "revision", "study", "result", "outbox")
        }
        for number in numbers:
            ended_at = now - timedelta(minutes=1) - timedelta(days=(series - 1 - number) / SERIES_PER_DAY)
            _add(rows, number, ends[rng.choice(len(ends), p=weights / weights.sum())], ended_at, now, rng)
        with database.transaction() as connection:
            for name, values in rows.items():
                connection.execute(getattr(schema, name).insert(), values)
        progress(f"{numbers[-1] + 1:,} of {series:,} series written")


def _add(
    rows: dict[str, list[dict[str, Any]]],
    number: int,
    end: tuple[str, str | None, str],
    ended_at: datetime,
    now: datetime,
    rng: np.random.Generator,
) -> None:
    outcome, reason, priority = end
    study_uid, series_uid, revision_id = f"1.2.{number}", f"1.2.{number}.1", number + 1
    first, last = ended_at - timedelta(seconds=40), ended_at - timedelta(seconds=5)
    read = now - ended_at > timedelta(days=2) or rng.random() < 0.5
    rows["series"].append(
        {
            "series_uid": series_uid,
            "study_uid": study_uid,
            "calling_ae": "CT1",
            "association": "a",
            "images": SLICES,
            "first_image_at": first,
            "last_image_at": last,
        }
    )
    rows["revision"].append(
        {
            "id": revision_id,
            "series_uid": series_uid,
            "revision": 1,
            "state": "DELIVERED",
            "ready_because": "the association ended",
            "ready_at": last,
            "claimed_at": last,
            "attempts": 1,
            "outcome": outcome,
            "reason": reason,
            "detail": "made up",
            "priority": priority,
            "result": _result(priority, rng) if outcome == "ANALYZED" else {"outcome": outcome},
            "reported_at": ended_at,
            "delivered_at": ended_at,
        }
    )
    patient = Patient(
        patient_name=f"FAMILY{number % 5003}^GIVEN{number % 997}",
        patient_id=f"P{number % 70_001:06d}",
        birth_date="19600101",
        sex="FM"[number % 2],
        accession_number=f"A{number:08d}",
        description="HEAD WITHOUT CONTRAST",
    )
    rows["study"].append(
        {
            "study_uid": study_uid,
            "calling_ae": "CT1",
            "first_image_at": first,
            "last_image_at": last,
            **vars(patient),
            "searched": searchable("CT1", patient),
            "rank": LAST if reason == "PRIOR_STUDY" else RANK.get(priority, UNKNOWN),
            "revision_id": revision_id,
            "outcome": outcome,
            "reason": reason,
            "priority": priority,
            "read_at": ended_at if read else None,
            "read_by": "ann" if read else None,
        }
    )
    for place, kind in enumerate(OBJECTS):
        sop_uid = f"{series_uid}.9.{place}"
        rows["result"].append(
            {
                "sop_uid": sop_uid,
                "revision_id": revision_id,
                "study_uid": study_uid,
                "kind": kind,
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
                "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "result_series_uid": f"{series_uid}.9",
                "path": f"results/{sop_uid}.dcm",
                "sha256": "0" * 64,
            }
        )
        rows["outbox"].append(
            {
                "sop_uid": sop_uid,
                "destination": "pacs",
                "revision_id": revision_id,
                "state": "SENT",
                "urgency": 0,
                "attempts": 1,
                "not_before": ended_at,
                "sent_at": ended_at,
            }
        )


def _result(priority: str, rng: np.random.Generator) -> dict[str, Any]:
    """Of the size of a real one: probabilities of each slice and class."""
    found = [str(rng.choice(SUBTYPES))] if priority != "ROUTINE" else []
    chances = rng.random((SLICES, len(CLASSES))).round(4)
    return {
        "findings": found,
        "probabilities": dict(zip(CLASSES, chances[0].tolist(), strict=True)),
        "volumes_ml": dict.fromkeys(CLASSES, 3.2),
        "volume_intervals_ml": {name: [1.9, 5.1] for name in CLASSES},
        "locations": {name: {"laterality": "left", "slices": [3, 9], "z_mm": [12.0, 42.0]} for name in found},
        "boxes": None,
        "slices": [
            {"sop_uid": f"1.2.840.{row}", "probabilities": dict(zip(CLASSES, each.tolist(), strict=True))}
            for row, each in enumerate(chances)
        ],
        "warnings": [],
        "bundle": {"name": "default", "version": "0", "sha256": "0" * 64},
    }


# ---------------------------------------------------------------- the pages


@contextmanager
def _pages(folder: Path, url: str) -> Iterator[tuple[str, int]]:
    port = free_port()
    config = folder / "node.toml"
    config.write_text(f'[node]\ndata_dir = "data"\ndatabase = "{url}"\n\n[web]\nport = {port}\n')
    command = [sys.executable, "-m", "triage_node", "web", "--config", str(config)]
    with running(command, log=folder / "web.log", port=port) as process:
        yield f"http://127.0.0.1:{port}", process.pid


class _Visitor:
    """A browser without a window: cookies, and pages as text."""

    def __init__(self, base: str, config: Path) -> None:
        self.base, self._jar = base, CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar))
        command = [sys.executable, "-m", "triage_node", "link", "--config", str(config)]
        link = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        self._csrf = _found(r'name="csrf" value="([^"]+)"', self._opener.open(link).read().decode())

    def get(self, path: str) -> str:
        with self._opener.open(self.base + path) as answer:
            text: str = answer.read().decode()
        return text

    def search(self, text: str) -> str:
        """The number that stands for a search."""
        form = urllib.parse.urlencode({"csrf": self._csrf, "text": text}).encode()
        with self._opener.open(self.base + "/search", form) as answer:
            return _found(r"search=([^&]+)", answer.url)

    def stream(self) -> Any:
        """Live updates, left open."""
        return self._opener.open(self.base + "/events")


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"the pages do not answer as expected: no {pattern}")
    return found[1]


def _measure(visitor: _Visitor, pid: int, requests: int) -> dict[str, Any]:
    total = int(json.loads(visitor.get("/worklist.json?older=true&read=true"))["total"])
    values = {"last": -(-total // 50), "search": visitor.search("FAMILY77^"), "study": total}
    paths = {name: path.format(**values) for name, path in PAGES.items()}
    with ExitStack() as streams:
        for _ in range(STREAMS):
            streams.enter_context(visitor.stream())
        for path in paths.values():
            visitor.get(path)
        memory = [pss_mib(pid)]
        taken: dict[str, list[float]] = {name: [] for name in paths}
        for turn in range(requests):
            for name, path in paths.items():
                started = time.perf_counter()
                visitor.get(path)
                taken[name].append(1000 * (time.perf_counter() - started))
            if (turn + 1) % max(1, requests // 4) == 0:
                memory.append(pss_mib(pid))
            progress(f"{(turn + 1) * len(paths)} of {requests * len(paths)} requests")
    return {
        "studies": total,
        "memory_mib": [round(each, 1) for each in memory],
        "ms": {
            name: {"median": round(statistics.median(each), 1), "p95": round(_late(each), 1)}
            for name, each in taken.items()
        },
    }


def _late(taken_ms: list[float]) -> float:
    return sorted(taken_ms)[max(0, int(0.95 * len(taken_ms)) - 1)]


def _print(told: dict[str, Any], arguments: argparse.Namespace) -> None:
    kind = (arguments.database or "sqlite").partition(":")[0]
    print(f"{told['studies']:,} studies in {kind}; {arguments.requests} requests each, {STREAMS} open streams\n")
    print("| page | ms, median | 95 % of answers within |\n| --- | --- | --- |")
    for name, ms in told["ms"].items():
        print(f"| {name} | {ms['median']} | {ms['p95']} |")
    print(f"\nmemory of the process, MiB, first to last request: {' '.join(map(str, told['memory_mib']))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=200, help="for each page")
    parser.add_argument("--database", help="URL of an empty database")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
