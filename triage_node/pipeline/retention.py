"""Remove what is old, or the oldest where the disk runs full. Never what is in flight; the ledger stays."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from triage_node import log
from triage_node.pipeline.parts import Parts
from triage_node.store import requested, retention, trials

SERIES_A_PASS: Final = 200
LOOSE_A_PASS: Final = 2000
UNDER_PRESSURE: Final = timedelta(hours=1)
"""Younger images stay even then: their study is being read."""
UPLOAD_AT_MOST: Final = timedelta(hours=1)
"""Nothing was written for so long: this upload does not go on."""


def remove_old(parts: Parts) -> None:
    """One pass: finish what a crash left, then what is too old, then as much as the disk needs."""
    _remove_decided(parts)
    _remove_trials(parts)
    settings = parts.config.retention
    if settings.images_days:
        before = parts.clock() - timedelta(days=settings.images_days)
        _remove(parts, before, series=SERIES_A_PASS)
    if settings.results_days:
        before = parts.clock() - timedelta(days=settings.results_days)
        parts.spool.remove_results(older_than=before, keep=retention.unfinished(parts.database))
        parts.spool.remove_quarantined(older_than=before)
        requested.remove_older(parts.database, before)
    if parts.spool.free_mb() < settings.free_mb:
        _make_room(parts)


def _remove_trials(parts: Parts) -> None:
    """What ended long ago; and what an upload or a removal left that a crash cut short.

    What waits for so long that no worker can be there ends first: whoever gave it shall read why.
    """
    before = parts.clock() - timedelta(hours=parts.config.web.keep_trials_h)
    given_up = trials.give_up(parts.database, before, now=parts.clock())
    old = trials.older(parts.database, before)
    for trial_id in old:
        _remove_trial(parts, trial_id)
    for trial_id in trials.ended(parts.database):
        parts.spool.remove_trial_images(trial_id)
    lost = parts.spool.sweep_trials(keep=trials.ids(parts.database), older_than=parts.clock() - UPLOAD_AT_MOST)
    if given_up:
        log.event("no worker took what was given to try", trials=given_up)
    if old or lost:
        log.event("trials removed", old=len(old), without_a_row=lost)


def _remove_trial(parts: Parts, trial_id: str) -> None:
    trials.remove(parts.database, trial_id)
    parts.spool.remove_trial(trial_id)


def _make_room(parts: Parts) -> None:
    for trial_id in trials.ended(parts.database):  # before any study
        if parts.spool.free_mb() >= parts.config.retention.free_mb:
            return
        _remove_trial(parts, trial_id)
    before = parts.clock() - UNDER_PRESSURE
    while parts.spool.free_mb() < parts.config.retention.free_mb:
        if not _remove(parts, before, series=1):  # as much as is needed, and no more
            log.event(
                "the disk is nearly full and nothing more may be removed",
                free_mb=round(parts.spool.free_mb()),
                advice="images that are in flight stay; give node.data_dir more room",
            )
            return


def _remove(parts: Parts, before: datetime, *, series: int) -> int:
    """Objects that no analysis needs, then series; returns how many of both."""
    loose = retention.loose_objects(parts.database, before=before, limit=LOOSE_A_PASS)
    _remove_files(parts, loose, series_uid=None)
    decided = retention.decide_removal(parts.database, before=before, now=parts.clock(), limit=series)
    parts.step("removal decided")
    _remove_decided(parts)
    if loose or decided:
        log.event("removed from the disk", series=decided, other_objects=len(loose))
    return len(loose) + decided


def _remove_decided(parts: Parts) -> None:
    for series_uid in retention.to_remove(parts.database):
        _remove_files(parts, retention.images(parts.database, series_uid), series_uid=series_uid)


def _remove_files(parts: Parts, sop_uids: list[str], *, series_uid: str | None) -> None:
    for sop_uid in sop_uids:
        parts.spool.remove(sop_uid)
    if series_uid:
        parts.spool.remove_view(series_uid)
    parts.step("files removed")
    if sop_uids or series_uid:
        retention.note_removed(parts.database, sop_uids, series_uid=series_uid, now=parts.clock())
