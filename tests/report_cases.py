"""A tiny CT series on disk, and values to report about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests import ct
from triage_node.domain import (
    CLASSES,
    SUBTYPES,
    BundleRef,
    Decision,
    ObjectKind,
    Prediction,
    Priority,
    Producer,
    ResultObject,
    UInt8Array,
    Volume,
)
from triage_node.locate import locate
from triage_node.report import ResultUids, build_results

SERIES_UID = "1.2.3.4.5"
CREATED_AT = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
BUNDLE = BundleRef(name="tiny", version="1.2.3", sha256="ab" * 32)
PRODUCER = Producer(node_name="TRIAGE", software_version="0.1.0", bundle=BUNDLE)
SIZE = 64
SPACING_MM = (3.5, 3.5)

NAMES: list[tuple[str | list[str], str]] = [
    ("ISO_IR 100", "Müller^Jörg"),
    ("ISO_IR 101", "Dvořák^Jiří"),
    ("ISO_IR 126", "Διονυσιος^Α"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 144", "Люксембург^Иван"),
    ("ISO_IR 148", "Çavuşoğlu^Şule"),
    ("ISO_IR 166", "สมชาย^ใจดี"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("GBK", "Wang^XiaoDong=王^小东"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
]
"""(SpecificCharacterSet, PatientName): PS3.5 annexes H to J and beyond."""


def write_ct(
    folder: Path,
    *,
    slices: int = 6,
    transfer_syntax: str = ExplicitVRLittleEndian,
    elements: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    regular: bool = False,
) -> list[Path]:
    """A CT series, tilted and unevenly spaced unless `regular`; `elements` are set last, `leave_out` removed."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write_slice(folder, k, transfer_syntax, _plane(k, regular) | (elements or {}), leave_out)
        for k in range(slices)
    ]


def write_enhanced_ct(folder: Path) -> list[Path]:
    """The same series as one Enhanced CT: one file, its frames from the vertex down."""
    images = [dcmread(path) for path in write_ct(folder / "single")]
    return ct.save([ct.enhanced(images[::-1])], folder)


def _plane(k: int, regular: bool) -> dict[str, Any]:
    if regular:
        return {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [-112, -112, 5 * k]}
    position = [-112, -112 + k, 5.0 * k + (2.5 if k > 3 else 0)]
    return {"ImageOrientationPatient": [1, 0, 0, 0, 0.96, -0.28], "ImagePositionPatient": position}


def _write_slice(
    folder: Path, k: int, transfer_syntax: str, elements: Mapping[str, Any], leave_out: tuple[str, ...]
) -> Path:
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = f"{SERIES_UID}.{k + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.3.4", SERIES_UID
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = "1.2.3.4.9", "OM"
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientName, image.PatientID = "Doe^Jane", "ID 1"
    image.PatientBirthDate, image.PatientSex = "19500102", "F"
    image.StudyDate, image.StudyTime, image.StudyID = "20010203", "040000", "7"
    image.AccessionNumber, image.ReferringPhysicianName = "ACC 1", "Who^Doctor"
    image.StudyDescription, image.Manufacturer = "HEAD CT", "Scanner Works"
    image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = 2, k + 1, 1
    image.KVP, image.SliceThickness = 120, 5
    image.PixelSpacing = list(SPACING_MM)
    image.Rows = image.Columns = SIZE
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "HU"
    image.add_new("PixelData", "OW", head_hu().tobytes())
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    for keyword in leave_out:
        delattr(image, keyword)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = transfer_syntax
    path = folder / f"{k + 1:02d}.dcm"
    dcmwrite(path, image, enforce_file_format=True)
    return path


