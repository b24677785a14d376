"""Pages from templates. Every value is escaped (Jinja2, autoescape): what is in an image's header is only text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triage_node.domain import DISCLAIMER
from triage_node.store.access import Visitor
from triage_node.web.site import Site

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def site_of(request: Request) -> Site:
    """The parts behind a request."""
    site: Site = request.app.state.site
    return site


def page(request: Request, template: str, visitor: Visitor | None, *, code: int = 200, **values: Any) -> Response:
    """A template as an answer."""
    node = site_of(request).config.node.ae_title
    everywhere = {"visitor": visitor, "disclaimer": DISCLAIMER, "node": node, "path": request.url.path}
    return HTMLResponse(_TEMPLATES.get_template(template).render(**everywhere, **values), status_code=code)


def wants_json(request: Request) -> bool:
    """Whether the caller is a program: a JSON twin, a stream, or data for a page's script."""
    return request.url.path.endswith((".json", "/events", "/rows", "/parts"))
