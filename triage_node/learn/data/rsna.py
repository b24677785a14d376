"""RSNA 2019 Intracranial Hemorrhage Detection: one DICOM file a slice, labels by slice, no masks."""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread
from tqdm import tqdm

from triage_node.assemble.geometry import slice_weights_mm
from triage_node.assemble.headers import Header, read_headers
from triage_node.assemble.pixels import require_rescale, stack_hounsfield
from triage_node.domain import CLASSES, Float32Array, Float64Array, Int16Array, Volume
from triage_node.elements import READ_ERRORS
from triage_node.errors import UsageError
from triage_node.learn.data.case import NOT_KNOWN, Entry, LabelRow, Loaded, wrong_layout
from triage_node.learn.data.tables import read_bit, read_rows
from triage_node.learn.data.truth import told_by_table

_EXPECTED: Final = (
    "RSNA 2019: stage_2_train/ID_*.dcm, one file a slice, and stage_2_train.csv with the header ID,Label and lines "
    "like ID_xxxxxxxxx_epidural,0"
)
_TAGS: Final = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient")
_LONE_SLICE_MM: Final = 5.0


def find(root: Path) -> list[Entry]:
    """One entry a series (SeriesInstanceUID), its files from feet to head. A file that is no DICOM is its own."""
    folder, table = root / "stage_2_train", root / "stage_2_train.csv"
    paths = sorted(folder.glob("*.dcm"))
    if not paths or not table.is_file():
        raise wrong_layout(root, _EXPECTED)
    labels = read_image_labels(table)
    series: dict[tuple[str, str], list[tuple[float, Path]]] = defaultdict(list)
    for path in tqdm(paths, desc="headers", unit="image", delay=2):
        patient, uid, height_mm = _identity(path)
        series[(uid, patient)].append((height_mm, path))
    return [
        Entry(
            name=f"{folder.name}/{uid}",
            patient=patient,
            files=(files := tuple(path for _, path in sorted(images))),
            labels=tuple(labels.get(path.stem, NOT_KNOWN) for path in files),
        )
        for (uid, patient), images in sorted(series.items())
    ]


def load(entry: Entry) -> Loaded:
    """All slices of the series, whatever the node would say of it: labels are by slice, and the series may be short."""
    rows = dict(zip(entry.files, entry.labels, strict=True))
    with _quiet():
        headers = _sorted(read_headers(entry.files))
        require_rescale(tuple(headers))
        hu = stack_hounsfield(headers)
    for values, header in zip(hu, headers, strict=True):
        _unwrap(values, header)
    labels = np.array([rows[header.path] for header in headers], np.float32)
    return told_by_table(_volume(hu, headers), labels)


def read_image_labels(table: Path) -> dict[str, LabelRow]:
    """By image (ID_xxxxxxxxx), in the order of the file; a class without a line is nan.

    The published file repeats some lines: the same again is passed over, another value is an error.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for where, row in read_rows(table, ("ID", "Label")):
        image, _, name = row["ID"].rpartition("_")
        if not image or name not in CLASSES:
            raise UsageError(f"{where}: the ID is expected to end in _{', _'.join(CLASSES)}")
        value = read_bit(row["Label"], where)
        if found[image].setdefault(name, value) != value:
            raise UsageError(f"{where}: the same ID stands above with another label")
    return {image: tuple(told.get(name, np.nan) for name in CLASSES) for image, told in found.items()}


def label_vectors(labels: Mapping[str, LabelRow]) -> Float32Array:
    """(images, 6) float32, in the order of the mapping; columns as CLASSES."""
    return np.array(list(labels.values()), np.float32).reshape(-1, len(CLASSES))


def convert_labels(table: Path, out: Path, *, ending: str = ".dcm") -> int:
    """Write one line an image, as `triage-node evaluate --labels` reads it; the number of images.

    `ending` is that of the files: .png where the images were made pictures. Raises UsageError for a wrong table, and
    where `out` cannot be written.
    """
    labels = read_image_labels(table)
    if not labels:
        raise UsageError(f"{table}: no line under the header")
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", *CLASSES])
            writer.writerows([image + ending, *map(_cell, row)] for image, row in labels.items())
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); name another place") from error
    return len(labels)


# ---------------------------------------------------------------- files


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0f}"


def _identity(path: Path) -> tuple[str, str, float]:
    """Patient, series, and height in mm; an unreadable file stands for itself, so that its loading says why."""
    try:
        with _quiet():
            image = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            position = image.get("ImagePositionPatient")
            height_mm = float(position[2]) if position else 0.0
            series = str(image.get("SeriesInstanceUID") or path.stem)
            return str(image.get("PatientID") or image.get("StudyInstanceUID") or series), series, height_mm
    except READ_ERRORS:
        return path.stem, path.stem, 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """The UIDs of this data set are no UIDs (ID_...), which pydicom says of every file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _sorted(headers: Sequence[Header]) -> list[Header]:
    if any(header.position_mm is None or header.orientation is None or header.spacing_mm is None for header in headers):
        raise UsageError("an image has no position, orientation or pixel spacing")
    if len({(header.number("Rows"), header.number("Columns"), header.spacing_mm) for header in headers}) > 1:
        raise UsageError("the images of the series have several sizes")
    return sorted(headers, key=lambda header: header.depth_mm)


# ---------------------------------------------------------------- pixels


def _unwrap(hu: Int16Array, header: Header) -> None:
    """12 bits written as unsigned with an intercept near 0: what is negative wrapped around 4096.

    Readers of this data set agree on it: values from 3096 on are -1000 to -1 HU (BitsStored 12, PixelRepresentation 0,
    RescaleIntercept over -100).
    """
    is_wrapped = header.number("BitsStored") == 12 and header.number("PixelRepresentation") == 0
    if is_wrapped and (header.number("RescaleIntercept") or 0.0) > -100:
        hu[hu >= 3096] -= 4096


def _volume(hu: Int16Array, headers: Sequence[Header]) -> Volume:
    first = headers[0]
    assert first.orientation is not None
    assert first.spacing_mm is not None
    return Volume(
        hu=hu,
        sop_uids=(),
        paths=tuple(header.path for header in headers),
        positions_mm=np.array([header.position_mm for header in headers], np.float64),
        orientation=first.orientation,
        pixel_spacing_mm=first.spacing_mm,
        weights_mm=_weights_mm(headers),
        tilt_deg=0.0,
        header={},
    )


def _weights_mm(headers: Sequence[Header]) -> Float64Array:
    if len(headers) == 1:
        return np.array([_LONE_SLICE_MM])
    return slice_weights_mm(np.diff([header.depth_mm for header in headers]))
