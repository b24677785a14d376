"""HL7 messages over TCP, with TLS or not: the Minimal Lower Layer Protocol."""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from types import TracebackType
from typing import Final

from triage_node.errors import DeliveryError, Unreachable
from triage_node.peers.tcp import reason

START: Final = b"\x0b"
END: Final = b"\x1c\r"
MOST_BYTES: Final = 65536
"""Of an answer; an acknowledgement has a few hundred."""


class MllpConnection:
    """A connection to one listener. A context manager; raises DeliveryError, always retryable, when it fails."""

    def __init__(self, host: str, port: int, *, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._peer = f"{host}:{port}"
        self._timeout_s = timeout_s
        self._rest = b""
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
            if tls:
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
            raise Unreachable(f"{self._peer} cannot be reached ({reason(error)})") from error

    def __enter__(self) -> MllpConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, message: bytes) -> None:
        """One message in its frame. It must hold none of the framing bytes."""
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(START + message + END)
        except OSError as error:
            raise self._error(f"took no message ({reason(error)})") from error

    def receive(self) -> bytes:
        """The content of the next frame, which must be there whole within the timeout."""
        deadline = monotonic() + self._timeout_s
        while END not in self._rest:
            self._rest += self._some(deadline - monotonic())
            if not START.startswith(self._rest.lstrip(b"\r\n")[:1]) or len(self._rest) > MOST_BYTES:
                raise self._error("answered something that is no MLLP frame")
        frame, self._rest = self._rest.split(END, 1)
        return frame.lstrip(b"\r\n").removeprefix(START)

    def _some(self, left_s: float) -> bytes:
        if left_s <= 0:
            raise self._error(f"did not answer within {self._timeout_s:g} s")
        try:
            self._socket.settimeout(left_s)
            received = self._socket.recv(4096)
        except TimeoutError as error:
            raise self._error(f"did not answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise self._error(f"gave no answer ({reason(error)})") from error
        if not received:
            raise self._error("closed the connection without an answer")
        return received

    def _error(self, what: str) -> DeliveryError:
        return DeliveryError(f"{self._peer} {what}", retryable=True)
