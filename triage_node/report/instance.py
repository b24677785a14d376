"""What all result objects share: identity copied from the source, series, equipment, clock, encoding."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Final, cast

from pydicom import dcmread, dcmwrite
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import STR_VR

from triage_node.domain import BundleRef, MessageKind, ObjectKind, Producer, ResultObject
from triage_node.errors import ReportError
from triage_node.report.codes import Concept
from triage_node.report.uids import IMPLEMENTATION_CLASS_UID, ResultUids

SERIES_NUMBERS: Final = {
    ObjectKind.SEG: 9001,
    ObjectKind.SR: 9002,
    ObjectKind.KEY_IMAGE: 9003,
    ObjectKind.NOTICE_SR: 9004,
    ObjectKind.NOTICE_IMAGE: 9005,
    ObjectKind.GSPS: 9006,
    ObjectKind.KOS: 9007,
    ObjectKind.LABELMAP: 9008,
}
"""Fixed and high: below the scanner's own series in every study list."""

MODALITIES: Final[Mapping[ObjectKind | MessageKind, str]] = {
    ObjectKind.SEG: "SEG",
    ObjectKind.SR: "SR",
    ObjectKind.KEY_IMAGE: "OT",
    ObjectKind.NOTICE_SR: "SR",
    ObjectKind.NOTICE_IMAGE: "OT",
    ObjectKind.GSPS: "PR",
    ObjectKind.KOS: "KO",
    ObjectKind.LABELMAP: "SEG",
}

TYPE_2_IDENTITY: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Patient and General Study attributes that must be there, if need be empty (PS3.3 C.7.1.1, C.7.2.1)."""

OPTIONAL_IDENTITY: Final = (
    "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthTime",
    "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "StudyInstanceUID", "StudyDescription", "IssuerOfAccessionNumberSequence", "ReferencedStudySequence",
    "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "ProcedureCodeSequence",
    "PatientAge", "PatientSize", "PatientWeight", "Occupation", "AdditionalPatientHistory", "AdmissionID",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
"""Copied where the source has them: Patient, General Study, Patient Study and Clinical Trial modules."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every object of one revision is made with."""

    source: Dataset
    """Header of one received image: patient and study identity come from it, byte by byte.

    Its texts must stay as they were read: pydicom decodes an element for good when it is looked at, and what does not
    fit the declared character set is lost then.
    """
    producer: Producer
    bundle: BundleRef | None
    uids: ResultUids
    created_at: datetime
    series_description: str


def read_header(path: Path) -> Dataset:
    """Header of a received file, its elements still as they were sent. Raises ReportError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities of what we received: copied as they are, nothing to fix here
            header = dcmread(path, stop_before_pixels=True)
    except (OSError, EOFError, ValueError, InvalidDicomError) as error:
        raise ReportError("a source image cannot be read as DICOM") from error
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not header.get(keyword):
            raise ReportError(f"a source image has no {keyword}")
    return header


def finish(
    dataset: Dataset,
    kind: ObjectKind,
    context: Context,
    *,
    index: int = 0,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> ResultObject:
    """Give a data set its identity, series, equipment and clock, and encode it. Raises ReportError.

    `transfer_syntax` is that of its pixels, if it has any.
    """
    _copy_identity(dataset, context.source)
    _describe_series(dataset, kind, context)
    _describe_equipment(dataset, context)
    _stamp(dataset, context)
    dataset.SOPInstanceUID = context.uids.sop(kind, index)
    dataset.InstanceNumber = index + 1
    return ResultObject(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_uid=str(dataset.SOPInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        transfer_syntax_uid=str(transfer_syntax),
        data=_encoded(dataset, transfer_syntax),
    )


def read_back(made: ResultObject) -> Dataset:
    """What a receiver parses from a finished object. Raises ReportError where its identity got lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities copied from the source, as in read_header
        dataset = dcmread(BytesIO(made.data))
    if dataset.SOPInstanceUID != made.sop_uid or dataset.file_meta.MediaStorageSOPInstanceUID != made.sop_uid:
        raise ReportError(f"{made.kind}: UID did not read back")
    return dataset


