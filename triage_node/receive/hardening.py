"""A pynetdicom association server that one bad peer cannot take down.

pynetdicom 3.0.4 never times out a peer that stalls inside a PDU, buffers a PDU of any length before it looks at it,
and shakes hands over TLS in its accept loop (all three reproduced). Here each connection has a thread of its own that
lives as long as the connection, a length cap and a deadline for each PDU, and addresses have a limit of connections.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from socketserver import BaseServer
from typing import Any, Final, cast

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from triage_node.log import event
from triage_node.receive.prompt import Doorbell, PromptDIMSE

MAXIMUM_PDU_SIZE: Final = 131072
"""Bytes of a P-DATA-TF PDU that we offer (PS3.8 D.1). Not 0: a sender then makes one PDU of a whole object."""

_PDU_HEADER_BYTES: Final = 6  # PS3.8 9.3.1: type, reserved, length
_ASSOCIATE_RQ, _P_DATA = 0x01, 0x04
_PDU_TYPES: Final = range(0x01, 0x08)
# 128 contexts with every syntax known make some 100 kB; beyond 1 MB nobody is negotiating.
_ASSOCIATE_LIMIT_BYTES: Final = 1 << 20
# Some senders count the PDU header or the PDV headers in, some do not.
_P_DATA_SLACK_BYTES: Final = 1024
_OTHER_LIMIT_BYTES: Final = 1024  # release and abort are 4 bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one peer, one address and all together may take."""

    stall_timeout_s: float
    """For one PDU from its first byte, for one send, for a TLS handshake."""
    message_bytes: int
    """Of one object."""
    connections: int
    connections_per_address: int


class SharedContexts(list[PresentationContext]):
    """What we support. Negotiation only reads it; a copy for each association takes 24 ms (180 SOP classes)."""

    def __deepcopy__(self, _memo: object) -> SharedContexts:
        return self


class GuardedSocket(AssociationSocket):
    """Reads PDUs with a length cap, checked before anything is buffered, and a deadline for each."""

    def __init__(self, association: Association, connection: socket.socket, address: str, stall_timeout_s: float):
        super().__init__(association, client_socket=connection)
        self._address = address
        self._stall_timeout_s = stall_timeout_s
        self._deadline_s = 0.0
        self._body_type: int | None = None
        self._doorbell = Doorbell(association)

    @property
    def ready(self) -> bool:
        """Wait until there is a PDU to read, and whether there is; not while there is something to send."""
        try:
            return self._doorbell.wait_readable(self.socket if self._is_connected else None)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed (PS3.8 9.2.1)
            return False

    def end(self) -> None:
        """Nothing waits any more."""
        self._doorbell.close()

    def recv(self, nr_bytes: int) -> bytearray:
        """The next `nr_bytes` of the PDU: pynetdicom asks for the 6 byte header, then for the rest.

        Raises OSError where the peer stalls or announces too much; pynetdicom then closes the connection.
        """
        if self._body_type is None:
            return self._receive_header(nr_bytes)
        pdu_type, self._body_type = self._body_type, None
        if nr_bytes > _limit_bytes(pdu_type):
            self._cut(f"a PDU of {nr_bytes} bytes was announced")
        return self._receive(nr_bytes)

    def _receive_header(self, nr_bytes: int) -> bytearray:
        self._deadline_s = time.monotonic() + self._stall_timeout_s
        header = self._receive(nr_bytes)
        complete = len(header) == _PDU_HEADER_BYTES and header[0] in _PDU_TYPES
        self._body_type = header[0] if complete else None  # else pynetdicom does not ask for a body
        return header

    def _receive(self, nr_bytes: int) -> bytearray:
        connection = self._connection()
        data = bytearray(nr_bytes)
        view, done = memoryview(data), 0
        try:
            while done < nr_bytes:
                connection.settimeout(self._remaining_s())
                received = connection.recv_into(view[done:])
                if not received:  # closed by the peer; pynetdicom sees that the PDU is short
                    return data[:done]
                done += received
        except TimeoutError:
            self._cut("it stalled inside a PDU")
        finally:
            connection.settimeout(self._stall_timeout_s)  # for sends
        return data

    def _remaining_s(self) -> float:
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        return remaining_s

    def _connection(self) -> socket.socket:
        if self.socket is None:
            raise OSError("the connection is closed")
        return self.socket

    def _cut(self, reason: str) -> None:
        event("connection cut", address=self._address, reason=reason)
        raise OSError(reason)


