"""The worklist: what to read first. Its page, its JSON twin, and a stream that says when it has changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from time import monotonic
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from triage_node.domain import DISCLAIMER
from triage_node.store import access
from triage_node.store import worklist as store
from triage_node.store.access import Visitor
from triage_node.store.worklist import Wanted
from triage_node.web import rows, words
from triage_node.web.access import note, our_form, visitor
from triage_node.web.pages import page, site_of
from triage_node.web.site import Site

LOOK_EVERY_S: Final = 1.0
"""How often a stream looks whether its rows changed."""
STREAM_S: Final = 600.0
"""A stream ends after this long; browsers open the next, which checks the session again."""

SHOWN: Final = f"^({'|'.join(words.FLAGS)})?$"

router = APIRouter()


In = Annotated[Visitor, Depends(visitor)]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows, as the URL says."""

    search: str
    """Id of a search."""
    text: str
    show: str
    older: bool
    read: bool
    number: int
    """Of the page, from 1."""

    def url(self, **changed: Any) -> str:
        """The address of the same rows, but for what is `changed`."""
        ticks = {name: "true" if getattr(self, name) else "" for name in ("older", "read")}
        keys = {"search": self.search, "show": self.show, **ticks, "page": self.number}
        kept = {name: value for name, value in (keys | changed).items() if value and (name, value) != ("page", 1)}
        return f"/?{urlencode(kept)}" if kept else "/"


def asked_for(
    request: Request,
    who: In,
    search: Annotated[str, Query(max_length=32)] = "",
    show: Annotated[str, Query(pattern=SHOWN)] = "",
    older: bool = False,
    read: bool = False,
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Filters:
    """The filters of a request. A search that is forgotten gets an error, not all rows."""
    text = access.searched(site_of(request).database, search, user=who.user) if search else ""
    if text is None:
        raise HTTPException(404, "this search is forgotten; search again")
    return Filters(search=search, text=text, show=show, older=older, read=read, number=page)


Asked = Annotated[Filters, Depends(asked_for)]


@router.get("/")
def worklist_page(request: Request, asked: Asked, who: In) -> Response:
    """The page; it reads without JavaScript, too."""
    note(request, who, "worklist")
    return page(request, "worklist.html", who, **_content(site_of(request), asked))


@router.post("/search")
def search(
    request: Request,
    who: Annotated[Visitor, Depends(our_form)],
    text: Annotated[str, Form(max_length=100)] = "",
    show: Annotated[str, Form(pattern=SHOWN)] = "",
    older: Annotated[bool, Form()] = False,
    read: Annotated[bool, Form()] = False,
) -> Response:
    """The rows of a search; its text stands in no URL."""
    site, found = site_of(request), text.strip()
    kept = timedelta(hours=site.config.web.session_idle_h)
    search_id = (
        access.keep_search(site.database, user=who.user, text=found, now=site.clock(), keep=kept) if found else ""
    )
    asked = Filters(search=search_id, text=found, show=show, older=older, read=read, number=1)
    return RedirectResponse(asked.url(), status_code=303)


@router.get("/worklist/rows")
def fresh_rows(request: Request, asked: Asked, who: In) -> Response:
    """What changes of the page."""
    return page(request, "rows.html", who, **_content(site_of(request), asked))


@router.get("/worklist.json")
def worklist_json(request: Request, asked: Asked, who: In) -> JSONResponse:
    """The same rows for a program."""
    note(request, who, "worklist")
    content = _content(site_of(request), asked)
    return JSONResponse(
        {
            "disclaimer": DISCLAIMER,
            "time": content["now"].isoformat(),
            "total": content["total"],
            "studies": content["studies"],
        }
    )


_LOOKS: Final = 1000
"""Different filters that are remembered."""


@dataclass
class _Look:
    at: float = -math.inf
    told: str = ""
    lock: Lock = field(default_factory=Lock)


class Watch:
    """What the rows of some filters say, asked for once however many browsers watch them."""

    def __init__(self) -> None:
        self._looks: dict[Filters, _Look] = {}
        self._lock = Lock()

    def fingerprint(self, site: Site, asked: Filters) -> str:
        """Not older than LOOK_EVERY_S."""
        with self._lock:
            if len(self._looks) > _LOOKS:
                self._looks.clear()
            look = self._looks.setdefault(asked, _Look())
        with look.lock:  # one database query for all who wait for it
            if monotonic() - look.at > LOOK_EVERY_S:
                look.told, look.at = _fingerprint(site, asked), monotonic()
            return look.told


@router.get("/events")
async def events(request: Request, asked: Asked) -> StreamingResponse:
    """Server-sent events: another "state" when the rows of these filters are not the same any more."""
    return StreamingResponse(_changes(request, asked), media_type="text/event-stream")


# ---------------------------------------------------------------- steps


def _content(site: Site, asked: Filters) -> dict[str, Any]:
    now = site.clock()
    since = now - timedelta(hours=site.config.web.list_h)
    # a search looks at studies of any age, read or not
    wanted = Wanted(
        since=None if asked.older or asked.text else since,
        text=asked.text,
        show=asked.show,
        read=asked.read or bool(asked.text),
        page=asked.number - 1,
    )
    found = store.page(site.database, wanted)
    return {
        "now": now,
        "studies": [rows.shown(site, row, now) for row in found.rows],
        "total": found.total,
        "pages": max(1, -(-found.total // store.PAGE)),
        "asked": asked,
        "counts": store.counts(site.database, since),
        "flags": words.FLAGS,
        "list_h": site.config.web.list_h,
    }


async def _changes(request: Request, asked: Filters) -> AsyncIterator[str]:
    site, watch = site_of(request), request.app.state.watch
    seen = await run_in_threadpool(watch.fingerprint, site, asked)
    yield f"event: state\ndata: {seen}\n\n"
    for turn in range(int(STREAM_S / LOOK_EVERY_S)):
        await asyncio.sleep(LOOK_EVERY_S)
        if await request.is_disconnected():
            return
        now = await run_in_threadpool(watch.fingerprint, site, asked)
        if now != seen:
            seen = now
            yield f"event: state\ndata: {seen}\n\n"
        elif turn % 15 == 14:
            yield ": still here\n\n"  # so that a proxy does not take the stream for dead


def _fingerprint(site: Site, asked: Filters) -> str:
    """Of what the rows say, but for the passing of time."""
    content = _content(site, asked)
    told = [{name: value for name, value in study.items() if name != "ago"} for study in content["studies"]]
    told.append({"total": content["total"], **content["counts"]})
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
