"""A destination that is sent DICOM objects by STOW-RS (PS3.18 10.5), each as it is and in a request of its own.

One object a request, so that each has an answer of its own, whatever the server says of the whole; and nothing is held
in memory but a block of a file.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from triage_node import secret
from triage_node.config import DicomwebDestination
from triage_node.deliver.batch import tell_each
from triage_node.errors import DeliveryError
from triage_node.peers import OutgoingObject, StoreResult, raise_for_status
from triage_node.peers.http import PASSING, connected
from triage_node.peers.store import require_file

TOGETHER: Final = 16
"""Objects that are claimed together."""
SLOWEST_BYTES_PER_S: Final = 100_000
"""A peer that takes an object more slowly is cut off."""
_BLOCK_BYTES: Final = 1 << 18
_ANSWER_BYTES: Final = 1 << 20
_JSON: Final = "application/dicom+json"
_TO_BE_CORRECTED: Final = PASSING | {401, 403, 404}
"""Client errors that a person or another try may cure: credentials and url are settings."""
_NO_QUERY: Final = (400, 405, 406, 501)
"""Answers to a query where a server only stores."""

# PS3.18 10.5.3, PS3.3 C.39: the keys of the DICOM JSON Model
_REFERENCED_SOPS, _FAILED_SOPS, _OTHER_FAILURES = "00081199", "00081198", "0008119A"
_SOP_UID, _FAILURE_REASON = "00081155", "00081197"
_PROCESSING_FAILURE: Final = 0x0110


class DicomwebChannel:
    """One [[destination]] of kind "dicomweb"."""

    commitment = False
    at_a_time = TOGETHER

    def __init__(self, destination: DicomwebDestination, *, timeout_s: float) -> None:
        self.name = destination.name
        self._settings = destination
        self._timeout_s = timeout_s

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """One request for each. Raises nothing for a failed send."""
        tell_each(objects, self._store, on_result)

    def probe(self) -> str:
        """Ask for a study that nobody has: credentials and url are tried, nothing is stored. Raises DeliveryError."""
        address = self._settings.address
        with self._connected() as connection:
            connection.request("GET", self._target("?StudyInstanceUID=2.25.0&limit=1"), headers=self._headers())
            status = connection.getresponse().status
        if status in _NO_QUERY:
            return f"answers at {address}; it takes no queries, so that the credentials were not tried"
        _raise_for_status(status, address)
        return f"answers at {address}; nothing was sent"

    # ------------------------------------------------------------ one object

    def _store(self, outgoing: OutgoingObject) -> None:
        if not outgoing.sop_class_uid:
            what = f"{self.name} was told of results when this was published, and now takes DICOM objects only"
            raise DeliveryError(what, retryable=False)
        require_file(outgoing)
        size_bytes = outgoing.path.stat().st_size
        with self._connected(size_bytes / SLOWEST_BYTES_PER_S) as connection:
            answer = self._post(connection, outgoing.path, size_bytes)
            said, media_type = answer.read(_ANSWER_BYTES), answer.headers.get_content_type()
        raise_for_answer(answer.status, media_type, said, sop_uid=outgoing.sop_uid, address=self._settings.address)

    def _post(self, connection: HTTPConnection, path: Path, size_bytes: int) -> HTTPResponse:
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = self._headers() | {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(head) + size_bytes + len(tail)),
        }
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have refused before it had all
            connection.request("POST", self._target(), body=_body(head, path, tail), headers=headers)
        return connection.getresponse()

    def _connected(self, longer_s: float = 0.0) -> Any:
        settings, timeout_s = self._settings, self._timeout_s
        return connected(settings.url, ca_file=settings.ca_file, timeout_s=timeout_s, exchange_s=timeout_s + longer_s)

    def _target(self, query: str = "") -> str:
        return urlsplit(self._settings.url).path.rstrip("/") + "/studies" + query

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        headers = {"Accept": _JSON, "User-Agent": "triage-node"}
        if settings.token:
            headers["Authorization"] = f"Bearer {_secret(settings.token)}"
        if settings.user:
            login = f"{settings.user}:{_secret(settings.password)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        return headers


def raise_for_answer(status: int, media_type: str, said: bytes, *, sop_uid: str, address: str) -> None:
    """Raise DeliveryError unless a store response says that the peer has this object, the only one of its request.

    A FailureReason (0008,1197) counts as the same status of C-STORE does. Where the answer does not name the object,
    the HTTP status alone tells (PS3.18 table 10.5.3-1): 200 is all stored; 202 is some, and which is not known.
    """
    if status in (200, 202, 409, 503):
        content = _content(media_type, said)
        if failed := _failure_reason(content, sop_uid):
            raise_for_status(failed, address)
            return  # a duplicate: it has the object
        if status in (200, 202) and sop_uid in _sop_uids(content, _REFERENCED_SOPS):
            return
        if status == 202 or (status == 200 and _tells_of_another(content, said)):
            what = f"{address} answered HTTP {status} and does not say what became of the object"
            raise DeliveryError(what, retryable=True)
    _raise_for_status(status, address)


# ---------------------------------------------------------------- steps


def _body(head: bytes, path: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
    yield tail


def _secret(where: str) -> str:
    """Raises DeliveryError."""
    found = secret.look_up(where)
    if not found or not found.isascii() or not found.decode().isprintable():
        what = f"{secret.place(where)} must hold the secret of this destination, in printable ASCII characters"
        raise DeliveryError(what, retryable=True)
    return found.decode()


def _raise_for_status(status: int, address: str) -> None:
    if 200 <= status < 300:
        return
    hint = "; redirects are not followed, correct the url" if 300 <= status < 400 else ""
    hint = {401: "; check its token or password", 403: "; it must permit us to store", 404: "; check its url"}.get(
        status, hint
    )
    final = 400 <= status < 500 and status not in _TO_BE_CORRECTED
    raise DeliveryError(f"{address} answered HTTP {status}{hint}", retryable=not final)


def _content(media_type: str, said: bytes) -> dict[str, Any]:
    """The data set of a store response in the DICOM JSON Model; empty for anything else."""
    if media_type not in (_JSON, "application/json"):
        return {}
    with suppress(ValueError, RecursionError):
        content = json.loads(said)
        content = content[0] if isinstance(content, list) and content else content
        return content if isinstance(content, dict) else {}
    return {}


def _failure_reason(content: dict[str, Any], sop_uid: str) -> int | None:
    """Why the object failed; None where it is not said that it did. What has no UID can only be the one we sent."""
    failed = [item for item in _items(content, _FAILED_SOPS) if _value(item, _SOP_UID) == sop_uid]
    for item in [*failed, *_items(content, _OTHER_FAILURES)]:
        reason = _value(item, _FAILURE_REASON)
        known = isinstance(reason, int) and 0 < reason <= 0xFFFF and reason >> 12 != 0xB  # a warning is no failure
        return int(reason or 0) if known else _PROCESSING_FAILURE
    return None


def _tells_of_another(content: dict[str, Any], said: bytes) -> bool:
    """It names objects, none of which is ours, or it tells of a failure in another form than we asked for."""
    return any(_items(content, key) for key in (_REFERENCED_SOPS, _FAILED_SOPS)) or _FAILED_SOPS.encode() in said


def _sop_uids(content: dict[str, Any], sequence: str) -> set[Any]:
    return {_value(item, _SOP_UID) for item in _items(content, sequence)}


def _items(content: dict[str, Any], sequence: str) -> list[dict[str, Any]]:
    element = content.get(sequence)
    found = element.get("Value") if isinstance(element, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _value(item: dict[str, Any], key: str) -> str | int | None:
    """The first value of an element."""
    element = item.get(key)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return first if isinstance(first, str | int) else None
