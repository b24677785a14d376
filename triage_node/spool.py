"""Bytes on disk: the truth about images.

    incoming/*.part                         being written; swept when the listener starts
    objects/<h2>/<key>.dcm                  received objects, key = sha256 of the SOP Instance UID, never modified
    quarantine/<key>-<digest>.dcm           same SOP Instance UID, other bytes: kept apart, the first stays
    results/<series ref>/<revision>/*.dcm   what we made, named by its own digest: never replaced by something else
    results/<series ref>/<revision>/*.json  what channels that are no DICOM tell of it, whose it is included
    view/<key>/<revision>/                  what the pages show of a series, key = sha256 of the Series Instance UID
    trials/<id>/images/, .../view/<n>/      what was given to the page for trying, and what it shows of it; id is random

UIDs from outside are never paths: only their hashes are. A file under its final name is complete and durable:
written, fsynced, linked under its name, directory fsynced, in this order.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

from triage_node.domain import ReceivedObject
from triage_node.log import ref


class Arrival(StrEnum):
    """What a received object was to the spool."""

    NEW = "NEW"
    SAME = "SAME"  # this SOP Instance UID with these bytes is there already
    DIFFERENT = "DIFFERENT"  # this SOP Instance UID is there with other bytes: quarantined


@dataclass(frozen=True, kw_only=True)
class Spooled:
    """Where a received object went."""

    arrival: Arrival
    path: Path
    sha256: str
    """Of the data set bytes, hex."""


def spool_key(sop_uid: str) -> str:
    """File name stem of a SOP Instance UID: sha256, hex."""
    return hashlib.sha256(sop_uid.encode()).hexdigest()


class Spool:
    """The folder tree above, under `root`. Creates what is missing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._objects = root / "objects"
        self._quarantine = root / "quarantine"
        self._results = root / "results"
        self._view = root / "view"
        self._trials = root / "trials"
        self._create_folders()

    def sweep(self) -> int:
        """Remove half-written files of a killed listener; returns how many. Nothing in them was acknowledged."""
        leftovers = list(self._incoming.glob("*.part"))
        for part in leftovers:
            part.unlink(missing_ok=True)
        return len(leftovers)

    def keep(self, received: ReceivedObject) -> Spooled:
        """Make a received object durable. On return it survives a power cut.

        Raises OSError when the disk refuses; then nothing is left under a final name.
        """
        digest = hashlib.sha256(received.dataset).hexdigest()
        part = self._write_part(received)
        try:
            return self._settle(part, self.object_path(received.sop_uid), digest)
        finally:
            part.unlink(missing_ok=True)

    def object_path(self, sop_uid: str) -> Path:
        """Where the object with this SOP Instance UID is, or would be."""
        key = spool_key(sop_uid)
        return self._objects / key[:2] / f"{key}.dcm"

    def objects(self, *, newer_than_epoch_s: float = 0.0) -> Iterator[Path]:
        """Every received object, or those written since a moment."""
        for folder in sorted(self._objects.iterdir()):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".dcm") and entry.stat().st_mtime >= newer_than_epoch_s:
                        yield Path(entry.path)

    def keep_result(self, series_uid: str, revision: int, name: str, data: bytes, *, suffix: str = ".dcm") -> Path:
        """Write one result file durably. `name` is ours, such as "SEG-0".

        The name carries the digest of the content, so that a worker that was taken for dead, and writes late, never
        replaces what another one published.
        """
        folder = self._results / ref(series_uid) / str(revision)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
        part = folder / f"{name}.{secrets.token_hex(4)}.part"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        for directory in (folder, folder.parent, self._results):
            _fsync_directory(directory)
        return path

    def keep_view(self, series_uid: str, revision: int, files: Mapping[str, bytes]) -> None:
        """Keep what the pages show of a revision; it replaces that of older ones. Not durable: it is no result."""
        folder = self.view_folder(series_uid, revision)
        part = folder.parent / f"{secrets.token_hex(8)}.part"
        part.mkdir(parents=True)
        for name, data in files.items():
            (part / name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        for other in set(folder.parent.iterdir()) - {folder}:  # of older revisions, or left by a killed worker
            shutil.rmtree(other, ignore_errors=True)

    def view_folder(self, series_uid: str, revision: int) -> Path:
        """Where what the pages show of a revision is, or would be."""
        return self._view / spool_key(series_uid) / str(revision)

    def remove_view(self, series_uid: str) -> None:
        """Remove what the pages show of a series."""
        shutil.rmtree(self._view / spool_key(series_uid), ignore_errors=True)

    def trial_folder(self, trial_id: str) -> Path:
        """Where the files of a trial are, or would be. The id must be one of ours."""
        return self._trials / trial_id

    def trial_view(self, trial_id: str, number: int) -> Path:
        """Where what the page shows of the series of this number, from 1, is, or would be."""
        return self.trial_folder(trial_id) / "view" / str(number)

    def keep_trial_view(self, trial_id: str, number: int, files: Mapping[str, bytes]) -> None:
        """Keep what the page shows of a series of a trial. OSError where the trial was removed meanwhile."""
        folder = self.trial_view(trial_id, number)
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)

    def remove_trial_images(self, trial_id: str) -> None:
        """Remove what was given; what the page shows stays."""
        shutil.rmtree(self.trial_folder(trial_id) / "images", ignore_errors=True)

    def remove_trial(self, trial_id: str) -> None:
        """Remove all files of a trial."""
        shutil.rmtree(self.trial_folder(trial_id), ignore_errors=True)

    def sweep_trials(self, *, keep: Collection[str], older_than: datetime) -> int:
        """Remove trees that belong to no trial and were last written to before a moment; returns how many."""
        lost = [folder for folder in self._trials.iterdir() if folder.name not in keep]
        old = [folder for folder in lost if _last_written(folder) < older_than.timestamp()]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)

    def remove(self, sop_uid: str) -> None:
        """Remove a received object, if it is there. Its directory is not fsynced: what comes back is removed again."""
        self.object_path(sop_uid).unlink(missing_ok=True)

    def remove_results(self, *, older_than: datetime, keep: Collection[str]) -> None:
        """Remove results of revisions last written before a moment, but for those of the series in `keep`."""
        kept = {ref(series_uid) for series_uid in keep}
        for folder in self._results.glob("*/*"):
            if folder.parent.name not in kept and folder.stat().st_mtime < older_than.timestamp():
                shutil.rmtree(folder)

    def remove_quarantined(self, *, older_than: datetime) -> None:
        """Remove quarantined objects that came before a moment."""
        for path in self._quarantine.glob("*.dcm"):
            if path.stat().st_mtime < older_than.timestamp():
                path.unlink(missing_ok=True)

    def probe(self) -> None:
        """Write and link a file as `keep` does, and remove it again. OSError where the disk or its rights refuse."""
        part = self._incoming / f"{secrets.token_hex(16)}.part"
        linked = part.with_suffix(".probe")
        try:
            with part.open("xb") as file:
                file.write(b"probe")
                os.fsync(file.fileno())
            os.link(part, linked)
            _fsync_directory(self._incoming)
        finally:
            linked.unlink(missing_ok=True)
            part.unlink(missing_ok=True)

    def scratch(self) -> BinaryIO:
        """A file without a name, for what is not an object yet: gone when it is closed, also by a kill."""
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._incoming))

    def free_mb(self) -> float:
        """Free disk space, MB."""
        return shutil.disk_usage(self.root).free / 1e6

    # ------------------------------------------------------------ steps of keep

    def _write_part(self, received: ReceivedObject) -> Path:
        part = self._incoming / f"{secrets.token_hex(16)}.part"
        with part.open("xb") as file:
            file.write(received.header)
            file.write(received.dataset)
            file.flush()
            os.fsync(file.fileno())
        return part

    def _settle(self, part: Path, final: Path, digest: str) -> Spooled:
        try:
            os.link(part, final)  # unlike rename, never replaces what another association stored first
        except FileExistsError:
            return self._settle_repeat(part, final, digest)
        _fsync_directory(final.parent)
        return Spooled(arrival=Arrival.NEW, path=final, sha256=digest)

    def _settle_repeat(self, part: Path, final: Path, digest: str) -> Spooled:
        _fsync_directory(final.parent)  # the first writer may not have come this far yet
        if dataset_sha256(final) == digest:
            return Spooled(arrival=Arrival.SAME, path=final, sha256=digest)
        kept = self._quarantine / f"{final.stem}-{digest[:16]}.dcm"
        part.replace(kept)
        _fsync_directory(self._quarantine)
        return Spooled(arrival=Arrival.DIFFERENT, path=kept, sha256=digest)

    def _create_folders(self) -> None:
        for folder in (self._incoming, self._objects, self._quarantine, self._results, self._view, self._trials):
            folder.mkdir(parents=True, exist_ok=True)
        for first_byte in range(256):  # all at once, so that keeping an object needs one directory fsync
            (self._objects / f"{first_byte:02x}").mkdir(exist_ok=True)
        for folder in (self._objects, self.root):
            _fsync_directory(folder)


def _last_written(folder: Path) -> float:
    """Seconds since 1970; infinite for what goes away meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return float("inf")


def dataset_sha256(path: Path) -> str:
    """sha256 of the data set of a PS3.10 file, without preamble and File Meta Information (PS3.10 7.1)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(144)
        group_length = struct.unpack("<I", head[140:144])[0]  # (0002,0000) UL comes first
        file.seek(144 + group_length)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