def head_hu() -> np.ndarray[Any, np.dtype[np.int16]]:
    """(64, 64) int16, HU: air, a ring of bone, brain."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    radius = np.hypot((rows - 32) / 28, (columns - 32) / 23)
    return np.select([radius < 0.9, radius < 1], [35, 900], -1000).astype(np.int16)


def volume_of(paths: list[Path], **changes: Any) -> Volume:
    """The Volume of such a series, without going through assemble."""
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    values: dict[str, Any] = {
        "hu": np.stack([head_hu()] * len(paths)),
        "sop_uids": tuple(str(header.SOPInstanceUID) for header in headers),
        "paths": tuple(paths),
        "positions_mm": np.array([header.ImagePositionPatient for header in headers], dtype=np.float64),
        "orientation": np.array(headers[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3),
        "pixel_spacing_mm": SPACING_MM,
        "weights_mm": np.full(len(paths), 5.0),
        "tilt_deg": 10.0,
        "header": {},
        "warnings": ("Gantry tilt of 10 degrees.",),
    }
    return Volume(**(values | changes))


def volume_of_frames(paths: list[Path], **changes: Any) -> Volume:
    """The Volume of an Enhanced CT of `write_enhanced_ct`, without going through assemble."""
    image = dcmread(paths[0], stop_before_pixels=True)
    groups = image.PerFrameFunctionalGroupsSequence[::-1]
    frames = len(groups)
    plane = groups[0].PlaneOrientationSequence[0].ImageOrientationPatient
    values: dict[str, Any] = {
        "hu": np.stack([head_hu()] * frames),
        "sop_uids": (str(image.SOPInstanceUID),) * frames,
        "paths": tuple(paths) * frames,
        "frame_numbers": tuple(range(frames, 0, -1)),
        "positions_mm": np.array([g.PlanePositionSequence[0].ImagePositionPatient for g in groups], dtype=np.float64),
        "orientation": np.array(plane, dtype=np.float64).reshape(2, 3),
        "pixel_spacing_mm": SPACING_MM,
        "weights_mm": np.full(frames, 5.0),
        "tilt_deg": 10.0,
        "header": {},
        "warnings": ("Gantry tilt of 10 degrees.",),
    }
    return Volume(**(values | changes))


def mask_of(volume: Volume) -> UInt8Array:
    """A subdural on the right of the picture on slices 2 to 4, a smaller intraventricular one on slice 4."""
    mask = np.zeros(volume.hu.shape, dtype=np.uint8)
    label = {name: index + 1 for index, name in enumerate(SUBTYPES)}
    mask[1:3, 25:40, 48:52] = label["subdural"]
    mask[3, 22:44, 48:52] = label["subdural"]
    mask[3, 30:33, 30:33] = label["intraventricular"]
    return mask


def prediction_of(volume: Volume, mask: UInt8Array | None, **changes: Any) -> Prediction:
    """Subdural 0.97 and intraventricular 0.7 present, the rest absent."""
    probabilities = dict.fromkeys(CLASSES, 0.02) | {"any": 0.98, "subdural": 0.97, "intraventricular": 0.7}
    volumes = dict.fromkeys(CLASSES, 0.0) | {"any": 12.5, "subdural": 12.0, "intraventricular": 0.5}
    per_slice = np.full((len(volume.paths), len(CLASSES)), 0.02, dtype=np.float32)
    per_slice[2, CLASSES.index("subdural")] = 0.9
    values: dict[str, Any] = {
        "mask": mask,
        "slice_probabilities": per_slice,
        "probabilities": probabilities,
        "volumes_ml": volumes,
        "bundle": BUNDLE,
    }
    return Prediction(**(values | changes))


POSITIVE = Decision(
    priority=Priority.STAT,
    reason="subdural hemorrhage suspected, p 0.97, 12.0 mL",
    findings=("subdural", "intraventricular"),
    suspected=True,
)
NEGATIVE = Decision(
    priority=Priority.ROUTINE, reason="no intracranial hemorrhage detected", findings=(), suspected=False
)


def results_of(
    volume: Volume, prediction: Prediction, decision: Decision = POSITIVE, *, revision: int = 1, **changes: Any
) -> tuple[ResultObject, ...]:
    """build_results with the usual rest, and all that is made on demand."""
    values: dict[str, Any] = {
        "producer": PRODUCER,
        "uids": ResultUids(node="TRIAGE", series_uid=SERIES_UID, revision=revision),
        "created_at": CREATED_AT,
        "locations": locate(volume, prediction.mask),
        "also": tuple(ObjectKind),
    }
    return build_results(
        volume=volume, prediction=prediction, decision=decision, revision=revision, **(values | changes)
    )
