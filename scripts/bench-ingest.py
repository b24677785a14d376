"""Acknowledged images per second: our listener, a bare pynetdicom handler, Orthanc and dcmtk storescp.

    python scripts/bench-ingest.py [--rounds N] [--images N] [--associations 1 4] [--only NAME ...] [--rows 1000000]

One interleaved run: in every round each server gets the same number of new images from the same sender (dcmtk
storescu, TCP_NODELAY, PDUs of 131072 bytes), the order changing from round to round; the medians are compared. The
files to send lie in memory (/dev/shm); every server writes to the file system of --folder.

    listener   `triage-node listen`: header parsed, file and directory fsynced, row committed, then 0x0000
    bare       a pynetdicom handler that only writes and fsyncs the file (bare_scp.py)
    orthanc    Orthanc with its defaults
    storescp   dcmtk storescp, which does not fsync
    full       with --rows: our listener with that many rows in the ledger before it starts

The clock of a round runs from the first association request to the last answer, as the senders' own logs have them.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench_images import Images
from benching import PDU_BYTES, file_system_of, free_port, orthanc_config, progress, running, send_folder, tool
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from triage_node.domain import Instance, InstanceOutcome
from triage_node.store import ledger
from triage_node.store.database import open_database

NODE = """\
[node]
host = "127.0.0.1"
port = {port}
data_dir = "data"

[[source]]
ae_title = "STORESCU"
hosts = ["127.0.0.1"]
"""


def main() -> None:
    """Run the rounds and print the table."""
    arguments = _arguments()
    names = arguments.only or ["listener", "bare", "orthanc", "storescp", *(["full"] if arguments.rows else [])]
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=arguments.folder))
        if not arguments.keep:
            stack.callback(shutil.rmtree, folder)
        outbox = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ingest-", dir="/dev/shm")))
        servers = [_start(name, folder / name, arguments.rows, stack) for name in names]
        rounds = _measure(servers, Images(outbox, arguments.images), arguments)
    kind = file_system_of(arguments.folder)
    print(f"{arguments.images} CT images of 0.5 MB a round, {arguments.rounds} rounds, servers on {kind}")
    _print_table(rounds, names)


# ---------------------------------------------------------------- the servers


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """CPU time of the process and of its children that ended."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _start(name: str, folder: Path, rows: int, stack: ExitStack) -> Server:
    progress(f"starting {name}")
    folder.mkdir()
    port = free_port()
    if name in ("listener", "full"):
        (folder / "triage-node.toml").write_text(NODE.format(port=port))
        if name == "full":
            _fill_ledger(folder / "data", rows)
        command = [sys.executable, "-m", "triage_node", "listen", "--config", str(folder / "triage-node.toml")]
    elif name == "bare":
        command = [sys.executable, str(Path(__file__).with_name("bare_scp.py")), str(port), str(folder)]
    elif name == "orthanc":
        command = [tool("Orthanc"), str(orthanc_config(folder, dicom_port=port, http_port=free_port()))]
    else:
        command = [tool("storescp"), "-pdu", str(PDU_BYTES), "--fork", "+B", "-od", str(folder), str(port)]
    process = stack.enter_context(running(command, log=folder / "log.txt", port=port))
    return Server(name=name, port=port, pid=process.pid)


def _fill_ledger(data_dir: Path, rows: int, batch: int = 20_000) -> None:
    database = open_database(f"sqlite:///{data_dir / 'triage-node.sqlite3'}")
    for first in range(0, rows, batch):
        progress(f"filling the ledger: {first} of {rows} rows")
        ledger.record(database, [_old_row(number) for number in range(first, min(first + batch, rows))])
    database.close()


