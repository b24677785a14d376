"""HTTP as a client: cut off in time however slowly the peer talks, past every proxy, to nowhere that it points to."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from triage_node.errors import DeliveryError, Unreachable
from triage_node.peers.tcp import client_tls, reason

PASSING: Final = frozenset({408, 425, 429})
"""Client errors that another try may cure: timeout, too early, too many requests."""


@contextmanager
def connected(
    url: str, *, ca_file: str, timeout_s: float, exchange_s: float | None = None
) -> Iterator[http.client.HTTPConnection]:
    """An open connection that is cut off after `exchange_s`, else `timeout_s`, which each single step may take.

    Raises DeliveryError, also for what goes wrong with the connection while it is in use.
    """
    address = urlsplit(url).netloc
    connection = _connection(url, ca_file, timeout_s)
    cut: list[bool] = []
    timer = threading.Timer(exchange_s or timeout_s, lambda: _cut_off(connection, cut))
    timer.daemon = True
    timer.start()
    try:
        _connect(connection, address)
        if cut:  # while there was nothing to cut off yet
            raise TimeoutError
        yield connection
    except (OSError, http.client.HTTPException) as error:
        late = cut or isinstance(error, TimeoutError)
        what = f"did not answer within {timeout_s:g} s" if late else f"gave no answer ({reason(error)})"
        raise DeliveryError(f"{address} {what}", retryable=True) from error
    finally:
        timer.cancel()
        connection.close()


def _connection(url: str, ca_file: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=client_tls(ca_file))


def _connect(connection: http.client.HTTPConnection, address: str) -> None:
    try:
        connection.connect()
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
        raise Unreachable(f"{address} cannot be reached ({reason(error)})") from error


def _cut_off(connection: http.client.HTTPConnection, cut: list[bool]) -> None:
    cut.append(True)
    with suppress(OSError, AttributeError):  # it is not connected, or not any more
        connection.sock.shutdown(socket.SHUT_RDWR)
