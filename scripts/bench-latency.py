"""Last image in -> last result in Orthanc, through `triage-node serve`; where the time goes; memory of all roles.

    python scripts/bench-latency.py [--slices 32 300] [--rounds N] [--out FOLDER]

A simulated head CT (512 x 512) with a bleed is sent by dcmtk storescu, as a new study in every round. The clock runs
from the answer to the last image until Orthanc has answered for the last result. The parts are the database's own
moments and result.json's timings_s; --out gets latency.png and latency.json. Memory is the largest sum of PSS
(/proc/PID/smaps_rollup) over all processes of the node, four times a second.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benching import free_port, memory_watched, orthanc_config, progress, running, send_folder, tool
from PIL import Image, ImageDraw
from pydicom.uid import generate_uid

from triage_node.simulate import SimulatedHead, axial_geometry, simulate_head, write_series

NODE = """\
[node]
host = "127.0.0.1"
port = {port}
data_dir = "data"

[web]
port = 0

[[source]]
ae_title = "STORESCU"
hosts = ["127.0.0.1"]

[[destination]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {orthanc_port}
"""
PARTS = ("complete", "claim", "assemble", "infer", "report", "settle and publish", "deliver")
COLOURS = ("#4e79a7", "#9c755f", "#59a14f", "#e15759", "#f28e2b", "#bab0ac", "#76b7b2")
HEAD_MM = 150.0
TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One study, from its last image to its last result."""

    slices: int
    total_s: float
    parts_s: dict[str, float]
    peak_mib: float


def main() -> None:
    """Run the rounds, print the table, draw the picture."""
    arguments = _arguments()
    heads = [_head(slices) for slices in arguments.slices]
    temporary = tempfile.TemporaryDirectory(prefix="bench-latency-", dir=arguments.folder)
    with temporary as folder, _serving(Path(folder)) as node:
        for head in heads:
            _one_case(node, head)  # warms up
        cases = [_one_case(node, head) for _ in range(arguments.rounds) for head in heads]
    progress("")
    medians = [_median(cases, slices) for slices in arguments.slices]
    _print_table(medians, cases)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "latency.json").write_text(json.dumps([vars(case) for case in cases], indent=1))
        _draw(medians, arguments.out / "latency.png")


# ---------------------------------------------------------------- the node and Orthanc


@dataclass(frozen=True, kw_only=True)
class Node:
    """What runs."""

    folder: Path
    pid: int
    port: int
    orthanc_http_port: int


@contextmanager
def _serving(folder: Path) -> Iterator[Node]:
    port, orthanc_port, http_port = free_port(), free_port(), free_port()
    orthanc = [tool("Orthanc"), str(orthanc_config(folder / "orthanc", dicom_port=orthanc_port, http_port=http_port))]
    (folder / "triage-node.toml").write_text(NODE.format(port=port, orthanc_port=orthanc_port))
    serve = [sys.executable, "-m", "triage_node", "serve", "--config", str(folder / "triage-node.toml")]
    progress("starting Orthanc and the node")
    with (
        running(orthanc, log=folder / "orthanc.txt", port=http_port),
        running(serve, log=folder / "node.txt", port=port) as process,
    ):
        yield Node(folder=folder, pid=process.pid, port=port, orthanc_http_port=http_port)


def _head(slices: int) -> SimulatedHead:
    progress(f"rendering a head of {slices} slices")
    spacing_mm = HEAD_MM / (slices - 1)
    geometry = axial_geometry(slices=slices, spacing_mm=spacing_mm, thickness_mm=spacing_mm)
    return simulate_head(seed=7, subtypes=["intraparenchymal"], geometry=geometry)


# ---------------------------------------------------------------- one study


def _one_case(node: Node, head: SimulatedHead) -> Case:
    slices, series_uid = len(head.hu), generate_uid(prefix=None)
    progress(f"{slices} slices: sending")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as files, memory_watched(node.pid) as memory:
        now = datetime.now().astimezone()
        study_uid = generate_uid(prefix=None)
        write_series(head, Path(files), seed=7, created_at=now, study_uid=study_uid, series_uid=series_uid)
        answered_at = send_folder(Path(files), node.port).answered_at
        progress(f"{slices} slices: waiting for the results")
        moments, result = _delivered(node.folder / "data" / "triage-node.sqlite3", series_uid)
    if result["outcome"] != "ANALYZED" or not _orthanc_has(node, study_uid, len(result["objects"])):
        raise SystemExit(f"not analysed and delivered: {result['outcome']} {result['reason']}")
    return Case(
        slices=slices,
        total_s=moments["delivered_at"] - answered_at,
        parts_s=_parts(answered_at, moments, result["timings_s"]),
        peak_mib=memory[0] / 1024,
    )


