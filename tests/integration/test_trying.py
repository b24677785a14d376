"""What is tried goes through the same stages as a study, after the studies, and comes into nothing of theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests import ct
from tests.site import Site
from triage_node.domain import CLASSES, Prediction, TrialKind, TrialState, Volume
from triage_node.errors import InferenceError
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.analysis import GUESSED, Predict
from triage_node.pipeline.retention import remove_old
from triage_node.pipeline.trying import try_next
from triage_node.service.work import _analyze_or_wait
from triage_node.store import trials
from triage_node.store.schema import instance, outbox, result, revision, series, study
from triage_node.testing import DemoPacs

ID = "0123456789abcdef" * 2
THEIRS = (instance, series, revision, result, outbox, study)


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


class Noting:
    """The model, which does something before its first volume, and notes how many slices each had."""

    def __init__(self, model: Predict, first: Callable[[], object] = lambda: None) -> None:
        self.seen: list[int] = []
        self._model, self._first = model, first

    def predict(self, volume: Volume) -> Prediction:
        if not self.seen:
            self._first()
        self.seen.append(len(volume.hu))
        return self._model.predict(volume)


def images_folder(site: Site) -> Path:
    folder = site.parts.spool.trial_folder(ID) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def give_series(site: Site, *slices: int) -> None:
    """A trial of series with so many slices."""
    for number, count in enumerate(slices):
        images = ct.head(np.arange(count) * 100 / count)
        study_uid, series_uid = generate_uid(), generate_uid()
        for image in images:
            image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, series_uid
            image.SOPInstanceUID = generate_uid()
        ct.save(images, images_folder(site) / str(number))
    add(site, TrialKind.SERIES, sum(slices))


def add(site: Site, kind: TrialKind, files: int = 1) -> None:
    told = {"files": files, "passed_over": 0, "size_bytes": 1}
    assert trials.add(site.parts.database, ID, user="ann", kind=kind, now=site.clock(), **told)


def ended(site: Site) -> trials.Trial:
    found = trials.get(site.parts.database, ID)
    assert found is not None
    return found


def results(site: Site) -> list[dict[str, object]]:
    return trials.result(site.parts.database, ID)


def their_rows(site: Site) -> int:
    with site.parts.database.reading() as connection:
        return sum(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in THEIRS)


def test_a_series_ends_as_a_study_would_and_enters_nothing_of_theirs(site: Site, model: InferenceProcess) -> None:
    site.clock.advance(timedelta(days=400).total_seconds())  # no study age: what is tried is as old as it is
    give_series(site, 20)
    assert try_next(site.parts, model)
    assert not try_next(site.parts, model)
    assert (ended(site).state, ended(site).detail) == (TrialState.DONE, None)
    (told,) = results(site)
    assert told["outcome"] == "ANALYZED"
    assert "objects" not in told
    view = site.parts.spool.trial_view(ID, 1)
    assert {path.name for path in view.iterdir()} >= {"picture.png", "ct.nii.gz", "about.json"}
    assert not images_folder_exists(site), "what was given is not kept longer than it is needed"
    assert their_rows(site) == 0
    assert not list(site.parts.spool.objects())
    assert not list((site.parts.spool.root / "results").iterdir())
    assert site.deliver() == 0
    assert site.pacs.objects() == []


def images_folder_exists(site: Site) -> bool:
    return (site.parts.spool.trial_folder(ID) / "images").exists()


def test_studies_go_first_also_those_that_come_between_two_series(site: Site, model: InferenceProcess) -> None:
    give_series(site, 18, 22)
    site.receive(*np.linspace(0, 100, 24))
    noting = Noting(model)
    assert _analyze_or_wait(site.parts, noting, threading.Event())  # type: ignore[arg-type]
    assert noting.seen == [24]
    assert ended(site).state is TrialState.WAITING

    def another_study() -> None:
        for image in (images := ct.head(np.linspace(0, 100, 26))):
            image.StudyInstanceUID = image.SeriesInstanceUID = "1.2.3.26"
            image.SOPInstanceUID = generate_uid()
        site.admit(images)
        site.complete()

    noting = Noting(model, another_study)
    assert _analyze_or_wait(site.parts, noting, threading.Event())  # type: ignore[arg-type]
    assert sorted((noting.seen[0], noting.seen[2])) == [18, 22]
    assert noting.seen[1] == 26
    assert ended(site).state is TrialState.DONE
    assert len(results(site)) == 2


def test_what_is_not_suitable_says_why_as_anywhere(site: Site, model: InferenceProcess) -> None:
    give_series(site, 20, 2)
    assert try_next(site.parts, model)
    assert {told["reason"] for told in results(site)} == {None, "TOO_FEW_SLICES"}


def test_a_picture_goes_through_inference_alone_and_its_volumes_are_unknown(
    site: Site, model: InferenceProcess
) -> None:
    grey = np.zeros((256, 256), np.uint8)
    rows, columns = np.mgrid[:256, :256]
    head = ((rows - 128) / 110) ** 2 + ((columns - 128) / 90) ** 2
    grey[head < 1], grey[head < 0.85] = 255, 110
    Image.fromarray(grey).save(images_folder(site) / "1.picture", "PNG")
    add(site, TrialKind.PICTURE)
    assert try_next(site.parts, model)
    (told,) = results(site)
    assert (told["outcome"], told["priority"], told["warnings"]) == ("ANALYZED", "NONE", [GUESSED])
    assert told["volumes_ml"] == told["volume_intervals_ml"] == dict.fromkeys(CLASSES)
    assert 0 <= told["probabilities"]["any"] <= 1  # type: ignore[index]
    view = site.parts.spool.trial_view(ID, 1)
    assert {path.name for path in view.iterdir()} == {"picture.png", "plain.png"}
    assert their_rows(site) == 0


def test_what_is_no_picture_after_all_is_said(site: Site, model: InferenceProcess) -> None:
    (images_folder(site) / "1.picture").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    add(site, TrialKind.PICTURE)
    assert try_next(site.parts, model)
    assert ended(site).detail == "The analysis failed: no readable PNG or JPEG picture."


def test_what_fails_in_one_series_is_said_of_it_and_the_others_go_on(site: Site, model: InferenceProcess) -> None:
    """The model breaks off, and of a series without a study not even a notice can be made."""
    give_series(site, 18, 20, 22)
    for path in (images_folder(site) / "2").iterdir():
        image = dcmread(path)
        del image.StudyInstanceUID
        image.save_as(path)

    class Breaking(Noting):
        def predict(self, volume: Volume) -> Prediction:
            if len(volume.hu) == 20:
                raise InferenceError("the model took too long")
            return super().predict(volume)

    assert try_next(site.parts, Breaking(model))
    assert ended(site).state is TrialState.DONE
    assert sorted(str(told["outcome"]) for told in results(site)) == ["ANALYZED", "FAILED", "FAILED"]
    assert their_rows(site) == 0


def test_a_worker_that_stops_gives_a_trial_back_between_its_series(site: Site, model: InferenceProcess) -> None:
    give_series(site, 18, 20)
    noting = Noting(model)
    for _ in range(3):  # never an attempt that counts
        assert try_next(site.parts, noting, stopping=lambda: len(noting.seen) == 1)
        assert ended(site).state is TrialState.WAITING
        noting.seen.clear()
    assert try_next(site.parts, noting)
    assert (ended(site).state, len(noting.seen)) == (TrialState.DONE, 2)


def test_what_was_tried_makes_room_before_any_study_does(site: Site, model: InferenceProcess) -> None:
    give_series(site, 18)
    assert try_next(site.parts, model)
    fuller = replace(site.parts.config, retention=replace(site.parts.config.retention, free_mb=10**9))
    remove_old(replace(site.parts, config=fuller))
    assert trials.ids(site.parts.database) == set()
    assert not site.parts.spool.trial_folder(ID).exists()


def test_a_trial_that_takes_two_workers_with_it_gets_no_third(site: Site, model: InferenceProcess) -> None:
    give_series(site, 20)
    for _ in range(2):
        assert trials.claim(site.parts.database, now=site.clock(), lease_s=60)
        assert not try_next(site.parts, model), "it is held"
        site.clock.advance(61)
    assert try_next(site.parts, model)
    assert (ended(site).state, ended(site).detail) == (TrialState.FAILED, "The analysis was interrupted too often.")


def test_a_trial_that_is_removed_while_it_runs_leaves_nothing(site: Site, model: InferenceProcess) -> None:
    give_series(site, 20)

    def remove() -> None:
        trials.remove(site.parts.database, ID)
        site.parts.spool.remove_trial(ID)

    assert try_next(site.parts, Noting(model, remove))
    assert trials.get(site.parts.database, ID) is None
    assert not site.parts.spool.trial_folder(ID).exists()
