"""A destination that is told of results by HTTP POST of JSON, signed, for pagers, chats and dashboards.

A receiver checks X-Triage-Signature, "sha256=" and the HMAC-SHA256 of "TIMESTAMP.BODY" under the shared secret, and
refuses a X-Triage-Timestamp that is old. X-Triage-Event-Id is the same however often an event is sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from triage_node import secret
from triage_node.config import WebhookDestination
from triage_node.deliver import statement as statements
from triage_node.deliver.batch import tell_each
from triage_node.deliver.statement import Statement, message_id
from triage_node.domain import DISCLAIMER, MessageKind, Outcome
from triage_node.errors import DeliveryError
from triage_node.log import ref
from triage_node.peers import OutgoingObject, StoreResult
from triage_node.peers.http import PASSING, connected


class WebhookChannel:
    """One [[destination]] of kind "webhook"."""

    commitment = False
    at_a_time = 1

    def __init__(self, destination: WebhookDestination, *, timeout_s: float, clock: Callable[[], datetime]) -> None:
        self.name = destination.name
        self._settings = destination
        self._timeout_s = timeout_s
        self._clock = clock

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """One request for each. Raises nothing for a failed send."""
        tell_each(objects, self._tell, on_result)

    def probe(self) -> str:
        """Connect, and send nothing. Raises DeliveryError."""
        _secret(self._settings.secret)
        with self._connected():
            return f"takes connections at {self._settings.address}; nothing was sent"

    def _tell(self, outgoing: OutgoingObject) -> None:
        statement = statements.read(outgoing.path)
        event = event_of(statement, escalation=outgoing.kind == MessageKind.ESCALATION)
        content = {"event": event, "id": message_id(outgoing.sop_uid)}
        content |= body(statement, identity=self._settings.identity)
        self._post(event, content["id"], json.dumps(content).encode())

    def _post(self, event: str, event_id: str, data: bytes) -> None:
        timestamp = str(int(self._clock().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "triage-node",
            "X-Triage-Event": event,
            "X-Triage-Event-Id": event_id,
            "X-Triage-Timestamp": timestamp,
            "X-Triage-Signature": signature(_secret(self._settings.secret), timestamp, data),
        }
        parts = urlsplit(self._settings.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        with self._connected() as connection:
            connection.request("POST", target, body=data, headers=headers)
            _raise_for_status(connection.getresponse().status, self._settings.address)

    def _connected(self) -> AbstractContextManager[HTTPConnection]:
        return connected(self._settings.url, ca_file=self._settings.ca_file, timeout_s=self._timeout_s)


# ---------------------------------------------------------------- what is told


def event_of(statement: Statement, *, escalation: bool = False) -> str:
    """The name of what happened."""
    if escalation:
        return "escalation"
    if statement.outcome is Outcome.FAILED:
        return "failure"
    return "revision" if statement.revision > 1 else "result"


def body(statement: Statement, *, identity: bool) -> dict[str, Any]:
    """How the series ended. Studies and series are fingerprints, as in the log, unless `identity`."""
    told = statement.result
    content = {
        "created_at": statement.created_at.isoformat(),
        "node": statement.node,
        "study": ref(statement.study_uid),
        "series": ref(statement.series_uid),
        "revision": statement.revision,
        "outcome": statement.outcome.value,
        "reason": told["reason"],
        "priority": statement.priority.value,
        "suspected": statement.suspected,
        "text": statement.text,
        **{name: told[name] for name in ("findings", "probabilities", "volumes_ml", "warnings", "bundle")},
        "disclaimer": DISCLAIMER,
    }
    if identity:
        content |= {"study_uid": statement.study_uid, "series_uid": statement.series_uid}
        content |= {"patient": statement.patient and asdict(statement.patient)}
        content |= {"order": statement.order and asdict(statement.order)}
    return content


def signature(key: bytes, timestamp: str, data: bytes) -> str:
    """The value of X-Triage-Signature."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + data, hashlib.sha256).hexdigest()


# ---------------------------------------------------------------- steps


def _secret(where: str) -> bytes:
    """Raises DeliveryError."""
    found = secret.look_up(where)
    if len(found) < secret.SHORTEST:
        what = f"{secret.place(where)} must hold a secret of {secret.SHORTEST} characters or more"
        raise DeliveryError(what, retryable=True)
    return found


def _raise_for_status(status: int, address: str) -> None:
    """Redirects are not followed: what is signed for one place is not for another."""
    if 200 <= status < 300:
        return
    final = 400 <= status < 500 and status not in PASSING
    hint = "; redirects are not followed, correct the url" if 300 <= status < 400 else ""
    raise DeliveryError(f"{address} answered HTTP {status}{hint}", retryable=not final)
