"""A destination that is told of results by HL7 v2.5.1 ORU^R01 over MLLP, and what its acknowledgements mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import hl7

from triage_node.config import Hl7Destination
from triage_node.deliver import statement as statements
from triage_node.deliver.batch import tell_each
from triage_node.deliver.oru import oru
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
ERRORS: Final = {
    "100": "segment sequence error",
    "101": "required field missing",
    "102": "data type error",
    "103": "table value not found",
    "200": "unsupported message type",
    "201": "unsupported event code",
    "202": "unsupported processing id",
    "203": "unsupported version id",
    "204": "unknown key identifier",
    "205": "duplicate key identifier",
    "206": "application record locked",
    "207": "application internal error",
}
"""ERR-3, table 0357. Nothing else of a refusal is kept: its free text may quote whose result it is, in any form."""
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
        _raise_for_answer(answer, self._settings)

    def _message(self, statement: Statement, study_priority: Priority | None) -> bytes:
        if statement.patient is None or statement.order is None:
            raise DeliveryError("its images do not say whose result it is: no system could match it", retryable=False)
        priority = study_priority or statement.priority
        text = oru(statement, statement.patient, statement.order, self._settings, priority)
        return text.encode(ENCODINGS[self._settings.character_set], errors="replace")


# ---------------------------------------------------------------- asking


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """An acknowledgement: MSA-1, MSA-2, and ERR-3 of each ERR."""

    code: str
    of: str
    errors: tuple[str, ...]


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
            errors = (_field(segment, 3) for segment in message if _field(segment, 0) == "ERR")
            answer = _Answer(code=_field(msa, 1), of=_field(msa, 2), errors=tuple(errors))
        except _PARSE_ERRORS as error:
            raise DeliveryError(
                f"{self._settings.address} answered something that is no acknowledgement", retryable=True
            ) from error
        return answer


def _field(segment: hl7.Segment, number: int) -> str:
    return str(segment[number]).strip() if len(segment) > number else ""


# ---------------------------------------------------------------- what it means


def _raise_for_answer(answer: _Answer, settings: Hl7Destination) -> None:
    if answer.code in ACCEPTED:
        return
    if answer.code not in REFUSED:
        raise DeliveryError(f"{settings.address} acknowledged with an unknown code (MSA-1)", retryable=True)
    meaning = f"{settings.address} answered {answer.code}: {REFUSED[answer.code]}"
    raise DeliveryError("; ".join([meaning, *_known(answer.errors)]) + "; its own log says more", retryable=False)


def _known(errors: Iterable[str]) -> Iterator[str]:
    """The errors that stand in the table, in our words."""
    codes = dict.fromkeys(error.split("^")[0].strip() for error in errors)
    return (f"{code} {ERRORS[code]}" for code in codes if code in ERRORS)
