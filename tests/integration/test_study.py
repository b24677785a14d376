"""A study of several series in one process: one is analysed, the others end visibly, the PACS hears of it once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests import ct
from tests.site import Site
from triage_node.domain import Prediction, Volume
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.analysis import analyze_folder
from triage_node.pipeline.analyzing import analyze_next
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
    broken = series_of(soft, ct.EVEN_MM + 2.5)
    for image in broken:
        image.SeriesInstanceUID = soft[0].SeriesInstanceUID
        image.PixelData = image.PixelData[:100]
    site.admit(broken)
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


# ---------------------------------------------------------------- notices


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
