"""Small CT series for tests: an analytic head (skull, brain, noise) cut by slices at any place and tilt.

    slices = ct.head(depths_mm=np.arange(20) * 5.0, tilt_deg=18)   # pydicom datasets, to be made awkward
    paths = ct.save(slices, tmp_path)                              # DICOM files

Pixel values follow from the position in the patient alone, so two cuts through the same place agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from imagecodecs import htj2k_encode, ljpeg_encode
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

EVEN_MM = np.arange(20) * 5.0 - 45.0
"""Depth of each slice of a short but usual head CT along its normal; the head's centre is at 0."""

_OUTER_MM = np.array([75.0, 95.0, 90.0])
_INNER_MM = np.array([67.0, 87.0, 82.0])


def head(
    depths_mm: Iterable[float] = EVEN_MM,
    *,
    tilt_deg: float = 0.0,
    matrix: int = 64,
    field_mm: float = 240.0,
    lateral_mm: Iterable[float] | None = None,
) -> list[Dataset]:
    """CT images of the head at those depths along the normal, from feet to head, with the plainest possible header.

    With `tilt_deg` the slices are tilted about the patient's left-right axis and still stacked along the table (z).
    """
    depths = np.array(list(depths_mm), dtype=float)
    tilt = np.radians(tilt_deg)
    orientation = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(tilt), -np.sin(tilt)]])
    normal = np.cross(*orientation)
    spacing = field_mm / matrix
    corner = -(matrix - 1) / 2 * spacing * orientation.sum(axis=0)
    shifts = np.zeros_like(depths) if lateral_mm is None else np.array(list(lateral_mm))
    positions = [corner + np.array([shift, 0, depth / normal[2]]) for depth, shift in zip(depths, shifts, strict=True)]
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    slices = [_image(position, orientation, spacing, matrix) for position in positions]
    for number, image in enumerate(slices, start=1):
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.InstanceNumber = number
        image.SliceThickness = round(float(np.median(np.diff(depths))), 3) if len(depths) > 1 else 5
    return slices


def pixel_centres_mm(
    position_mm: NDArray[np.float64], orientation: NDArray[np.float64], spacing_mm: tuple[float, float], matrix: int
) -> NDArray[np.float64]:
    """(rows, columns, 3) float64, LPS mm (PS3.3 C.7.6.2.1.1)."""
    rows, columns = np.meshgrid(np.arange(matrix), np.arange(matrix), indexing="ij")
    along_row, along_column = orientation
    centres: NDArray[np.float64] = (
        position_mm
        + columns[..., None] * spacing_mm[1] * along_row  # PixelSpacing is (between rows, between columns)
        + rows[..., None] * spacing_mm[0] * along_column
    )
    return centres


def set_hu(image: Dataset, hu: NDArray[np.int16]) -> None:
    """Store these HU with the image's own rescale and signedness."""
    stored = np.rint((hu - float(image.RescaleIntercept)) / float(image.RescaleSlope))
    image.PixelData = stored.astype(np.int16 if image.PixelRepresentation else np.uint16).tobytes()


def hu_of(image: Dataset) -> NDArray[np.int16]:
    """(rows, columns) int16: the HU that an uncompressed image holds."""
    stored = np.frombuffer(image.PixelData, np.int16 if image.PixelRepresentation else np.uint16)
    hu = stored * float(image.RescaleSlope) + float(image.RescaleIntercept)
    rounded: NDArray[np.int16] = np.rint(hu).astype(np.int16).reshape(image.Rows, image.Columns)
    return rounded


def enhanced(images: Sequence[Dataset]) -> Dataset:
    """The same images as one Enhanced CT (PS3.3 A.38), its frames in the order of `images`.

    A StackID or an AcquisitionDateTime of an image goes where a frame has it.
    """
    first = images[0]
    whole = Dataset()
    whole.update({element.tag: deepcopy(element) for element in first if element.keyword not in _OF_FRAMES})
    whole.SOPClassUID, whole.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    whole.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    whole.NumberOfFrames = len(images)
    whole.SharedFunctionalGroupsSequence = [Dataset()]
    whole.PerFrameFunctionalGroupsSequence = [_groups(image, number) for number, image in enumerate(images, start=1)]
    whole.PixelData = b"".join(image.PixelData for image in images)
    whole["PixelData"].VR = "OW"
    return whole


def enhanced_series(images: Sequence[Dataset]) -> list[Dataset]:
    """The same images as Enhanced CTs: one for all whose image-level elements agree."""
    alike: dict[tuple[object, ...], list[Dataset]] = defaultdict(list)
    for image in images:
        alike[tuple(str(image.get(keyword)) for keyword in _OF_IMAGES)].append(image)
    return [enhanced(group) for group in alike.values()]


