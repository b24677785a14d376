"""What readers said against what the node said: the site's own sensitivity and positive predictive value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from triage_node.domain import CLASSES, DISCLAIMER
from triage_node.store import opinions, worklist
from triage_node.store.access import Visitor
from triage_node.web import words
from triage_node.web.access import at_least, visitor
from triage_node.web.pages import page, site_of

PERIODS: Final = {"30": "30 days", "90": "90 days", "365": "365 days", "all": "all time"}
FEW: Final = 20
"""Below, one study more or less moves a share by five points and more."""
_Z: Final = 1.959964  # of 95 %

router = APIRouter(dependencies=[Depends(at_least("lead"))])

Days = Annotated[str, Query(pattern=f"^({'|'.join(PERIODS)})$")]


@dataclass(frozen=True, kw_only=True)
class Share:
    """So many of so many, with its 95 % interval."""

    count: int
    of: int
    value: float | None
    """None of none is no share."""
    low: float
    high: float
    few: bool


@router.get("/figures")
def figures_page(request: Request, who: Annotated[Visitor, Depends(visitor)], days: Days = "90") -> Response:
    """The page."""
    return page(request, "figures.html", who, periods=PERIODS, few=FEW, **_content(request, days))


@router.get("/figures.json")
def figures_json(request: Request, days: Days = "90") -> JSONResponse:
    """The same for a program."""
    content = _content(request, days)
    told = [{**each, **{name: asdict(each[name]) for name in _SHARES}} for each in content["classes"]]
    return JSONResponse({"disclaimer": DISCLAIMER, **content, "classes": told})


def share(count: int, of: int) -> Share:
    """With the interval of Wilson's score, which also holds near 0 and 1 (JASA 1927, 22:209)."""
    if of == 0:
        return Share(count=0, of=0, value=None, low=0.0, high=1.0, few=True)
    value, weight = count / of, _Z**2 / of
    middle = (value + weight / 2) / (1 + weight)
    reach = math.sqrt(value * (1 - value) * weight + weight**2 / 4) / (1 + weight)
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return Share(count=count, of=of, value=value, low=low, high=high, few=of < FEW)


# ---------------------------------------------------------------- steps

_SHARES: Final = ("sensitivity", "ppv", "agreement")


def _content(request: Request, days: str) -> dict[str, Any]:
    site = site_of(request)
    since = None if days == "all" else site.clock() - timedelta(days=int(days))
    told = opinions.agreement(site.database, since=since)
    return {
        "days": days,
        "studies": told.studies,
        "analyzed": _analyzed(request, since),
        "bundles": list(told.bundles),
        "classes": [_figures(name, told.classes[name]) for name in CLASSES if name in told.classes],
    }


def _analyzed(request: Request, since: datetime | None) -> int:
    counts = worklist.counts(site_of(request).database, since, read=True)
    return sum(counts.get(name, 0) for name in ("STAT", "HIGH", "ROUTINE"))


def _figures(name: str, counts: dict[str, int]) -> dict[str, Any]:
    both, only_reader, only_node = counts["both"], counts["only_reader"], counts["only_node"]
    return {
        "name": name,
        "title": words.class_title(name),
        **counts,
        "sensitivity": share(both, both + only_reader),
        "ppv": share(both, both + only_node),
        "agreement": share(both + counts["neither"], sum(counts.values())),
    }
