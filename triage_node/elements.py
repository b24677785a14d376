"""The first elements of a data set, read where they lie (PS3.5 7.1), in a fifth of the time that pydicom takes.

For the receiver, which needs seven elements of every image before it answers. Little Endian only, and only what is
well formed: whoever gets None asks pydicom, which knows every other case and says what is wrong.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Final

from pydicom.errors import BytesLengthException, InvalidDicomError

READ_ERRORS: Final = (
    OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError, OverflowError,
    RuntimeError, NotImplementedError, InvalidDicomError, BytesLengthException, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders were seen to raise on broken files."""

_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # 16-bit length, PS3.5 7.1.2
)
_UNDEFINED: Final = 0xFFFFFFFF
_PIXELS: Final = 0x7FE00008  # Float, Double Float, Pixel Data: no header element comes after them
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 7.5


_LONGEST_META_BYTES: Final = 1 << 16
"""Of File Meta Information; private information in it is not that long."""
_DELIMITERS: Final = 0xFFFE
_SYNTAX: Final = 0x00020010
_IMPLICIT: Final = b"1.2.840.10008.1.2"
_NOT_READ: Final = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2")
"""Deflated, whose size nobody knows before, and Big Endian."""


class _Unusual(Exception):
    """What is left to pydicom."""


def first_texts(dataset: memoryview | bytes, tags: Collection[int], *, explicit_vr: bool) -> dict[int, str] | None:
    """The values of those `tags` that are there, as ASCII text without padding; Little Endian.

    Tags are 0xGGGGEEEE. None where anything is not as expected.
    """
    found: dict[int, str] = {}
    previous = -1
    try:
        for tag, value_at, length in _elements(dataset, 0, explicit_vr):
            if tag <= previous:
                return None
            if tag >= _PIXELS:
                break
            previous = tag
            if tag in tags:
                if length == _UNDEFINED:
                    return None
                found[tag] = bytes(dataset[value_at : value_at + length]).decode("ascii").rstrip("\0 ").lstrip(" ")
    except (_Unusual, struct.error, UnicodeDecodeError, RecursionError):
        return None
    return found


def file_meta(file: memoryview | bytes) -> tuple[dict[int, str], int] | None:
    """The File Meta Information of a PS3.10 file (7.1), as `first_texts`, and where its data set begins.

    None where it is none, whatever comes behind it.
    """
    if bytes(file[128:132]) != b"DICM":
        return None
    found: dict[int, str] = {}
    at = 132
    try:
        for tag, value_at, length in _elements(file[: 132 + _LONGEST_META_BYTES], 132, True):
            if tag >> 16 != 0x0002:
                break
            found[tag] = bytes(file[value_at : value_at + min(length, 100)]).decode("ascii", "replace").rstrip("\0 ")
            at = value_at + length
    except (_Unusual, struct.error, RecursionError):
        pass  # what comes behind it is in another syntax, or cut off here
    return (found, at) if found and at < len(file) else None


def count_header(file: memoryview | bytes, *, most: int) -> int | None:
    """Elements and items before the pixels of a PS3.10 file, nested ones too, without building any.

    None where there are more than `most`, or what is there is not Little Endian and well formed. pydicom makes objects
    of whatever lies in sequences of undefined length, wanted or not: a megabyte of empty items takes a hundred.
    """
    if bytes(file[128:132]) != b"DICM":
        return None
    try:
        return _counted(file, most)
    except (_Unusual, struct.error):
        return None


def _counted(file: memoryview | bytes, most: int) -> int | None:
    at, count, depth, explicit_vr, syntax = 132, 0, 0, True, b""
    while at < len(file):
        group, element = struct.unpack_from("<HH", file, at)
        if depth == 0 and syntax and group != 2:
            explicit_vr, syntax = syntax != _IMPLICIT, b""
        tag, count = group << 16 | element, count + 1
        if count > most:
            return None
        if depth == 0 and tag >= _PIXELS and group != _DELIMITERS:
            return count
        if group == _DELIMITERS:
            depth -= tag == _SEQUENCE_END
            at += 8
            continue
        value_at, length = _value(file, at, explicit_vr)
        if tag == _SYNTAX:
            syntax = bytes(file[value_at : value_at + length]).rstrip(b"\0 ")
            if syntax in _NOT_READ:
                return None
        depth += length == _UNDEFINED
        at = value_at if length == _UNDEFINED else value_at + length
    return count


def _elements(dataset: memoryview | bytes, at: int, explicit_vr: bool) -> Iterator[tuple[int, int, int]]:
    """(tag, where its value is, length or _UNDEFINED) of each element from `at` on."""
    while at < len(dataset):
        group, element = struct.unpack_from("<HH", dataset, at)
        value_at, length = _value(dataset, at, explicit_vr)
        if length != _UNDEFINED and value_at + length > len(dataset):
            raise _Unusual
        yield group << 16 | element, value_at, length
        at = _end(dataset, value_at, length, explicit_vr)


def _value(dataset: memoryview | bytes, at: int, explicit_vr: bool) -> tuple[int, int]:
    if not explicit_vr:
        return at + 8, struct.unpack_from("<L", dataset, at + 4)[0]
    vr = bytes(dataset[at + 4 : at + 6])
    if vr in _SHORT_VRS:
        return at + 8, struct.unpack_from("<H", dataset, at + 6)[0]
    if vr not in _LONG_VRS:
        raise _Unusual
    length = struct.unpack_from("<L", dataset, at + 8)[0]
    if vr == b"UN" and length == _UNDEFINED:
        raise _Unusual  # its items are in Implicit VR (PS3.5 6.2.2)
    return at + 12, length


def _end(dataset: memoryview | bytes, value_at: int, length: int, explicit_vr: bool) -> int:
    if length != _UNDEFINED:
        return value_at + length
    at = value_at
    while True:  # the items of a sequence
        group, element, length = struct.unpack_from("<HHL", dataset, at)
        at += 8
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Unusual
        at = _end_of_item(dataset, at, explicit_vr) if length == _UNDEFINED else at + length


def _end_of_item(dataset: memoryview | bytes, at: int, explicit_vr: bool) -> int:
    while struct.unpack_from("<HH", dataset, at) != (_ITEM_END >> 16, _ITEM_END & 0xFFFF):
        at = _end(dataset, *_value(dataset, at, explicit_vr), explicit_vr)
    return at + 8
