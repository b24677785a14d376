"""Broken and absurd images end as NotSuitable with a clear sentence; no memory is taken for what a header claims."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from imagecodecs import htj2k_encode, jpeg2k_encode, jpegls_encode, ljpeg_encode
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from tests import ct
from triage_node.assemble import assemble
from triage_node.assemble.codestreams import claimed_matrix
from triage_node.config import Config
from triage_node.domain import NotAnalyzedReason
from triage_node.errors import NotSuitable
from triage_node.infer.bundle import find_bundle
from triage_node.infer.process import InferenceProcess
from triage_node.pipeline.files import analyze_folder

R = NotAnalyzedReason
ENOUGH_BYTES = 20_000_000
"""For a few slices of 64 x 64; what the absurd headers below claim is 100 times as much and more."""


def refusal_of(paths: list[Path]) -> NotSuitable:
    """The refusal, which took no memory to speak of."""
    tracemalloc.start()
    try:
        with pytest.raises(NotSuitable) as refusal:
            assemble(paths)
        assert tracemalloc.get_traced_memory()[1] < ENOUGH_BYTES
    finally:
        tracemalloc.stop()
    return refusal.value


def _set(**values: object) -> Callable[[Dataset], None]:
    def change(image: Dataset) -> None:
        for keyword, value in values.items():
            setattr(image, keyword, value)

    return change


def _no_pixels(image: Dataset) -> None:
    del image.PixelData


def _half_the_pixels(image: Dataset) -> None:
    image.PixelData = image.PixelData[: len(image.PixelData) // 2]


def _four_by_four(image: Dataset) -> None:
    image.Rows = image.Columns = 4
    image.PixelData = image.PixelData[:32]


def _bits(allocated: int) -> Callable[[Dataset], None]:
    return _set(
        BitsAllocated=allocated, BitsStored=allocated, HighBit=allocated - 1, PixelData=b"\0" * 64 * 8 * allocated
    )


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (_set(Rows=65535, Columns=65535), R.UNREADABLE, "65535 x 65535 pixels, which no CT has"),
        (_set(Rows=4096, Columns=4096), R.UNREADABLE, "incomplete or damaged"),
        (_set(Rows=0), R.UNREADABLE, "0 x 64 pixels, which no CT has"),
        (_set(Rows=32), R.UNREADABLE, "more pixels than its header says"),
        (_no_pixels, R.UNREADABLE, "no pixel data"),
        (_half_the_pixels, R.UNREADABLE, "incomplete or damaged"),
        (_bits(8), R.UNREADABLE, "16 bits"),
        (_bits(32), R.UNREADABLE, "16 bits"),
        (_four_by_four, R.NOT_HEAD, "No brain"),
        (_set(SamplesPerPixel=3), R.LOCALIZER, "color"),
        (_set(ImagePositionPatient=[0, 0, "1e300"]), R.NO_GEOMETRY, "position"),
        (_set(PixelSpacing=["1e300", "1e300"]), R.NO_GEOMETRY, "position"),
        (_set(RescaleIntercept="-1e300"), R.NOT_HEAD, "No brain"),
        (_set(RescaleSlope="1e300"), R.NOT_HEAD, "No brain"),
    ],
)
def test_every_absurd_header_is_refused_with_a_clear_sentence(
    tmp_path: Path, change: Callable[[Dataset], None], reason: NotAnalyzedReason, words: str
) -> None:
    images = ct.head()
    for image in images:
        change(image)
    refusal = refusal_of(ct.save(images, tmp_path))
    assert refusal.reason == reason
    assert words in refusal.detail


def test_a_volume_larger_than_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """RLE of one value is a few bytes for any matrix."""
    paths = ct.save(ct.head(np.arange(30) * 5.0), tmp_path)
    for path in paths:
        image = dcmread(path)
        image.Rows = image.Columns = 4000
        image.PixelData = encapsulate([b"\0" * 64])
        image.file_meta.TransferSyntaxUID = RLELossless
        image["PixelData"].VR = "OB"
        image.save_as(path)
    assert "more than can be analysed" in refusal_of(paths).detail


@pytest.mark.parametrize("columns", [32, 65])
def test_compressed_pixels_of_another_matrix_are_refused(tmp_path: Path, columns: int) -> None:
    """An RLE decoder in Rust panics on them, with what is no Exception."""
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1, HTJ2KLossless):
        paths = ct.save(ct.head(), tmp_path / syntax, transfer_syntax=syntax)
        for path in paths:
            image = dcmread(path)
            image.Columns = columns
            image.save_as(path)
        with pytest.raises(NotSuitable, match="UNREADABLE"):
            assemble(paths)


@pytest.mark.parametrize("encode", [htj2k_encode, jpegls_encode, ljpeg_encode], ids=lambda encode: encode.__name__)
def test_the_size_that_a_codestream_claims_is_read_from_it(encode: Callable[..., bytes]) -> None:
    assert claimed_matrix(encode(np.zeros((48, 80), np.uint16))) == (48, 80)


def test_the_size_that_a_jpeg_2000_codestream_claims_is_read_from_it_bare_or_boxed() -> None:
    pixels = np.zeros((48, 80), np.uint16)
    for codec in ("j2k", "jp2"):
        assert claimed_matrix(jpeg2k_encode(pixels, codecformat=codec, level=0)) == (48, 80)


@pytest.mark.parametrize(
    ("syntax", "size_at", "claim"),
    [
        (JPEG2000Lossless, b"\xff\x4f\xff\x51", 8),
        (HTJ2KLossless, b"\xff\x4f\xff\x51", 8),
        (JPEGLSLossless, b"\xff\xf7", 5),
        (JPEGLosslessSV1, b"\xff\xc3", 5),
    ],
)
def test_a_codestream_that_claims_more_than_its_header_is_refused_before_it_is_decoded(
    tmp_path: Path, syntax: UID, size_at: bytes, claim: int
) -> None:
    """Decoders take gigabytes for such a claim, or crash."""
    paths = ct.save(ct.head(), tmp_path, transfer_syntax=syntax)
    image = dcmread(paths[3])
    frame = bytearray(get_frame(image.PixelData, 0, number_of_frames=1))
    at = frame.find(size_at) + claim
    frame[at] = 0x70
    image.PixelData = encapsulate([bytes(frame)])
    image.save_as(paths[3])
    assert "does not have the matrix" in refusal_of(paths).detail


def test_a_folder_with_broken_headers_is_analysed_all_the_same(tmp_path: Path) -> None:
    """Cut off; several classes; a value of the wrong length: the last two were seen to stop the command."""
    (path,) = ct.save(ct.head([0.0]), tmp_path / "in")
    whole = path.read_bytes()
    class_at = whole.index(b"UI", whole.index(b"\x08\x00\x16\x00UI")) - 4
    broken = {
        "cut": whole[: class_at + 6],
        "classes": whole.replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5\\1.4.1.1.2\0"),
        "length": whole[: class_at + 4] + b"US" + whole[class_at + 6 :].replace(b"\x1a\0", b"\x19\0", 1),
    }
    for name, data in broken.items():
        (tmp_path / "in" / name).write_bytes(data)
    never_started = InferenceProcess(find_bundle("default"), timeout_s=1)
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    (result,) = analyze_folder(tmp_path / "in", tmp_path / "out", config=Config(), predictor=never_started, now=now)
    assert result["reason"] == "TOO_FEW_SLICES"
