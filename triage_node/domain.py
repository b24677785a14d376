"""The values that pass between stages. All frozen, keyword-only; aware datetimes; units in names.

Geometry is in the patient frame of DICOM (LPS: +x left, +y posterior, +z head), millimetres (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage_node.errors import StateError

Int16Array = NDArray[np.int16]
Int64Array = NDArray[np.int64]
UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

SUBTYPES: Final = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""Mask label values are 1 + the index here; 0 is background."""
CLASSES: Final = ("any", *SUBTYPES)
"""Column order of every probability array."""
SUBTYPE_ABBREVIATIONS: Final = {
    "epidural": "EDH",
    "intraparenchymal": "IPH",
    "intraventricular": "IVH",
    "subarachnoid": "SAH",
    "subdural": "SDH",
}
Rgb = tuple[int, int, int]
"""0..255."""
COLORS: Final[Mapping[str, Rgb]] = {
    "epidural": (230, 159, 0),
    "intraparenchymal": (204, 121, 167),
    "intraventricular": (86, 180, 233),
    "subarachnoid": (240, 228, 66),
    "subdural": (0, 190, 140),
}
"""Of the subtypes, the same in SEG, key images and pages: Okabe and Ito's set, told apart by colour-blind readers."""
OPERATING_POINT: Final = 0.5
"""Bundles calibrate their probabilities so that this is their operating point."""
DISCLAIMER: Final = "Research software. Not for primary diagnosis."
WORKLIST_LABEL: Final = "AI triage"
PROCEDURE_STEP_LABEL: Final = "Read head CT with AI result"
"""Of our workitems (PS3.3 C.30.2), where the configuration says nothing else."""


def probability_text(probability: float) -> str:
    """As people read it, two digits. Never 1.00: no model is that sure."""
    return f"{min(probability, 0.99):.2f}"


# ---------------------------------------------------------------- states


class SeriesState(StrEnum):
    """Where one revision of a series stands."""

    RECEIVING = "RECEIVING"
    READY = "READY"
    ANALYZING = "ANALYZING"
    REPORTED = "REPORTED"
    DELIVERED = "DELIVERED"


class Outcome(StrEnum):
    """How one revision of a series ended. Every one of them is reported and delivered."""

    ANALYZED = "ANALYZED"
    NOT_ANALYZED = "NOT_ANALYZED"
    FAILED = "FAILED"


class Priority(StrEnum):
    """Reading priority; NONE where nothing was analysed."""

    STAT = "STAT"
    HIGH = "HIGH"
    ROUTINE = "ROUTINE"
    NONE = "NONE"


class OutboxState(StrEnum):
    """Where one result object stands on its way to one destination."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    SENT = "SENT"
    CONFIRMED = "CONFIRMED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    NOT_ACCEPTED = "NOT_ACCEPTED"  # the destination takes no such objects, but others of the same result


class Proof(StrEnum):
    """What a destination says of an object that it was sent, when it is asked."""

    COMMITTED = "COMMITTED"  # by storage commitment: it keeps it
    FOUND = "FOUND"  # by C-FIND: it has it
    MISSING = "MISSING"  # by either: it does not have it


def delivery_text(state: OutboxState, proof: Proof | None) -> str:
    """How far an object is proven to be at its destination, in plain words."""
    if state is OutboxState.CONFIRMED:
        return "found by C-FIND" if proof is Proof.FOUND else "confirmed by commitment"
    if proof is Proof.MISSING and state is not OutboxState.CANCELLED:
        return "missing" if state is OutboxState.DEAD else "missing, sent again"
    return _DELIVERY_TEXT[state]


_DELIVERY_TEXT: Final = {
    OutboxState.PENDING: "waiting",
    OutboxState.SENDING: "on the way",
    OutboxState.SENT: "sent",
    OutboxState.DEAD: "refused",
    OutboxState.CANCELLED: "superseded",
    OutboxState.NOT_ACCEPTED: "not accepted",
}


class TrialKind(StrEnum):
    """What was given to the page for trying."""

    SERIES = "SERIES"  # DICOM CT images
    PICTURE = "PICTURE"  # one PNG or JPEG


class TrialState(StrEnum):
    """Where it stands."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


