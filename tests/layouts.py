"""Small data sets in the published layouts, made up: arrays for pixels, and every quirk of names and tables.

Each function writes one data set under a folder. Pixel values tell which slice they are of.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests import ct
from triage_node.domain import CLASSES

PX = 48
RSNA_ORDER = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
CT_ICH_HEADER = (
    "PatientNumber,SliceNumber,Intraventricular,Intraparenchymal,Subarachnoid,Epidural,Subdural,"
    "No_Hemorrhage,Fracture_Yes_No"
)
READS_HEADER = "name,Category," + ",".join(
    f"R{reader}:{name}" for reader in (1, 2, 3) for name in ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "Fracture")
)


def marked(number: int, size: int = PX) -> np.ndarray:
    """(size, size) int16 HU: air, and a square whose value and place tell the number."""
    hu = np.full((size, size), -1000, np.int16)
    hu[10 : size - 10, 10 + number : size - 8] = 20 + number
    return hu


def square(number: int, size: int = PX) -> np.ndarray:
    """(size, size) bool, a blot of 64 pixels."""
    blot = np.zeros((size, size), bool)
    blot[16:24, 20 + number : 28 + number] = True
    return blot


# ---------------------------------------------------------------- RSNA 2019


def rsna_image(
    path: Path, *, patient: str, series: str, height_mm: float, hu: np.ndarray, wrapped: bool = False
) -> None:
    """As published: UIDs that are none, no SOP Class UID; `wrapped` is 12 bits, unsigned, intercept 0."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID = path.stem, "ID_5d1", series
        image.Modality, image.PatientID, image.StudyID = "CT", patient, ""
        image.ImagePositionPatient = [-125.0, -125.0, height_mm]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = [5.0, 5.0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = hu.shape
        image.BitsAllocated = 16
        image.BitsStored, image.HighBit = (12, 11) if wrapped else (16, 15)
        image.PixelRepresentation = 0 if wrapped else 1
        image.WindowCenter, image.WindowWidth = 30, 80
        image.RescaleSlope, image.RescaleIntercept = 1, 0 if wrapped else -1024
        stored = np.where(hu < 0, hu + 4096, hu) if wrapped else hu + 1024
        image.PixelData = stored.astype(np.uint16 if wrapped else np.int16).tobytes()
        image.save_as(path)


def rsna_table(path: Path, labels: Mapping[str, Iterable[str]], extra: str = "") -> None:
    """`labels` names the classes that are 1, by image."""
    lines = [f"{image}_{name},{int(name in present)}" for image, present in labels.items() for name in RSNA_ORDER]
    path.write_text("\n".join(["ID,Label", *lines]) + "\n" + extra)


def rsna(root: Path) -> Path:
    """Two series of patient ID_a, one of ID_b; files are named at random, heights tell their order."""
    folder = root / "stage_2_train"
    folder.mkdir(parents=True)
    series = {"ID_s1": ("ID_a", ["ID_c0", "ID_a0", "ID_b0"]), "ID_s2": ("ID_a", ["ID_a1", "ID_b1"])}
    series["ID_s3"] = ("ID_b", ["ID_b2", "ID_a2"])
    for uid, (patient, names) in series.items():
        for number, name in enumerate(names):
            rsna_image(
                folder / f"{name}.dcm",
                patient=patient,
                series=uid,
                height_mm=-20.0 + 5 * number,
                hu=marked(number),
                wrapped=uid == "ID_s3",
            )
    labels = {name: () for _, names in series.values() for name in names}
    labels |= {"ID_a0": ("any", "subdural"), "ID_b0": ("any", "subdural", "epidural")}
    rsna_table(root / "stage_2_train.csv", labels, extra="ID_a0_subdural,1\n")
    return root


# ---------------------------------------------------------------- NIfTI


def save_nifti(path: Path, slices: Sequence[np.ndarray], *, head_first: bool = False, step_mm: float = 5.0) -> None:
    """Slices (rows, columns) from feet to head, rows to posterior, columns to the left, 3 mm pixels.

    Stored as (i, j, k), RAS; `head_first` turns the third axis over, the affine with it.
    """
    values = np.stack(slices).transpose(2, 1, 0)[::-1, ::-1]  # i to the right, j to anterior, k to the head
    affine = np.diag([3.0, 3.0, step_mm, 1.0])
    if head_first:
        values = values[:, :, ::-1]
        affine[2, 2], affine[2, 3] = -step_mm, step_mm * (len(slices) - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values), affine), path)


def physionet(root: Path) -> Path:
    """049, stored from feet to head, and 050, stored head first: slices negative, subdural, two kinds, negative."""
    rows = []
    for patient, head_first in (("049", False), ("050", True)):
        image = [marked(number) for number in range(4)]
        mask = [
            (255 * square(number) if number in (1, 2) else np.zeros((PX, PX))).astype(np.uint8) for number in range(4)
        ]
        save_nifti(root / f"ct_scans/{patient}.nii", image, head_first=head_first)
        save_nifti(root / f"masks/{patient}.nii", mask, head_first=head_first)
        told = ["0,0,0,0,0,1,0", "0,0,0,0,1,0,0", "0,1,0,0,1,0,1", "0,0,0,0,0,1,0"]
        for number, line in enumerate(told[::-1] if head_first else told, start=1):
            rows.append(f"{int(patient)},{number},{line}")
    (root / "hemorrhage_diagnosis_raw_ct.csv").write_text("\n".join([CT_ICH_HEADER, *rows, ",,,,,,,,"]) + "\n")
    (root / "Patient_demographics.csv").write_text("Patient Number\n49\n50\n")
    return root