def _old_row(number: int) -> ledger.Arrived:
    series, image = divmod(number, 300)
    series_uid = f"1.2.840.113619.2.55.3.{(series * 2654435761) % 2**32:010d}.{series}"
    return ledger.Arrived(
        instance=Instance(
            sop_uid=f"{series_uid}.{image}",
            sop_class_uid=CTImageStorage,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            study_uid=f"{series_uid}.9999",
            series_uid=series_uid,
            modality="CT",
            sha256=f"{number:064x}",
            size_bytes=526_000,
            position_mm=(0.0, 0.0, float(image)),
            normal=(0.0, 0.0, 1.0),
            calling_ae="STORESCU",
            source_address="127.0.0.1",
            association=f"{series:016x}",
            received_at=datetime.fromtimestamp(1_700_000_000 + series * 60, UTC),
            outcome=InstanceOutcome.SERIES,
        )
    )


# ---------------------------------------------------------------- the rounds


@dataclass(frozen=True, kw_only=True)
class Round:
    """One server, once."""

    name: str
    associations: int
    images_per_s: float
    server_cpu_ms: float  # an image
    sender_cpu_ms: float


def _measure(servers: Sequence[Server], images: Images, arguments: argparse.Namespace) -> list[Round]:
    rounds: list[Round] = []
    for number in range(-1, arguments.rounds):  # the first warms up
        for associations in arguments.associations:
            for server in _turned(servers, number):
                progress(f"round {number + 1} of {arguments.rounds}: {server.name}, {associations} associations")
                folders = images.fresh(associations)
                os.sync()  # what others left unwritten is not this server's
                before_s = server.cpu_s(), _senders_cpu_s()
                seconds = _send(folders, server.port)
                after_s = server.cpu_s(), _senders_cpu_s()
                one = Round(
                    name=server.name,
                    associations=associations,
                    images_per_s=arguments.images / seconds,
                    server_cpu_ms=1e3 * (after_s[0] - before_s[0]) / arguments.images,
                    sender_cpu_ms=1e3 * (after_s[1] - before_s[1]) / arguments.images,
                )
                if number >= 0:
                    rounds.append(one)
    progress("")
    return rounds


def _turned(servers: Sequence[Server], by: int) -> Iterator[Server]:
    return (servers[(index + by) % len(servers)] for index in range(len(servers)))


def _senders_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # of children that ended: servers run on
    return usage.ru_utime + usage.ru_stime


def _send(folders: Sequence[Path], port: int) -> float:
    """Send every folder through an association of its own, all at once; seconds from first request to last answer."""
    with ThreadPoolExecutor(len(folders)) as senders:
        sent = list(senders.map(lambda folder: send_folder(folder, port), folders))
    return max(one.answered_at for one in sent) - min(one.requested_at for one in sent)


# ---------------------------------------------------------------- the table


def _print_table(rounds: Sequence[Round], names: Sequence[str]) -> None:
    yardstick = "bare" if "bare" in names else names[0]
    for associations in sorted({one.associations for one in rounds}):
        median = {name: _median(rounds, name, associations) for name in names}
        sender_ms = statistics.median(one.sender_cpu_ms for one in rounds if one.associations == associations)
        print(f"\n{associations} at a time; the sender takes {sender_ms:.2f} ms CPU an image")
        print(f"  {'':10} {'images/s':>9} {'min':>6} {'max':>6} {'/ ' + yardstick:>10} {'CPU ms':>7}")
        for name in names:
            mine = [one for one in rounds if one.name == name and one.associations == associations]
            rates = [one.images_per_s for one in mine]
            cpu_ms = statistics.median(one.server_cpu_ms for one in mine)
            ratio = median[name] / median[yardstick]
            print(f"  {name:10} {median[name]:9.0f} {min(rates):6.0f} {max(rates):6.0f} {ratio:10.2f} {cpu_ms:7.2f}")
        if {"full", "listener"} <= set(names):
            print(f"  full / empty ledger: {median['full'] / median['listener']:.2f}")


def _median(rounds: Sequence[Round], name: str, associations: int) -> float:
    return statistics.median(
        one.images_per_s for one in rounds if one.name == name and one.associations == associations
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=300, help="images of each server and round")
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--only", nargs="+", help="these servers")
    parser.add_argument("--rows", type=int, default=0, help="rows of the server `full`")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where the servers write; not on tmpfs")
    parser.add_argument("--keep", action="store_true", help="leave the servers' folders (see docs/benchmarks.md)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
