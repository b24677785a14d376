"""One association with a peer, and the simplest thing to do with it: echo."""

from __future__ import annotations

import logging
import socket
import threading
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Final, cast

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from triage_node.errors import DeliveryError

VERIFICATION: Final = "1.2.840.10008.1.1"
UNCOMPRESSED: Final = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_LOOK_AGAIN_S: Final = 0.05
"""Whether a thread has ended without a word."""

Pair = tuple[str, str]
"""(SOP class UID, transfer syntax UID)"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A DICOM application entity that we call."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


def echo(peer: Peer, *, calling_ae: str, timeout_s: float) -> None:
    """Verification (PS3.4 A). Raises DeliveryError, saying what to look at, unless the peer answers success."""
    association = associate(peer, calling_ae, [(VERIFICATION, syntax) for syntax in UNCOMPRESSED], timeout_s)
    try:
        if not association.is_established:
            raise DeliveryError(f"{peer} does not accept verification (C-ECHO)", retryable=False)
        status = association.send_c_echo().get("Status")
        if status is None:
            raise lost(peer, timeout_s)
        if status != 0x0000:
            raise DeliveryError(f"{peer} answered 0x{status:04X} to C-ECHO", retryable=True, status=status)
    finally:
        release(association)


def require_accepted(peer: Peer, sop_class_uid: str, *, calling_ae: str, timeout_s: float) -> None:
    """Raises DeliveryError unless the peer accepts a presentation context of this SOP class; asks for nothing."""
    association = associate(peer, calling_ae, [(sop_class_uid, syntax) for syntax in UNCOMPRESSED], timeout_s)
    try:
        if not association.is_established:
            raise DeliveryError(f"{peer} does not accept {UID(sop_class_uid).name}", retryable=False)
    finally:
        release(association)


def associate(
    peer: Peer,
    calling_ae: str,
    pairs: Iterable[Pair],
    timeout_s: float,
    *,
    handlers: Iterable[evt.EventHandlerType] = (),
    provider_of: str | None = None,
) -> Association:
    """An established association, or one whose every context was refused. Raises DeliveryError where there is none.

    Of the SOP class `provider_of` we are the SCP although we call (role selection, PS3.7 D.3.3.4).
    """
    _set_up_pynetdicom()
    connected = threading.Event()
    ae = _application_entity(calling_ae, pairs, timeout_s)
    try:
        association = ae.associate(
            peer.host,
            peer.port,
            ae_title=peer.ae_title,
            ext_neg=[build_role(provider_of, scp_role=True)] if provider_of else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, lambda _: connected.set()), *handlers],
        )
    except OSError as error:  # the host name does not resolve
        raise DeliveryError(
            f"{peer} cannot be reached ({error.strerror}); check host and port", retryable=True
        ) from error
    if association.is_established or association.rejected_contexts:
        return association
    if association.is_rejected:
        raise _rejected(peer, calling_ae, cast(A_ASSOCIATE, association.acceptor.primitive))
    if connected.is_set():
        raise DeliveryError(f"{peer} took the connection but did not answer as a DICOM node", retryable=True)
    raise DeliveryError(f"{peer} cannot be reached; is it running, are host and port right?", retryable=True)


def answered(association: Association) -> Association:
    """The same association, its thread stopped by a `Checkpoint`: it loses no answer to what we ask."""
    association._reactor_checkpoint = cast(threading.Event, Checkpoint(association))
    return association


class ClosingSocket(AssociationSocket):
    """Always closes: pynetdicom 3.0.4 leaves a connection open that the peer has reset (measured)."""

    def _shutdown_socket(self) -> None:
        if self.socket:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class _BoundedSocket(ClosingSocket):
    """Never blocks for ever: pynetdicom 3.0.4 lifts the time-out once it is connected."""

    def connect(self, primitive: T_CONNECT) -> None:
        super().connect(primitive)
        if self.socket:
            self.socket.settimeout(self.assoc.network_timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Checkpoint:
    """Where the thread of an association stops while another one sends and waits for the answer.

    In pynetdicom 3.0.4 it says that it stops before it does: what has just passed takes the answer off the queue and
    drops it, and the sender waits for it in vain (measured: 2 of 300 workitems on a busy machine).
    """

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._changed = threading.Condition()
        self._open = True
        self._stopped = False

    def set(self) -> None:
        """Let it pass."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop it; returns when it stands, or has ended."""
        with self._changed:
            self._open = False
            while not self._stopped and self._thread.is_alive() and self._thread is not threading.current_thread():
                self._changed.wait(_LOOK_AGAIN_S)

    def wait(self) -> None:
        """Stand here while it is closed."""
        with self._changed:
            while not self._open:
                self._stopped = True
                self._changed.notify_all()
                self._changed.wait()
            self._stopped = False


class CallingAE(AE):
    """An application entity that calls: its associations never block for ever, always close, and lose no answer."""

    def associate(self, *arguments: Any, **named: Any) -> Association:
        """As pynetdicom's, which says whether it is established."""
        association = answered(super().associate(*arguments, **named))
        if not association.is_established:
            association.kill()  # pynetdicom 3.0.4 may leave it open (measured: 6 of 1,100 peers that cut it)
            cast(AssociationSocket, association.dul.socket).close()
        return association

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        bounded = _BoundedSocket(assoc, address=address)
        bounded.tls_args = tls_args
        return bounded


def _application_entity(calling_ae: str, pairs: Iterable[Pair], timeout_s: float) -> CallingAE:
    ae = CallingAE(ae_title=calling_ae)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    for sop_class, syntax in sorted(pairs):  # a context for each: the peer chooses one syntax for a context
        ae.add_requested_context(sop_class, syntax)
    return ae


def release(association: Association) -> None:
    """End an association as it should be, if it is still there."""
    if association.is_established:
        association.release()


def _rejected(peer: Peer, calling_ae: str, answer: A_ASSOCIATE) -> DeliveryError:
    # Retryable even where the peer says "permanent": who is known to whom is configuration, and somebody mends it.
    advice = {
        (1, 3): f'it must be told about "{calling_ae}" and our address',
        (1, 7): f'"{peer.ae_title}" is not its AE title; check ae_title',
    }.get((answer.result_source or 0, answer.diagnostic or 0), "it will be tried again")
    return DeliveryError(f"{peer} rejected the association: {answer.reason_str}; {advice}", retryable=True)


def lost(peer: Peer, timeout_s: float) -> DeliveryError:
    """What to raise where the peer gave no answer."""
    return DeliveryError(f"{peer} did not answer within {timeout_s:g} s, or cut the association", retryable=True)


def _set_up_pynetdicom() -> None:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs element values
    warnings.filterwarnings("ignore", module=r"pydicom\.valuerep")  # it quotes malformed values
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True  # a path is sent as the bytes of the file, never decoded
