"""Sending files as they lie on a disk, for `triage-node send` and the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

from triage_node.peers.association import Peer
from triage_node.peers.store import META_KEYWORDS, OutgoingObject, StoreResult, store


@dataclass(frozen=True, kw_only=True)
class SendReport:
    """What became of the files of `send_folder`."""

    sent: int
    failed: tuple[StoreResult, ...]
    skipped: tuple[tuple[Path, str], ...]
    """Files that were not sent, and why."""


def send_folder(
    paths: Iterable[Path],
    *,
    peer: Peer,
    calling_ae: str,
    timeout_s: float = 30.0,
    on_found: Callable[[int], None] = lambda _: None,
    on_result: Callable[[StoreResult], None] = lambda _: None,
) -> SendReport:
    """Send the DICOM files among `paths` (files, or folders with all below them).

    `on_found` is called once with the number of files to send, `on_result` after each: enough for a progress bar.
    What is no DICOM file is skipped with a note. Raises nothing for what the peer refuses: see the report.
    """
    objects, skipped = _find_objects(paths)
    on_found(len(objects))
    results: list[StoreResult] = []

    def keep(result: StoreResult) -> None:
        results.append(result)
        on_result(result)

    store(peer, calling_ae=calling_ae, objects=objects, timeout_s=timeout_s, on_result=keep, re_encode=True)
    failed = tuple(result for result in results if result.error)
    return SendReport(sent=len(results) - len(failed), failed=failed, skipped=tuple(skipped))


def _find_objects(paths: Iterable[Path]) -> tuple[list[OutgoingObject], list[tuple[Path, str]]]:
    objects, skipped = [], []
    for path in _files(paths):
        found = _read_identity(path)
        if isinstance(found, str):
            skipped.append((path, found))
        else:
            objects.append(found)
    return objects, skipped


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(below for below in path.rglob("*") if below.is_file())
        else:
            yield path


def _read_identity(path: Path) -> OutgoingObject | str:
    """The object in a file, or why it cannot be sent."""
    try:
        meta = read_file_meta_info(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except InvalidDicomError:
        return "not a DICOM file"
    if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return "a DICOMDIR, not an object"
    missing = [keyword for keyword in META_KEYWORDS if not meta.get(keyword)]
    if missing:
        return f"without {missing[0]}"
    sop_class_uid, sop_uid, syntax = (str(meta.get(keyword)) for keyword in META_KEYWORDS)
    return OutgoingObject(path=path, sop_class_uid=sop_class_uid, sop_uid=sop_uid, transfer_syntax_uid=syntax)
