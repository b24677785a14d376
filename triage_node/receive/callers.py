"""Who may call us: the [[source]] tables of the configuration against what a caller presents.

A refusal names what was presented and the line of the configuration that would admit the caller. AE titles and
addresses are no patient data, but they come from outside: control characters and length are cut before logging.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from triage_node.config import Config, Source

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


def refusal_of(caller: Caller, config: Config) -> Refusal | None:
    """Why `caller` is refused by `config.sources`, or None if one of them admits it."""
    named = [source for source in config.sources if source.ae_title.strip() == caller.calling_ae.strip()]
    if not named:
        return _unknown_title(caller, config)
    here = [source for source in named if _calls_from(source, caller.address)]
    if not here:
        return _unknown_address(caller, named, config)
    if not any(_called_by(source, config) == caller.called_ae.strip() for source in here):
        return _wrong_called_title(caller, here[0], config)
    return None


def printable(text: str, length: int = _AE_TITLE_LENGTH) -> str:
    """`text` as it may be logged: ASCII, no control characters, no quotes or backslashes, cut to `length`."""
    return "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in text.strip()[:length])


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


def _calls_from(source: Source, address: str) -> bool:
    peer = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped  # an IPv4 caller of a listener on "::"
    return any(peer in ipaddress.ip_network(host, strict=False) for host in source.hosts)


def _called_by(source: Source, config: Config) -> str:
    return (source.called_ae or config.node.ae_title).strip()


def _file(config: Config) -> str:
    return str(config.path) if config.path else "the configuration file"
