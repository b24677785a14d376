"""Images by STOW-RS (PS3.18 10.5), admitted as by C-STORE: the same checks, durable before success, the same statuses.

Who sends shows the bearer token of its [[source]], from one of its addresses. A request is parsed as it comes: each
part goes to a file without a name, where it is mapped and not read: memory does not grow with images or requests.
"""

from __future__ import annotations

import hashlib
import hmac
import mmap
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartState, parse_options_header

from triage_node import log, secret
from triage_node.config import Config, Source
from triage_node.domain import ReceivedObject, StoreAnswer, StoreStatus
from triage_node.elements import file_meta
from triage_node.receive.callers import LOCAL_LIMIT_EXCEEDED, Caller, Refusal, calls_from, printable
from triage_node.receive.contexts import STORAGE, UNCOMPRESSED
from triage_node.receive.listener import file_header, silence_libraries
from triage_node.receive.storing import NotTaken, is_stored, refused, status_of
from triage_node.receive.syntaxes import TRANSFER_SYNTAXES

MOST_PARTS: Final = 10_000
"""Of one request: their outcomes are kept until its end."""
_HEADER_BYTES: Final = 1024
"""Of a header of a part; more is cut off."""
_SOP_CLASS, _SOP_UID, _SYNTAX = 0x00020002, 0x00020003, 0x00020010  # PS3.10 7.1
_SOP_CLASS_NOT_SUPPORTED: Final = 0x0122  # PS3.3 C.39, the reasons of FailedSOPSequence
_SYNTAX_NOT_SUPPORTED: Final = 0xC122


@dataclass
class _Outcomes:
    """What became of the parts of a request."""

    stored: list[tuple[str, str]] = field(default_factory=list)
    """(SOP class, SOP Instance UID)."""
    failed: list[tuple[str, str, int]] = field(default_factory=list)
    """The same, and the FailureReason."""
    unnamed: list[int] = field(default_factory=list)
    """FailureReasons of what has no UID."""

    @property
    def reasons(self) -> list[int]:
        """Of all that failed."""
        return [reason for *_, reason in self.failed] + self.unnamed


class StowReceiver:
    """Who may send, and how many at a time. Called from several threads."""

    def __init__(
        self,
        *,
        config: Config,
        admit: Callable[[ReceivedObject], int],
        released: Callable[[str], None],
        scratch: Callable[[], BinaryIO],
        refused: Callable[[Caller, Refusal], None] = lambda *_: None,
        not_taken: NotTaken = lambda *_: None,
        may_receive: Callable[[], bool] = lambda: True,
    ) -> None:
        """The callbacks are those of `Listener`; `scratch` opens a file without a name on the disk of the spool."""
        silence_libraries()
        self._config = config
        self._admit = admit
        self._released = released
        self._scratch = scratch
        self._refused = refused
        self._not_taken = not_taken
        self._may_receive = may_receive
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(
        self, *, authorization: str, content_type: str, address: str, study_uid: str = ""
    ) -> StowRequest | StoreAnswer:
        """A request that may send its parts, to be ended whatever happens; else the answer to it."""
        source = self._source_of(authorization, address)
        if source is None:
            return StoreAnswer(code=401, content={})
        boundary = _boundary(content_type)
        if boundary is None:
            return StoreAnswer(code=415, content={})
        if not _may_be_uid(study_uid):
            return StoreAnswer(code=400, content={})
        if not self._may_receive():
            return _not_now("images cannot be stored now", address)
        if not self._take_place(address):
            return _not_now("too many requests; raise node.max_associations or max_associations_per_address", address)
        try:
            return StowRequest(self, source, boundary, address=address, study_uid=study_uid)
        except FormParserError:  # a boundary that none can be
            self._give_place(address)
            return StoreAnswer(code=400, content={})

    def ended(self, address: str, association: str, *, stored: bool) -> None:
        """A request gives its place back; its series may be complete."""
        self._give_place(address)
        if not stored:
            return
        try:
            self._released(association)
        except Exception as error:  # noqa: BLE001 - what is stored must be answered so; the series ends by its quiet time
            log.event("a store request could not be released", association=association, error=type(error).__name__)

    def status_of(self, received: ReceivedObject) -> int:
        """Admit one object."""
        return status_of(received, admit=self._admit, may_receive=self._may_receive, not_taken=self._not_taken)

    def refuse(self, received: ReceivedObject, status: int, reason: str) -> int:
        """Not this one; returns the status."""
        return refused(received, status, reason, self._not_taken)

    def scratch(self) -> BinaryIO:
        """A file without a name."""
        return self._scratch()

    @property
    def most_bytes(self) -> int:
        """Of one part."""
        return self._config.node.max_object_mb * 1_000_000

    # ------------------------------------------------------------ who

    def _source_of(self, authorization: str, address: str) -> Source | None:
        scheme, _, token = authorization.partition(" ")
        shown = token.strip().encode() if scheme.lower() == "bearer" else b""
        named = [source for source in self._config.sources if source.token and _is(shown, source.token)]
        here = [source for source in named if _calls_from(source, address)]
        if here:
            return here[0]
        self._refuse(named[0] if named else None, address)
        return None

    def _refuse(self, named: Source | None, address: str) -> None:
        """In the log, and where refused callers are shown."""
        caller = Caller(calling_ae=named.ae_title if named else "(no token)", called_ae="STOW-RS", address=address)
        reason = "this token is not known from this address" if named else "no token of a [[source]]"
        advice = "have it send `Authorization: Bearer` and the token of its [[source]]"
        if named:
            advice = f'add "{printable(address, 64)}" to hosts of [[source]] "{named.ae_title}"'
        log.event("store request refused", reason=reason, address=printable(address, 64), advice=advice)
        self._refused(caller, Refusal(code=LOCAL_LIMIT_EXCEEDED, reason=reason, advice=advice))

    def _take_place(self, address: str) -> bool:
        node = self._config.node
        with self._lock:
            free = self._open.total() < node.max_associations
            free = free and self._open[address] < node.max_associations_per_address
            self._open[address] += free
        return free

    def _give_place(self, address: str) -> None:
        with self._lock:
            self._open[address] -= 1
            self._open += Counter()  # forgets addresses without any


