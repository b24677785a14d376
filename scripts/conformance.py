"""The tables of docs/conformance.md, from the code.

python scripts/conformance.py            writes them between their markers
python scripts/conformance.py --check    says whether they are there already (as a test does)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from triage_node import config
from triage_node.admit import CT_CLASSES
from triage_node.domain import STORE_STATUS_TEXT, ObjectKind
from triage_node.peers import association, commitment, find
from triage_node.peers.store import SOP_CLASS_NOT_SUPPORTED, STORE_FAILURES
from triage_node.peers.ups import PULL, PUSH, UPS_FAILURES
from triage_node.receive import callers, contexts
from triage_node.receive.hardening import MAXIMUM_PDU_SIZE
from triage_node.receive.syntaxes import TRANSFER_SYNTAXES
from triage_node.report.instance import MODALITIES, SERIES_NUMBERS
from triage_node.report.uids import IMPLEMENTATION_CLASS_UID
from triage_node.store.commitments import HOPELESS

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "conformance.md"

SOP_CLASSES: Final[Mapping[ObjectKind, str]] = {
    ObjectKind.SEG: "1.2.840.10008.5.1.4.1.1.66.4",
    ObjectKind.SR: "1.2.840.10008.5.1.4.1.1.88.34",
    ObjectKind.KEY_IMAGE: "1.2.840.10008.5.1.4.1.1.7",
    ObjectKind.NOTICE_SR: "1.2.840.10008.5.1.4.1.1.88.11",
    ObjectKind.NOTICE_IMAGE: "1.2.840.10008.5.1.4.1.1.7",
    ObjectKind.GSPS: "1.2.840.10008.5.1.4.1.1.11.1",
    ObjectKind.KOS: "1.2.840.10008.5.1.4.1.1.88.59",
    ObjectKind.LABELMAP: "1.2.840.10008.5.1.4.1.1.66.7",
}
"""Of what we make; a test holds them against objects that were made."""

TRANSFER_SYNTAX_OF: Final = {ObjectKind.LABELMAP: RLELossless}
"""Of what is not encoded in Explicit VR Little Endian."""

PROPOSED: Final = {
    "destination": (association.VERIFICATION, commitment.STORAGE_COMMITMENT, find.STUDY_ROOT_FIND),
    "source": (find.STUDY_ROOT_FIND,),
    "modality_worklist": (find.MODALITY_WORKLIST_FIND,),
}


def main() -> int:
    """Write the tables, or check them."""
    old = DOCUMENT.read_text(encoding="utf-8")
    new = with_tables(old)
    if "--check" in sys.argv:
        return int(old != new)
    DOCUMENT.write_text(new, encoding="utf-8")
    return 0


def with_tables(text: str) -> str:
    """`text` with each table between its markers as the code has it. Raises ValueError where a marker is missing."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(block.findall(text)) != 1:
            raise ValueError(f"the markers of table {name} are not there once")
        content = table()
        text = block.sub(lambda found, content=content: f"{found[1]}{content}{found[2]}", text)  # type: ignore[misc]
    return text


# ---------------------------------------------------------------- tables


def _accepted() -> str:
    rows = [(_name(uid), uid, "all below", "SCP", "every caller") for uid in contexts.VERIFICATION]
    rows += [("every storage class below", "", "all below", "SCP", "[[source]]")]
    rows += [
        ("private, those of `accept_classes`", "as listed", _short(contexts.UNCOMPRESSED), "SCP", "that [[source]]")
    ]
    asked = {"SCU (role selection)": "[[destination]] with commitment", "SCP": "[[source]] with commitment_to"}
    rows += [
        (_name(uid), uid, _short(contexts.UNCOMPRESSED), role, caller)
        for uid in contexts.STORAGE_COMMITMENT
        for role, caller in asked.items()
    ]
    rows += [
        (_name(uid), uid, _short(contexts.UNCOMPRESSED), "SCP", "[[source]] with worklist")
        for uid in contexts.WORKITEMS
    ]
    return _table(("SOP class", "UID", "transfer syntaxes", "our role", "from"), rows)


def _storage() -> str:
    rows = [(_name(uid), uid, "analysed" if uid in CT_CLASSES else "kept, not analysed") for uid in contexts.STORAGE]
    return _table(("SOP class", "UID", "what becomes of it"), rows)


def _syntaxes() -> str:
    return _table(("order", "transfer syntax", "UID"), [(i, _name(s), s) for i, s in enumerate(TRANSFER_SYNTAXES, 1)])


def _proposed() -> str:
    rows: list[tuple[Any, ...]] = [
        (
            _name(uid),
            uid,
            _short(association.UNCOMPRESSED),
            "SCU",
            f"[{table}]" if table in config.TABLES else f"[[{table}]]",
        )
        for table, uids in PROPOSED.items()
        for uid in uids
    ]
    uncompressed = _short(association.UNCOMPRESSED)
    rows += [(_name(uid), uid, uncompressed, "SCU", "[[destination]] of kind ups") for uid in (PUSH, PULL)]
    for uid, kind in sorted({uid: kind for kind, uid in SOP_CLASSES.items()}.items()):
        syntaxes = dict.fromkeys([TRANSFER_SYNTAX_OF.get(kind, ExplicitVRLittleEndian), *association.UNCOMPRESSED])
        rows.append((_name(uid), uid, _short(syntaxes), "SCU", "[[destination]]"))
    return _table(("SOP class", "UID", "transfer syntaxes", "our role", "to"), rows)


