"""A destination that is told of results by HL7 v2.5.1 ORU^R01 over MLLP, and what its acknowledgements mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

import hl7

from triage_node.config import Hl7Destination
from triage_node.deliver import statement as statements
from triage_node.deliver.batch import tell_each
from triage_node.deliver.oru import escape, oru
from triage_node.deliver.statement import Statement, message_id
from triage_node.domain import Priority
from triage_node.errors import DeliveryError
from triage_node.peers import OutgoingObject, StoreResult
from triage_node.peers.mllp import MllpConnection
from triage_node.peers.tcp import client_tls

ENCODINGS: Final = {"UNICODE UTF-8": "utf-8", "8859/1": "latin-1"}
"""Of MSH-18, table 0211."""
ACCEPTED: Final = frozenset({"AA", "CA"})
REFUSED: Final = {
    "AE": "application error",
    "AR": "application reject",
    "CE": "commit error",
    "CR": "commit reject",
}
"""MSA-1, table 0008. Sent again as it is, the message would be refused again."""
SAID_MOST: Final = 200
"""Characters of a refusal that are kept."""
_PARSE_ERRORS: Final = (hl7.HL7Exception, LookupError, ValueError, AssertionError)


class Hl7Channel:
    """One [[destination]] of kind "hl7"."""

    commitment = False
    at_a_time = 1

    def __init__(self, destination: Hl7Destination, *, timeout_s: float) -> None:
        self.name = destination.name
        self._settings = destination
        self._timeout_s = timeout_s

    def send(self, objects: Sequence[OutgoingObject], on_result: Callable[[StoreResult], None]) -> None:
        """Tell of each over one connection, or over another one where that fails. Raises nothing for a failed send."""
        line = _Line(self._settings, self._timeout_s)
        try:
            tell_each(objects, partial(self._tell, line), on_result)
        finally:
            line.close()

    def probe(self) -> str:
        """Connect and send nothing. Raises DeliveryError."""
        line = _Line(self._settings, self._timeout_s)
        line.open()
        line.close()
        return f"takes connections at {self._settings.address}" + (" over TLS" if self._settings.tls else "")

    def _tell(self, line: _Line, outgoing: OutgoingObject) -> None:
        statement = statements.read(outgoing.path)
        answer = line.exchange(self._message(statement, outgoing.study_priority), message_id(statement.uid))
        _raise_for_answer(answer, self._settings, statement)

    def _message(self, statement: Statement, study_priority: Priority | None) -> bytes:
        if statement.patient is None or statement.order is None:
            raise DeliveryError("its images do not say whose result it is: no system could match it", retryable=False)
        priority = study_priority or statement.priority
        text = oru(statement, statement.patient, statement.order, self._settings, priority)
        return text.encode(ENCODINGS[self._settings.character_set], errors="replace")


# ---------------------------------------------------------------- asking


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """An acknowledgement: MSA-1, MSA-2, and what MSA-3 and ERR say."""

    code: str
    of: str
    text: str


class _Line:
    """The connection of one batch. After a fault the next message gets a new one: a late answer must not be its own."""

    def __init__(self, settings: Hl7Destination, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._connection: MllpConnection | None = None
        self._answered: set[str] = set()

    def open(self) -> MllpConnection:
        """The connection that is open, or a new one. Raises DeliveryError."""
        if self._connection is None:
            settings = self._settings
            tls = client_tls(settings.ca_file, settings.certificate, settings.private_key) if settings.tls else None
            self._connection = MllpConnection(settings.host, settings.port, timeout_s=self._timeout_s, tls=tls)
        return self._connection

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.__exit__(None, None, None)
        self._connection, self._answered = None, set()

    def exchange(self, message: bytes, control_id: str) -> _Answer:
        """Send a message and take its acknowledgement. Raises DeliveryError, and hangs up."""
        try:
            connection = self.open()
            connection.send(message)
            answer = self._parsed(connection.receive())
            while answer.of in self._answered:  # some say CA and then AA
                self._answered.remove(answer.of)
                answer = self._parsed(connection.receive())
            if answer.of != control_id:
                raise DeliveryError(f"{self._settings.address} acknowledged another message (MSA-2)", retryable=True)
        except DeliveryError:
            self.close()
            raise
        self._answered.add(control_id)
        return answer

    def _parsed(self, frame: bytes) -> _Answer:
        text = frame.decode(ENCODINGS[self._settings.character_set], errors="replace")
        try:
            message = hl7.parse(text.replace("\r\n", "\r").replace("\n", "\r"))
            msa = message.segment("MSA")
            said = [
                _field(msa, 3),
                *(part for segment in message if _field(segment, 0) == "ERR" for part in _err(segment)),
            ]
            answer = _Answer(code=_field(msa, 1), of=_field(msa, 2), text="; ".join(dict.fromkeys(filter(None, said))))
        except _PARSE_ERRORS as error:
            raise DeliveryError(
                f"{self._settings.address} answered something that is no acknowledgement", retryable=True
            ) from error
        return answer


def _err(segment: hl7.Segment) -> Iterator[str]:
    """HL7 error code, diagnostic information, user message."""
    for number in (3, 7, 8):
        yield _field(segment, number).replace("^", " ")


def _field(segment: hl7.Segment, number: int) -> str:
    return str(segment[number]).strip() if len(segment) > number else ""


# ---------------------------------------------------------------- what it means


def _raise_for_answer(answer: _Answer, settings: Hl7Destination, statement: Statement) -> None:
    if answer.code in ACCEPTED:
        return
    if answer.code not in REFUSED:
        raise DeliveryError(f"{settings.address} acknowledged with an unknown code (MSA-1)", retryable=True)
    meaning = f"{settings.address} answered {answer.code}: {REFUSED[answer.code]}"
    raise DeliveryError(meaning, retryable=False, said=_without_identity(answer.text, statement)[:SAID_MOST])


def _without_identity(text: str, statement: Statement) -> str:
    """What a peer says often quotes what it was sent; whose result it is must not go on from here."""
    values = [
        value for part in (statement.patient, statement.order) if part for value in asdict(part).values() if value
    ]
    words = {word for value in values for word in (value, *re.split(r"[\^=]", value)) if len(word) > 1}
    longest_first = sorted(words | {escape(word) for word in words}, key=len, reverse=True)
    if longest_first:
        text = re.sub("|".join(map(re.escape, longest_first)), "...", text, flags=re.IGNORECASE)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
