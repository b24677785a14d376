"""The web role: the status page."""

from __future__ import annotations

import threading

from triage_node.pipeline.parts import Parts
from triage_node.service.presence import present
from triage_node.web import WebServer, create_app


def run(parts: Parts, stop: threading.Event) -> None:
    """The status page."""
    server = WebServer(create_app(parts.database, parts.clock), parts.config.web.host, parts.config.web.port)

    def stop_server() -> None:
        stop.wait()
        server.stop()

    threading.Thread(target=stop_server, name="web-stop", daemon=True).start()
    with present(parts, "web", server.port):
        server.run()