def code_item(code: Code) -> Dataset:
    """Item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def plain(text: str) -> str:
    """Text that every character set can carry: our objects keep that of the source."""
    for fancy, simple in {"—": "-", "–": "-", "°": " deg", "≥": ">=", "≤": "<=", "’": "'"}.items():
        text = text.replace(fancy, simple)
    return text.encode("ascii", "replace").decode("ascii").replace("\\", "/")


# ---------------------------------------------------------------- identity


def _copy_identity(dataset: Dataset, source: Dataset) -> None:
    """Patient and study as received, byte by byte: a name in any character set, even a wrong one, survives."""
    if source.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = source.SpecificCharacterSet
    elif "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet
    encodings = _encodings(source)
    for keyword in TYPE_2_IDENTITY:
        setattr(dataset, keyword, None)
    for keyword in (*TYPE_2_IDENTITY, *OPTIONAL_IDENTITY):
        if keyword in source:
            _copy_element(dataset, source, Tag(keyword), encodings)
    if source.get("PatientIdentityRemoved") == "YES" and not (
        source.get("DeidentificationMethod") or source.get("DeidentificationMethodCodeSequence")
    ):
        dataset.DeidentificationMethod = "not stated by the source"  # Type 1C, PS3.3 C.7.1.1


def _has_value(source: Dataset, keyword: str) -> bool:
    """Without looking at it, see Context.source."""
    element = cast("DataElement | RawDataElement | None", source.get_item(keyword))
    return element is not None and bool(element.value)


def _copy_element(dataset: Dataset, source: Dataset, tag: BaseTag, encodings: list[str]) -> None:
    element = cast("DataElement | RawDataElement", source.get_item(tag))
    vr = dictionary_VR(tag) if dictionary_has_tag(tag) else None
    if vr == "SQ":
        items = [_copy_of_item(item, encodings) for item in source[tag].value]
        dataset[tag] = DataElement(tag, "SQ", Sequence(items))
    elif isinstance(element, RawDataElement) and vr in STR_VR:
        value = element.value or b""
        value += b" " * (len(value) % 2)
        dataset[tag] = element._replace(VR=vr, value=value, length=len(value), is_implicit_VR=False)
    else:
        dataset[tag] = deepcopy(source[tag])


def _copy_of_item(source: Dataset, encodings: list[str]) -> Dataset:
    item = _raw_item(encodings)
    for tag in source.keys():  # noqa: SIM118 - a Dataset iterates over decoded elements
        _copy_element(item, source, tag, encodings)
    return item


def _raw_item(encodings: list[str]) -> Dataset:
    """A sequence item whose raw elements pydicom writes as they are: they are in the encoding of what holds it."""
    item = Dataset(parent_encoding=encodings)
    item.set_original_encoding(False, True, encodings)
    return item


def _encodings(declaring: Dataset) -> list[str]:
    """What pydicom makes of SpecificCharacterSet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character set the source invented is copied, not repaired
        return convert_encodings(declaring.get("SpecificCharacterSet") or "ISO_IR 6")


# ---------------------------------------------------------------- series, equipment, clock


def _describe_series(dataset: Dataset, kind: ObjectKind, context: Context) -> None:
    dataset.SeriesInstanceUID = context.uids.series(kind)
    dataset.SeriesNumber = SERIES_NUMBERS[kind]
    dataset.Modality = MODALITIES[kind]
    dataset.SeriesDescription = context.series_description
    if dataset.Modality not in ("SR", "KO"):
        dataset.BodyPartExamined = "HEAD"
    dataset.ContentQualification = "RESEARCH"


def _describe_equipment(dataset: Dataset, context: Context) -> None:
    """General Equipment is this node; the scanner and the model are contributing equipment (PS3.3 C.12.1.1.5)."""
    producer, source, bundle = context.producer, context.source, context.bundle
    dataset.Manufacturer = producer.manufacturer
    dataset.ManufacturerModelName = producer.model_name
    dataset.DeviceSerialNumber = producer.node_name
    dataset.SoftwareVersions = producer.software_version or "unknown"
    dataset.StationName = producer.node_name[:16]
    equipment = [_scanner(source)]
    if bundle is not None:
        model = _equipment(Concept.PROCESSING_EQUIPMENT, producer.manufacturer)
        model.ManufacturerModelName = bundle.name
        model.SoftwareVersions = bundle.version
        model.ContributionDescription = f"Model bundle, weights sha256 {bundle.sha256}"
        equipment.append(model)
    dataset.ContributingEquipmentSequence = Sequence(equipment)


def _scanner(source: Dataset) -> Dataset:
    encodings = _encodings(source)
    item = _raw_item(encodings)
    item.PurposeOfReferenceCodeSequence = Sequence([code_item(Concept.ACQUISITION_EQUIPMENT.code)])
    item.Manufacturer = "unknown"
    for keyword in ("Manufacturer", "ManufacturerModelName"):
        if _has_value(source, keyword):
            _copy_element(item, source, Tag(keyword), encodings)
    return item


def _equipment(purpose: Concept, manufacturer: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code_item(purpose.code)])
    item.Manufacturer = manufacturer
    return item


def _stamp(dataset: Dataset, context: Context) -> None:
    """One moment everywhere, in the zone of the source where it names one; TimezoneOffset is never invented."""
    moment = local_time(context)
    day, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.ContentDate = day
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.ContentTime = time


def local_time(context: Context) -> datetime:
    """`created_at` in the time zone of the source, where it names one."""
    try:
        zone = datetime.strptime(str(context.source.get("TimezoneOffsetFromUTC", "")), "%z").tzinfo
    except ValueError:
        return context.created_at
    return context.created_at.astimezone(zone)


# ---------------------------------------------------------------- encoding


def _encoded(dataset: Dataset, transfer_syntax: UID) -> bytes:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = "TRIAGE_NODE"
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character set the source invented is copied, not repaired
        # tells pydicom that raw elements are already in this encoding, so that it writes their bytes unchanged
        dataset.set_original_encoding(False, True, _encodings(dataset))
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
