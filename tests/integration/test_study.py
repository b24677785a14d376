"""A study of several series in one process: one is analysed, the others end visibly, the PACS hears of it once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests import ct
from tests.site import Site
from triage_node import config
from triage_node.domain import Prediction, Volume
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.analyzing import analyze_next
from triage_node.pipeline.files import analyze_folder
from triage_node.pipeline.retention import remove_old
from triage_node.pipeline.study import _sketch
from triage_node.testing import DemoPacs


@pytest.fixture(scope="module")
def model() -> Iterator[InferenceProcess]:
    with InferenceProcess(find_bundle("default"), timeout_s=120) as process:
        yield process


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with DemoPacs(tmp_path / "pacs") as pacs:
        made = Site(tmp_path, pacs, primary_wait_s=30)
        yield made
        made.close()


def series_of(first: list[Dataset], depths_mm: object = ct.EVEN_MM, **elements: object) -> list[Dataset]:
    """Another reconstruction of the acquisition that `first` shows."""
    images = ct.head(np.asarray(depths_mm, dtype=float))
    for image in images:
        image.StudyInstanceUID, image.FrameOfReferenceUID = first[0].StudyInstanceUID, first[0].FrameOfReferenceUID
        for keyword, value in elements.items():
            setattr(image, keyword, value)
    return images


def thin(first: list[Dataset]) -> list[Dataset]:
    return series_of(first, np.arange(80) * 1.25 - 47.5)


def ended(site: Site, series_uid: str) -> tuple[str, str | None]:
    result = site.result(series_uid)
    return result["outcome"], result["reason"]


def analyze_all(site: Site, model: InferenceProcess) -> None:
    for _ in range(20):
        if not analyze_next(site.parts, model):
            return
        site.clock.advance(1)
    raise AssertionError("series keep being given back")


def test_of_a_whole_study_one_series_is_analysed_and_the_pacs_hears_nothing_else(
    site: Site, model: InferenceProcess
) -> None:
    soft = ct.head()
    uids = {
        "scout": site.admit(series_of(soft, [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        "thin": site.admit(thin(soft)),
        "bone": site.admit(series_of(soft, ConvolutionKernel="BONE")),
        "soft": site.admit(soft),
    }
    site.complete()
    analyze_all(site, model)
    assert {name: ended(site, uid) for name, uid in uids.items()} == {
        "scout": ("NOT_ANALYZED", "LOCALIZER"),
        "thin": ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION"),
        "bone": ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION"),
        "soft": ("ANALYZED", None),
    }
    site.clock.advance(3600)
    site.deliver()
    sent = {stored.sop_uid for stored in site.pacs.objects()}
    assert sent == {made["sop_uid"] for made in site.result(uids["soft"])["objects"]}


def test_a_complete_series_waits_a_while_for_a_better_one_that_comes_in(site: Site, model: InferenceProcess) -> None:
    soft = ct.head()
    thin_uid = site.admit(thin(soft))
    site.complete()
    soft_uid = site.admit(soft[:10])
    assert analyze_next(site.parts, model)  # looked at, and given back
    assert not analyze_next(site.parts, model)
    site.clock.advance(1)
    site.admit(soft[10:])
    site.complete()
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("ANALYZED", None)
    assert ended(site, thin_uid) == ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION")


def test_the_wait_for_a_better_series_ends(site: Site, model: InferenceProcess) -> None:
    soft = ct.head()
    thin_uid = site.admit(thin(soft))
    site.complete()
    site.clock.advance(31)
    soft_uid = site.admit(soft)  # still coming in
    analyze_all(site, model)
    assert ended(site, thin_uid) == ("ANALYZED", None)
    site.complete()
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION")


def test_where_the_better_series_cannot_be_analysed_the_other_one_is(site: Site, model: InferenceProcess) -> None:
    soft = ct.head()
    for image in soft:
        del image.RescaleIntercept
    soft_uid, thin_uid = site.admit(soft), site.admit(thin(soft))
    site.complete()
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("NOT_ANALYZED", "NO_RESCALE")
    assert ended(site, thin_uid) == ("ANALYZED", None)


def test_where_a_late_image_takes_the_analysis_away_the_duplicate_is_analysed(
    site: Site, model: InferenceProcess
) -> None:
    soft = ct.head()
    soft_uid, thin_uid = site.admit(soft), site.admit(thin(soft))
    site.complete()
    analyze_all(site, model)
    assert ended(site, thin_uid) == ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION")
    site.deliver()
    site.admit(broken_slices(soft))
    site.complete()
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("NOT_ANALYZED", "UNREADABLE")
    assert ended(site, thin_uid) == ("ANALYZED", None)
    site.deliver()  # the withdrawal does not wait, and the new analysis does not silence it
    stored = site.pacs.objects()
    assert "AI NONE: not analysed" in {one.series_description for one in stored}
    assert {made["sop_uid"] for made in site.result(thin_uid)["objects"]} <= {one.sop_uid for one in stored}


class Together:
    """Two workers that both hold a prediction before either may publish."""

    def __init__(self, model: InferenceProcess) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._both = threading.Barrier(2, timeout=60)
        self._met = False
        self.begun = threading.Event()

    def predict(self, volume: Volume) -> Prediction:
        """As the model does; the first two predictions end together."""
        self.begun.set()
        with self._lock:
            prediction = self._model.predict(volume)
        if not self._met:
            self._both.wait()
            self._met = True
        return prediction


def test_two_workers_on_one_acquisition_publish_one_result(tmp_path: Path, model: InferenceProcess) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        site = Site(tmp_path, pacs, primary_wait_s=0)
        soft = ct.head()
        thin_uid = site.admit(thin(soft))
        site.complete()
        soft_uid = site.admit(soft)  # still coming in when the thin one is claimed
        together = Together(model)
        first = threading.Thread(target=analyze_next, args=(site.parts, together))
        first.start()
        assert together.begun.wait(60)
        site.complete()
        analyze_next(site.parts, together)
        first.join()
        analyze_all(site, model)
        outcomes = sorted([ended(site, thin_uid), ended(site, soft_uid)])
        assert outcomes == [("ANALYZED", None), ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION")]
        site.close()


def test_the_same_choice_is_made_on_files(tmp_path: Path, model: InferenceProcess) -> None:
    soft = ct.head()
    site_config = Site.settings()
    for name, images in {"a": thin(soft), "b": soft}.items():
        ct.save(images, tmp_path / "in" / name)
    results = analyze_folder(tmp_path / "in", tmp_path / "out", config=site_config, predictor=model, now=Site.NOW)
    reasons = {result["series_uid"]: result["reason"] for result in results}
    assert reasons[str(soft[0].SeriesInstanceUID)] is None
    assert list(reasons.values()).count("DUPLICATE_RECONSTRUCTION") == 1


def test_a_duplicate_is_looked_at_again_when_the_analysed_series_loses_its_analysis_meanwhile(
    site: Site, model: InferenceProcess
) -> None:
    soft = ct.head()
    thin_images = thin(soft)
    soft_uid, thin_uid = site.admit(soft), site.admit(thin_images[:-1])
    site.complete()
    analyze_all(site, model)
    site.admit(thin_images[-1:])
    site.clock.advance(1)
    site.admit(broken_slices(soft))
    site.complete()
    reached: list[str] = []

    def step(name: str) -> None:
        if name == "analyzed" and not reached:  # one worker holds the duplicate, another one ends the soft series
            reached.append(name)
            assert analyze_next(site.parts, model)

    assert analyze_next(replace(site.parts, step=step), model)
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("NOT_ANALYZED", "UNREADABLE")
    assert ended(site, thin_uid) == ("ANALYZED", None)


def test_a_series_that_could_be_analysed_again_is_a_duplicate_of_the_one_that_took_its_place(
    site: Site, model: InferenceProcess
) -> None:
    soft = ct.head()
    soft_uid, thin_uid = site.admit(soft[:18]), site.admit(thin(soft)[:76])
    site.complete()
    analyze_all(site, model)
    site.deliver()
    site.admit(soft[18:19])
    site.complete()
    assert analyze_next(site.parts, Broken())
    analyze_all(site, model)
    assert [ended(site, uid)[0] for uid in (soft_uid, thin_uid)] == ["FAILED", "ANALYZED"]
    site.admit(soft[19:])
    site.complete()
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION")
    site.deliver()
    said = {stored.series_description for stored in site.pacs.objects()}
    assert "AI NONE: analysis failed" in said  # what withdraws the first result is not lost with it


class Broken:
    """A model that cannot."""

    def predict(self, volume: Volume) -> Prediction:
        """Raises."""
        raise RuntimeError


def test_series_of_two_patients_in_one_folder_are_no_duplicates(tmp_path: Path, model: InferenceProcess) -> None:
    for name in "ab":
        images = ct.head()
        for image in images:
            image.FrameOfReferenceUID = "1.2.3"  # a dummy, as anonymizers put it
        ct.save(images, tmp_path / "in" / name)
    results = analyze_folder(tmp_path / "in", tmp_path / "out", config=Site.settings(), predictor=model, now=Site.NOW)
    assert [result["outcome"] for result in results] == ["ANALYZED", "ANALYZED"]


def test_a_scout_inside_a_series_does_not_shorten_its_sketch(site: Site) -> None:
    images = ct.head()
    series_uid = site.admit(images)
    alone = _sketch(site.parts, series_uid)
    scout = series_of(images, [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=series_uid)
    for image in scout:
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [-200, -250, 200]
    site.admit(scout)
    with_scout = _sketch(site.parts, series_uid)
    assert alone is not None
    assert with_scout is not None
    assert with_scout.span_mm == alone.span_mm


def broken_slices(of: list[Dataset]) -> list[Dataset]:
    """A late image of the series that cannot be decoded."""
    images = series_of(of, ct.EVEN_MM[:1] + 2.5, SeriesInstanceUID=of[0].SeriesInstanceUID)
    for image in images:
        image.PixelData = image.PixelData[:100]
    return images


# ---------------------------------------------------------------- notices


def test_a_withdrawal_waits_for_no_other_series_of_the_study(site: Site, model: InferenceProcess) -> None:
    soft = ct.head()
    site.admit(soft)
    site.admit(thin(soft))
    site.complete()
    analyze_all(site, model)
    site.deliver()
    site.admit(broken_slices(soft))
    site.complete()
    assert analyze_next(site.parts, model)  # and the duplicate, open again, waits for a worker
    assert site.deliver() == 2


def test_a_duplicate_whose_images_are_removed_is_not_opened_again(site: Site, model: InferenceProcess) -> None:
    soft = ct.head()
    soft_uid, thin_uid = site.admit(soft), site.admit(thin(soft))
    site.complete()
    analyze_all(site, model)  # the result waits for its destination; the duplicate has nothing to wait for
    site.clock.advance(2 * 3600)
    remove_old(replace(site.parts, config=replace(site.config, retention=config.Retention(free_mb=10**9))))
    site.admit(broken_slices(soft))
    site.complete()
    analyze_all(site, model)
    assert ended(site, soft_uid) == ("NOT_ANALYZED", "UNREADABLE")
    assert ended(site, thin_uid) == ("NOT_ANALYZED", "DUPLICATE_RECONSTRUCTION")


def test_a_notice_that_was_silenced_silences_no_other(site: Site, model: InferenceProcess) -> None:
    bone = series_of(ct.head(), ConvolutionKernel="BONE", FrameOfReferenceUID="1.2.78")
    no_head = series_of(bone, np.arange(20) * 5.0 + 300, FrameOfReferenceUID="1.2.77")
    site.admit(no_head[:2])
    site.admit(bone)
    site.complete()
    analyze_all(site, model)  # too few slices: more telling than bone only
    site.admit(no_head[2:])
    site.complete()
    analyze_all(site, model)  # now not a head: less telling
    site.clock.advance(3600)
    assert site.deliver() == 2


def test_a_failed_series_does_not_pull_the_notice_of_another_one_forward(site: Site) -> None:
    soft = ct.head()
    scout = site.admit(series_of(soft, [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    site.complete()
    assert analyze_next(site.parts, Broken())
    assert ended(site, scout) == ("NOT_ANALYZED", "LOCALIZER")
    site.admit(soft)
    site.complete()
    assert analyze_next(site.parts, Broken())
    assert site.deliver() == 2
    assert {stored.series_description for stored in site.pacs.objects()} == {"AI NONE: analysis failed"}


def test_a_new_scan_in_the_study_of_a_prior_is_heard(site: Site, model: InferenceProcess) -> None:
    site.clock.advance(48 * 3600)
    prior = ct.head()
    new = series_of(prior, FrameOfReferenceUID="1.2.79", AcquisitionDate="20260303", AcquisitionTime="115000")
    for image in new:
        del image.RescaleIntercept
    site.admit(prior)
    site.admit(new)
    site.complete()
    analyze_all(site, model)
    site.clock.advance(3600)
    assert site.deliver() == 2


def test_a_study_of_which_nothing_can_be_analysed_gets_one_notice_the_most_telling(
    site: Site, model: InferenceProcess
) -> None:
    broken = ct.head()
    for image in broken:
        del image.RescaleIntercept
    site.admit(series_of(broken, [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    told_uid = site.admit(broken)
    site.admit(series_of(broken, ct.EVEN_MM + 400, BodyPartExamined="CHEST", FrameOfReferenceUID="1.2.9"))
    site.complete()
    analyze_all(site, model)
    site.clock.advance(61)
    site.deliver()
    sent = {stored.sop_uid for stored in site.pacs.objects()}
    assert sent == {made["sop_uid"] for made in site.result(told_uid)["objects"]}


def test_a_notice_waits_as_long_as_another_series_of_the_study_is_not_ended(
    site: Site, model: InferenceProcess
) -> None:
    soft = ct.head()
    site.admit(series_of(soft, [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    site.complete()
    analyze_all(site, model)
    soft_uid = site.admit(soft)
    site.clock.advance(3600)  # the worker has a backlog
    assert site.deliver() == 0
    site.complete()
    analyze_all(site, model)
    site.deliver()
    assert {s.sop_uid for s in site.pacs.objects()} == {made["sop_uid"] for made in site.result(soft_uid)["objects"]}


def test_a_prior_raises_no_alarm_by_its_scout_without_a_date(site: Site, model: InferenceProcess) -> None:
    site.clock.advance(48 * 3600)
    prior = ct.head()
    site.admit(prior)
    site.admit(series_of(prior, [0.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], StudyDate="", StudyTime=""))
    site.complete()
    analyze_all(site, model)
    site.clock.advance(3600)
    assert site.deliver() == 0
