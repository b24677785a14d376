"""Whether the node runs: for monitoring, without login and without identity; and its whole status for an admin."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from triage_node.domain import DISCLAIMER
from triage_node.store import board
from triage_node.web.access import at_least
from triage_node.web.pages import site_of

NEEDED: Final = frozenset({"listen", "work", "deliver"})

router = APIRouter()


@router.get("/healthz")
def health(request: Request) -> JSONResponse:
    """200 while the database answers and the roles that images and results pass through are alive."""
    site = site_of(request)
    kinds = sorted({info.kind for info in board.roles(site.database, now=site.clock())})
    return JSONResponse({"roles": kinds}, status_code=200 if set(kinds) >= NEEDED else 503)


@router.get("/status.json", dependencies=[Depends(at_least("admin"))])
def status(request: Request) -> dict[str, Any]:
    """What `triage-node status --json` says."""
    site = site_of(request)
    return {"disclaimer": DISCLAIMER, **board.status(site.database, now=site.clock())}
