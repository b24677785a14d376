"""Try it: a series or a picture that somebody brings, run by the worker; nothing of it goes to the PACS."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from triage_node import log
from triage_node.domain import DISCLAIMER, Outcome, Priority, TrialKind, TrialState
from triage_node.store import trials
from triage_node.store.access import Visitor
from triage_node.store.trials import Trial
from triage_node.web import results, words
from triage_node.web.access import note, our_form, visitor
from triage_node.web.pages import page, site_of, wants_json
from triage_node.web.site import Site
from triage_node.web.upload import Allowance, Form, Kept, Refused, keep_usable, refuse_where_full

DRAINED_BYTES: Final = 16_000_000
"""So much of a refused form is still read, and forgotten: a browser that is cut off while it sends shows no answer."""
_URGENCY: Final = (
    Priority.STAT, Priority.HIGH, Outcome.FAILED, Priority.ROUTINE, Priority.NONE, Outcome.NOT_ANALYZED
)  # fmt: skip
"""Of the flags of series: what is unknown before what was found negative; NONE is that of a picture."""

router = APIRouter()

In = Annotated[Visitor, Depends(visitor)]
Ours = Annotated[Visitor, Depends(our_form)]


def trial_of(request: Request, trial_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")], who: In) -> Trial:
    """The trial, for who made it and for admins. HTTPException 404 for all others, as where there is none."""
    found = trials.get(site_of(request).database, trial_id)
    if found is None or (found.user != who.user and not who.may("admin")):
        raise HTTPException(404, "there is no such trial, or not any more")
    return found


Asked = Annotated[Trial, Depends(trial_of)]


@router.get("/try")
def try_page(request: Request, who: In) -> Response:
    """Where something is given, and what the visitor gave."""
    return _try_page(request, who)


@router.get("/try.json")
def try_json(request: Request, who: In) -> JSONResponse:
    """The visitor's trials."""
    return JSONResponse({"disclaimer": DISCLAIMER, "trials": _own(site_of(request), who)})


@router.post("/try")
@router.post("/try.json")
async def give(request: Request, who: In) -> Response:
    """Take what is sent; the form is read here and not by FastAPI, which would keep all of it first."""
    chunks = request.stream()
    try:
        trial_id = await _take(request, who, chunks)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    except Refused as refused:
        await _drain(chunks)
        if wants_json(request):
            return JSONResponse({"error": str(refused)}, status_code=refused.code)
        return await run_in_threadpool(_try_page, request, who, code=refused.code, said=str(refused))
    if wants_json(request):
        return JSONResponse({"id": trial_id, "path": f"/try/{trial_id}"}, status_code=201)
    return RedirectResponse(f"/try/{trial_id}", status_code=303)


@router.get("/try/{trial_id}.json")
def trial_json(request: Request, trial: Asked, who: In) -> JSONResponse:
    """How far it is and, in the end, the result.json of each series."""
    ended = trial.ended_at is not None
    if ended:  # before, nothing is told of the images: pages ask every second
        note(request, who, f"try {log.ref(trial.id)}")
    found = trials.result(site_of(request).database, trial.id)
    return JSONResponse({"disclaimer": DISCLAIMER, **_progress(site_of(request), trial), "results": found})


@router.get("/try/{trial_id}")
def trial_page(request: Request, trial: Asked, who: In, series: int = 0) -> Response:
    """How far it is; in the end each series as a study is shown, one at a time."""
    note(request, who, f"try {log.ref(trial.id)}")
    site = site_of(request)
    found = trials.result(site.database, trial.id)
    shown = [_series(number, result) for number, result in enumerate(found, start=1)]
    number = series if 1 <= series <= len(shown) else _most_urgent(shown)
    chosen = found[number - 1] if number else {}
    folder = site.spool.trial_view(trial.id, number)
    files = f"/try/{trial.id}/file/{number}"
    return page(
        request,
        "trial.html",
        who,
        trial=_progress(site, trial),
        kept_h=site.config.web.keep_trials_h,
        series=shown,
        number=number,
        chosen=shown[number - 1] if number else None,
        findings=results.findings(chosen),
        viewer=results.viewer(folder, files, chosen),
        picture=files if (folder / "plain.png").is_file() else None,
        bundle=chosen.get("bundle"),
        flags=words.FLAGS,
    )


@router.get("/try/{trial_id}/file/{number}/{name}")
def trial_file(request: Request, trial: Asked, number: int, name: str, who: In) -> Response:
    """A picture or a volume of one series."""
    answer = results.file(site_of(request).spool.trial_view(trial.id, number), name)
    note(request, who, f"try {log.ref(trial.id)}")
    return answer


@router.post("/try/{trial_id}/remove")
def remove(request: Request, trial: Asked, who: Ours) -> Response:
    """The row first: whoever runs it loses it, and what a crash leaves of the files is swept."""
    site = site_of(request)
    trials.remove(site.database, trial.id)
    site.spool.remove_trial(trial.id)
    note(request, who, f"try removed {log.ref(trial.id)}")
    return RedirectResponse("/try", status_code=303)


# ---------------------------------------------------------------- what is sent


async def _take(request: Request, who: Visitor, chunks: AsyncIterator[bytes]) -> str:
    """Read the form to its end and let a worker have it; returns the id. Nothing is left of what is refused."""
    site, trial_id = site_of(request), secrets.token_hex(16)
    _require_turn(await run_in_threadpool(trials.may_add, site.database, who.user))
    with _only_upload(request.app.state.uploading, who.user):
        return await _upload(request, who, trial_id, chunks)