class StowRequest:
    """One request while it comes in. Not to be shared between threads, but handed from one to the next."""

    def __init__(self, receiver: StowReceiver, source: Source, boundary: bytes, *, address: str, study_uid: str):
        self._receiver, self._source, self._address, self._study_uid = receiver, source, address, study_uid
        self._association = secrets.token_hex(8)
        self._outcomes = _Outcomes()
        self._refusal = 0
        self._part: BinaryIO | None = None
        self._parts = self._bytes = 0
        self._name, self._type = b"", b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": self._take_content,
                "on_part_end": self._end_part,
            },
        )

    def take(self, chunk: bytes) -> bool:
        """The next bytes; whether any more are wanted."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            self._refusal = 400
        except _TooMuch:
            self._refusal = 413
        except OSError:  # the disk takes no more
            self._refusal = 503
        return not self._refusal

    def end(self, *, code: int = 0) -> StoreAnswer:
        """The answer, when all has come; with `code`, an HTTP status, it broke off. To be called exactly once."""
        try:
            if not (self._refusal or code):
                self._parser.finalize()
                if self._parser.state != MultipartState.END:  # parts that were to follow are not told as stored
                    self._refusal = 400
        except FormParserError:
            self._refusal = 400
        if self._part is not None:
            with suppress(OSError):  # the rest of it, that the disk does not take
                self._part.close()
            self._refusal = self._refusal or 400
        code, outcomes = code or self._refusal or _code(self._outcomes), self._outcomes
        self._log(code)
        self._receiver.ended(self._address, self._association, stored=bool(outcomes.stored))
        return StoreAnswer(code=code, content=_content(outcomes))

    # ------------------------------------------------------------ as the parser goes

    def _begin_part(self) -> None:
        self._type = b""
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _TooMuch

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start : min(end, start + _HEADER_BYTES - len(self._name))]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        if self._name.lower() == b"content-type":
            self._type += data[start : min(end, start + _HEADER_BYTES - len(self._type))]

    def _end_header(self) -> None:
        self._name = b""

    def _begin_content(self) -> None:
        self._part = self._receiver.scratch()

    def _take_content(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        if self._part.tell() + end - start > self._receiver.most_bytes:
            raise _TooMuch
        self._part.write(data[start:end])

    def _end_part(self) -> None:
        assert self._part is not None
        with self._part as part:
            part.flush()
            self._bytes += part.tell()
            if parse_options_header(self._type)[0] in (b"application/dicom", b"") and part.tell():
                with mmap.mmap(part.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
                    self._store(content)
            else:
                self._outcomes.unnamed.append(StoreStatus.CANNOT_UNDERSTAND)
        self._part = None

    # ------------------------------------------------------------ one object

    def _store(self, content: memoryview) -> None:
        meta, data_set_at = file_meta(content) or ({}, 0)
        sop_class, sop_uid, syntax = (meta.get(tag, "") for tag in (_SOP_CLASS, _SOP_UID, _SYNTAX))
        if not all(0 < len(uid) <= 64 for uid in (sop_class, sop_uid, syntax)):
            self._outcomes.unnamed.append(StoreStatus.CANNOT_UNDERSTAND)
            return
        with content[data_set_at:] as data_set:
            status = self._admit(self._received(sop_class, sop_uid, syntax, data_set))
        if is_stored(status):
            self._outcomes.stored.append((sop_class, sop_uid))
        else:
            self._outcomes.failed.append((sop_class, sop_uid, status))

    def _received(self, sop_class: str, sop_uid: str, syntax: str, data_set: memoryview) -> ReceivedObject:
        return ReceivedObject(
            sop_uid=sop_uid,
            sop_class_uid=sop_class,
            transfer_syntax_uid=syntax,
            header=file_header(sop_class, sop_uid, syntax, self._source.ae_title),
            dataset=data_set,
            calling_ae=self._source.ae_title,
            source_address=self._address,
            association=self._association,
            study_uid=self._study_uid,
        )

    def _admit(self, received: ReceivedObject) -> int:
        """What the negotiation of an association would have refused is refused first."""
        standard, private = received.sop_class_uid in STORAGE, received.sop_class_uid in self._source.accept_classes
        if not standard and not private:
            return self._receiver.refuse(received, _SOP_CLASS_NOT_SUPPORTED, "SOP class not supported")
        if received.transfer_syntax_uid not in (TRANSFER_SYNTAXES if standard else UNCOMPRESSED):
            return self._receiver.refuse(received, _SYNTAX_NOT_SUPPORTED, "transfer syntax not supported")
        return self._receiver.status_of(received)

    def _log(self, code: int) -> None:
        log.event(
            "store request ended",
            association=self._association,
            calling_ae=self._source.ae_title,
            address=self._address,
            stored=len(self._outcomes.stored),
            refused=len(self._outcomes.reasons),
            megabytes=round(self._bytes / 1e6, 1),
            code=code,
        )


class _TooMuch(Exception):
    """A part is larger than we take, or there are too many."""


# ---------------------------------------------------------------- steps


def _not_now(reason: str, address: str) -> StoreAnswer:
    log.event("store request refused", reason=reason, address=printable(address, 64))
    return StoreAnswer(code=503, content={})


def _is(shown: bytes, where: str) -> bool:
    """Whether it is the token; compared in a time that tells nothing of it."""
    token = secret.look_up(where)
    same = hmac.compare_digest(hashlib.sha256(shown).digest(), hashlib.sha256(token).digest())
    return same and len(token) >= secret.SHORTEST


def _calls_from(source: Source, address: str) -> bool:
    with suppress(ValueError):  # what a proxy says of a caller may be no address
        return calls_from(source.hosts, address)
    return False


def _boundary(content_type: str) -> bytes | None:
    """Of multipart/related; type="application/dicom" (PS3.18 8.7.1); None for anything else."""
    kind, options = parse_options_header(content_type)
    dicom = options.get(b"type", b"").lower() == b"application/dicom"
    return options.get(b"boundary") or None if kind == b"multipart/related" and dicom else None


def _may_be_uid(text: str) -> bool:
    return len(text) <= 64 and set(text) <= set("0123456789.")


def _code(outcomes: _Outcomes) -> int:
    """PS3.18 table 10.5.3-1; 503 where another try may do better."""
    if not outcomes.stored and not outcomes.reasons:
        return 400
    if not outcomes.reasons:
        return 200
    if outcomes.stored:
        return 202
    return 503 if all(reason >> 8 == 0xA7 for reason in outcomes.reasons) else 409


def _content(outcomes: _Outcomes) -> dict[str, Any]:
    """The store instances response module (PS3.3 C.39). Nothing can be retrieved here, so that RetrieveURL is empty."""
    url = {"00081190": {"vr": "UR"}}
    content: dict[str, Any] = dict(url)
    if outcomes.failed:
        failed = [_sop(class_uid, uid) | _reason(reason) for class_uid, uid, reason in outcomes.failed]
        content["00081198"] = {"vr": "SQ", "Value": failed}
    if outcomes.stored:
        content["00081199"] = {"vr": "SQ", "Value": [_sop(*uids) | url for uids in outcomes.stored]}
    if outcomes.unnamed:
        content["0008119A"] = {"vr": "SQ", "Value": [_reason(reason) for reason in outcomes.unnamed]}
    return content


def _sop(class_uid: str, uid: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [class_uid]}, "00081155": {"vr": "UI", "Value": [uid]}}


def _reason(reason: int) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [int(reason)]}}
