"""The status page: JSON for now; the worklist is a later issue. Shows no identity."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from triage_node.domain import DISCLAIMER
from triage_node.store import board
from triage_node.store.database import Database

NEEDED: Final = frozenset({"listen", "work", "deliver"})


def create_app(database: Database, clock: Callable[[], datetime]) -> FastAPI:
    """GET / and /status.json: the node's status; GET /healthz: 200 while the database answers and the
    roles that images and results pass through are alive."""
    app = FastAPI(title="triage-node", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    @app.get("/status.json")
    def status() -> dict[str, Any]:
        return {"disclaimer": DISCLAIMER, **board.status(database, now=clock())}

    @app.get("/healthz")
    def health() -> JSONResponse:
        kinds = sorted({info.kind for info in board.roles(database, now=clock())})
        return JSONResponse({"roles": kinds}, status_code=200 if set(kinds) >= NEEDED else 503)

    return app


class WebServer:
    """Serves the page until told to stop."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._socket = socket.create_server((host, port))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))

    @property
    def port(self) -> int:
        """The bound TCP port."""
        return int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Serve; returns after `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Ask `run` to return."""
        self._server.should_exit = True
