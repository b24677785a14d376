"""A result as a UPS workitem (PS3.3 C.30, PS3.4 CC.2.5): that somebody is to read this study, how soon, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from triage_node.domain import Order, Patient, Priority, Reference
from triage_node.peers.ups import PUSH

PRIORITIES: Final[Mapping[Priority, str]] = {
    Priority.STAT: "HIGH",
    Priority.HIGH: "MEDIUM",
    Priority.ROUTINE: "LOW",
    Priority.NONE: "LOW",
}
"""ScheduledProcedureStepPriority. HIGH is what other services call STAT (PS3.3 C.30.2)."""
INTERPRETATION: Final = ("110005", "DCM", "Interpretation")
"""Of CID 9231, General Purpose Workitem Definition."""
STATION_SCHEME: Final = "99TRIAGE"
"""Stations have no public codes: ours is its AE title."""

_EMPTY: Final = (
    "TransactionUID",
    "ProcedureStepProgressInformationSequence",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
"""Type 2 attributes that nothing is known of (PS3.4 table CC.2.5-3)."""


@dataclass(frozen=True, kw_only=True)
class Workitem:
    """What a workitem says of one result."""

    uid: str
    """SOP Instance UID."""
    study_uid: str
    created_at: datetime
    priority: Priority
    worklist_label: str
    label: str
    comment: str
    patient: Patient | None
    order: Order | None
    inputs: Sequence[Reference]
    """What is to be looked at: the images, and what was made of them."""
    replaces: Sequence[str]
    """Workitems that this one takes the place of."""
    retrieve_ae: str
    """Where the inputs are."""


def scheduled(workitem: Workitem) -> Dataset:
    """Its attributes as they are when it is made."""
    content = dataset(
        SpecificCharacterSet="ISO_IR 192",
        ProcedureStepState="SCHEDULED",
        ScheduledProcedureStepPriority=PRIORITIES[workitem.priority],
        WorklistLabel=workitem.worklist_label,
        ProcedureStepLabel=workitem.label,
        CommentsOnTheScheduledProcedureStep=workitem.comment,
        ScheduledProcedureStepStartDateTime=moment(workitem.created_at),
        ScheduledWorkitemCodeSequence=[code(*INTERPRETATION)],
        InputReadinessState="READY",
        InputInformationSequence=_instances(workitem.study_uid, workitem.inputs, workitem.retrieve_ae),
        StudyInstanceUID=workitem.study_uid,
        ReferencedRequestSequence=[_request(workitem)],
        **_patient(workitem),
        **dict.fromkeys(_EMPTY),
    )
    if workitem.replaces:
        replaced = [dataset(ReferencedSOPClassUID=PUSH, ReferencedSOPInstanceUID=uid) for uid in workitem.replaces]
        content.ReplacedProcedureStepSequence = replaced
    return content


def performed(
    *, study_uid: str, station: str, retrieve_ae: str, outputs: Sequence[Reference], began_at: datetime, at: datetime
) -> Dataset:
    """What a workitem must say before it may be COMPLETED: by whom, when, and every instance that was made."""
    step = dataset(
        PerformedStationNameCodeSequence=[code(station.strip(), STATION_SCHEME, station.strip())],
        PerformedProcedureStepStartDateTime=moment(began_at),
        PerformedProcedureStepEndDateTime=moment(at),
        PerformedWorkitemCodeSequence=[code(*INTERPRETATION)],
        OutputInformationSequence=_instances(study_uid, outputs, retrieve_ae),
    )
    return dataset(SpecificCharacterSet="ISO_IR 192", UnifiedProcedureStepPerformedProcedureSequence=[step])


def dataset(**elements: Any) -> Dataset:
    """Of elements by keyword, None for empty. Values are taken as they came: senders write more than a VR allows."""
    made = Dataset()
    for keyword, value in elements.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = dictionary_VR(tag)
        value = [] if value is None and vr == "SQ" else value
        made.add(DataElement(tag, vr, value, validation_mode=IGNORE))
    return made


def moment(at: datetime) -> str:
    """VR DT with the offset from UTC."""
    return at.strftime("%Y%m%d%H%M%S%z")


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    return dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


# ---------------------------------------------------------------- steps


def _patient(workitem: Workitem) -> dict[str, str | None]:
    patient, order = workitem.patient or Patient(), workitem.order or Order()
    return {
        "PatientName": patient.patient_name,
        "PatientID": patient.patient_id,
        "IssuerOfPatientID": order.issuer_of_patient_id,
        "PatientBirthDate": patient.birth_date,
        "PatientSex": patient.sex,
    }


def _request(workitem: Workitem) -> Dataset:
    patient, order = workitem.patient or Patient(), workitem.order or Order()
    return dataset(
        StudyInstanceUID=workitem.study_uid,
        AccessionNumber=patient.accession_number,
        IssuerOfAccessionNumberSequence=None,
        ReferringPhysicianName=order.referring_physician,
        PlacerOrderNumberImagingServiceRequest=order.placer_order_number,
        OrderPlacerIdentifierSequence=None,
        FillerOrderNumberImagingServiceRequest=None,
        OrderFillerIdentifierSequence=None,
        RequestedProcedureID=None,
        RequestedProcedureDescription=patient.description,
        RequestedProcedureCodeSequence=None,
    )


def _instances(study_uid: str, references: Iterable[Reference], retrieve_ae: str) -> list[Dataset]:
    """Referenced Instances and Access Macro (PS3.3 table 10-3b), an item for each series."""
    by_series = groupby(sorted(references), key=lambda reference: reference[0])
    return [
        dataset(
            TypeOfInstances="DICOM",
            StudyInstanceUID=study_uid,
            SeriesInstanceUID=series_uid,
            ReferencedSOPSequence=[
                dataset(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=sop_uid)
                for _, sop_class, sop_uid in found
            ],
            DICOMRetrievalSequence=[dataset(RetrieveAETitle=retrieve_ae)],
        )
        for series_uid, found in by_series
    ]
