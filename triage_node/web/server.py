"""uvicorn on a socket that is bound before it runs, so that its port is known."""

from __future__ import annotations

import socket
from typing import Final

import uvicorn
from fastapi import FastAPI

from triage_node.config import Web

_END_S: Final = 3
"""Open event streams have this long to end when the role stops."""


class WebServer:
    """Serves the pages until told to stop. OSError where the address is taken, or a PEM file cannot be read."""

    def __init__(self, app: FastAPI, web: Web) -> None:
        self._socket = socket.create_server((web.host, web.port))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_END_S,
            ssl_certfile=web.certificate or None,
            ssl_keyfile=web.private_key or None,
        )
        config.load()
        self._server = uvicorn.Server(config)

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
