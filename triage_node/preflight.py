"""`triage-node check`: what would stop the node from doing its work, found before a patient depends on it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from triage_node import peers, secret
from triage_node.config import Config, Destination, DicomwebDestination
from triage_node.deliver.channel import message_channel_of
from triage_node.deliver.dicomweb import DicomwebChannel
from triage_node.errors import ConfigError, TriageNodeError
from triage_node.spool import Spool
from triage_node.store import board, outbox
from triage_node.store.database import open_database


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the check."""

    what: str
    ok: bool
    detail: str


def check(config: Config, *, load_model: Callable[[], str], now: datetime) -> Iterator[Finding]:
    """Try each part for real, one Finding at a time. `load_model` loads the bundle and returns its name."""
    yield _finding("configuration", partial(_describe, config))
    yield _finding("spool", partial(_try_spool, config))
    yield _finding("database", partial(_try_database, config))
    yield _finding("model", load_model)
    yield _finding("listener", partial(_try_listener, config, now))
    yield _finding("outbox", partial(_try_outbox, config))
    for destination in config.destinations:
        if isinstance(destination, DicomwebDestination):
            web_probe = DicomwebChannel(destination, timeout_s=10.0).probe
            yield _finding(f"destination {destination.name}", web_probe)
            continue
        if not isinstance(destination, Destination):
            probe = message_channel_of(destination, config, clock=lambda: now).probe
            yield _finding(f"destination {destination.name}", probe)
            continue
        peer = peers.Peer(ae_title=destination.ae_title, host=destination.host, port=destination.port)
        yield _finding(f"destination {destination.name}", partial(_try_echo, peer, config.node.ae_title))
        if destination.commitment:
            service = partial(_try_service, peer, peers.STORAGE_COMMITMENT, config.node.ae_title)
            yield _finding(f"commitment of {destination.name}", service)
        if destination.find_peer:
            yield _find_finding(destination.name, destination.find_peer, config)
    for source in config.sources:
        if source.token:
            yield _finding(f"token of {source.ae_title}", partial(_try_token, source.token))
        if source.find_peer:
            yield _find_finding(source.ae_title, source.find_peer, config)
        if source.commitment_peer:
            ae_title, host, port = source.commitment_peer
            peer = peers.Peer(ae_title=ae_title, host=host, port=port)
            yield _finding(f"commitment reports to {source.ae_title}", partial(_try_echo, peer, config.node.ae_title))
    worklist = config.modality_worklist
    if worklist.host:
        peer = peers.Peer(ae_title=worklist.ae_title, host=worklist.host, port=worklist.port)
        service = partial(_try_service, peer, peers.MODALITY_WORKLIST_FIND, config.node.ae_title)
        yield _finding("modality worklist", service)


def _find_finding(name: str, find_peer: tuple[str, str, int], config: Config) -> Finding:
    ae_title, host, port = find_peer
    peer = peers.Peer(ae_title=ae_title, host=host, port=port)
    return _finding(f"find of {name}", partial(_try_service, peer, peers.STUDY_ROOT_FIND, config.node.ae_title))


def _finding(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, ok=True, detail=attempt())
    except (TriageNodeError, OSError, UnicodeError) as error:
        return Finding(what=what, ok=False, detail=str(error))


def _describe(config: Config) -> str:
    if not config.sources:
        raise ConfigError(f"{config.path}: no [[source]]: every caller would be refused; add the PACS or scanner")
    if not config.destinations:
        raise ConfigError(f"{config.path}: no [[destination]]: results would stay on this node; add the PACS")
    return f"{len(config.sources)} source(s), {len(config.destinations)} destination(s), {len(config.rules)} rule(s)"


def _try_spool(config: Config) -> str:
    spool = Spool(config.node.data_dir)
    try:
        spool.probe()
    except OSError as error:
        raise ConfigError(
            f"{spool.root} takes no file ({error.strerror}): give the node's user write access"
        ) from error
    free_mb = spool.free_mb()
    if free_mb < config.node.min_free_mb:
        raise ConfigError(
            f"{free_mb:.0f} MB free, below node.min_free_mb = {config.node.min_free_mb}: images are refused"
        )
    return f"{free_mb / 1000:.1f} GB free"


def _try_database(config: Config) -> str:
    with closing(open_database(config.database_url)) as database:
        return database.describe()


def _try_listener(config: Config, now: datetime) -> str:
    """Connect to ourselves, if the node runs; else only say so. A rejection proves as well that it listens."""
    with closing(open_database(config.database_url)) as database:
        ports = [info.port for info in board.roles(database, now=now) if info.kind == "listen" and info.port]
    if not ports:
        return f"not running; `serve` will listen on port {config.node.port}"
    host = "127.0.0.1" if config.node.host in ("", "0.0.0.0") else config.node.host  # noqa: S104 - nothing is bound here
    with socket.create_connection((host, ports[0]), timeout=5):
        return f"running, takes connections on port {ports[0]}"


def _try_outbox(config: Config) -> str:
    with closing(open_database(config.database_url)) as database:
        lost = set(outbox.destinations_in_use(database)) - {destination.name for destination in config.destinations}
        letters = outbox.dead_letters(database)
    if lost:
        raise ConfigError(
            f"results wait for {', '.join(sorted(lost))}, which no [[destination]] is named: configure it again"
        )
    if letters:
        raise ConfigError(f"{letters} dead letter(s): see `triage-node status`, then `triage-node retry`")
    return "no result waits for a person"


def _try_token(where: str) -> str:
    if len(secret.look_up(where)) < secret.SHORTEST:
        raise ConfigError(f"{secret.place(where)} must hold a secret of {secret.SHORTEST} characters or more")
    return "it is there; images are taken at /dicom-web/studies of the pages"


def _try_echo(peer: peers.Peer, calling_ae: str) -> str:
    peers.echo(peer, calling_ae=calling_ae, timeout_s=10.0)
    return f"{peer.ae_title} answers C-ECHO at {peer.host}:{peer.port}"


def _try_service(peer: peers.Peer, sop_class_uid: str, calling_ae: str) -> str:
    peers.require_accepted(peer, sop_class_uid, calling_ae=calling_ae, timeout_s=10.0)
    return f"{peer.ae_title} offers it at {peer.host}:{peer.port}"
