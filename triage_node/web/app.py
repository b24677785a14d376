"""The routes put together, what every answer carries, and errors as pages."""

from __future__ import annotations

from collections.abc import MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triage_node import log
from triage_node.web import access, dicomweb, figures, status, study, system, trying, worklist
from triage_node.web.access import NotLoggedIn
from triage_node.web.pages import page, wants_json
from triage_node.web.site import Site

HEADERS: Final = {
    # nothing from outside, nothing inline: a name that looks like HTML stays a name
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


FORM_BYTES: Final = 65_536
UNBOUNDED: Final = ("/try", "/try.json")
"""What is sent there is counted as it comes, see upload."""


def create_app(site: Site) -> FastAPI:
    """The pages of a node."""
    app = FastAPI(title="triage-node", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.site = site
    app.state.throttle = access.Throttle()
    app.state.watch = worklist.Watch()
    app.state.uploading = set[str]()
    app.state.storing = CapacityLimiter(dicomweb.THREADS)
    app.add_middleware(_WithHeaders)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    for part in (access, worklist, study, trying, figures, system, status, dicomweb):
        app.include_router(part.router)
    app.add_exception_handler(NotLoggedIn, _to_login)
    app.add_exception_handler(HTTPException, _error_page)
    app.add_exception_handler(Exception, _failure)
    return app


class _WithHeaders:
    """ASGI: every answer carries HEADERS; static files may be kept by the browser. Forms are short."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                static = scope["path"].startswith("/static/")
                ours = HEADERS | ({"cache-control": "max-age=3600"} if static else {})
                message["headers"] += [(name.encode(), value.encode()) for name, value in ours.items()]
            await send(message)

        read_bytes, stored = 0, scope["path"].startswith(dicomweb.PREFIX)

        async def in_bounds() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > FORM_BYTES and scope["path"] not in UNBOUNDED and not stored:
                raise HTTPException(413, "this form is too long")
            return message

        await self._app(scope, in_bounds, with_headers)


def _to_login(request: Request, _error: Exception) -> Response:
    if wants_json(request) or request.method != "GET":
        return JSONResponse({"error": "not logged in; open /login"}, status_code=401)
    return RedirectResponse("/login", status_code=303)


def _error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, said = error.status_code, error.detail
    if wants_json(request):
        return JSONResponse({"error": said}, status_code=code)
    return page(request, "error.html", None, code=code, title=HTTPStatus(code).phrase, said=said)


def _failure(request: Request, error: Exception) -> Response:
    """Process boundary: the error's own words could hold patient data."""
    path = getattr(request.scope.get("route"), "path", "")  # as it is declared: that of STOW-RS holds a UID
    log.event("page failed", path=path, error=type(error).__name__)
    said = "the page could not be made; the log of the node says more"
    if wants_json(request):
        return JSONResponse({"error": said}, status_code=500)
    return page(request, "error.html", None, code=500, title="Error", said=said)
