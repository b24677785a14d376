"""What people try on the page for it, through the very same stages; a picture through inference alone.

Nothing of it is published: no row but that of the trial, no file but those of its folder, nothing is sent. Studies of
the PACS go first, between the series of a trial, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from triage_node import log
from triage_node.domain import TrialKind
from triage_node.errors import LeaseLost, TriageNodeError
from triage_node.pipeline.analysis import Analysis, Predict, analyze_picture
from triage_node.pipeline.analyzing import analyze_next
from triage_node.pipeline.files import analyze_files
from triage_node.pipeline.heartbeat import heartbeat, safe
from triage_node.pipeline.parts import Parts
from triage_node.store import claims, trials
from triage_node.store.trials import Claim

TRIES: Final = 2
"""A trial that took two workers with it does not get a third."""


def try_next(parts: Parts, predictor: Predict, *, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Claim one trial and take it to its end; returns whether there was one.

    What goes wrong is said on its page. A worker that is `stopping` gives it back between two series, one that dies by
    its lease.
    """
    if not trials.has_claimable(parts.database, now=parts.clock()):
        return False
    held = trials.claim(parts.database, now=parts.clock(), lease_s=parts.config.work.lease_s)
    if held is None:
        return False
    parts.step("trial claimed")
    try:
        with heartbeat(parts, partial(trials.heartbeat, parts.database, held), log.ref(held.id)):
            _run(parts, held, predictor, stopping)
        parts.spool.remove_trial_images(held.id)
    except _Stopped:
        trials.give_back(parts.database, held)
    except LeaseLost:
        log.event("a trial was removed or taken over, its result is dropped", trial=log.ref(held.id))
        if trials.get(parts.database, held.id) is None:
            parts.spool.remove_trial(held.id)  # what was written since
    return True


# ---------------------------------------------------------------- steps


class _Stopped(Exception):
    """The worker is to end."""


def _run(parts: Parts, held: Claim, predictor: Predict, stopping: Callable[[], bool]) -> None:
    if held.attempts > TRIES:
        _fail(parts, held, "The analysis was interrupted too often.")
        return
    try:
        if held.kind is TrialKind.PICTURE:
            results = _analyze_picture(parts, held, predictor)
        else:
            results = _analyze_series(parts, held, predictor, stopping)
    except (LeaseLost, _Stopped):
        raise
    except TriageNodeError as error:
        _fail(parts, held, f"The analysis failed: {error}.")
    except Exception as error:  # noqa: BLE001 - boundary of one trial: whatever goes wrong is said on its page
        _fail(parts, held, f"The analysis failed ({safe(error)}).")
    else:
        trials.finish(parts.database, held, results, now=parts.clock())
        log.event("tried", trial=log.ref(held.id), kind=held.kind.value, series=len(results))


def _analyze_series(
    parts: Parts, held: Claim, predictor: Predict, stopping: Callable[[], bool]
) -> list[dict[str, Any]]:
    def before(number: int, count: int) -> None:
        _let_studies_go_first(parts, held, predictor, stopping)
        trials.note_stage(parts.database, held, f"series {number} of {count}")

    # what is tried is as old as it is
    config = replace(parts.config, series=replace(parts.config.series, max_study_age_h=0.0))
    analyses = analyze_files(
        parts.spool.trial_folder(held.id) / "images",
        config=config,
        predictor=predictor,
        now=parts.clock().astimezone(),
        before=before,
        keep_going=True,
    )
    return [_looked_at(parts, held, number, analysis) for number, (_, analysis) in enumerate(analyses, start=1)]


def _analyze_picture(parts: Parts, held: Claim, predictor: Predict) -> list[dict[str, Any]]:
    trials.note_stage(parts.database, held, "the picture")
    (path,) = (parts.spool.trial_folder(held.id) / "images").iterdir()
    return [_looked_at(parts, held, 1, analyze_picture(path, predictor))]


def _let_studies_go_first(parts: Parts, held: Claim, predictor: Predict, stopping: Callable[[], bool]) -> None:
    while not stopping() and claims.has_claimable(parts.database, now=parts.clock()):
        trials.note_stage(parts.database, held, "a study from the PACS goes first")
        analyze_next(parts, predictor)
    if stopping():
        raise _Stopped


def _looked_at(parts: Parts, held: Claim, number: int, analysis: Analysis) -> dict[str, Any]:
    """The result of one series, its pictures kept."""
    if analysis.view is not None:
        try:
            parts.spool.keep_trial_view(held.id, number, analysis.view())
        except Exception as error:  # noqa: BLE001 - pictures are a help, not the result
            log.event("no pictures of a trial", trial=log.ref(held.id), error=safe(error))
    return analysis.result


def _fail(parts: Parts, held: Claim, said: str) -> None:
    log.event("a trial failed", trial=log.ref(held.id), attempt=held.attempts, because=said)
    trials.fail(parts.database, held, said, now=parts.clock())
