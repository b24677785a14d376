"""What a compressed frame says of its own size. Decoders take memory by it: 65535 x 65535 is 8 GB (measured)."""

from __future__ import annotations

import struct
from typing import Final

_JPEG: Final = b"\xff\xd8"
_JPEG_2000: Final = b"\xff\x4f\xff\x51"  # SOC, SIZ (ISO/IEC 15444-1 A.4, A.5); HTJ2K begins alike
_FRAME_HEADERS: Final = frozenset({*range(0xFFC0, 0xFFD0), 0xFFF7}) - {0xFFC4, 0xFFC8, 0xFFCC}
"""SOF0 to SOF15 without DHT, JPG and DAC (ISO/IEC 10918-1 B.1.1.3), and SOF55 of JPEG-LS (ISO/IEC 14495-1)."""
_BROKEN: Final = (0, 0)


def claimed_matrix(codestream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream; None for RLE, which says none.

    Raises struct.error where it ends too early.
    """
    if codestream.startswith(_JPEG):
        return _jpeg_matrix(codestream)
    start = codestream.find(_JPEG_2000, 0, 256)  # some writers put a JP2 header before it
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", codestream, start + 8)
    return bottom - top, right - left


def _jpeg_matrix(codestream: bytes) -> tuple[int, int]:
    at = len(_JPEG)
    while True:
        marker, length = struct.unpack_from(">HH", codestream, at)
        if marker in _FRAME_HEADERS:
            rows, columns = struct.unpack_from(">HH", codestream, at + 5)
            return rows, columns
        if marker < 0xFF00:
            return _BROKEN
        at += 1 if marker == 0xFFFF else 2 + length  # fill bytes may stand before a marker