class StepState(StrEnum):
    """Procedure Step State of a workitem (PS3.4 CC.1.1)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class InstanceOutcome(StrEnum):
    """What became of one received object, kept in the ledger for ever."""

    SERIES = "SERIES"  # belongs to a CT series that is analysed
    OWN = "OWN"  # one of our results, come back by auto-forward
    IGNORED = "IGNORED"  # not a CT image
    LATE = "LATE"  # a CT image that came when the images of its series had been removed from the disk


class NotAnalyzedReason(StrEnum):
    """Why a series was not analysed: a closed list, each with a sentence in NOT_ANALYZED_TEXT."""

    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    INCOMPLETE = "INCOMPLETE"
    NO_GEOMETRY = "NO_GEOMETRY"
    NO_RESCALE = "NO_RESCALE"
    NOT_AXIAL = "NOT_AXIAL"
    NOT_HEAD = "NOT_HEAD"
    CONTRAST = "CONTRAST"
    BONE_ONLY = "BONE_ONLY"
    LOCALIZER = "LOCALIZER"
    UNREADABLE = "UNREADABLE"
    PRIOR_STUDY = "PRIOR_STUDY"
    DUPLICATE_RECONSTRUCTION = "DUPLICATE_RECONSTRUCTION"


NOT_ANALYZED_TEXT: Final[Mapping[NotAnalyzedReason, str]] = {
    NotAnalyzedReason.TOO_FEW_SLICES: "too few slices to cover a head",
    NotAnalyzedReason.INCOMPLETE: "slices are missing",
    NotAnalyzedReason.NO_GEOMETRY: "the images carry no usable position or orientation",
    NotAnalyzedReason.NO_RESCALE: "the images carry no Hounsfield scale",
    NotAnalyzedReason.NOT_AXIAL: "not an axial series",
    NotAnalyzedReason.NOT_HEAD: "not a head",
    NotAnalyzedReason.CONTRAST: "contrast was given",
    NotAnalyzedReason.BONE_ONLY: "only a bone reconstruction is there",
    NotAnalyzedReason.LOCALIZER: "a localizer, not an image stack",
    NotAnalyzedReason.UNREADABLE: "the pixel data cannot be decoded",
    NotAnalyzedReason.PRIOR_STUDY: "an earlier study",
    NotAnalyzedReason.DUPLICATE_RECONSTRUCTION: "another reconstruction of the same acquisition was analysed",
}

TELLING: Final = (
    NotAnalyzedReason.INCOMPLETE,
    NotAnalyzedReason.UNREADABLE,
    NotAnalyzedReason.NO_RESCALE,
    NotAnalyzedReason.NO_GEOMETRY,
    NotAnalyzedReason.TOO_FEW_SLICES,
    NotAnalyzedReason.BONE_ONLY,
    NotAnalyzedReason.CONTRAST,
    NotAnalyzedReason.NOT_AXIAL,
    NotAnalyzedReason.NOT_HEAD,
    NotAnalyzedReason.LOCALIZER,
)
"""The reasons that are sent, most telling first: a study gets one notice, of the series that came nearest to an
analysis. A prior is no news, and a duplicate's acquisition was analysed."""

TRANSITIONS: Final[Mapping[SeriesState, frozenset[SeriesState]]] = {
    SeriesState.RECEIVING: frozenset({SeriesState.READY}),
    # back to RECEIVING: a slice came before anything of this revision was published
    SeriesState.READY: frozenset({SeriesState.ANALYZING, SeriesState.RECEIVING}),
    # back to READY: the lease ran out (worker killed), a try failed, or a better series is under way;
    # back to RECEIVING: a slice came meanwhile
    SeriesState.ANALYZING: frozenset({SeriesState.REPORTED, SeriesState.READY, SeriesState.RECEIVING}),
    SeriesState.REPORTED: frozenset({SeriesState.DELIVERED}),
    SeriesState.DELIVERED: frozenset({SeriesState.REPORTED}),  # a dead letter was retried, a row re-opened
}

