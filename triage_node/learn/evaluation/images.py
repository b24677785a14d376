"""Pictures with labels: each is a series of one slice to the node."""

from __future__ import annotations

from collections.abc import Iterator

from triage_node.errors import TriageNodeError
from triage_node.infer.predict import Predictor
from triage_node.learn.evaluation.judgement import Failure, Judgement
from triage_node.learn.evaluation.labels import Label
from triage_node.picture import picture_volume, read_picture


def judge_pictures(predictor: Predictor, labels: list[Label]) -> Iterator[Judgement | Failure]:
    """One by one, in their order; a file that cannot be read is a Failure."""
    for label in labels:
        try:
            prediction = predictor.predict(picture_volume(read_picture(label.path)))
        except TriageNodeError as error:
            yield Failure(name=label.name, reason=str(error) if label.path.is_file() else "no such file")
        else:
            yield Judgement(name=label.name, scores=prediction.probabilities, labels=label.classes)
