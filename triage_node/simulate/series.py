"""A simulated head as a DICOM CT series, one CT Image Storage file per slice (PS3.3 A.3), and a case with truth."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from triage_node.domain import SUBTYPE_ABBREVIATIONS, Float64Array, Int16Array
from triage_node.errors import UsageError
from triage_node.simulate.geometry import SliceGeometry, axial_geometry
from triage_node.simulate.head import SimulatedHead, simulate_head
from triage_node.simulate.template import Template
from triage_node.simulate.vendors import VENDORS, PixelFormat, Vendor, restyle

TRANSFER_SYNTAXES: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)
"""What write_series can encode."""
_UID_NAMESPACE: Final = uuid.UUID("5f0c3e0e-6a0f-5f0e-9c57-8f5c1a7f3f11")
_SHORT_STRING: Final = 16
"""Characters of a SH (PS3.5 6.2)."""
_SIGNED: Final = PixelFormat(signed=True, intercept=0, bits=16)
_UNSIGNED: Final = PixelFormat(signed=False, intercept=-1024, bits=12)


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """The texts of one series."""

    patient_id: str
    patient_name: str
    accession_number: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    series_description: str
    series_number: int
    body_part: str
    kernel: str
    signed: bool
    vendor: str | None


def write_series(
    head: SimulatedHead,
    out_dir: Path,
    *,
    seed: int,
    created_at: datetime,
    patient_id: str = "SIM0001",
    patient_name: str = "Simulated^Head",
    transfer_syntax: str = ExplicitVRLittleEndian,
    accession_number: str = "SIM-ACC-1",
    study_uid: str | None = None,
    series_uid: str | None = None,
    series_description: str = "HEAD WITHOUT CONTRAST, SIMULATED",
    series_number: int = 2,
    body_part: str = "HEAD",
    kernel: str = "H31s",
    signed: bool = True,
    vendor: str | None = None,
) -> list[Path]:
    """Write `head` as CT Image Storage files `0001.dcm` ... into `out_dir`, feet to head; the paths, in slice order.

    UIDs are made from `seed` (2.25 with a UUID version 5, PS3.5 B.2) unless given: the same call writes the same UIDs.
    `transfer_syntax` is one of TRANSFER_SYNTAXES. `signed` False stores unsigned pixels with an intercept of -1024.
    `vendor`, one of VENDORS, writes the header as that maker's scanners do: it decides description, body part, kernel
    and pixel format in place of the arguments, and by `seed` where its scanners differ.
    Raises UsageError for another transfer syntax or vendor.
    """
    if vendor is not None and vendor not in VENDORS:
        raise UsageError(f"no header style {vendor}; one of: {', '.join(VENDORS)}")
    if transfer_syntax not in TRANSFER_SYNTAXES:
        names = ", ".join(uid.name for uid in TRANSFER_SYNTAXES)
        raise UsageError(f"cannot write transfer syntax {transfer_syntax}; one of: {names}")
    labels = _Labels(
        patient_id=patient_id,
        patient_name=patient_name,
        accession_number=accession_number,
        study_uid=study_uid or _uid(seed, "study"),
        series_uid=series_uid or _uid(seed, f"series {series_number}"),
        frame_of_reference_uid=_uid(seed, "frame of reference"),
        series_description=series_description,
        series_number=series_number,
        body_part=body_part,
        kernel=kernel,
        signed=signed,
        vendor=vendor,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(len(head.hu)):
        image = _image(head, index, seed=seed, created_at=created_at, labels=labels)
        path = out_dir / f"{index + 1:04d}.dcm"
        _write(image, path, UID(transfer_syntax))
        paths.append(path)
    return paths


def _named(subtype: str) -> tuple[str, ...]:
    by_abbreviation = {short: name for name, short in SUBTYPE_ABBREVIATIONS.items()}
    parts = [] if subtype == "NONE" else subtype.split("+")
    for part in parts:
        if part not in by_abbreviation:
            raise UsageError(f"unknown subtype {part}; one of {', '.join(sorted(by_abbreviation))} or NONE")
    return tuple(by_abbreviation[part] for part in parts)


def write_case(
    out_dir: Path,
    *,
    subtype: str,
    seed: int,
    created_at: datetime,
    geometry: SliceGeometry | None = None,
    vendor: str | None = None,
    template: Template | None = None,
) -> Path:
    """Write one simulated examination and the truth about it; `out_dir`.

    `dicom/*.dcm`, `truth.npy` (slices, rows, columns) uint8 in slice order, and `truth.json`.
    `subtype` is EDH, IPH, IVH, SAH, SDH, several of them ("IPH+IVH"), or NONE. Raises UsageError for another. Another
    subtype or moment is another examination: its UIDs differ. `vendor` and `template`: see write_series, simulate_head.
    """
    head = simulate_head(seed=seed, subtypes=_named(subtype), geometry=geometry or axial_geometry(), template=template)
    examination = f"{subtype} {created_at.isoformat()}"
    paths = write_series(
        head,
        out_dir / "dicom",
        study_uid=_uid(seed, f"study {examination}"),
        series_uid=_uid(seed, f"series {examination}"),
        seed=seed,
        created_at=created_at,
        patient_id=f"SIM{seed:04d}",
        accession_number=f"SIM-{seed}-{subtype}"[:_SHORT_STRING],
        vendor=vendor,
    )
    np.save(out_dir / "truth.npy", head.truth)
    truth = {
        "simulated": "This examination is simulated by a computer program. No patient is shown.",
        "seed": seed,
        "subtype": subtype,
        "volumes_ml": dict(head.volumes_ml),
        "labels": {str(1 + index): name for index, name in enumerate(SUBTYPE_ABBREVIATIONS)},
        "sop_instance_uids": [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths],
    }
    (out_dir / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return out_dir


# ---------------------------------------------------------------- one image


def _image(head: SimulatedHead, index: int, *, seed: int, created_at: datetime, labels: _Labels) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = _uid(seed, f"series {labels.series_number} slice {index}", labels.series_uid)
    _add_patient_and_study(image, seed, created_at, labels)
    _add_series_and_equipment(image, created_at, labels)
    _add_plane(image, head.geometry, index)
    _add_acquisition(image, head.geometry, index, created_at, labels)
    pixels = _SIGNED if labels.signed else _UNSIGNED
    if labels.vendor is not None:
        pixels = _restyled(image, VENDORS[labels.vendor], head.geometry, index, seed)
    _add_pixels(image, head.hu[index], pixels)
    return image


def _restyled(image: Dataset, vendor: Vendor, geometry: SliceGeometry, index: int, seed: int) -> PixelFormat:
    along_mm = geometry.positions_mm @ geometry.normal
    step_mm = float(np.median(np.diff(along_mm))) if len(along_mm) > 1 else geometry.thickness_mm
    return restyle(image, vendor, seed=seed, index=index, count=len(along_mm), spacing_mm=step_mm)


def _add_patient_and_study(image: Dataset, seed: int, created_at: datetime, labels: _Labels) -> None:
    age = 25 + seed % 65
    image.PatientName = labels.patient_name
    image.PatientID = labels.patient_id
    image.PatientSex = "FM"[seed % 2]
    image.PatientAge = f"{age:03d}Y"
    image.PatientBirthDate = f"{created_at.year - age:04d}0101"
    image.StudyInstanceUID = labels.study_uid
    image.StudyDate = image.SeriesDate = created_at.strftime("%Y%m%d")
    image.StudyTime = image.SeriesTime = created_at.strftime("%H%M%S")
    image.ReferringPhysicianName = ""
    image.StudyID = str(1 + seed % 9999)
    image.AccessionNumber = labels.accession_number
    image.StudyDescription = "CT HEAD, SIMULATED"


def _add_series_and_equipment(image: Dataset, created_at: datetime, labels: _Labels) -> None:
    image.Modality = "CT"
    image.SeriesInstanceUID = labels.series_uid
    image.SeriesNumber = labels.series_number
    image.SeriesDescription = labels.series_description
    image.BodyPartExamined = labels.body_part
    image.PatientPosition = "HFS"
    image.ProtocolName = "HEAD"
    image.FrameOfReferenceUID = labels.frame_of_reference_uid
    image.PositionReferenceIndicator = ""
    image.Manufacturer = "triage-node"
    image.ManufacturerModelName = "simulator"
    image.InstitutionName = "SIMULATED"
    image.StationName = "SIM"
    image.DeviceSerialNumber = "0"
    image.SoftwareVersions = "1"
    image.ContentDate = image.AcquisitionDate = created_at.strftime("%Y%m%d")
    image.ContentTime = image.AcquisitionTime = created_at.strftime("%H%M%S")


def _add_plane(image: Dataset, geometry: SliceGeometry, index: int) -> None:
    """Image Plane module (PS3.3 C.7.6.2)."""
    image.ImagePositionPatient = [_decimal(v) for v in geometry.positions_mm[index]]
    image.ImageOrientationPatient = [_decimal(v) for v in geometry.orientation.ravel()]
    image.PixelSpacing = [_decimal(v) for v in geometry.pixel_spacing_mm]
    image.SliceThickness = _decimal(geometry.thickness_mm)
    image.SliceLocation = _decimal(geometry.positions_mm[index] @ geometry.normal)
    image.InstanceNumber = index + 1
    image.AcquisitionNumber = 1


def _add_acquisition(
    image: Dataset, geometry: SliceGeometry, index: int, created_at: datetime, labels: _Labels
) -> None:
    """CT Image and VOI LUT modules (PS3.3 C.8.2.1, C.11.2)."""
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.ScanOptions = "AXIAL"
    image.KVP = "120"
    image.XRayTubeCurrent = "250"
    image.ExposureTime = "1000"
    image.Exposure = "250"
    image.FilterType = "HEAD"
    image.ConvolutionKernel = labels.kernel
    image.DataCollectionDiameter = _decimal(500.0)
    image.ReconstructionDiameter = _decimal(geometry.columns * geometry.pixel_spacing_mm[1])
    image.GantryDetectorTilt = _decimal(_tilt_deg(geometry.orientation))
    image.TableHeight = _decimal(150.0)
    image.RotationDirection = "CW"
    image.WindowCenter = "40"
    image.WindowWidth = "80"


def _tilt_deg(orientation: Float64Array) -> float:
    """Angle of the planes against a straight axial one; positive tilts the top of the gantry towards the feet."""
    return round(math.degrees(math.atan2(float(orientation[1][2]), float(orientation[1][1]))), 3) + 0.0


def _add_pixels(image: Dataset, hu: Int16Array, pixels: PixelFormat) -> None:
    """Image Pixel and Modality LUT modules (PS3.3 C.7.6.3, C.11.1)."""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = hu.shape
    image.BitsAllocated = 16
    image.BitsStored = pixels.bits
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(pixels.signed)
    image.RescaleIntercept = str(pixels.intercept)
    image.RescaleSlope = "1"
    image.RescaleType = "HU"
    stored = (hu.astype(np.int32) - pixels.intercept).astype("<i2" if pixels.signed else "<u2")
    image.PixelData = stored.tobytes()
    image["PixelData"].VR = "OW"


def _write(image: Dataset, path: Path, transfer_syntax: UID) -> None:
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if transfer_syntax.is_compressed and transfer_syntax != DeflatedExplicitVRLittleEndian:
        image.compress(transfer_syntax, generate_instance_uid=False)
    elif transfer_syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
    image.file_meta.TransferSyntaxUID = transfer_syntax
    image.save_as(path, enforce_file_format=True)


def _decimal(value: float) -> str:
    """A decimal string (PS3.5 6.2, at most 16 characters)."""
    text = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _uid(seed: int, what: str, series_uid: str = "") -> str:
    """The UID of one thing of one simulated examination: 2.25 and a UUID version 5 (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_UID_NAMESPACE, f'{seed} {what} {series_uid}').int}"
