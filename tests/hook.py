"""A receiver of webhooks: the HTTP server of the standard library, which keeps what it is told."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Told:
    """One request."""

    path: str
    headers: dict[str, str]
    data: bytes

    @property
    def content(self) -> dict[str, Any]:
        """Of the body."""
        found: dict[str, Any] = json.loads(self.data)
        return found


class Hook:
    """A context manager. The first requests are answered with `statuses`; 0 hangs up, -1 talks on for ever, slowly."""

    def __init__(self, *, statuses: Sequence[int] = (), tls: ssl.SSLContext | None = None) -> None:
        self.told: list[Told] = []
        self._statuses = list(statuses)
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Hook:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                hook.told.append(Told(path=self.path, headers=dict(self.headers), data=data))
                status = hook._statuses.pop(0) if hook._statuses else 204
                if status > 0:
                    self.send_response(status)
                    self.send_header("Location", "/elsewhere")
                    self.end_headers()
                while status < 0 and not hook._ended.wait(0.1):
                    self.wfile.write(b"HTTP/1.1 200 OK"[:1])

            def do_GET(self) -> None:
                hook.told.append(Told(path=self.path, headers=dict(self.headers), data=b""))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler
