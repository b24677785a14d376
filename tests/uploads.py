"""Forms with files and zips, as browsers send them and as nobody should."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.report_cases import write_ct

BOUNDARY = b"boundary-of-the-test"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"


def field(name: str, value: str) -> bytes:
    """One field of a form."""
    head = f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
    return b"--" + BOUNDARY + b"\r\n" + head.encode()


def file(data: bytes, name: str = "a.dcm") -> bytes:
    """One file of a form."""
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain\r\n\r\n'
    return b"--" + BOUNDARY + b"\r\n" + head.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    """All of a form."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these names and contents."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


def ct_images(folder: Path, slices: int = 2) -> Sequence[bytes]:
    """The files of small CT images."""
    return [path.read_bytes() for path in write_ct(folder, slices=slices)]
