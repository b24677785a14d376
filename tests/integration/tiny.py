"""Tiny DICOM files for tests of the network: real objects, a few kilobytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from triage_node.peers import OutgoingObject


def write_ct(
    path: Path,
    *,
    sop_class_uid: str = CTImageStorage,
    syntax: str = ExplicitVRLittleEndian,
    size: int = 32,
    patient_name: str = "TINY^CT",
    study_uid: str | None = None,
    series_uid: str | None = None,
) -> OutgoingObject:
    """Write a CT image (or what claims to be of another SOP class) of `size` x `size` pixels."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = study_uid or generate_uid()
    dataset.SeriesInstanceUID = series_uid or dataset.StudyInstanceUID
    dataset.Modality, dataset.SeriesDescription = "CT", "tiny"
    dataset.PatientName, dataset.PatientID = patient_name, "1"
    dataset.add_new(0x00091001, "UN", b"private ")
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    pixels = np.random.default_rng(0).integers(-1024, 3000, (size, size), dtype=np.int16)
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return OutgoingObject(
        path=path,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(syntax),
    )


def encoded_dataset(path: Path) -> bytes:
    """The bytes of the data set of a file: what follows the File Meta Information."""
    group_length = int(read_file_meta_info(path).FileMetaInformationGroupLength)
    return path.read_bytes()[128 + 4 + 12 + group_length :]
