"""What the administrator looks at: processes, queue, disk, destinations, dead letters, refused callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, RedirectResponse

from triage_node import log
from triage_node.config import AnyDestination, Config, Destination
from triage_node.domain import DISCLAIMER
from triage_node.store import board, outbox, refusals
from triage_node.store import system as store
from triage_node.store.access import Visitor
from triage_node.store.system import Traffic
from triage_node.web import words
from triage_node.web.access import at_least, note, our_form, visitor
from triage_node.web.pages import page, site_of
from triage_node.web.site import Site

OUTCOMES_OF: Final = timedelta(hours=24)
_KINDS: Final = {
    "listen": "No listener runs: no image is received.",
    "work": "No worker runs: series wait and are not analysed.",
    "deliver": "No sender runs: series are not completed, and no result is sent.",
}
"""The processes that images and results pass through, and what it means that one is missing."""

router = APIRouter(dependencies=[Depends(at_least("admin"))])

In = Annotated[Visitor, Depends(visitor)]
Ours = Annotated[Visitor, Depends(our_form)]


@router.get("/system")
def system_page(
    request: Request,
    who: In,
    again: Annotated[int | None, Query(ge=0)] = None,
    gone: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """The page; `again` dead letters were sent again just now, or `gone` were given up."""
    return page(request, "system.html", who, again=again, gone=gone, ago=words.ago, **_content(site_of(request)))


@router.get("/system/parts")
def fresh_parts(request: Request, who: In) -> Response:
    """What changes of the page."""
    return page(request, "system_parts.html", who, ago=words.ago, **_content(site_of(request)))


@router.get("/system.json")
def system_json(request: Request) -> JSONResponse:
    """The same for a program."""
    return JSONResponse(jsonable_encoder({"disclaimer": DISCLAIMER, **_content(site_of(request))}))


@router.post("/system/again")
def send_all_again(request: Request, who: Ours) -> Response:
    """Every dead letter gets another try, but for those whose destination left the configuration."""
    site = site_of(request)
    note(request, who, "send again: all")
    names = [destination.name for destination in site.config.destinations]
    return _sent_again(sum(outbox.retry_dead(site.database, destination=name, now=site.clock()) for name in names))


@router.post("/system/again/destination/{name}")
def send_to_destination_again(request: Request, who: Ours, name: str) -> Response:
    """Those of one destination."""
    site = site_of(request)
    if name not in {destination.name for destination in site.config.destinations}:
        raise HTTPException(404, "there is no such destination in the configuration")
    note(request, who, "send again: destination")
    return _sent_again(outbox.retry_dead(site.database, destination=name, now=site.clock()), name)


@router.post("/system/again/letter/{letter_id}")
def send_letter_again(request: Request, who: Ours, letter_id: int) -> Response:
    """One of them."""
    site = site_of(request)
    letter = next((each for each in store.letters(site.database) if each.id == letter_id), None)
    if letter is None:
        raise HTTPException(404, "this dead letter is not there any more")
    if letter.destination not in {destination.name for destination in site.config.destinations}:
        raise HTTPException(404, "its destination is not in the configuration")
    note(request, who, "send again: one", letter.study_id)
    return _sent_again(outbox.retry_dead(site.database, ids=[letter_id], now=site.clock()), letter.destination)


@router.post("/system/give-up/letter/{letter_id}")
def give_letter_up(request: Request, who: Ours, letter_id: int) -> Response:
    """One of them is never sent: nobody can mend its cause, or its destination is gone."""
    site = site_of(request)
    letter = next((each for each in store.letters(site.database) if each.id == letter_id), None)
    if letter is None:
        raise HTTPException(404, "this dead letter is not there any more")
    note(request, who, "give up", letter.study_id)
    count = outbox.give_up(site.database, ids=[letter_id], now=site.clock())
    log.event("dead letters given up", count=count, destination=letter.destination)
    return RedirectResponse(f"/system?gone={count}#letters", status_code=303)


# ---------------------------------------------------------------- steps


def _sent_again(count: int, destination: str = "") -> Response:
    log.event("dead letters will be sent again", count=count, destination=destination or None)
    return RedirectResponse(f"/system?again={count}#letters", status_code=303)


def _content(site: Site) -> dict[str, Any]:
    now, database = site.clock(), site.database
    configured = {destination.name: destination for destination in site.config.destinations}
    running, traffic = board.roles(database, now=now), store.traffic(database, list(configured))
    return {
        "now": now,
        "ae_title": site.config.node.ae_title,
        "version": version("triage-node"),
        "bundle": store.newest_bundle(database),
        "processes": [asdict(info) for info in running],
        "missing": _missing({info.kind for info in running}, store.last_seen(database), now),
        "queue": {state: asdict(stage) for state, stage in store.queue(database).items()},
        "outcomes": store.outcomes(database, now - OUTCOMES_OF),
        "disk": _disk(site.spool.free_mb(), site.config),
        "destinations": [_destination(each, configured) for each in traffic],
        "dead": sum(each.dead for each in traffic),
        "letters": [
            asdict(letter) | {"configured": letter.destination in configured} for letter in store.letters(database)
        ],
        "refusals": [asdict(refused) for refused in refusals.recent(database)],
        "quarantined": store.count_quarantined(database),
    }


def _missing(running: set[str], last_seen: dict[str, datetime], now: datetime) -> list[str]:
    """A sentence for each kind of process that is needed and does not run."""
    return [
        f"{meaning} Last seen {words.ago(last_seen[kind], now)} ago." if kind in last_seen else meaning
        for kind, meaning in _KINDS.items()
        if kind not in running
    ]


def _disk(free_mb: float, config: Config) -> dict[str, Any]:
    """What is free, and what happens below which mark."""
    said, mood = _room(free_mb, config)
    marks = {"refuse_below_mb": config.node.min_free_mb, "remove_below_mb": config.retention.free_mb}
    return {"free_mb": round(free_mb), **marks, "said": said, "mood": mood}


def _room(free_mb: float, config: Config) -> tuple[str, str]:
    low_mb, full_mb = config.retention.free_mb, config.node.min_free_mb
    refused = f"below {full_mb:,} MB (node.min_free_mb) images are refused"
    early = f"below {low_mb:,} MB (retention.free_mb) the oldest delivered series are removed early"
    if free_mb < full_mb:
        return f"Images are refused now: {refused}. Free disk space, then have the PACS send them again.", "bad"
    if free_mb < low_mb:
        return f"The oldest delivered series are removed early now: {early}; {refused}.", "waiting"
    return f"Enough: {early}; {refused}." if low_mb else f"Enough: {refused}.", "good"


def _destination(traffic: Traffic, configured: Mapping[str, AnyDestination]) -> dict[str, Any]:
    destination = configured.get(traffic.destination)
    said, mood = _how_it_goes(traffic, destination)
    return asdict(traffic) | {
        "configured": destination is not None,
        "kind": destination.kind if destination else None,
        "ae_title": destination.ae_title if isinstance(destination, Destination) else None,
        "address": destination.address if destination else None,
        "commitment": _commits(destination) if destination else None,
        "said": said,
        "mood": mood,
    }


def _commits(destination: AnyDestination) -> bool:
    return isinstance(destination, Destination) and destination.proof is not None


def _how_it_goes(traffic: Traffic, destination: AnyDestination | None) -> tuple[str, str]:
    if destination is None:
        return "not in the configuration: nothing is sent there", "bad"
    if traffic.dead:
        return "some results will not be sent again by themselves", "bad"
    if traffic.waiting:
        return ("trying again" if traffic.error else "on their way"), "waiting"
    if _commits(destination) and traffic.unconfirmed:
        return "not everything is confirmed yet", "waiting"
    if traffic.not_accepted:
        return f"there, but for {traffic.not_accepted} objects of kinds that it does not accept", "good"
    return ("everything is there" if traffic.last_sent_at else "nothing was sent yet"), "good"
