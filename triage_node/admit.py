"""Bytes -> spool + row + status: the one place where an acknowledgement is earned.

identify      header elements only, no pixel is decoded
keep          spool: written, fsynced, linked, directory fsynced
enter         ledger: row committed
0x0000        only now
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from triage_node import log
from triage_node.domain import Instance, InstanceOutcome, ReceivedObject, StoreStatus
from triage_node.elements import READ_ERRORS, first_texts
from triage_node.errors import RejectedObject
from triage_node.spool import Arrival, Spool, dataset_sha256
from triage_node.store import ledger
from triage_node.store.database import Database

CT_CLASSES: Final = frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})

Header = Mapping[str, str]
"""Values by keyword, as text: several are separated by backslashes, as in the data set."""

_TAGS: Final[Mapping[int, str]] = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080060: "Modality",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200032: "ImagePositionPatient",
    0x00200037: "ImageOrientationPatient",
}
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

REBUILD_BATCH: Final = 500
CLOCK_SLACK_S: Final = 3600.0
"""Files this much older than the newest row are taken as entered; a crash leaves only the newest without a row."""

Step = Callable[[str], None]


def no_step(_name: str) -> None:
    """Default `step`: nothing happens between the steps."""


class Admission:
    """Admits objects; called from many association threads at a time."""

    def __init__(
        self,
        *,
        spool: Spool,
        database: Database,
        clock: Callable[[], datetime],
        step: Step = no_step,
    ) -> None:
        self._spool = spool
        self._database = database
        self._clock = clock
        self._step = step
        self._writer = ledger.LedgerWriter(database)

    def admit(self, received: ReceivedObject) -> int:
        """Make one object durable and return the DIMSE status to answer.

        Raises RejectedObject (A900, C000) for what is no DICOM object or not the one announced; OSError or a
        database error when it could not be made durable, and then nothing was acknowledged.
        """
        instance = self._identify(received)
        self._step("identified")
        spooled = self._spool.keep(received)
        self._step("spooled")
        different = spooled.arrival == Arrival.DIFFERENT
        if different:
            self._enter_first(received.sop_uid)
        self._writer.enter(ledger.Arrived(instance=replace(instance, sha256=spooled.sha256), quarantined=different))
        self._step("entered")
        if different:
            log.event(
                "quarantined: same SOP Instance UID, other bytes; the first stays",
                object=log.ref(received.sop_uid),
                calling_ae=received.calling_ae,
            )
        return StoreStatus.SUCCESS

    def released(self, association: str) -> None:
        """The association ended; its series may be complete."""
        ledger.released(self._database, association, self._clock())

    def recover(self) -> int:
        """After a start: sweep what was half-written, enter what has no row. Returns how many rows were missing."""
        swept = self._spool.sweep()
        entered = rebuild(self._spool, self._database)
        if swept or entered:
            log.event("recovered", half_written_removed=swept, rows_rebuilt=entered)
        return entered

    def _identify(self, received: ReceivedObject) -> Instance:
        header = _received_header(received)
        if header["SOPInstanceUID"] != received.sop_uid or header.get("SOPClassUID") != received.sop_class_uid:
            raise RejectedObject(
                StoreStatus.DATASET_DOES_NOT_MATCH, "the data set is not the object that the command announced"
            )
        if received.study_uid and header["StudyInstanceUID"] != received.study_uid:
            raise RejectedObject(StoreStatus.DATASET_DOES_NOT_MATCH, "the data set is of another study than announced")
        return _instance(
            header,
            transfer_syntax_uid=received.transfer_syntax_uid,
            size_bytes=len(received.dataset),
            calling_ae=received.calling_ae,
            source_address=received.source_address,
            association=received.association,
            received_at=self._clock(),
            outcome=self._outcome(received),
        )

    def _enter_first(self, sop_uid: str) -> None:
        """The object that other bytes came for has its row: the sender may repeat what we could not enter before."""
        if ledger.unknown(self._database, [sop_uid]):
            self._writer.enter(ledger.Arrived(instance=_from_file(self._spool.object_path(sop_uid))))

    def _outcome(self, received: ReceivedObject) -> InstanceOutcome:
        if received.sop_class_uid in CT_CLASSES:
            return InstanceOutcome.SERIES
        own = ledger.is_own_result(self._database, received.sop_uid)
        return InstanceOutcome.OWN if own else InstanceOutcome.IGNORED


def ct_series(path: Path) -> str | None:
    """SeriesInstanceUID of a PS3.10 file that holds a CT image; None for any other file, whatever its name says."""
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"])
        class_uid, series_uid = (_text(header.get(keyword)) for keyword in ("SOPClassUID", "SeriesInstanceUID"))
    except READ_ERRORS:
        return None
    return series_uid or None if class_uid in CT_CLASSES else None


def rebuild(spool: Spool, database: Database, *, everything: bool = False) -> int:
    """Enter spooled objects that have no row: the spool is the truth. Returns how many had none."""
    newest = None if everything else ledger.newest(database)
    since = newest.timestamp() - CLOCK_SLACK_S if newest else 0.0
    entered = 0
    batch: list[Path] = []
    for path in spool.objects(newer_than_epoch_s=since):
        batch.append(path)
        if len(batch) == REBUILD_BATCH:
            entered += _enter_missing(batch, database)
            batch = []
    return entered + _enter_missing(batch, database)


def _enter_missing(paths: Sequence[Path], database: Database) -> int:
    readable = filter(None, map(_from_spool, paths))
    instances = {instance.sop_uid: instance for instance in readable}
    missing = ledger.unknown(database, list(instances)) if instances else set()
    outcomes = {
        uid: InstanceOutcome.OWN
        for uid in missing
        if instances[uid].outcome == InstanceOutcome.IGNORED and ledger.is_own_result(database, uid)
    }
    arrivals = [
        ledger.Arrived(instance=replace(instances[uid], outcome=outcomes.get(uid, instances[uid].outcome)))
        for uid in sorted(missing)
    ]
    refused = ledger.record_all_but_refused(database, arrivals)
    for arrived in refused:
        log.event("a spooled object cannot be entered", object=log.ref(arrived.instance.sop_uid))
    return len(arrivals) - len(refused)


def _from_spool(path: Path) -> Instance | None:
    """As `_from_file`; None, and an event, for a file that is no object of ours."""
    try:
        return _from_file(path)
    except (RejectedObject, *READ_ERRORS) as error:
        log.event("a spooled file cannot be read", file=path.stem[:12], error=type(error).__name__)
        return None


def _from_file(path: Path) -> Instance:
    header = _parsed_header(path)
    stat = path.stat()
    meta = read_file_meta_info(path)
    return replace(
        _instance(
            header,
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            size_bytes=stat.st_size,
            calling_ae=str(meta.get("SourceApplicationEntityTitle", "")),
            source_address="",
            association="",
            received_at=datetime.fromtimestamp(stat.st_mtime, UTC),
            outcome=InstanceOutcome.SERIES if header["SOPClassUID"] in CT_CLASSES else InstanceOutcome.IGNORED,
        ),
        sha256=dataset_sha256(path),
    )


def _received_header(received: ReceivedObject) -> Header:
    texts = None
    if received.transfer_syntax_uid not in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        explicit_vr = received.transfer_syntax_uid != ImplicitVRLittleEndian
        texts = first_texts(received.dataset, _TAGS, explicit_vr=explicit_vr)
    if texts is None:  # what was walked through lacks what is not among them
        return _parsed_header(BytesIO(b"".join((received.header, received.dataset))))
    return _identified({_TAGS[tag]: text for tag, text in texts.items()})


def _parsed_header(source: BytesIO | Path) -> Header:
    try:
        parsed = dcmread(source, stop_before_pixels=True, specific_tags=list(_TAGS.values()))
        return _identified({keyword: _text(parsed.get(keyword)) for keyword in _TAGS.values()})
    except READ_ERRORS as error:  # its message may hold values, so it is not passed on
        if isinstance(error, OSError) and isinstance(source, Path):
            raise
        raise RejectedObject(
            StoreStatus.CANNOT_UNDERSTAND, f"the data set cannot be parsed ({type(error).__name__})"
        ) from None


def _text(value: object) -> str:
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def _identified(header: Header) -> Header:
    for keyword in _UIDS:
        if not header.get(keyword):
            raise RejectedObject(StoreStatus.CANNOT_UNDERSTAND, f"the object carries no {keyword}")
        if len(header[keyword]) > 64:
            raise RejectedObject(StoreStatus.CANNOT_UNDERSTAND, f"{keyword} is longer than 64 characters (PS3.5 9.1)")
    return header


def _instance(header: Header, **known: Any) -> Instance:
    return Instance(
        sop_uid=header["SOPInstanceUID"],
        sop_class_uid=header["SOPClassUID"],
        study_uid=header["StudyInstanceUID"],
        series_uid=header["SeriesInstanceUID"],
        modality=header.get("Modality", "")[:16],
        sha256="",
        position_mm=_floats(header, "ImagePositionPatient", 3),
        normal=_normal(header),
        **known,
    )


def _normal(header: Header) -> tuple[float, float, float] | None:
    cosines = _floats(header, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
    return (b * f - c * e, c * d - a * f, a * e - b * d)


def _floats(header: Header, keyword: str, count: int) -> Any:
    try:
        values = tuple(map(float, header.get(keyword, "").split("\\")))
    except ValueError:
        return None
    return values if len(values) == count else None
