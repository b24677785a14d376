"""The seven elements that the receiver needs, read where they lie: as pydicom reads them, or not at all."""

from __future__ import annotations

import struct

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from tests.tools import real_head_ct
from triage_node.elements import count_header, first_texts

SOP_UID, SERIES_UID, POSITION, ORIENTATION, ABSENT = 0x00080018, 0x0020000E, 0x00200032, 0x00200037, 0x00200010
TAGS = (SOP_UID, SERIES_UID, POSITION, ORIENTATION, ABSENT)
EXPECTED = {
    SOP_UID: "1.2.3",
    SERIES_UID: "1.2.3.44",
    POSITION: "-1.5\\2.0\\3.0",
    ORIENTATION: "1.0\\0.0\\0.0\\0.0\\1.0\\0.0",
}


def encoded(*, explicit_vr: bool, undefined: bool) -> bytes:
    """A data set with nested sequences before what is looked for, of defined or undefined length."""
    inner, outer, image = Dataset(), Dataset(), Dataset()
    inner.SOPInstanceUID, inner.CodeMeaning = "9.9.9", "not the image's own"
    outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
    outer.ReferencedSOPInstanceUID = "9.9"
    image.SOPInstanceUID, image.SeriesInstanceUID = EXPECTED[SOP_UID], EXPECTED[SERIES_UID]
    image.ReferencedImageSequence = Sequence([outer, Dataset()])
    image.ImagePositionPatient, image.ImageOrientationPatient = [-1.5, 2, 3], [1, 0, 0, 0, 1, 0]
    image.Rows, image.PixelData = 1, b"\0\0"
    image["PixelData"].VR = "OW"
    for dataset in (outer, image):
        for element in dataset:
            if element.VR == "SQ":
                element.is_undefined_length = undefined
                for item in element.value:
                    item.is_undefined_length_sequence_item = undefined
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = not explicit_vr, True
    write_dataset(buffer, image)
    return buffer.getvalue()


@pytest.mark.parametrize("explicit_vr", [True, False])
@pytest.mark.parametrize("undefined", [True, False])
def test_elements_are_found_behind_nested_sequences(explicit_vr: bool, undefined: bool) -> None:
    data = encoded(explicit_vr=explicit_vr, undefined=undefined)
    assert first_texts(memoryview(data), TAGS, explicit_vr=explicit_vr) == EXPECTED


def test_a_real_image_says_what_pydicom_reads() -> None:
    for path in sorted(real_head_ct().glob("*.dcm")):
        image = dcmread(path)
        data = path.read_bytes()
        start = 144 + int.from_bytes(data[140:144], "little")
        explicit_vr = not image.file_meta.TransferSyntaxUID.is_implicit_VR
        found = first_texts(memoryview(data)[start:], (SOP_UID, SERIES_UID), explicit_vr=explicit_vr)
        assert found == {SOP_UID: str(image.SOPInstanceUID), SERIES_UID: str(image.SeriesInstanceUID)}


def test_bytes_that_end_anywhere_are_left_to_pydicom() -> None:
    data = encoded(explicit_vr=True, undefined=True)
    whole = data.index(b"\x28\x00\x10\x00")  # Rows: all that is looked for lies before it
    texts = [first_texts(data[:end], TAGS, explicit_vr=True) for end in range(1, whole)]
    cut_between_elements = [found for found in texts if found is not None]
    assert len(cut_between_elements) == 4  # before each of the top-level elements but the first
    assert all(found.items() <= EXPECTED.items() for found in cut_between_elements)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00\x18\x00XX\x04\x001.2\x00",  # no VR
        b"\x20\x00\x0e\x00UI\x02\x001\x00\x08\x00\x18\x00UI\x02\x001\x00",  # not in ascending order
        b"\x08\x00\x18\x00UI\x02\x00\xe9\x00",  # no ASCII
        b"\x08\x00\x40\x11UN\x00\x00\xff\xff\xff\xff",  # a sequence in Implicit VR
        b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000,  # no end of nesting
    ],
    ids=["unknown VR", "order", "characters", "unknown sequence", "nesting"],
)
def test_what_is_unusual_is_left_to_pydicom(data: bytes) -> None:
    assert first_texts(data, TAGS, explicit_vr=True) is None


def test_the_same_bytes_in_the_other_encoding_are_left_to_pydicom() -> None:
    for explicit_vr in (True, False):
        data = encoded(explicit_vr=explicit_vr, undefined=False)
        assert first_texts(data, TAGS, explicit_vr=not explicit_vr) is None


def test_a_data_set_out_of_order_is_left_to_pydicom() -> None:
    """Not taken for one without its UIDs."""
    private = struct.pack("<HH2sH", 0x0029, 0x0010, b"LO", 6) + b"VENDOR"
    assert first_texts(private + encoded(explicit_vr=True, undefined=False), TAGS, explicit_vr=True) is None


def test_a_data_set_that_ends_inside_a_later_element_is_left_to_pydicom() -> None:
    whole = encoded(explicit_vr=True, undefined=False)
    rows = whole.index(struct.pack("<HH2s", 0x0028, 0x0010, b"US"))
    assert first_texts(whole[: rows + 9], TAGS, explicit_vr=True) is None


def test_the_elements_of_a_header_are_counted_without_reading_them() -> None:
    path = min(real_head_ct().glob("*.dcm"))
    image = dcmread(path, stop_before_pixels=True)
    flat = len(image.file_meta) + sum(1 for element in image if element.VR != "SQ")
    count = count_header(path.read_bytes(), most=100_000)
    assert count is not None
    assert flat <= count < 3 * flat
    assert count_header(path.read_bytes(), most=count - 1) is None
    assert count_header(b"no DICOM file", most=10) is None
    assert count_header(path.read_bytes()[:400], most=100_000) is None