def save(images: Sequence[Dataset], folder: Path, *, transfer_syntax: UID = ExplicitVRLittleEndian) -> list[Path]:
    """Write one file per image, encoded without loss as asked: one of LOSSLESS."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(images):
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        paths.append(folder / f"{index:04d}.dcm")
        _encoded(image, transfer_syntax).save_as(paths[-1], enforce_file_format=True)
    return paths


PYDICOM = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
IMAGECODECS: dict[UID, Callable[[NDArray[Any]], bytes]] = {
    JPEGLossless: lambda frame: ljpeg_encode(frame.view(np.uint16), bitspersample=16),
    JPEGLosslessSV1: lambda frame: ljpeg_encode(frame.view(np.uint16), bitspersample=16),
    HTJ2KLossless: lambda frame: htj2k_encode(frame, reversible=True),
    HTJ2KLosslessRPCL: lambda frame: htj2k_encode(frame, reversible=True, tlm=True),
}
NATIVE = (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSLESS = (*NATIVE, *PYDICOM, *IMAGECODECS)
"""Every lossless transfer syntax of CT images but the plainest, Explicit VR Little Endian."""


def _encoded(image: Dataset, transfer_syntax: UID) -> Dataset:
    """A copy in another transfer syntax."""
    encoded = deepcopy(image)
    if transfer_syntax in PYDICOM:
        encoded.compress(transfer_syntax, generate_instance_uid=False)
    elif transfer_syntax in IMAGECODECS:
        dtype = np.int16 if image.PixelRepresentation else np.uint16
        frames = np.frombuffer(image.PixelData, dtype).reshape(-1, image.Rows, image.Columns)
        encoded.PixelData = encapsulate([IMAGECODECS[transfer_syntax](frame) for frame in frames])
        encoded["PixelData"].VR = "OB"
    elif transfer_syntax == ExplicitVRBigEndian:
        encoded.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        encoded["PixelData"].VR = "OW"
    encoded.file_meta.TransferSyntaxUID = transfer_syntax
    return encoded


_MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "ContrastBolusUsageSequence": ("ContrastBolusAgentAdministered",),
}
_OF_IMAGES = ("FrameOfReferenceUID", "Rows", "PixelRepresentation", "PhotometricInterpretation", "PixelPaddingValue")
_OF_FRAMES = {
    *(keyword for keywords in _MACROS.values() for keyword in keywords),
    *("PixelData", "AcquisitionNumber", "AcquisitionDateTime", "StackID", "BodyPartExamined"),
}


def _groups(image: Dataset, number: int) -> Dataset:
    """The functional groups of one frame."""
    groups = Dataset()
    for macro, keywords in _MACROS.items():
        item = Dataset()
        item.update({image[keyword].tag: image[keyword] for keyword in keywords if keyword in image})
        if item:
            setattr(groups, macro, [item])
    content = Dataset()
    content.FrameAcquisitionNumber = image.get("AcquisitionNumber")
    content.FrameAcquisitionDateTime = image.get("AcquisitionDateTime", "20260301101500")
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime
    content.FrameAcquisitionDuration = 1000.0
    content.StackID = image.get("StackID", "1")
    content.InStackPositionNumber = number
    groups.FrameContentSequence = [content]
    frame_type = Dataset()
    frame_type.FrameType = [*image.ImageType[:3], "NONE"]
    groups.CTImageFrameTypeSequence = [frame_type]
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "69536005", "SCT", "Head"
    anatomy = Dataset()
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "U", [region]
    groups.FrameAnatomySequence = [anatomy]
    return groups


def _image(position: NDArray[np.float64], orientation: NDArray[np.float64], spacing: float, matrix: int) -> Dataset:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientName, image.PatientID = "Planted^Name", "PLANTED-ID"
    image.StudyDate, image.StudyTime = "20260301", "101500"
    image.BodyPartExamined, image.ConvolutionKernel, image.KVP = "HEAD", "STANDARD", "120"
    image.AcquisitionNumber = 1
    image.ImagePositionPatient = [round(float(value), 6) for value in position]
    image.ImageOrientationPatient = [round(float(value), 8) for value in orientation.ravel()]
    image.PixelSpacing = [spacing, spacing]
    image.Rows = image.Columns = matrix
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "-1024", "1", "HU"
    image.WindowCenter, image.WindowWidth = "40", "80"
    set_hu(image, _head_hu(pixel_centres_mm(position, orientation, (spacing, spacing), matrix)))
    return image


def _head_hu(points_mm: NDArray[np.float64]) -> NDArray[np.int16]:
    hu = np.full(points_mm.shape[:-1], -1000.0)
    hu[((points_mm / _OUTER_MM) ** 2).sum(axis=-1) < 1] = 900
    hu[((points_mm / _INNER_MM) ** 2).sum(axis=-1) < 1] = 34
    noise = 4 * np.sin(points_mm @ np.array([1.3, 2.1, 0.7])) * np.cos(points_mm @ np.array([0.4, -1.7, 2.9]))
    noisy: NDArray[np.int16] = np.rint(hu + noise).astype(np.int16)
    return noisy
