"""Simulated heads in the layout of RSNA 2019, to try docs/laboratory.md without real data.

    python scripts/make-rsna-like.py DIR [--heads N] [--size PX]

Writes DIR/stage_2_train/ID_*.dcm and DIR/stage_2_train.csv. Like the real ones, the files name no SOP Class, and labels
are by slice, without masks. Nothing in them is of a person.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from tqdm import tqdm

from triage_node.domain import SUBTYPES, Int16Array
from triage_node.simulate import SimulatedHead, SliceGeometry, axial_geometry, simulate_head

PRESENT_PX = 20
_NAMES = (*SUBTYPES, "any")


def main() -> None:
    """Write the files and the table."""
    arguments = _arguments()
    folder = arguments.folder / "stage_2_train"
    folder.mkdir(parents=True)
    lines = ["ID,Label"]
    for number in tqdm(range(arguments.heads), unit="head"):
        size = arguments.size
        geometry = axial_geometry(slices=20, spacing_mm=7.0, rows=size, columns=size, pixel_spacing_mm=240 / size)
        subtypes = () if number % 3 == 0 else (SUBTYPES[number % len(SUBTYPES)],)
        head = simulate_head(seed=9_000_000 + number, subtypes=subtypes, geometry=geometry, measure_volumes=False)
        lines += _write_head(folder, number, head, geometry)
    (arguments.folder / "stage_2_train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_head(folder: Path, number: int, head: SimulatedHead, geometry: SliceGeometry) -> list[str]:
    """One file a slice; the lines of the table."""
    lines = []
    for index, (hu, truth) in enumerate(zip(head.hu, head.truth, strict=True)):
        image = f"ID_{number:05x}{index:04x}"
        _save(folder / f"{image}.dcm", hu, geometry, index, number)
        pixels = np.bincount(truth.ravel(), minlength=1 + len(SUBTYPES))[1:]
        present = {name for name, count in zip(SUBTYPES, pixels, strict=True) if count > PRESENT_PX}
        present |= {"any"} if present else set()
        lines += [f"{image}_{name},{int(name in present)}" for name in _NAMES]
    return lines


def _save(path: Path, hu: Int16Array, geometry: SliceGeometry, index: int, number: int) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.stem])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its UIDs are none
        image = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPInstanceUID, image.PatientID = path.stem, f"ID_p{number:05x}"
        image.StudyInstanceUID, image.SeriesInstanceUID = f"ID_t{number:05x}", f"ID_s{number:05x}"
        image.Modality, image.StudyID = "CT", ""
        image.ImagePositionPatient = [round(float(value), 4) for value in geometry.positions_mm[index]]
        image.ImageOrientationPatient = [float(value) for value in geometry.orientation.ravel()]
        image.PixelSpacing = list(geometry.pixel_spacing_mm)
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = hu.shape
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.WindowCenter, image.WindowWidth = 40, 80
        image.RescaleIntercept, image.RescaleSlope = -1024, 1
        image.PixelData = (hu + 1024).astype(np.int16).tobytes()
        image.save_as(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--heads", type=int, default=30, help="default: 30; a third without blood")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side; default: 256")
    return parser.parse_args()


if __name__ == "__main__":
    main()
