"""What is removed from the disk, what never is, and what the ledger says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import BasicTextSRStorage

from tests import ct
from tests.site import Site
from triage_node import config
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.analyzing import analyze_next
from triage_node.pipeline.parts import Parts
from triage_node.pipeline.retention import remove_old
from triage_node.spool import Spool
from triage_node.store.receipts import Receipt, receipts
from triage_node.testing import DemoPacs

DAY_S = 86400


@pytest.fixture(scope="module")
def model() -> Iterator[InferenceProcess]:
    with InferenceProcess(find_bundle("default"), timeout_s=120) as process:
        yield process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with DemoPacs(tmp_path / "pacs") as pacs:
        made = Site(tmp_path, pacs)
        yield made
        made.close()


def deliver_a_series(site: Site, model: InferenceProcess) -> str:
    series_uid = site.receive()
    assert analyze_next(site.parts, model)
    site.deliver()
    return series_uid


def results_of(site: Site, series_uid: str) -> list[Path]:
    return [site.parts.spool.root / made["path"] for made in site.result(series_uid)["objects"]]


def stored(site: Site) -> int:
    return len(list(site.parts.spool.objects()))


def ledger(site: Site) -> list[Receipt]:
    return list(receipts(site.parts.database))


def test_images_of_a_delivered_series_go_after_their_time_and_the_ledger_stays(
    site: Site, model: InferenceProcess
) -> None:
    deliver_a_series(site, model)
    site.clock.advance(29 * DAY_S)
    remove_old(site.parts)
    assert stored(site) == 20
    site.clock.advance(2 * DAY_S)
    remove_old(site.parts)
    assert stored(site) == 0
    assert {(one.outcome, one.removed_at) for one in ledger(site)} == {("ANALYZED", site.clock())}
    assert len(ledger(site)) == 20


def test_what_is_in_flight_is_never_removed(site: Site, model: InferenceProcess) -> None:
    series_uid = site.receive()  # complete, not analysed
    site.clock.advance(400 * DAY_S)
    remove_old(site.parts)
    assert stored(site) == 20
    analyze_next(site.parts, model)  # reported, not delivered
    site.clock.now = site.NOW + timedelta(days=4000)  # results are as old as their files, which are of today
    remove_old(site.parts)
    assert stored(site) == 20
    assert all(path.exists() for path in results_of(site, series_uid))
    assert site.deliver() > 0
    remove_old(site.parts)
    assert stored(site) == 0
    assert not any(path.exists() for path in results_of(site, series_uid))


def test_a_dead_letter_keeps_the_images_of_its_series(tmp_path: Path, model: InferenceProcess) -> None:
    with DemoPacs(tmp_path / "pacs", statuses=[0xA900]) as pacs:
        site = Site(tmp_path, pacs)
        deliver_a_series(site, model)
        site.clock.advance(31 * DAY_S)
        remove_old(site.parts)
        assert stored(site) == 20
        site.close()


class FullDisk(Spool):
    """A spool on a disk that holds so many objects before it is nearly full."""

    holds = 0

    def free_mb(self) -> float:
        """10,000 MB less 1000 for each object beyond `holds`."""
        return 10_000.0 - 1000 * max(0, len(list(self.objects())) - self.holds)


def test_a_disk_that_runs_full_takes_the_oldest_series_and_only_as_many_as_it_needs(
    site: Site, model: InferenceProcess
) -> None:
    old_uid = deliver_a_series(site, model)
    site.clock.advance(2 * 3600)
    new_uid = deliver_a_series(site, model)
    site.clock.advance(2 * 3600)
    site.receive()  # in flight
    disk = FullDisk(site.parts.spool.root)
    disk.holds = 40
    settings = config.Retention(free_mb=9000)
    parts: Parts = replace(site.parts, spool=disk, config=replace(site.config, retention=settings))
    remove_old(parts)
    removed = {one.series_uid: one.removed_at is not None for one in ledger(site)}
    assert removed[old_uid]
    assert not removed[new_uid]
    assert stored(site) == 40


def test_other_objects_go_by_their_age(site: Site) -> None:
    report = ct.head()[0]
    report.SOPClassUID, report.Modality = BasicTextSRStorage, "SR"
    site.admit([report])
    site.clock.advance(31 * DAY_S)
    remove_old(site.parts)
    assert stored(site) == 0
    assert [one.outcome for one in ledger(site)] == ["IGNORED"]


def test_a_removal_that_was_killed_is_finished_by_the_next_pass(site: Site, model: InferenceProcess) -> None:
    deliver_a_series(site, model)
    site.clock.advance(31 * DAY_S)

    class Killed(BaseException):
        """As kill -9: nothing catches it."""

    def die(name: str) -> None:
        if name == "removal decided":
            raise Killed

    with pytest.raises(Killed):
        remove_old(replace(site.parts, step=die))
    assert stored(site) == 20
    remove_old(site.parts)
    assert stored(site) == 0


def test_images_that_come_again_after_their_removal_are_no_new_series(site: Site, model: InferenceProcess) -> None:
    images = ct.head()
    series_uid = site.admit(images)
    site.complete()
    analyze_next(site.parts, model)
    site.deliver()
    site.clock.advance(31 * DAY_S)
    remove_old(site.parts)
    site.admit(images)
    late = ct.head()[0]
    late.StudyInstanceUID, late.SeriesInstanceUID = images[0].StudyInstanceUID, series_uid
    site.admit([late])
    site.complete()
    assert not analyze_next(site.parts, model)
    assert [one.outcome for one in ledger(site)].count("LATE") == 1
    remove_old(site.parts)
    assert stored(site) == 0


def test_results_go_after_their_own_time(site: Site, model: InferenceProcess) -> None:
    series_uid = deliver_a_series(site, model)
    paths = results_of(site, series_uid)
    site.clock.now = datetime.now(UTC) + timedelta(days=300)
    remove_old(site.parts)
    assert all(path.exists() for path in paths)
    site.clock.advance(100 * DAY_S)
    remove_old(site.parts)
    assert not any(path.exists() for path in paths)
