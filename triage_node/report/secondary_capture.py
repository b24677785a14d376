"""An RGB page -> Secondary Capture Image (PS3.3 A.8), which every PACS shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import SecondaryCaptureImageStorage

from triage_node.domain import ObjectKind, ResultObject, UInt8Array
from triage_node.errors import ReportError
from triage_node.report.instance import Context, finish, plain, read_back
from triage_node.report.stack import refer_to_frames


def build_secondary_capture(
    pixels: UInt8Array,
    *,
    kind: ObjectKind,
    index: int,
    sources: Sequence[Dataset],
    derivation: str,
    context: Context,
) -> ResultObject:
    """One page, read back pixel by pixel. Raises ReportError.

    `pixels` is (rows, columns, 3) uint8 RGB; `sources` are the images it was made from.
    """
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.BurnedInAnnotation = "YES"
    dataset.DerivationDescription = plain(derivation)
    dataset.SourceImageSequence = DicomSequence([_reference(source) for source in sources])
    refer_to_frames(dataset, sources)
    dataset.PatientOrientation = None
    _set_pixels(dataset, pixels)
    made = finish(dataset, kind, context, index=index)
    require_pixels(made, pixels)
    return made


def require_pixels(made: ResultObject, pixels: UInt8Array) -> None:
    """Raise ReportError unless a viewer gets these pixels."""
    if not np.array_equal(read_back(made).pixel_array, pixels):
        raise ReportError(f"{made.kind}: pixels did not read back the same")


def _reference(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = str(source.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(source.SOPInstanceUID)
    return item


def _set_pixels(dataset: Dataset, pixels: UInt8Array) -> None:
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = pixels.shape
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    data = pixels.tobytes()
    dataset.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
