"""The web role: the pages, and images that come by STOW-RS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from triage_node import heap, log
from triage_node.config import Config
from triage_node.pipeline.parts import Parts
from triage_node.service.presence import present
from triage_node.store import access
from triage_node.web import Site, WebServer, create_app
from triage_node.web.access import LOCAL_ROLE, LOCAL_USER
from triage_node.web.site import StowReceiver


def run(parts: Parts, stop: threading.Event) -> None:
    """The pages, until `stop` is set."""
    heap.share_one()
    with _receiver(parts) as stow:
        site = Site(config=parts.config, database=parts.database, spool=parts.spool, clock=parts.clock, stow=stow)
        _serve(parts, site, stop)


def _serve(parts: Parts, site: Site, stop: threading.Event) -> None:
    config = parts.config
    server = WebServer(create_app(site), config.web)
    access.end_all_but(parts.database, {user.name: user.role for user in config.users} or {LOCAL_USER: LOCAL_ROLE})

    def stop_server() -> None:
        stop.wait()
        server.stop()

    threading.Thread(target=stop_server, name="web-stop", daemon=True).start()
    with present(parts, "web", server.port):
        if not config.users:
            token = access.make_link(parts.database, now=parts.clock())
            log.event("the worklist opens, once, with this link", link=entry_url(config, server.port, token))
        server.run()


@contextmanager
def _receiver(parts: Parts) -> Iterator[StowReceiver | None]:
    """What takes images by HTTP, where a source has a token; else nothing of DICOM networking is loaded."""
    if not any(source.token for source in parts.config.sources):
        yield None
        return
    from triage_node.service.stow import receiver

    with receiver(parts) as stow:
        yield stow


def entry_url(config: Config, port: int, token: str) -> str:
    """What lets the browser of this machine in, once."""
    scheme = "https" if config.web.certificate else "http"
    host = "127.0.0.1" if config.web.host in ("0.0.0.0", "localhost") else config.web.host  # noqa: S104 - compared only
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/enter?key={token}"