OUTBOX_TRANSITIONS: Final[Mapping[OutboxState, frozenset[OutboxState]]] = {
    OutboxState.PENDING: frozenset({OutboxState.SENDING, OutboxState.CANCELLED}),
    OutboxState.SENDING: frozenset(
        {
            OutboxState.SENT,
            OutboxState.PENDING,
            OutboxState.DEAD,
            OutboxState.CANCELLED,
            OutboxState.NOT_ACCEPTED,
        }
    ),
    OutboxState.NOT_ACCEPTED: frozenset({OutboxState.DEAD}),  # nothing else of the result was accepted either
    # by storage commitment: kept; or not kept, and sent again, unless it was superseded or asking leads nowhere
    OutboxState.SENT: frozenset({OutboxState.CONFIRMED, OutboxState.PENDING, OutboxState.DEAD, OutboxState.CANCELLED}),
    OutboxState.CONFIRMED: frozenset(),
    OutboxState.DEAD: frozenset({OutboxState.PENDING, OutboxState.CANCELLED}),
    # it was under way when it was cancelled, and arrived; or READ, and the study was marked as read once more
    OutboxState.CANCELLED: frozenset({OutboxState.SENT, OutboxState.PENDING}),
}


def require_transition(old: SeriesState, new: SeriesState) -> None:
    """Raise StateError unless `old -> new` is in TRANSITIONS."""
    if new not in TRANSITIONS[old]:
        raise StateError(f"illegal series transition {old} -> {new}")


class StoreStatus(IntEnum):
    """Every status we answer to a C-STORE, once; what it means stands in STORE_STATUS_TEXT."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    DATASET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    NOT_AUTHORISED = 0x0124
    HANDLER_FAILED = 0xC211


STORE_STATUS_TEXT: Final[Mapping[StoreStatus, tuple[str, str, str]]] = {
    StoreStatus.SUCCESS: (
        "Success",
        "PS3.4 B.2.3",
        "The object is durable: written, synchronised to disk, entered in the ledger. So are an exact duplicate, an "
        "object that is not analysed, and a SOP Instance UID that came with other bytes before (the first stays, the "
        "second is kept apart).",
    ),
    StoreStatus.OUT_OF_RESOURCES: (
        "Refused: Out of Resources",
        "PS3.4 B.2.3",
        "Not taken: the disk is below node.min_free_mb, or disk or database took nothing. Send again later.",
    ),
    StoreStatus.DATASET_DOES_NOT_MATCH: (
        "Error: Data Set does not match SOP Class",
        "PS3.4 B.2.3",
        "Not taken: SOP Class or SOP Instance UID of the data set are not those of the command.",
    ),
    StoreStatus.CANNOT_UNDERSTAND: (
        "Error: Cannot understand",
        "PS3.4 B.2.3",
        "Not taken: the data set cannot be parsed, or has no Study, Series or SOP Instance UID of at most 64 "
        "characters.",
    ),
    StoreStatus.NOT_AUTHORISED: (
        "Refused: Not Authorised",
        "PS3.7 C",
        "Not taken: the caller may report storage commitment and not store.",
    ),
    StoreStatus.HANDLER_FAILED: (
        "Error: Cannot understand",
        "PS3.4 B.2.3",
        "Not taken: an unforeseen fault, named in the log. Send again later.",
    ),
}


# ---------------------------------------------------------------- images


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One axial-like stack of head CT slices, sorted from feet to head along the slice normal.

    Never one affine: slices may be tilted against their stacking direction and unevenly spaced.
    """

    hu: Int16Array
    """(slices, rows, columns) int16, HU; padding is -1024."""
    sop_uids: tuple[str, ...]
    """SOPInstanceUID of each slice, in the order of `hu`; the frames of a multi-frame image share theirs."""
    paths: tuple[Path, ...]
    """The DICOM file of each slice, in the order of `hu`."""
    positions_mm: Float64Array
    """(slices, 3) float64, ImagePositionPatient of each slice, LPS mm."""
    orientation: Float64Array
    """(2, 3) float64, ImageOrientationPatient: along a row (to higher columns), along a column; LPS."""
    pixel_spacing_mm: tuple[float, float]
    """(between rows, between columns), PixelSpacing, mm."""
    weights_mm: Float64Array
    """(slices,) float64, mm along the normal that each slice stands for (half the way to each neighbour)."""
    tilt_deg: float
    """Angle between the slice normal and the stacking direction, degrees (0 for no gantry tilt)."""
    header: Mapping[str, str | float | int | None]
    """What the DICOM header says of scanner, protocol, spacing and window, by element keyword. No identity."""
    warnings: tuple[str, ...] = ()
    """Plain sentences for the report and the worklist: tilt, uneven spacing, gaps, duplicates ..."""
    frame_numbers: tuple[int | None, ...] = ()
    """Frame number of each slice, see `frame_number`; may be empty where no file is multi-frame."""
    partial: str | None = None
    """Why this is only a part of a head, one of `warnings`; a negative must say so. None for a whole head."""

    @property
    def normal(self) -> Float64Array:
        """(3,) float64, unit vector along the slice normal, pointing from the first slice to the last."""
        normal = np.cross(self.orientation[0], self.orientation[1])
        upwards = (self.positions_mm[-1] - self.positions_mm[0]) @ normal
        return -normal if upwards < 0 else normal

    def frame_number(self, index: int) -> int | None:
        """Of slice `index` in its multi-frame file, from 1; None where the file is a single image."""
        return self.frame_numbers[index] if self.frame_numbers else None


