"""One study: its images with the segmentation, what was found, what was sent where, and what people say of it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, RedirectResponse

from triage_node.config import UpsDestination
from triage_node.domain import CLASSES, DISCLAIMER
from triage_node.store import access, opinions
from triage_node.store import worklist as store
from triage_node.store.access import Visitor
from triage_node.store.worklist import Row
from triage_node.web import results, rows, words
from triage_node.web.access import note, our_form, visitor
from triage_node.web.pages import page, site_of

THUMBNAIL: Final = "thumbnail.png"
TRAIL: Final = 50

router = APIRouter()

In = Annotated[Visitor, Depends(visitor)]
Ours = Annotated[Visitor, Depends(our_form)]


def row_of(request: Request, study_id: int, _who: In) -> Row:
    """The row of a study, for who is in. HTTPException 404 where there is none."""
    found = store.row(site_of(request).database, study_id)
    if found is None:
        raise HTTPException(404, "there is no such study")
    return found


Asked = Annotated[Row, Depends(row_of)]


@router.get("/study/{study_id}.json")
def study_json(request: Request, row: Asked, who: In) -> JSONResponse:
    """The same for a program, with the result.json of the series that is shown."""
    note(request, who, "study", row.id)
    content = _content(request, row)
    told = {name: content[name] for name in ("study", "findings", "events", "trail", "opinions", "result")}
    return JSONResponse(jsonable_encoder({"disclaimer": DISCLAIMER, **told}))


@router.get("/study/{study_id}")
def study_page(request: Request, row: Asked, who: In) -> Response:
    """The page."""
    note(request, who, "study", row.id)
    return page(request, "study.html", who, **_content(request, row))


@router.get("/study/{study_id}/file/{name}")
def view_file(request: Request, row: Asked, name: str, who: In) -> Response:
    """A picture or a volume of the series that is shown."""
    answer = results.file(rows.view_folder(site_of(request), row), name)
    if name != THUMBNAIL:  # those came with a worklist, which is in the trail
        note(request, who, name.partition(".")[0], row.id)
    return answer


@router.post("/study/{study_id}/acknowledge")
def acknowledge(request: Request, row: Asked, who: Ours) -> Response:
    """Somebody has seen it."""
    site = site_of(request)
    opinions.acknowledge(site.database, row.id, user=who.user, now=site.clock())
    note(request, who, "acknowledge", row.id)
    return _back(row)


@router.post("/study/{study_id}/read")
def mark_read(request: Request, row: Asked, who: Ours, unread: Annotated[bool, Form()] = False) -> Response:
    """It is read and leaves the list, or comes back."""
    site = site_of(request)
    tell = [each.name for each in site.config.destinations if isinstance(each, UpsDestination)]
    opinions.mark_read(site.database, row.id, user=None if unread else who.user, now=site.clock(), tell=tell)
    note(request, who, "unread" if unread else "read", row.id)
    return _back(row)


@router.post("/study/{study_id}/opinion")
def say(
    request: Request,
    row: Asked,
    who: Ours,
    finding: Annotated[str, Form()],
    present: Annotated[bool, Form()],
    comment: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Present or not, in the reader's eyes."""
    if finding not in CLASSES or row.revision_id is None:
        raise HTTPException(400, "there is no such finding")
    site = site_of(request)
    opinions.say(
        site.database,
        row.id,
        row.revision_id,
        user=who.user,
        finding=finding,
        present=present,
        said=results.says(row.result, finding),
        comment=comment.strip(),
        now=site.clock(),
    )
    note(request, who, "opinion", row.id)
    return _back(row)


# ---------------------------------------------------------------- steps


def _back(row: Row) -> Response:
    return RedirectResponse(f"/study/{row.id}", status_code=303)


def _content(request: Request, row: Row) -> dict[str, Any]:
    site = site_of(request)
    result, said = store.result(site.database, row.id), opinions.of_study(site.database, row.id)
    findings = results.findings(row.result)
    for line in findings:
        line["last_word"] = next((opinion for opinion in said if opinion.finding == line["name"]), None)
    return {
        "study": rows.shown(site, row, site.clock()),
        "now": site.clock(),
        "flags": words.FLAGS,
        "findings": findings,
        "events": store.events(site.database, row.study_uid),
        "trail": [
            {"at": trace.at, "user": trace.user, "action": trace.action}
            for trace in access.trail(site.database, study_id=row.id, limit=TRAIL)
        ],
        "opinions": said,
        "viewer": results.viewer(rows.view_folder(site, row), f"/study/{row.id}/file", result or {}),
        "result": result,
    }
