"""Bytes on disk."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests import ct
from tests.arrivals import received
from triage_node.domain import ReceivedObject
from triage_node.spool import Arrival, Spool, dataset_sha256


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
def image() -> ReceivedObject:
    return received(ct.head([0.0])[0])


def test_what_is_kept_is_what_came(spool: Spool, image: ReceivedObject) -> None:
    kept = spool.keep(image)
    assert kept.arrival == Arrival.NEW
    assert kept.path.read_bytes() == image.header + bytes(image.dataset)
    assert dataset_sha256(kept.path) == kept.sha256


def test_the_same_bytes_again_change_nothing(spool: Spool, image: ReceivedObject) -> None:
    first = spool.keep(image)
    inode = first.path.stat().st_ino
    assert spool.keep(image).arrival == Arrival.SAME
    assert first.path.stat().st_ino == inode


def test_other_bytes_under_the_same_uid_are_kept_apart(spool: Spool, image: ReceivedObject) -> None:
    first = spool.keep(image)
    other = spool.keep(replace(image, dataset=bytes(image.dataset) + b"\0\0"))
    assert other.arrival == Arrival.DIFFERENT
    assert other.path != first.path
    assert other.path.read_bytes().endswith(b"\0\0")
    assert first.path.read_bytes() == image.header + bytes(image.dataset)


def test_a_uid_never_becomes_a_path(spool: Spool, image: ReceivedObject) -> None:
    kept = spool.keep(replace(image, sop_uid="../../../etc/passwd"))
    assert kept.path.is_relative_to(spool.root / "objects")
    assert len(kept.path.stem) == 64


def test_a_full_disk_leaves_nothing_under_a_final_name(
    spool: Spool, image: ReceivedObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        spool.keep(image)
    assert list(spool.objects()) == []


def test_half_written_files_are_swept_at_a_start(spool: Spool, image: ReceivedObject) -> None:
    kept = spool.keep(image)
    (spool.root / "incoming" / "dead.part").write_bytes(b"half")
    assert Spool(spool.root).sweep() == 1
    assert list(spool.objects()) == [kept.path]


def test_two_associations_with_one_object_keep_one(spool: Spool, image: ReceivedObject) -> None:
    arrivals: list[Arrival] = []
    threads = [threading.Thread(target=lambda: arrivals.append(spool.keep(image).arrival)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(arrivals) == [Arrival.NEW] + [Arrival.SAME] * 7


def test_a_late_worker_never_replaces_what_another_one_published(spool: Spool) -> None:
    published = spool.keep_result("1.2.3", 1, "SR-0", b"published")
    late = spool.keep_result("1.2.3", 1, "SR-0", b"of a worker that was taken for dead")
    assert published.read_bytes() == b"published"
    assert late != published
    assert spool.keep_result("1.2.3", 1, "SR-0", b"published") == published
    assert sorted(published.parent.iterdir()) == sorted([published, late])
