"""What the benchmarks share: tools, ports, Orthanc, processes that end with the run, memory."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# dcmtk's own: pynetdicom installs programs of the same names into the virtual environment
_SYSTEM_PATH = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
PDU_BYTES = 131072


def tool(name: str) -> str:
    """Path of an installed tool; ends the run, saying what to install, where it is missing."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        sys.exit(f"{name} is not installed: sudo sh scripts/install-test-tools.sh")
    return path


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def progress(text: str) -> None:
    """One line on stderr, written over by the next."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def running(command: Sequence[str], *, log: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server from the moment its port answers; it is ended with the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment())
    try:
        _await_port(port, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(**more: str) -> dict[str, str]:
    """Of every process here: no delayed segments in dcmtk, one thread for numerics."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, "TCP_NODELAY": "1", **threads, **more}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What a sender saw; seconds since 1970."""

    requested_at: float
    answered_at: float  # the last image


def send_folder(folder: Path, port: int) -> Sent:
    """Send the files of a folder through one association with dcmtk's storescu; the times are from its own log."""
    options = ["-v", "-R", "-pdu", str(PDU_BYTES), "-aec", "TRIAGE", "+sd"]
    command = [tool("storescu"), *options, "127.0.0.1", str(port), str(folder)]
    requested_at, answered_at, stored = 0.0, 0.0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()) as sender:
        assert sender.stdout is not None
        for line in sender.stdout:
            if b"Requesting Association" in line:
                requested_at = time.time()
            elif b"Store Response (Success)" in line:
                answered_at = time.time()
                stored += 1
    if stored != len(list(folder.iterdir())):
        raise SystemExit(f"port {port}: only {stored} images of {folder} were acknowledged")
    return Sent(requested_at=requested_at, answered_at=answered_at)


def orthanc_config(folder: Path, *, dicom_port: int, http_port: int) -> Path:
    """An Orthanc with its defaults, larger PDUs, storage in `folder`; AE title ORTHANC."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: Mapping[str, object] = {
        "Name": "benchmark",
        "StorageDirectory": str(folder / "storage"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "MaximumPduLength": PDU_BYTES,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    return path


def file_system_of(folder: Path) -> str:
    """Type of the file system that `folder` is on, such as ext4."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(inside, key=lambda mount: len(mount[0]))[1]


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"no answer on port {port}: {log.read_text()[-1000:]}")


@contextmanager
def memory_watched(pid: int) -> Iterator[list[int]]:
    """The peak of the sum of PSS of a process and all below it, KiB, in a list of one."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            peak[0] = max(peak[0], sum(_pss_kib(one) for one in _family(pid)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _family(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:  # it ended meanwhile
        return []
    return [pid, *(one for child in children for one in _family(child))]


def pss_mib(pid: int) -> float:
    """The proportional set size of one process."""
    return _pss_kib(pid) / 1024


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