@dataclass(frozen=True, kw_only=True)
class BundleRef:
    """Which model made a result."""

    name: str
    version: str
    sha256: str
    """Of the weights file, hex."""


@dataclass(frozen=True, kw_only=True)
class SeenBox:
    """A box that the model itself draws round a bleed on one slice."""

    slice_index: int
    subtype: str
    probability: float
    left: float
    """Of its outer edges, image-relative coordinates in pixels of the slice: 0\\0 is the corner of the first pixel,
    0.5\\0.5 its centre (PS3.3 C.18.6.1.1)."""
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one Volume. What a bundle does not output is None, never 0."""

    mask: UInt8Array | None
    """(slices, rows, columns) uint8 on the native slices; 0 background, 1 + index in SUBTYPES."""
    slice_probabilities: Float32Array
    """(slices, 6) float32 in 0..1, columns in the order of CLASSES; NaN in those that the bundle does not output.
    Below OPERATING_POINT on all slices in a class that is below it in the series."""
    probabilities: Mapping[str, float | None]
    """By class of CLASSES, for the series."""
    volumes_ml: Mapping[str, float | None]
    """By class of CLASSES ("any" is the sum)."""
    volume_intervals_ml: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    """By class: between what the true volume lay in 90 % of the heads that it was tuned on, of those where true and
    measured volume were at least 0.5 mL. None at 0 mL; may lack classes."""
    bundle: BundleRef
    boxes: tuple[SeenBox, ...] | None = None
    """Of the subtypes that the series shows, the surest first; None where the bundle draws none."""
    subdural_chronic: float | None = None
    """Probability that the subdural blood is chronic, not acute; None without subdural blood too."""
    timings_s: Mapping[str, float] = field(default_factory=dict)


class Laterality(StrEnum):
    """The patient's side on which a finding lies, as people read it."""

    LEFT = "left"
    RIGHT = "right"
    BILATERAL = "both sides"
    MIDLINE = "midline"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where in the head the segmented part of one finding lies."""

    laterality: Laterality | None
    """None where it cannot be told."""
    slices: tuple[int, int]
    """First and last slice, indices in Volume.hu: from feet to head."""
    z_mm: tuple[float, float]
    """z of the middle of the finding on those two slices, LPS mm."""
    instance_numbers: tuple[int, int] | None
    """InstanceNumber of those two slices; None where images carry none, or one for all frames."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the priority table: the first that matches decides."""

    priority: Priority
    subtype: str = "any"
    min_probability: float = 0.5
    min_volume_ml: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The priority of one analysed series, and why, in a sentence a radiologist reads."""

    priority: Priority
    reason: str
    findings: tuple[str, ...]
    """The subtypes reported as present, most probable first; empty for a negative."""
    suspected: bool
    """Whether hemorrhage of any kind is: what no rule gives a higher priority is still no negative."""


@dataclass(frozen=True, kw_only=True)
class Producer:
    """What made the results: goes into every object."""

    node_name: str
    manufacturer: str = "triage-node"
    model_name: str = "triage-node"
    software_version: str = ""
    bundle: BundleRef | None = None


# ---------------------------------------------------------------- results


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Whose study it is, as its images say. For the database and the pages only: nothing of it in logs or errors."""

    patient_name: str | None = field(default=None, repr=False)
    """As in DICOM, FAMILY^GIVEN (PS3.5 6.2.1)."""
    patient_id: str | None = field(default=None, repr=False)
    birth_date: str | None = field(default=None, repr=False)
    """YYYYMMDD."""
    sex: str | None = field(default=None, repr=False)
    accession_number: str | None = field(default=None, repr=False)
    description: str | None = field(default=None, repr=False)
    """StudyDescription."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What its images say of the order and the study, and the modality worklist where they are silent.

    For systems that match results by it. As careful as Patient.
    """

    issuer_of_patient_id: str | None = field(default=None, repr=False)
    """IssuerOfPatientID: who gave the patient_id."""
    study_at: str | None = field(default=None, repr=False)
    """StudyDate and StudyTime as VR DT (PS3.5 6.2), with the offset from UTC where there is a time."""
    referring_physician: str | None = field(default=None, repr=False)
    """As in DICOM, FAMILY^GIVEN."""
    placer_order_number: str | None = field(default=None, repr=False)
    """PlacerOrderNumberImagingServiceRequest."""
    patient_location: str | None = field(default=None, repr=False)
    """This and what follows: by the modality worklist only, see RequestedProcedure."""
    patient_class: str | None = field(default=None, repr=False)
    requested_procedure: str | None = field(default=None, repr=False)
    requested_priority: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class RequestedProcedure:
    """What the modality worklist says of the order behind a study (PS3.4 K.6). As careful as Patient."""

    study_uid: str | None = field(default=None, repr=False)
    patient_id: str | None = field(default=None, repr=False)
    issuer_of_patient_id: str | None = field(default=None, repr=False)
    accession_number: str | None = field(default=None, repr=False)
    referring_physician: str | None = field(default=None, repr=False)
    placer_order_number: str | None = field(default=None, repr=False)
    patient_location: str | None = field(default=None, repr=False)
    """CurrentPatientLocation."""
    patient_class: str | None = field(default=None, repr=False)
    """RouteOfAdmissions: DICOM has no element for the patient class of HL7, and brokers put it there."""
    requested_procedure: str | None = field(default=None, repr=False)
    """RequestedProcedureDescription."""
    requested_priority: str | None = field(default=None, repr=False)
    """RequestedProcedurePriority: STAT, HIGH, ROUTINE, MEDIUM or LOW (PS3.3 C.4.11), or what the site writes there."""

    def is_of(self, study_uid: str, patient: Patient, issuer_of_patient_id: str | None) -> bool:
        """Whether it is the order of this study, beyond doubt.

        The accession number must be the same; where one of the two has none, patient id and study. A patient id or
        issuer that is another refutes it whatever else agrees.
        """
        if _differ(self.patient_id, patient.patient_id) or _differ(self.issuer_of_patient_id, issuer_of_patient_id):
            return False
        if self.accession_number and patient.accession_number:
            return self.accession_number == patient.accession_number
        return self.study_uid == study_uid and bool(patient.patient_id) and self.patient_id == patient.patient_id