def _delivered(database: Path, series_uid: str) -> tuple[dict[str, float], dict[str, Any]]:
    query = "SELECT ready_at, claimed_at, reported_at, delivered_at, result FROM revision WHERE series_uid = ?"
    deadline = time.monotonic() + TIMEOUT_S
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        while time.monotonic() < deadline:
            row = connection.execute(f"{query} ORDER BY revision DESC LIMIT 1", [series_uid]).fetchone()
            if row and row["delivered_at"]:
                moments = {key: float(row[key]) for key in row.keys() if key.endswith("_at")}  # noqa: SIM118
                return moments, json.loads(row["result"])
            time.sleep(0.1)
    finally:
        connection.close()
    raise SystemExit(f"no result after {TIMEOUT_S:g} s")


def _parts(answered_at: float, moments: dict[str, float], timings_s: dict[str, float]) -> dict[str, float]:
    analysed_s = sum(timings_s.values())
    return {
        "complete": max(moments["ready_at"] - answered_at, 0.0),  # the last answer is read a moment after it was sent
        "claim": moments["claimed_at"] - moments["ready_at"],
        **{name: timings_s[name] for name in ("assemble", "infer", "report")},
        "settle and publish": moments["reported_at"] - moments["claimed_at"] - analysed_s,
        "deliver": moments["delivered_at"] - moments["reported_at"],
    }


def _orthanc_has(node: Node, study_uid: str, objects: int) -> bool:
    """Whether Orthanc itself counts every result of the study."""
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}}
    url = f"http://127.0.0.1:{node.orthanc_http_port}/tools/find"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(query).encode()), timeout=10) as answer:
        return len(json.load(answer)) == objects


# ---------------------------------------------------------------- table and picture


def _median(cases: Sequence[Case], slices: int) -> Case:
    mine = [case for case in cases if case.slices == slices]
    return Case(
        slices=slices,
        total_s=statistics.median(case.total_s for case in mine),
        parts_s={name: statistics.median(case.parts_s[name] for case in mine) for name in PARTS},
        peak_mib=max(case.peak_mib for case in mine),
    )


def _print_table(medians: Sequence[Case], cases: Sequence[Case]) -> None:
    print("s, medians" + "".join(f"{f'{case.slices} slices':>14}" for case in medians))
    for name in PARTS:
        print(f"  {name:20}" + "".join(f"{case.parts_s[name]:12.2f}  " for case in medians))
    print(f"  {'last image to result':20}" + "".join(f"{case.total_s:12.2f}  " for case in medians))
    for median in medians:
        each = sorted(case.total_s for case in cases if case.slices == median.slices)
        print(f"{median.slices} slices: {each[0]:.2f} to {each[-1]:.2f} s in {len(each)} rounds")
    print(f"peak of all processes together: {max(case.peak_mib for case in medians):.0f} MiB PSS")


def _draw(medians: Sequence[Case], path: Path, *, width: int = 900, left: int = 90, bar: int = 56) -> None:
    """One stacked bar for each number of slices, seconds along the bottom."""
    end_s = max(sum(case.parts_s.values()) for case in medians)
    scale = (width - left - 40) / end_s
    axis_y = 16 + len(medians) * (bar + 16)
    picture = Image.new("RGB", (width, axis_y + 76), "white")
    draw = ImageDraw.Draw(picture)
    for row, case in enumerate(medians):
        x, y = float(left), 16 + row * (bar + 16)
        draw.text((8, y + bar // 2 - 6), f"{case.slices} slices", fill="black")
        for name, colour in zip(PARTS, COLOURS, strict=True):
            draw.rectangle((x, y, x + case.parts_s[name] * scale, y + bar), fill=colour)
            x += case.parts_s[name] * scale
        draw.text((min(x + 4, width - 40), y + bar // 2 - 6), f"{case.total_s:.1f} s", fill="black")
    for second in range(int(end_s) + 1):
        draw.line((left + second * scale, axis_y, left + second * scale, axis_y + 6), fill="black")
        draw.text((left + second * scale - 3, axis_y + 8), str(second), fill="black")
    for index, (name, colour) in enumerate(zip(PARTS, COLOURS, strict=True)):
        x = 8 + index * (width - 16) / len(PARTS)
        draw.rectangle((x, axis_y + 40, x + 12, axis_y + 52), fill=colour)
        draw.text((x + 16, axis_y + 40), name, fill="black")
    picture.save(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[32, 300])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where the node writes; not on tmpfs")
    parser.add_argument("--out", type=Path, help="folder of latency.png and latency.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
