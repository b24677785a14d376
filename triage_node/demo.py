"""`triage-node demo`: a node and a demo PACS on loopback, one head CT by real C-STORE, and what came back.

Nothing is faked in between: the node is `triage-node serve` as a process of its own, with the configuration that is
written here, and the PACS is a real storage SCP. Only the PACS is ours, since none can be assumed to be installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from PIL import Image
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from triage_node import config as configuration
from triage_node import peers
from triage_node.domain import CLASSES, DISCLAIMER, SUBTYPE_ABBREVIATIONS
from triage_node.errors import UsageError
from triage_node.send import faults, send_with_progress
from triage_node.simulate import write_case
from triage_node.store import board
from triage_node.store.access import make_link
from triage_node.store.database import Database, open_database
from triage_node.testing import DemoPacs, StoredObject

START_S: Final = 60.0
RESULT_S: Final = 300.0
SIMULATED_SEED: Final = 7

CONFIG: Final = """\
# Written by `triage-node demo`.
[node]
ae_title = "TRIAGE"
host = "127.0.0.1"
port = 0
data_dir = "data"
min_free_mb = 100

[series]
max_study_age_h = 0       # the demo takes series of any age
notice_after_s = 0

[web]
port = 0

[[source]]
ae_title = "DEMO_CT"
hosts = ["127.0.0.1"]
quiet_s = 3

[[destination]]
name = "demo-pacs"
ae_title = "DEMO_PACS"
host = "127.0.0.1"
port = {pacs_port}
"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What came back."""

    result: dict[str, Any]
    objects: list[StoredObject]
    """In the demo PACS, in the order of their arrival."""
    seconds: float
    """From the last image acknowledged to the last result in the PACS."""
    study_intact: bool
    """Patient and study identity of every result equal those of the images sent."""


def run_demo(*, folder: Path | None, once: bool, as_json: bool, subtype: str) -> int:
    """Run the demo; returns the exit status. On a terminal it stays up until Ctrl-C unless `once`."""
    out = sys.stderr if as_json else sys.stdout

    def say(line: str = "") -> None:
        print(line, file=out, flush=True)

    with tempfile.TemporaryDirectory(prefix="triage-node-demo-") as scratch:
        home = Path(scratch)
        images = folder or _simulate(home, subtype, say)
        truth_ml = None if folder else json.loads((images.parent / "truth.json").read_text())["volumes_ml"]
        series_uids = _ct_series(images)
        with DemoPacs(folder=home / "pacs", ae_title="DEMO_PACS") as pacs, _node(home, pacs.port) as node:
            say(f"Node TRIAGE listens on 127.0.0.1:{node.port}; demo PACS DEMO_PACS on 127.0.0.1:{pacs.port}.")
            sent_at = _send(images, node.port)
            say("All images acknowledged. Waiting for the results ...")
            shown = _await_results(node.database, pacs, series_uids, sent_at, images)
            _print_results(shown, truth_ml, say)
            if as_json:
                print(json.dumps(_demo_json(shown)), flush=True)
            if not once and sys.stdin.isatty():
                link = make_link(node.database, now=datetime.now(UTC))
                say(f"\nWorklist: http://127.0.0.1:{node.web_port}/enter?key={link}\nLog: {home / 'node.log'}")
                _stay(home, _draw_pictures(shown.objects, home / "pictures"), say)
    return 0 if shown.result["outcome"] != "FAILED" and shown.study_intact else 1


# ---------------------------------------------------------------- steps


@dataclass(frozen=True, kw_only=True)
class _Node:
    database: Database
    port: int
    web_port: int


def _simulate(home: Path, subtype: str, say: Any) -> Path:
    say(f"Simulating a head CT with {subtype} (procedural, no patient) ...")
    write_case(home / "simulated", subtype=subtype, seed=SIMULATED_SEED, created_at=datetime.now(UTC))
    return home / "simulated" / "dicom"


def _ct_series(folder: Path) -> list[str]:
    """SeriesInstanceUIDs of the CT images in a folder."""
    found: dict[str, None] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "SeriesInstanceUID"])
        except InvalidDicomError:
            continue
        if header.get("Modality") == "CT" and header.get("SeriesInstanceUID"):
            found[str(header.SeriesInstanceUID)] = None
    if not found:
        raise UsageError(f"{folder} holds no DICOM CT image; give the folder of a head CT series")
    return list(found)


@contextmanager
def _node(home: Path, pacs_port: int) -> Iterator[_Node]:
    """`triage-node serve` as a process of its own, ready to receive."""
    config_path = home / "triage-node.toml"
    config_path.write_text(CONFIG.format(pacs_port=pacs_port), encoding="utf-8")
    database = open_database(configuration.load(config_path).database_url)
    with (home / "node.log").open("wb") as log_file:
        command = [sys.executable, "-m", "triage_node", "serve", "--config", str(config_path)]
        process = subprocess.Popen(command, stderr=log_file, stdout=log_file)
        try:
            ports = _await_roles(database, process, home / "node.log")
            yield _Node(database=database, port=ports["listen"], web_port=ports["web"])
        finally:
            process.terminate()
            process.wait(timeout=30)
            database.close()


