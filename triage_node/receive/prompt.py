"""pynetdicom that waits for events instead of polling.

pynetdicom 3.0.4 looks for work once a millisecond, in two threads for each association: an answer waits for up to two
of these rounds, and idle associations cost as much as busy ones. Here both threads sleep until there is something to
do: a PDU, something to send, a message, a release (measured: docs/benchmarks.md).
"""

from __future__ import annotations

import queue
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any, Final, TypeVar

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from triage_node.log import event

WAIT_S: Final = 0.5
"""Longest wait in one go; timers and orders to stop are looked at as often."""
WAITING_MESSAGES: Final = 4
"""Messages of one peer in memory; while so many wait to be served, nothing more is read from it."""
_CLOSED_WAIT_S: Final = 0.001
_LAST_COMMAND_FRAGMENT: Final = b"\x03"  # PS3.8 E.2
_PDV_HEADER_BYTES: Final = 6  # PS3.8 9.3.5.1: length, context, control header

T = TypeVar("T")


class NoticedQueue(queue.Queue[T]):
    """A queue that tells when something was put in."""

    def __init__(self, notice: Callable[[], object]) -> None:
        super().__init__()
        self._notice = notice

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """As in Queue."""
        super().put(item, block, timeout)
        self._notice()


class PromptDIMSE(DIMSEServiceProvider):
    """Its `get_msg` waits until the association has anything to look at: a message, a release, an abort."""

    def __init__(self, association: Association, *, maximum_bytes: int) -> None:
        super().__init__(association)
        self._maximum_bytes = maximum_bytes
        self._something = Event()
        self.msg_queue = NoticedQueue(self._something.set)
        association.dul.to_user_queue = NoticedQueue(self._something.set)

    def get_msg(self, block: bool = False) -> Any:
        """The next (context id, message), or (None, None) after a while or where something else is to be looked at."""
        if not block and not self.msg_queue.qsize():
            self._something.wait(WAIT_S)
            self._something.clear()  # before looking: what comes from now on sets it again
        return super().get_msg(block)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """As in pynetdicom; aborts an association whose message is longer than we take."""
        super().receive_primitive(primitive)
        message = self.message
        data_set = message.data_set if message else None
        if data_set and data_set.tell() > self._maximum_bytes:
            event("connection cut", reason="an object is larger than node.max_object_mb")
            self.dul.event_queue.put("Evt19")  # invalid PDU (PS3.8 9.2.1): A-ABORT
            self.message = None

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message; the answer to a stored image without the half millisecond that its general encoder takes."""
        answer = _success_of_store(primitive)
        if answer is None or 0 < self.maximum_pdu_size < len(answer) + _PDV_HEADER_BYTES:
            super().send_msg(primitive, context_id)
            return
        data = P_DATA()
        data.presentation_data_value_list.append((context_id, _LAST_COMMAND_FRAGMENT + answer))
        self.dul.send_pdu(data)


class Doorbell:
    """Wakes the thread that reads a connection when there is something to send on it."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._dul = association.dul
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._dul.to_provider_queue = NoticedQueue(self._ring)

    def wait_readable(self, connection: socket.socket | None) -> bool:
        """Wait until `connection` can be read; False after a while, or when a primitive is to be sent.

        Raises OSError, ValueError where the connection is closed meanwhile.
        """
        if connection is None:
            time.sleep(_CLOSED_WAIT_S)
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True  # decrypted already: poll does not know
        wait_s = 0.0 if self._dul.event_queue.qsize() else WAIT_S
        poll = select.poll()  # select() refuses descriptors from 1024 on
        poll.register(self._inside, select.POLLIN)
        if self._association.dimse.msg_queue.qsize() < WAITING_MESSAGES:
            poll.register(connection, select.POLLIN)
        while ready := poll.poll(wait_s * 1000):
            if any(descriptor != self._inside.fileno() for descriptor, _ in ready):
                return True
            self._quieten()
            if self._dul._process_recv_primitive():  # else it was sent before we came here
                return False
        return False

    def close(self) -> None:
        """Give back both ends."""
        self._inside.close()
        self._outside.close()

    def _ring(self) -> None:
        with suppress(OSError):  # full: rung already; closed: nobody is there
            self._outside.send(b"\0")

    def _quieten(self) -> None:
        with suppress(BlockingIOError):
            while self._inside.recv(4096):
                pass


def _success_of_store(primitive: object) -> bytes | None:
    """The command set of a C-STORE-RSP that says success (PS3.7 9.3.1.2); None for anything else."""
    if not isinstance(primitive, C_STORE) or primitive.MessageIDBeingRespondedTo is None or primitive.Status != 0:
        return None
    sop_class_uid, sop_uid = str(primitive.AffectedSOPClassUID), str(primitive.AffectedSOPInstanceUID)
    if not (sop_class_uid.isascii() and sop_uid.isascii()):
        return None
    elements = b"".join(
        (
            _uid_element(0x0002, sop_class_uid),
            struct.pack("<HHLH", 0, 0x0100, 2, 0x8001),  # Command Field
            struct.pack("<HHLH", 0, 0x0120, 2, primitive.MessageIDBeingRespondedTo),
            struct.pack("<HHLH", 0, 0x0800, 2, 0x0101),  # Command Data Set Type: none
            struct.pack("<HHLH", 0, 0x0900, 2, 0x0000),  # Status
            _uid_element(0x1000, sop_uid),
        )
    )
    return struct.pack("<HHLL", 0, 0x0000, 4, len(elements)) + elements


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value
