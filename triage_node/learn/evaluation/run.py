"""One evaluation from beginning to end: `triage-node evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tqdm import tqdm

from triage_node.errors import InferenceError, UsageError
from triage_node.infer.bundle import find_bundle
from triage_node.infer.predict import Predictor
from triage_node.learn.data import LAYOUTS
from triage_node.learn.data.shards import iterate_layout
from triage_node.learn.evaluation.heads import Case, iterate_simulated, judge_head
from triage_node.learn.evaluation.images import judge_pictures
from triage_node.learn.evaluation.judgement import Failure, Judgement
from triage_node.learn.evaluation.labels import Label, read_labels
from triage_node.learn.evaluation.report import summarize
from triage_node.learn.evaluation.shards import iterate_shards
from triage_node.learn.evaluation.volumes import find_series, meaning_of, parse_mask_labels, read_case

KINDS = ("images", "volumes", "simulated", "shards", *(name for name in LAYOUTS if name != "volumes"))
"""Beside our own: the layouts of published data sets (docs/data-sets.md)."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to evaluate on what."""

    kind: str
    """One of KINDS."""
    root: Path
    labels: Path | None = None
    bundle: str = "default"
    device: str = "auto"
    prevalence: float = 0.1
    mask_labels: str | None = None
    heads: int = 40


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures, and what they are of."""

    report: dict[str, Any]
    """The JSON of `triage-node evaluate`; described in docs/evaluation.md."""
    judgements: Sequence[Judgement]


def evaluate(question: Question) -> Evaluation:
    """Judge every case; progress goes to stderr. UsageError where labels are wrong or nothing could be read."""
    if not 0 < question.prevalence < 1:
        raise UsageError("the prevalence lies between 0 and 1")
    if question.heads < 1:
        raise UsageError("at least one head is needed; give --heads a number from 1 on")
    labels = _labels(question)
    predictor = Predictor(find_bundle(question.bundle), question.device)
    answers = list(_answers(question, labels, predictor))
    judgements = [answer for answer in answers if isinstance(answer, Judgement)]
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    if not judgements:
        raise UsageError(f"{question.root}: nothing could be read; the first: {failures[0].name}: {failures[0].reason}")
    report = {
        "bundle": asdict(predictor.bundle.ref),
        "dataset": {"kind": question.kind, "judged": len(judgements), "failed": len(failures)},
        **summarize(judgements, failures, prevalence=question.prevalence),
    }
    return Evaluation(report=report, judgements=judgements)


def require_writable(*, folder: Path | None, file: Path | None) -> None:
    """Make the folder, and see that the file can be written, which is left as it is: before the run, not after it.

    UsageError where one cannot be written.
    """
    for path, attempt in ((folder, _attempt_folder), (file, _attempt_file)):
        try:
            if path is not None:
                attempt(path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror}); name another place") from error


def _attempt_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=folder).close()


def _attempt_file(file: Path) -> None:
    is_new = not file.exists()
    file.open("a").close()
    if is_new:
        file.unlink()


def _labels(question: Question) -> list[Label]:
    if question.kind == "images" and question.labels is None:
        raise UsageError("pictures need --labels, a CSV file with the columns file and any")
    return read_labels(question.labels, question.root) if question.labels else []


def _answers(question: Question, labels: list[Label], predictor: Predictor) -> Iterator[Judgement | Failure]:
    if question.kind == "images":
        yield from tqdm(judge_pictures(predictor, labels), total=len(labels), desc="pictures", unit="picture")
        return
    for case in _cases(question, labels):
        yield _judged(predictor, case) if isinstance(case, Case) else case


def _judged(predictor: Predictor, case: Case) -> Judgement | Failure:
    try:
        return judge_head(predictor.predict(case.volume), case)
    except InferenceError as error:
        return Failure(name=case.name, reason=str(error))


def _cases(question: Question, labels: list[Label]) -> Iterator[Case | Failure]:
    if question.kind == "simulated":
        yield from iterate_simulated(question.root, count=question.heads)
        return
    if question.kind == "shards":
        yield from iterate_shards(question.root)
        return
    if question.kind in LAYOUTS and question.kind != "volumes":
        yield from iterate_layout(question.kind, question.root)
        return
    found = find_series(question.root)
    meaning = parse_mask_labels(question.mask_labels) if question.mask_labels else meaning_of(found)
    for series in tqdm(found, desc="volumes", unit="series"):
        yield read_case(series, labels, meaning)