class HardenedServer(ThreadedAssociationServer):
    """A ThreadedAssociationServer with Limits. Its threads end with `shutdown()`."""

    request_queue_size = 64

    def __init__(self, *args: Any, limits: Limits, ended: Callable[[Association], None], **kwargs: Any) -> None:
        """`ended` is called once for each association, from its own thread, when nothing of it runs any more."""
        self.limits = limits
        self.ended = ended
        self._lock = threading.Lock()
        self._stopping = False
        self._connections: dict[socket.socket, str] = {}
        self._full: set[str] = set()
        super().__init__(*args, **kwargs)
        self.contexts = SharedContexts(self.contexts)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and wait for nothing: TLS shakes hands in the thread of the connection."""
        connection, address = cast(socket.socket, self.socket).accept()
        connection.settimeout(self.limits.stall_timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection, at all and from this address."""
        address = str(client_address[0])
        with self._lock:
            reason = self._no_room(address)
            if reason is None:
                self._connections[request] = address
                return True
            first = address not in self._full
            self._full.add(address)
        if first:  # one line, not one for each try
            event("connections refused", address=address, reason=reason)
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in the thread of a connection; the others go on."""
        event("connection failed", address=str(client_address[0]), error=getattr(sys.exc_info()[0], "__name__", ""))

    def close_request(self, request: Any) -> None:
        """Close a connection and free its place."""
        self.forget(request)
        super().close_request(request)

    def forget(self, connection: socket.socket) -> None:
        """Free the place of a connection."""
        with self._lock:
            address = self._connections.pop(connection, None)
            if address is not None:
                self._full.discard(address)

    def serve_connection(self, association: Association) -> None:
        """Run one association to its end, in the thread of its connection."""
        association.start()
        association._dul_ready.wait()
        if self._stopping:
            self._hang_up()
        association.dul.join()  # ends with the connection
        # Wakes an association that still waits for its request: None is what a time-out of that wait returns.
        association.dul.to_user_queue.put(cast(Any, None))
        association.join()
        self.ended(association)

    def shutdown(self) -> None:
        """Stop accepting, hang up on everyone, wait until every thread has ended."""
        BaseServer.shutdown(self)
        self._stopping = True
        self._hang_up()
        self.server_close()  # joins the threads of the connections

    def _no_room(self, address: str) -> str | None:
        if len(self._connections) >= self.limits.connections:
            return f"all {self.limits.connections} connections are taken"
        same = sum(1 for other in self._connections.values() if other == address)
        if same >= self.limits.connections_per_address:
            return f"{same} connections from this address (node.max_associations_per_address)"
        return None

    def _hang_up(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class GuardedConnection(RequestHandler):
    """One connection, in a thread of its own."""

    server: HardenedServer

    def handle(self) -> None:
        try:
            if isinstance(self.request, ssl.SSLSocket):
                self.request.do_handshake()
            association = self._create_association()
            try:
                self.server.serve_connection(association)
            finally:
                cast(GuardedSocket, association.dul.socket).end()
        finally:
            self.server.close_request(self.request)

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.dimse = PromptDIMSE(association, maximum_bytes=self.server.limits.message_bytes)
        association.dul.event_queue.get_nowait()  # the stock socket announced itself (Evt5), so will the guarded one
        association.dul.socket = GuardedSocket(
            association, self.request, str(self.client_address[0]), self.server.limits.stall_timeout_s
        )
        return association


def _limit_bytes(pdu_type: int) -> int:
    if pdu_type == _ASSOCIATE_RQ:
        return _ASSOCIATE_LIMIT_BYTES
    return MAXIMUM_PDU_SIZE + _P_DATA_SLACK_BYTES if pdu_type == _P_DATA else _OTHER_LIMIT_BYTES