@contextmanager
def _only_upload(uploading: set[str], user: str) -> Iterator[None]:
    """One at a time of each user: only whole trials are counted. The event loop has one thread, so no lock."""
    if user in uploading:
        raise Refused(429, "Another upload of yours is under way. Wait for its end.")
    uploading.add(user)
    try:
        yield
    finally:
        uploading.discard(user)


async def _upload(request: Request, who: Visitor, trial_id: str, chunks: AsyncIterator[bytes]) -> str:
    site = site_of(request)
    folder = site.spool.trial_folder(trial_id)
    form = Form(request.headers.get("content-type", ""), folder, csrf=who.csrf, allowance=_allowance(site))
    added = False
    try:
        async for chunk in chunks:
            await run_in_threadpool(form.take, chunk)
        await run_in_threadpool(form.end)
        kept = await run_in_threadpool(_keep, site, form, trial_id)
        added = await run_in_threadpool(_add, request, who, trial_id, kept)
        _require_turn(added)
    except OSError as error:
        refuse_where_full(error)
        raise
    finally:
        form.close()
        if not added:
            await run_in_threadpool(site.spool.remove_trial, trial_id)
    return trial_id


def _require_turn(is_ones_turn: bool) -> None:
    if not is_ones_turn:
        raise Refused(429, f"{trials.WAITING_AT_MOST} of your trials have not ended. Wait for one, or remove one.")


def _allowance(site: Site) -> Allowance:
    web, least_mb = site.config.web, max(site.config.node.min_free_mb, site.config.retention.free_mb)
    return Allowance(most_mb=web.try_mb, most_files=web.try_files, has_room=lambda: site.spool.free_mb() >= least_mb)


def _keep(site: Site, form: Form, trial_id: str) -> Kept:
    if not form.files:
        raise Refused(415, "No file was chosen.")
    return keep_usable(form.files, site.spool.trial_folder(trial_id) / "images", _allowance(site))


def _add(request: Request, who: Visitor, trial_id: str, kept: Kept) -> bool:
    site = site_of(request)
    if not trials.add(site.database, trial_id, user=who.user, now=site.clock(), **vars(kept)):
        return False
    note(request, who, f"try given {log.ref(trial_id)}")
    log.event("to be tried", trial=log.ref(trial_id), kind=kept.kind.value, files=kept.files)
    return True


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    left = DRAINED_BYTES
    with suppress(ClientDisconnect):
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                return


# ---------------------------------------------------------------- what is shown


def _try_page(request: Request, who: Visitor, *, code: int = 200, said: str = "") -> Response:
    site = site_of(request)
    return page(request, "try.html", who, code=code, said=said, web=site.config.web, trials=_own(site, who))


def _own(site: Site, who: Visitor) -> list[dict[str, Any]]:
    return [_progress(site, trial) for trial in trials.of_user(site.database, who.user)]


def _progress(site: Site, trial: Trial) -> dict[str, Any]:
    """What is said of a trial but for its result; plain values."""
    now = site.clock()
    until, keep = trial.ended_at or now, timedelta(hours=site.config.web.keep_trials_h)
    return {
        "id": trial.id,
        "kind": trial.kind,
        "made_at": trial.made_at.isoformat(),
        "ago": words.ago(trial.made_at, now),
        "kept_until": (trial.ended_at + keep).isoformat() if trial.ended_at else None,
        "what": _what(trial),
        "state": trial.state,
        "ended": trial.ended_at is not None,
        "said": _said(site, trial),
        "elapsed": words.ago(trial.started_at, until) if trial.started_at else "",
    }


def _what(trial: Trial) -> str:
    """Such as: 32 CT images, 17 MB (3 other files passed over)."""
    megabytes = f"{trial.size_bytes / 1e6:.0f} MB" if trial.size_bytes >= 1e6 else "less than 1 MB"
    images = "1 CT image" if trial.files == 1 else f"{trial.files} CT images"
    what = f"{'One picture' if trial.kind is TrialKind.PICTURE else images}, {megabytes}"
    if not trial.passed_over:
        return what
    wanted = "picture" if trial.kind is TrialKind.PICTURE else "CT image"
    others = f"1 file was no {wanted}" if trial.passed_over == 1 else f"{trial.passed_over} files were no {wanted}s"
    return f"{what} ({others})"


def _said(site: Site, trial: Trial) -> str:
    """How far it is, or how it ended."""
    if trial.state is TrialState.WAITING:
        ahead = trials.ahead(site.database, trial)
        return f"waiting behind {ahead} other{'' if ahead == 1 else 's'}" if ahead else "waiting for a worker"
    return trial.stage or trial.detail or trial.state.lower()


def _series(number: int, result: dict[str, Any]) -> dict[str, Any]:
    """One series of a result, or the picture."""
    outcome, priority, detail = result["outcome"], result["priority"], result["detail"]
    analyzed = outcome == Outcome.ANALYZED
    if analyzed and priority == Priority.NONE:  # a picture: no rule, no volume, no side
        finding = words.sentence(detail)
    else:
        finding = words.ended(outcome, result["reason"], detail, priority, result)
    return {
        "number": number,
        "priority": priority,
        "flag": priority if analyzed else outcome,
        "finding": finding,
        "detail": detail if outcome == Outcome.NOT_ANALYZED else "",
        "images": len(result["slices"]),
        "warnings": result["warnings"],
    }


def _most_urgent(shown: list[dict[str, Any]]) -> int:
    """Number of the series that is shown first; 0 for none."""
    order = sorted(shown, key=lambda each: _URGENCY.index(each["flag"]))
    return int(order[0]["number"]) if order else 0
