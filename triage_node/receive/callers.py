"""Who may call us: the configuration against what a caller presents.

A [[source]] may store, and with commitment_to ask whether its images are kept. A [[destination]] with commitment may
report what it keeps, and nothing else.

A refusal names what was presented and the line of the configuration that would admit the caller. AE titles and
addresses are no patient data, but they come from outside: control characters and length are cut before logging.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from triage_node.config import Config, Destination, Source

# (result, source, reason) of an A-ASSOCIATE-RJ, PS3.8 9.3.4
CALLING_AE_NOT_RECOGNISED: Final = (0x01, 0x01, 0x03)
CALLED_AE_NOT_RECOGNISED: Final = (0x01, 0x01, 0x07)
LOCAL_LIMIT_EXCEEDED: Final = (0x02, 0x03, 0x02)

_AE_TITLE_LENGTH: Final = 16


@dataclass(frozen=True, kw_only=True)
class Caller:
    """What a peer presents when it asks for an association."""

    calling_ae: str
    called_ae: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why an association is refused."""

    code: tuple[int, int, int]
    """Result, source, reason of the A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    reason: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What an admitted caller may do besides verification."""

    store: bool
    accept_classes: tuple[str, ...]
    """Private SOP classes that it may store besides."""
    worklist: bool = False
    """Whether it may query and claim workitems."""
    commits_for: tuple[str, ...]
    """Names of the destinations whose storage commitment reports it may bring."""
    asks_commitment: bool = False
    """Whether it may ask us for storage commitment."""
    why_not_store: Refusal | None = field(default=None, compare=False)


def rights_of(caller: Caller, config: Config) -> Rights | Refusal:
    """What `caller` may do by the sources and by the destinations that are asked for commitment, or why nothing."""
    source = _source_of(caller, config)
    from_source = not isinstance(source, Refusal)
    commits_for = _commits_for(caller, config, known_address=from_source)
    if isinstance(source, Refusal) and not commits_for:
        return source
    return Rights(
        store=from_source,
        accept_classes=() if isinstance(source, Refusal) else tuple(source.accept_classes),
        worklist=not isinstance(source, Refusal) and source.worklist,
        commits_for=commits_for,
        asks_commitment=not isinstance(source, Refusal) and source.commitment_peer is not None,
        why_not_store=source if isinstance(source, Refusal) else None,
    )


def printable(text: str, length: int = _AE_TITLE_LENGTH) -> str:
    """`text` as it may be logged: ASCII, no control characters, no quotes or backslashes, cut to `length`."""
    return "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in text.strip()[:length])


def _source_of(caller: Caller, config: Config) -> Source | Refusal:
    named = [source for source in config.sources if source.ae_title.strip() == caller.calling_ae.strip()]
    if not named:
        return _unknown_title(caller, config)
    here = [source for source in named if calls_from(source.hosts, caller.address)]
    if not here:
        return _unknown_address(caller, named, config)
    called = [source for source in here if _called_by(source, config) == caller.called_ae.strip()]
    return called[0] if called else _wrong_called_title(caller, here[0], config)


def _commits_for(caller: Caller, config: Config, *, known_address: bool) -> tuple[str, ...]:
    """A destination reports under its own AE title, from its host, its further hosts or those of its [[source]]."""
    named = [
        destination
        for destination in config.destinations
        if isinstance(destination, Destination)
        and destination.commitment
        and destination.ae_title.strip() == caller.calling_ae.strip()
    ]
    if not known_address and caller.called_ae.strip() != config.node.ae_title.strip():
        return ()
    return tuple(
        destination.name
        for destination in named
        if known_address or calls_from([*destination.hosts, *_addresses(destination.host)], caller.address)
    )


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
    except OSError:  # the name does not resolve now
        return set()


def _unknown_title(caller: Caller, config: Config) -> Refusal:
    return Refusal(
        code=CALLING_AE_NOT_RECOGNISED,
        reason="calling AE title is in no [[source]]",
        advice=f'add to {_file(config)}: [[source]] ae_title = "{printable(caller.calling_ae)}" '
        f'hosts = ["{printable(caller.address, 64)}"]',
    )


def _unknown_address(caller: Caller, named: Sequence[Source], config: Config) -> Refusal:
    return Refusal(
        code=CALLING_AE_NOT_RECOGNISED,
        reason="this AE title is not known from this address",
        advice=f'add "{printable(caller.address, 64)}" to hosts of [[source]] "{named[0].ae_title}" ({_file(config)})',
    )


def _wrong_called_title(caller: Caller, source: Source, config: Config) -> Refusal:
    return Refusal(
        code=CALLED_AE_NOT_RECOGNISED,
        reason="called AE title is not ours",
        advice=f'the caller should call us "{_called_by(source, config)}", or set called_ae = '
        f'"{printable(caller.called_ae)}" in [[source]] "{source.ae_title}" ({_file(config)})',
    )


def calls_from(hosts: Sequence[str], address: str) -> bool:
    peer = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped  # an IPv4 caller of a listener on "::"
    return any(peer in ipaddress.ip_network(host, strict=False) for host in hosts)


def _called_by(source: Source, config: Config) -> str:
    return (source.called_ae or config.node.ae_title).strip()


def _file(config: Config) -> str:
    return str(config.path) if config.path else "the configuration file"