def bhsd(root: Path) -> Path:
    """Three volumes of two patients; slice k of each shows kind 1 + k."""
    for name in ("ID_0237f3c9_ID_40015688b9", "ID_2db7ee14_ID_2591d00dfc", "ID_2db7ee14_ID_f27e38fdfd"):
        save_nifti(root / f"label_192/images/{name}.nii.gz", [marked(number) for number in range(6)])
        mask = [
            ((1 + number) * square(number) if number < 5 else np.zeros((PX, PX))).astype(np.uint8)
            for number in range(6)
        ]
        save_nifti(root / f"label_192/ground truths/{name}.nii.gz", mask)
    return root


def instance22(root: Path, names: tuple[str, str] = ("data", "label")) -> Path:
    """001 and 002: blood on the second slice of three."""
    for patient in ("001", "002"):
        save_nifti(root / f"train_2/{names[0]}/{patient}.nii.gz", [marked(number) for number in range(3)])
        mask = [(square(number) & (number == 1)).astype(np.uint8) for number in range(3)]
        save_nifti(root / f"train_2/{names[1]}/{patient}.nii.gz", mask)
    return root


# ---------------------------------------------------------------- pictures


def picture(number: int) -> np.ndarray:
    """(96, 80) uint8: a head on black, with a bar whose place tells the number."""
    rows, columns = np.indices((96, 80))
    inside = ((rows - 50) / 36) ** 2 + ((columns - 38) / 28) ** 2 < 1
    grey = np.where(inside, 90, 0)
    grey[40:44, 24 + 6 * number : 30 + 6 * number] = 200
    return grey.astype(np.uint8)


def save_picture(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def picture_blot() -> np.ndarray:
    """(96, 80) uint8 mask: white on black."""
    blot = np.zeros((96, 80), np.uint8)
    blot[56:66, 30:42] = 255
    return blot


def kaggle(root: Path) -> Path:
    """049: a negative, a subdural and one of two kinds; 050: a negative, with a grey mask of nothing."""
    for patient, count in (("049", 3), ("050", 1)):
        for number in range(1, 1 + count):
            for window in ("brain", "bone"):
                save_picture(root / f"Patients_CT/{patient}/{window}/{number}.jpg", picture(number))
    for number in (2, 3):
        save_picture(root / f"Patients_CT/049/brain/{number}_HGE_Seg.jpg", picture_blot())
    save_picture(root / "Patients_CT/050/brain/1_HGE_Seg.jpg", np.arange(96 * 80, dtype=np.uint8).reshape(96, 80) % 9)
    rows = ["49,1,0,0,0,0,0,1,0", "49,2,0,0,0,0,1,0,0", "49,3,1,1,0,0,0,0,1", "50,1,0,0,0,0,0,1,0"]
    (root / "hemorrhage_diagnosis.csv").write_text("\n".join([CT_ICH_HEADER, *rows]) + "\n")
    return root


def pictures(root: Path, *, patients: bool = True) -> Path:
    """p1: two pictures, p2: one."""
    for number, name in enumerate(("a.png", "b.png", "sub/c.jpg")):
        save_picture(root / name, picture(number))
    lines = ["file,any,subdural,patient", "a.png,0,,p1", "b.png,1,1,p1", "sub/c.jpg,1,,p2"]
    if not patients:
        lines = [line.rpartition(",")[0] for line in lines]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


# ---------------------------------------------------------------- CQ500


def cq500_line(name: str, *readers: str) -> str:
    """What each reader sees, of "ICH IPH IVH SDH EDH SAH"; three readers."""
    categories = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "Fracture")
    return ",".join([name, "B1", *(str(int(category in seen.split())) for seen in readers for category in categories)])


def cq500(root: Path) -> Path:
    """Study 0: negative, thin and routine series; study 7: subdural by two of three, with one series given contrast."""
    series = {
        "CQ500CT0 CQ500CT0/Unknown Study/CT PLAIN THIN": 2.0,
        "CQ500CT0 CQ500CT0/Unknown Study/CT Plain": 5.0,
        "CQ500CT7 CQ500CT7/Unknown Study/CT 5mm": 5.0,
        "CQ500CT7 CQ500CT7/Unknown Study/CT 5mm POST CONTRAST": 4.5,
    }
    for name, step_mm in series.items():
        images = ct.head(depths_mm=np.arange(-45.0, 46.0, step_mm), matrix=PX)
        ct.save(images, root / name)
    lines = [
        cq500_line("CQ500-CT-0", "", "ICH IPH", ""),
        cq500_line("CQ500-CT-7", "ICH SDH", "ICH SDH SAH", "ICH IPH"),
    ]
    (root / "reads.csv").write_text("\n".join([READS_HEADER, *lines]) + "\n")
    return root


# ---------------------------------------------------------------- ours


def volumes(root: Path) -> Path:
    """images/p1/ct with a mask, images/p2 a DICOM series that labels.csv calls negative."""
    save_nifti(root / "images/p1/ct.nii.gz", [marked(number) for number in range(4)])
    mask = [(5 * (square(number) & (number == 2))).astype(np.uint8) for number in range(4)]
    save_nifti(root / "masks/p1/ct.nii.gz", mask)
    ct.save(ct.head(matrix=PX), root / "images/p2")
    (root / "labels.csv").write_text("file,any\nimages/p2,0\n")
    return root


WRITERS = {
    "rsna": rsna,
    "physionet": physionet,
    "kaggle": kaggle,
    "cq500": cq500,
    "bhsd": bhsd,
    "instance22": instance22,
    "pictures": pictures,
    "volumes": volumes,
}
UNKNOWN = (np.nan,) * len(CLASSES)