def _differ(one: str | None, other: str | None) -> bool:
    return bool(one) and bool(other) and one != other


Reference = tuple[str, str, str]
"""(Series Instance UID, SOP Class UID, SOP Instance UID)"""


class ObjectKind(StrEnum):
    """The DICOM objects we make."""

    SEG = "SEG"
    SR = "SR"
    KEY_IMAGE = "KEY_IMAGE"
    GSPS = "GSPS"
    KOS = "KOS"
    LABELMAP = "LABELMAP"
    NOTICE_SR = "NOTICE_SR"
    NOTICE_IMAGE = "NOTICE_IMAGE"


INSTEAD: Final[Mapping[str, ObjectKind]] = {
    ObjectKind.LABELMAP: ObjectKind.SEG,
    ObjectKind.GSPS: ObjectKind.KEY_IMAGE,
}
"""What a destination gets that does not accept a kind."""


class MessageKind(StrEnum):
    """What channels that are no DICOM tell, each an object of the outbox with a UID as the others have."""

    RESULT = "RESULT"  # the statement (deliver.statement) of how a revision ended
    ESCALATION = "ESCALATION"  # the same file: nobody has acknowledged it
    READ = "READ"  # the same file: the study was read


@dataclass(frozen=True, kw_only=True)
class ResultObject:
    """One finished result object: encoded once, sent as it is for ever after."""

    kind: ObjectKind | MessageKind
    sop_class_uid: str
    """Empty for what is no DICOM object, and so is the transfer syntax."""
    sop_uid: str
    series_uid: str
    transfer_syntax_uid: str
    data: bytes
    """A complete DICOM file (PS3.10), preamble included; of a RESULT, JSON."""

    @property
    def sha256(self) -> str:
        """Of `data`, hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ReceivedObject:
    """One C-STORE request as it came off the wire: nothing decoded, nothing stored yet."""

    sop_uid: str
    """Affected SOP Instance UID of the command set (PS3.7 9.1.1.1)."""
    sop_class_uid: str
    transfer_syntax_uid: str
    header: bytes
    """PS3.10 preamble, "DICM" and File Meta Information."""
    dataset: memoryview | bytes
    """The data set as encoded by the sender, in `transfer_syntax_uid`."""
    calling_ae: str
    source_address: str
    association: str
    """Random id of the association that brought it."""
    study_uid: str = ""
    """The study that it was announced to be of; empty: of any."""


@dataclass(frozen=True, kw_only=True)
class StoreAnswer:
    """What is answered to a STOW-RS request (PS3.18 10.5.3)."""

    code: int
    """HTTP status."""
    content: Mapping[str, Any]
    """The store instances response module (PS3.3 C.39) in the DICOM JSON Model."""


@dataclass(frozen=True, kw_only=True)
class CommitmentRequest:
    """What a source asks us to keep (N-ACTION, PS3.4 J.3.2)."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]
    """(SOP Class UID, SOP Instance UID)."""


@dataclass(frozen=True, kw_only=True)
class CommitmentReport:
    """What a storage commitment SCP says of one transaction (N-EVENT-REPORT, PS3.4 J.3.3)."""

    transaction_uid: str
    committed: frozenset[str]
    """SOP Instance UIDs that it answers for."""
    failed: Mapping[str, int]
    """FailureReason (0008,1197) by SOP Instance UID."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One received object, as the ledger and the spool know it."""

    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    modality: str
    sha256: str
    """Of the data set bytes, hex."""
    size_bytes: int
    position_mm: tuple[float, float, float] | None
    """ImagePositionPatient, LPS mm."""
    normal: tuple[float, float, float] | None
    """Slice normal from ImageOrientationPatient."""
    calling_ae: str
    source_address: str
    association: str
    """Random id of the association that brought it."""
    received_at: datetime
    outcome: InstanceOutcome