def _await_roles(database: Database, process: subprocess.Popen[bytes], log_path: Path) -> dict[str, int]:
    deadline = monotonic() + START_S
    while monotonic() < deadline:
        alive = {info.kind: info.port or 0 for info in board.roles(database, now=datetime.now(UTC))}
        if {"listen", "work", "deliver", "web"} <= alive.keys():
            return alive
        if process.poll() is not None:
            break
        sleep(0.1)
    raise UsageError(f"the node did not start; its log ends with: {log_path.read_text()[-2000:]}")


def _send(images: Path, port: int) -> float:
    """Send with a progress bar; returns the monotonic time at which the last image was acknowledged."""
    node = peers.Peer(ae_title="TRIAGE", host="127.0.0.1", port=port)
    report = send_with_progress(images, node, "DEMO_CT")
    if report.failed or not report.sent:
        raise UsageError("the node did not take the images: " + "; ".join(faults(report)))
    return monotonic()


def _await_results(database: Database, pacs: DemoPacs, series_uids: list[str], sent_at: float, images: Path) -> Shown:
    deadline = monotonic() + RESULT_S
    while monotonic() < deadline:
        results = [board.result_of(database, uid) for uid in series_uids]
        if all(results) and _all_sent(database):
            seconds = monotonic() - sent_at
            result = min((r for r in results if r), key=_most_urgent)
            objects = pacs.objects()
            return Shown(result=result, objects=objects, seconds=seconds, study_intact=_same_identity(images, objects))
        sleep(0.05)
    raise UsageError(f"no result after {RESULT_S:.0f} s; the node's log says why")


def _all_sent(database: Database) -> bool:
    states = board.status(database, now=datetime.now(UTC))["outbox"].get("demo-pacs", {})
    return not states.get("PENDING") and not states.get("SENDING")


def _most_urgent(result: dict[str, Any]) -> int:
    return ["STAT", "HIGH", "ROUTINE", "NONE"].index(result["priority"])


IDENTITY: Final = ["PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"]


def _same_identity(images: Path, objects: list[StoredObject]) -> bool:
    """Whether every result names a patient and study that an image named."""

    def identity(path: Path) -> tuple[str, ...]:
        header = dcmread(path, stop_before_pixels=True, specific_tags=[*IDENTITY, "SpecificCharacterSet"])
        return tuple(str(header.get(keyword, "")) for keyword in IDENTITY)

    known = set()
    for path in (p for p in images.rglob("*") if p.is_file()):
        try:
            known.add(identity(path))
        except InvalidDicomError:
            continue
    return all(identity(stored.path) in known for stored in objects)


# ---------------------------------------------------------------- what a person sees


def _print_results(shown: Shown, truth_ml: dict[str, float] | None, say: Any) -> None:
    """`truth_ml` is what the simulator drew, by subtype."""
    result = shown.result
    say()
    say(f"  {result['outcome']}   priority {result['priority']}   {result['detail']}")
    say()
    if result["bundle"]:
        say(f"  {'':<20}{'probability':>12}{'volume mL':>12}{'' if truth_ml is None else '   simulated mL'}")
        for name in CLASSES:
            label = f"{name} ({SUBTYPE_ABBREVIATIONS[name]})" if name in SUBTYPE_ABBREVIATIONS else name
            truth = "" if truth_ml is None else f"{_drawn_ml(truth_ml, name):>15.1f}"
            mark = "  <- reported" if name in result["findings"] else ""
            probability = _number(result["probabilities"][name], 3)
            say(f"  {label:<24}{probability:>8}{_number(result['volumes_ml'][name], 1):>12}{truth}{mark}")
        say()
    for warning in result["warnings"]:
        say(f"  note: {warning}")
    say(f"  The PACS now holds, in the same study ({'identity intact' if shown.study_intact else 'IDENTITY DIFFERS'}):")
    for stored in shown.objects:
        say(f"    {stored.modality:<4}{stored.series_description:<44}{stored.path.stat().st_size / 1000:>9.1f} kB")
    say(f"\n  Last image to last result: {shown.seconds:.1f} s.   {DISCLAIMER}")


def _drawn_ml(truth_ml: dict[str, float], name: str) -> float:
    return sum(truth_ml.values()) if name == "any" else truth_ml.get(name, 0.0)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _demo_json(shown: Shown) -> dict[str, Any]:
    received = [
        {"modality": stored.modality, "series_description": stored.series_description, "sop_uid": stored.sop_uid}
        for stored in shown.objects
    ]
    timings_s = {**shown.result["timings_s"], "last_image_to_last_result": round(shown.seconds, 3)}
    return {**shown.result, "timings_s": timings_s, "pacs": received, "identity_intact": shown.study_intact}


def _draw_pictures(objects: list[StoredObject], folder: Path) -> list[Path]:
    """Key images and notices as PNG, for who has no DICOM viewer at hand."""
    folder.mkdir()
    paths = []
    for number, stored in enumerate((o for o in objects if o.modality == "OT"), start=1):
        path = folder / f"{number}.png"
        Image.fromarray(dcmread(stored.path).pixel_array).save(path)
        paths.append(path)
    return paths


def _stay(home: Path, pictures: list[Path], say: Any) -> None:
    for path in pictures:
        say(f"Picture: {path}")
    say(f"The node stays up; its files are in {home}. Ctrl-C ends it and removes them.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        say()