def _answers() -> str:
    rows = [
        (f"0x{status:04X}", meaning, clause, behaviour)
        for status, (meaning, clause, behaviour) in STORE_STATUS_TEXT.items()
    ]
    return _table(("status", "meaning", "clause", "what it says of the object"), rows)


def _received_statuses() -> str:
    rows: list[tuple[Any, ...]] = [
        ("0x0000", "success", "SENT"),
        ("0x0111", "duplicate SOP instance: it has the object", "SENT"),
        ("0xB000 to 0xBFFF", "warning: it has the object", "SENT"),
    ]
    return _table(("status", "meaning", "what we do"), [*rows, *_failures(STORE_FAILURES)])


def _ups_failures() -> str:
    return _table(("status", "meaning", "what we do"), _failures(UPS_FAILURES))


def _failures(failures: Iterable[tuple[int, int, bool, str]]) -> Iterable[tuple[str, str, str]]:
    for first, last, retryable, meaning in failures:
        span = f"0x{first:04X}" if first == last else f"0x{first:04X} to 0x{last:04X}"
        other = "any other" if (first, last) == (0x0000, 0xFFFF) else span
        not_accepted = first == SOP_CLASS_NOT_SUPPORTED and failures is STORE_FAILURES
        done = "not accepted, see below" if not_accepted else "tried again" if retryable else "dead letter"
        yield other, meaning, done


def _reports() -> str:
    answers = [
        (commitment.NOTED, "noted, also a repetition"),
        (commitment.NOT_NOTED, "not noted (malformed, or the database takes nothing): report again"),
        (commitment.NO_SUCH_EVENT, "an event type other than 1 and 2"),
        (commitment.UNKNOWN_TRANSACTION, "no transaction of ours with this caller"),
    ]
    return _table(("status", "meaning"), [(f"0x{status:04X}", meaning) for status, meaning in answers])


def _reasons() -> str:
    rows = [(f"0x{reason:04X}", meaning, "dead letter") for reason, meaning in HOPELESS.items()]
    return _table(("FailureReason", "meaning", "what we do"), [*rows, ("any other", "", "sent again, with backoff")])


def _rejections() -> str:
    codes = {
        callers.CALLING_AE_NOT_RECOGNISED: "calling AE title not recognised: in no table, or from another address",
        callers.CALLED_AE_NOT_RECOGNISED: "called AE title not recognised",
        callers.LOCAL_LIMIT_EXCEEDED: "local limit exceeded: too many associations, or no disk or database; try later",
    }
    rows = [(*map(str, code), meaning) for code, meaning in codes.items()]
    return _table(("result", "source", "reason", "meaning"), rows)


def _settings() -> str:
    chosen: dict[type, Iterable[str]] = {
        config.Node: (
            "max_associations", "max_associations_per_address", "stall_timeout_s", "idle_timeout_s", "min_free_mb",
        ),
        config.Delivery: (
            "timeout_s", "attempts", "backoff_s", "backoff_cap_s", "commitment_timeout_s", "commitment_attempts",
        ),
    }  # fmt: skip
    rows = [
        (f"{cls.__name__.lower()}.{spec.name}", spec.default, spec.metadata["help"])
        for cls, names in chosen.items()
        for spec in fields(cls)
        if spec.name in names
    ]
    return _table(("setting", "default", "what it is"), rows)


def _identification() -> str:
    rows = [
        ("Implementation Class UID of associations and of received files", PYNETDICOM_IMPLEMENTATION_UID),
        ("Implementation Version Name of the same", PYNETDICOM_IMPLEMENTATION_VERSION),
        ("Implementation Class UID of the objects we make", IMPLEMENTATION_CLASS_UID),
        ("Maximum length received", f"{MAXIMUM_PDU_SIZE} bytes"),
        ("Application Context Name", "1.2.840.10008.3.1.1.1"),
    ]
    return _table(("item", "value"), rows)


def _objects() -> str:
    rows = [(kind, _name(uid), uid, MODALITIES[kind], SERIES_NUMBERS[kind]) for kind, uid in SOP_CLASSES.items()]
    return _table(("object", "SOP class", "UID", "Modality", "SeriesNumber"), rows)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "accepted": _accepted,
    "storage": _storage,
    "syntaxes": _syntaxes,
    "proposed": _proposed,
    "answers": _answers,
    "received statuses": _received_statuses,
    "ups failures": _ups_failures,
    "reports": _reports,
    "reasons": _reasons,
    "rejections": _rejections,
    "settings": _settings,
    "identification": _identification,
    "objects": _objects,
}


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _name(uid: str) -> str:
    return str(UID(uid).name)


def _short(syntaxes: Iterable[str]) -> str:
    return ", ".join(_name(uid) for uid in syntaxes)


if __name__ == "__main__":
    sys.exit(main())
