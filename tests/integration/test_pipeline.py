"""The order of stages in one process: real spool, database, model process and PACS; only the clock is ours."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from safetensors.torch import load_file, save_file

from tests import ct
from tests.arrivals import received
from tests.site import Site
from triage_node import log
from triage_node.deliver.dicom import DicomDestination
from triage_node.domain import Prediction, Volume
from triage_node.infer.bundle import SETTINGS_FILE, WEIGHTS_FILE, Bundle, ensemble_sha256, find_bundle, load_bundle
from triage_node.infer.predict import Predictor
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.analyzing import analyze_next
from triage_node.pipeline.completing import complete_series
from triage_node.pipeline.delivering import deliver_next
from triage_node.store import board, outbox
from triage_node.testing import DemoPacs


@pytest.fixture(scope="module")
def model() -> Iterator[InferenceProcess]:
    with InferenceProcess(find_bundle("default"), timeout_s=120) as process:
        yield process


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[DemoPacs]:
    with DemoPacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, pacs: DemoPacs) -> Iterator[Site]:
    made = Site(tmp_path, pacs)
    yield made
    made.close()


def test_a_series_goes_all_the_way(site: Site, model: InferenceProcess) -> None:
    series_uid = site.receive()
    assert analyze_next(site.parts, model)
    assert not analyze_next(site.parts, model)
    result = site.result(series_uid)
    assert result["outcome"] == "ANALYZED"
    assert site.deliver() == len(result["objects"])
    assert {stored.sop_uid for stored in site.pacs.objects()} == {made["sop_uid"] for made in result["objects"]}
    (recent,) = board.status(site.parts.database, now=site.clock())["recent"]
    assert recent["state"] == "DELIVERED"


def test_an_enhanced_ct_goes_all_the_way_as_soon_as_its_association_is_released(
    site: Site, model: InferenceProcess
) -> None:
    image = ct.enhanced(ct.head())
    site.admission.admit(received(image))
    assert complete_series(site.parts) == 0
    site.admission.released("a1")
    assert complete_series(site.parts) == 1
    assert analyze_next(site.parts, model)
    result = site.result(str(image.SeriesInstanceUID))
    assert result["outcome"] == "ANALYZED"
    assert [part["frame_number"] for part in result["slices"]] == list(range(1, 21))
    assert {part["sop_uid"] for part in result["slices"]} == {image.SOPInstanceUID}
    assert site.deliver() == len(result["objects"]) > 0


def test_what_the_pacs_gets_is_what_was_persisted(site: Site, model: InferenceProcess) -> None:
    series_uid = site.receive()
    analyze_next(site.parts, model)
    site.deliver()
    persisted = {made["sop_uid"]: site.parts.spool.root / made["path"] for made in site.result(series_uid)["objects"]}
    for stored in site.pacs.objects():
        assert dcmread(stored.path) == dcmread(persisted[stored.sop_uid])


def test_a_late_slice_gives_a_second_report_that_names_the_first(site: Site, model: InferenceProcess) -> None:
    images = ct.head()
    for image in images[:-1]:
        site.admission.admit(received(image))
    site.clock.advance(20)
    complete_series(site.parts)
    analyze_next(site.parts, model)
    site.deliver()
    site.admission.admit(received(images[-1]))
    site.clock.advance(20)
    complete_series(site.parts)
    analyze_next(site.parts, model)
    site.deliver()
    reports = [dcmread(stored.path) for stored in site.pacs.objects() if stored.modality == "SR"]
    assert len(reports) == 2
    named = reports[1].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == reports[0].SOPInstanceUID


def test_a_prefetched_prior_raises_no_alarm(site: Site, model: InferenceProcess) -> None:
    site.clock.advance(48 * 3600)
    series_uid = site.receive()
    analyze_next(site.parts, model)
    site.clock.advance(3600)
    assert site.deliver() == 0
    assert site.result(series_uid)["reason"] == "PRIOR_STUDY"


def test_not_analysed_reaches_the_pacs_after_its_wait(site: Site, model: InferenceProcess) -> None:
    site.receive(0.0, 5.0, 10.0)
    analyze_next(site.parts, model)
    assert site.deliver() == 0
    site.clock.advance(61)
    assert site.deliver() == 2
    assert {stored.series_description for stored in site.pacs.objects()} == {"AI NONE: not analysed"}


def test_a_model_that_runs_over_its_time_ends_as_failed_with_a_notice(site: Site) -> None:
    series_uid = site.receive()
    with InferenceProcess(find_bundle("default"), timeout_s=0.001) as too_slow:
        analyze_next(site.parts, too_slow)
    result = site.result(series_uid)
    assert (result["outcome"], result["priority"]) == ("FAILED", "NONE")
    assert site.deliver() == 2
    assert {stored.series_description for stored in site.pacs.objects()} == {"AI NONE: analysis failed"}


def test_a_model_that_says_nan_ends_as_failed_and_never_as_routine(site: Site, tmp_path: Path) -> None:
    folder = broken_bundle(tmp_path / "nan", float("nan"))
    with InferenceProcess(folder, timeout_s=120) as broken:
        in_the_weights = site.receive()
        analyze_next(site.parts, broken)
    result = site.result(in_the_weights)
    assert (result["outcome"], result["priority"]) == ("FAILED", "NONE")
    assert set(result["probabilities"].values()) == {None}
    assert site.deliver() == 2
    assert {stored.series_description for stored in site.pacs.objects()} == {"AI NONE: analysis failed"}


def test_a_model_that_overflows_ends_as_failed_and_never_as_routine(site: Site, tmp_path: Path) -> None:
    series_uid = site.receive()
    analyze_next(site.parts, Predictor(broken_bundle(tmp_path / "overflow", 6e4), device="cpu"))
    assert site.result(series_uid)["outcome"] == "FAILED"


def test_what_a_bundle_does_not_say_is_null_all_the_way_to_the_result(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "silent"
    shutil.copytree(find_bundle("default"), folder)
    settings = (
        (folder / "bundle.toml").read_text().replace("mask = true", "mask = false").replace('"epidural", ', "", 1)
    )
    (folder / "bundle.toml").write_text(settings)
    series_uid = site.receive()
    analyze_next(site.parts, Predictor(folder, device="cpu"))
    result = site.result(series_uid)
    assert result["outcome"] == "ANALYZED"
    assert result["probabilities"]["epidural"] is None
    assert result["probabilities"]["subdural"] is not None
    assert set(result["volumes_ml"].values()) == {None}
    assert result["subdural_chronic"] is None
    assert {part["probabilities"]["epidural"] for part in result["slices"]} == {None}
    assert None not in {part["probabilities"]["any"] for part in result["slices"]}
    assert site.deliver() == len(result["objects"]) > 0


def broken_bundle(folder: Path, weight: float) -> Path:
    """The default bundle with every convolution weight replaced, and the hashes to match."""
    shutil.copytree(find_bundle("default"), folder)
    whole = load_bundle(folder)
    for one in whole.members or [whole]:
        weights = load_file(one.folder / WEIGHTS_FILE)
        broken = {key: torch.full_like(value, weight) if value.ndim == 4 else value for key, value in weights.items()}
        save_file(broken, one.folder / WEIGHTS_FILE)
        _say_hash(one, hashlib.sha256((one.folder / WEIGHTS_FILE).read_bytes()).hexdigest())
    if whole.members:
        _say_hash(whole, ensemble_sha256(load_bundle(one.folder) for one in whole.members))
    return folder


def _say_hash(bundle: Bundle, sha256: str) -> None:
    path = bundle.folder / SETTINGS_FILE
    path.write_text(path.read_text().replace(bundle.ref.sha256, sha256))


def test_a_series_whose_file_is_damaged_on_disk_ends_visibly(site: Site, model: InferenceProcess) -> None:
    series_uid = site.receive()
    for path in site.parts.spool.objects():
        path.write_bytes(b"damaged")
    analyze_next(site.parts, model)
    assert site.result(series_uid)["outcome"] in ("FAILED", "NOT_ANALYZED")


def test_a_full_pacs_is_tried_again_under_the_same_uids(tmp_path: Path, model: InferenceProcess) -> None:
    with DemoPacs(tmp_path / "pacs", statuses=[0xA700]) as pacs:
        site = Site(tmp_path, pacs)
        series_uid = site.receive()
        analyze_next(site.parts, model)
        assert site.deliver() > 0
        assert site.deliver() == 0  # waits for its backoff
        site.clock.advance(5)
        assert site.deliver() == 1
        made = {one["sop_uid"] for one in site.result(series_uid)["objects"]}
        assert {stored.sop_uid for stored in pacs.objects()} == made
        site.close()


def test_a_refused_object_is_a_dead_letter_until_retried(tmp_path: Path, model: InferenceProcess) -> None:
    with DemoPacs(tmp_path / "pacs", statuses=[0xA900]) as pacs:
        site = Site(tmp_path, pacs)
        site.receive()
        analyze_next(site.parts, model)
        site.deliver()
        (letter,) = board.status(site.parts.database, now=site.clock())["dead_letters"]
        assert letter["status"] == "0xA900"
        assert outbox.retry_dead(site.parts.database, destination="pacs", now=site.clock()) == 1
        assert site.deliver() == 1
        (recent,) = board.status(site.parts.database, now=site.clock())["recent"]
        assert recent["state"] == "DELIVERED"
        site.close()


def test_an_unreachable_pacs_keeps_results_waiting(site: Site, model: InferenceProcess) -> None:
    site.receive()
    analyze_next(site.parts, model)
    away = replace(site.config.destinations[0], port=1)
    tried = deliver_next(site.parts, DicomDestination(away, calling_ae="TRIAGE", timeout_s=2))
    assert tried > 0
    counts = board.status(site.parts.database, now=site.clock())["outbox"]["pacs"]
    assert counts == {"PENDING": tried}


def test_a_result_that_the_disk_refuses_is_made_again_and_costs_no_attempt(site: Site, model: InferenceProcess) -> None:
    series_uid = site.receive()
    in_the_way = site.parts.spool.root / "results" / log.ref(series_uid)
    in_the_way.write_bytes(b"a file where the folder of the series should be")
    for _ in range(site.parts.config.work.attempts + 1):
        assert analyze_next(site.parts, model)
        assert board.result_of(site.parts.database, series_uid) is None
        site.clock.advance(11)
    in_the_way.unlink()
    assert analyze_next(site.parts, model)
    assert site.result(series_uid)["outcome"] == "ANALYZED"


class Trickle:
    """A scanner that sends one image whenever the model is at work."""

    def __init__(self, site: Site, model: InferenceProcess, images: list[Dataset]) -> None:
        self._site, self._model, self._images = site, model, images

    def predict(self, volume: Volume) -> Prediction:
        """As the model does."""
        self._site.admit([self._images.pop(0)])
        return self._model.predict(volume)


def test_a_series_that_never_stops_growing_is_published_once_in_every_cap(
    tmp_path: Path, pacs: DemoPacs, model: InferenceProcess
) -> None:
    site = Site(tmp_path, pacs, cap_s=60)
    images = ct.head()
    for image in images[:15]:
        site.admit([image])
        site.clock.advance(5)
    assert complete_series(site.parts) == 1
    trickle = Trickle(site, model, images[15:])
    assert analyze_next(site.parts, trickle)
    series_uid = str(images[0].SeriesInstanceUID)
    assert len(site.result(series_uid)["slices"]) == 15
    assert complete_series(site.parts) == 0  # the image that came meanwhile waits for the next cap
    for image in images[16:19]:
        site.clock.advance(9)
        site.admit([image])
    assert complete_series(site.parts) == 0
    site.clock.advance(20)  # it stopped
    assert complete_series(site.parts) == 1
    assert analyze_next(site.parts, model)
    assert len(site.result(series_uid)["slices"]) == 19
    assert site.status()["recent"][0]["revision"] == 2
    site.close()


def test_a_late_slice_after_an_hour_waits_for_those_that_follow(site: Site, model: InferenceProcess) -> None:
    images = ct.head()
    site.admit(images[:-2])
    site.complete()
    analyze_next(site.parts, model)
    site.clock.advance(3600)
    site.admit(images[-2:-1])
    assert complete_series(site.parts) == 0
    site.admit(images[-1:])
    site.complete()
    assert analyze_next(site.parts, model)
    assert len(site.result(str(images[0].SeriesInstanceUID))["slices"]) == 20
    assert site.status()["recent"][0]["revision"] == 2
