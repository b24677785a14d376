"""What a browser sends to the page for trying: a form of any size, taken as it comes, and kept where it is of use.

Nothing that is said of sizes, names or types is believed: bytes and files are counted as they come off the wire and out
of a zip, a type is what the content is, and files get names of ours. Nothing is written before the form has proved to
be ours, and little is in memory at a time: headers are counted before anybody builds them.
"""

from __future__ import annotations

import errno
import io
import mmap
import secrets
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from triage_node.admit import ct_series
from triage_node.domain import TrialKind
from triage_node.elements import READ_ERRORS, count_header

_CHUNK_BYTES: Final = 1 << 18
_FIELD_BYTES: Final = 256
"""Of a field that is no file."""
_HEADER_BYTES: Final = 4096
"""Of a header of a part; more is cut off."""
_LOOK_AT_DISK_BYTES: Final = 16_000_000
_DIRECTORY_BYTES_A_FILE: Final = 1024
"""Of the directory of a zip, which is read whole: more than names of any sense need."""
_HEADER_OF_A_FILE: Final = 100_000
"""Elements and items: an Enhanced CT image of 600 frames has 50,000."""
_HEADERS_A_FILE: Final = 600
"""Of all files together, for each that is allowed."""
_ZIP_ERRORS: Final = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, *READ_ERRORS)
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_PLAIN_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What others unpack to cannot be bounded: a dictionary of LZMA may take gigabytes."""


FULL: Final = "The disk of the node is nearly full. Nothing can be tried now."


class Refused(Exception):
    """What was sent is not taken; the message is for who sent it."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code
        """HTTP status."""


def refuse_where_full(error: Exception) -> None:
    """Refused where the error says that the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise Refused(507, FULL) from None


class Allowance:
    """How much may still come. Counts what does come, whatever any header says."""

    def __init__(self, *, most_mb: int, most_files: int, has_room: Callable[[], bool]) -> None:
        self._most_mb, self._most_files, self._has_room = most_mb, most_files, has_room
        self._files = self._bytes = 0
        self.most_directory_bytes = max(_CHUNK_BYTES, most_files * _DIRECTORY_BYTES_A_FILE)
        """Of a zip with so many files."""
        self._looked_at_bytes = -_LOOK_AT_DISK_BYTES
        self._elements_left = max(_HEADER_OF_A_FILE, most_files * _HEADERS_A_FILE)

    def count_elements(self, count: int) -> None:
        """So many more elements of headers. Refused where they are too many to be read."""
        self._elements_left -= count
        if self._elements_left < 0:
            raise Refused(413, "The headers of these files are far too long. Give one series at a time.")

    def count_file(self) -> None:
        """One more. Refused where it is one too many."""
        self._files += 1
        if self._files > self._most_files:
            raise Refused(413, f"These are more than {self._most_files} files. Give one series at a time.")

    def count_bytes(self, size: int) -> None:
        """So many more. Refused where they are too many, or the disk has no room for them."""
        self._bytes += size
        if self._bytes > self._most_mb * 1_000_000:
            raise Refused(413, f"This is more than {self._most_mb} MB, packed or unpacked. Give one series at a time.")
        if self._bytes - self._looked_at_bytes >= _LOOK_AT_DISK_BYTES:
            self._looked_at_bytes = self._bytes
            if not self._has_room():
                raise Refused(507, FULL)


class Form:
    """A multipart form (RFC 7578), `csrf` its first field; its files go below `folder`, made when the first comes."""

    def __init__(self, content_type: str, folder: Path, *, csrf: str, allowance: Allowance) -> None:
        """Refused where it is no such form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise Refused(415, "This is no form with files.")
        self.files: list[Path] = []
        self._folder, self._csrf, self._allowance = folder, csrf, allowance
        self._is_ours = False
        self._name, self._header, self._value, self._disposition = b"", b"", b"", b""
        self._file: BinaryIO | None = None
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_header_name,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._take_content,
                    "on_part_end": self._end_part,
                },
            )
        except FormParserError:
            raise Refused(415, "This is no form with files.") from None

    def take(self, chunk: bytes) -> None:
        """The next bytes of it. Refused where it is not ours, too much, or broken."""
        self._allowance.count_bytes(len(chunk))
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise Refused(400, "The form is broken. Load the page again.") from None

    def end(self) -> None:
        """All of it came. Refused where that is not so, or not ours."""
        try:
            self._parser.finalize()
        except FormParserError:
            raise Refused(400, "The form broke off. Send it again.") from None
        self._require_ours()
        if self._file is not None:
            raise Refused(400, "The form broke off. Send it again.")

    def close(self) -> None:
        """Give back what is open; after `end`, nothing is."""
        if self._file is not None:
            self._file.close()

    # ------------------------------------------------------------ as the parser goes

    def _begin_part(self) -> None:
        self._name, self._value, self._disposition = b"", b"", b""

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start : min(end, start + _HEADER_BYTES - len(self._header))]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition += data[start : min(end, start + _HEADER_BYTES - len(self._disposition))]

    def _end_header(self) -> None:
        self._header = b""

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"")
        if options.get(b"filename"):  # a chooser without a choice sends an empty name
            self._require_ours()
            self._allowance.count_file()
            self._folder.mkdir(exist_ok=True)
            self.files.append(self._folder / f"{len(self.files) + 1:06d}.part")
            self._file = self.files[-1].open("xb")

    def _take_content(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        elif len(self._value) < _FIELD_BYTES:
            self._value += data[start : min(end, start + _FIELD_BYTES)]

    def _end_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._name == b"csrf":
            self._is_ours = secrets.compare_digest(self._value, self._csrf.encode())

    def _require_ours(self) -> None:
        if not self._is_ours:
            raise Refused(403, "This form is not of your session; load the page again.")


# ---------------------------------------------------------------- what is of use


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What there is to try."""

    kind: TrialKind
    files: int
    passed_over: int
    """Files of no use."""
    size_bytes: int


class _Content(Enum):
    """What a file is, by its content."""

    CT_IMAGE = ".dcm"
    PICTURE = ".picture"
    OTHER = ""


def keep_usable(files: Sequence[Path], into: Path, allowance: Allowance) -> Kept:
    """Move CT images, or one picture, to the new folder `into`, those in zips too; all else is removed.

    A zip in a zip is not opened. Refused where nothing is of use, a zip is broken or encrypted, or unpacks to more than
    `allowance`.
    """
    into.mkdir()
    found: Counter[_Content] = Counter()
    for path in _unpacked(files, into / "entry.part", allowance):
        content = _content(path, allowance)
        found[content] += 1
        if content is _Content.OTHER:
            path.unlink()
        else:
            path.replace(into / f"{found.total():06d}{content.value}")
    kind = _kind(found)
    wanted = _Content.CT_IMAGE if kind is TrialKind.SERIES else _Content.PICTURE
    if kind is TrialKind.SERIES:
        for picture in into.glob(f"*{_Content.PICTURE.value}"):
            picture.unlink()
    return Kept(
        kind=kind,
        files=found[wanted],
        passed_over=found.total() - found[wanted],
        size_bytes=sum(path.stat().st_size for path in into.iterdir()),
    )


def _kind(found: Counter[_Content]) -> TrialKind:
    if found[_Content.CT_IMAGE]:
        return TrialKind.SERIES
    if found[_Content.PICTURE] == 1:
        return TrialKind.PICTURE
    if found[_Content.PICTURE]:
        raise Refused(415, f"These are {found[_Content.PICTURE]} pictures. Give one at a time, or the DICOM images.")
    if not found:
        raise Refused(415, "There is no file in it.")
    which = "The file is no" if found.total() == 1 else f"None of the {found.total()} files is a"
    raise Refused(415, f"{which} DICOM CT image, PNG or JPEG.")


def _content(path: Path, allowance: Allowance) -> _Content:
    if _is_ct(path, allowance):
        return _Content.CT_IMAGE
    return _Content.PICTURE if _begins(path, _PICTURES) else _Content.OTHER


def _is_ct(path: Path, allowance: Allowance) -> bool:
    """Only what can be counted before it is read; so no deflated data set, which is inflated whole."""
    if not path.stat().st_size:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
    ):
        count = count_header(content, most=_HEADER_OF_A_FILE)
    if count is None:
        return False
    allowance.count_elements(count)
    return ct_series(path) is not None


def _begins(path: Path, signatures: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(signatures)


# ---------------------------------------------------------------- zips


def _unpacked(files: Sequence[Path], entry: Path, allowance: Allowance) -> Iterator[Path]:
    """The files; in place of each zip what is in it, one at a time at `entry`. What is yielded is to be moved away."""
    for path in files:
        if not _begins(path, _ZIP) or _is_ct(path, allowance):
            yield path
            continue
        try:
            yield from _entries(path, entry, allowance)
        except _ZIP_ERRORS as error:
            refuse_where_full(error)
            raise Refused(415, "The zip is broken: it cannot be unpacked. Pack it again.") from None
        path.unlink()


def _entries(path: Path, entry: Path, allowance: Allowance) -> Iterator[Path]:
    with _Bounded(path, allowance.most_directory_bytes) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            allowance.count_file()
            if info.flag_bits & 1:
                raise Refused(415, "The zip is encrypted. Pack it without a password.")
            if info.compress_type not in _PLAIN_METHODS:
                raise Refused(415, "The zip is packed in a rare way. Pack it as an ordinary zip (deflate).")
            with archive.open(info) as packed, entry.open("wb") as unpacked:
                while chunk := packed.read(_CHUNK_BYTES):
                    allowance.count_bytes(len(chunk))
                    unpacked.write(chunk)
            yield entry


class _Bounded(io.FileIO):
    """A file of which nobody reads much at once: zipfile reads the directory of a zip whole, however long it is."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        super().__init__(path)
        self._size, self._most = path.stat().st_size, most_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._size - self.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self._most:
            raise Refused(413, "The zip says that it holds far too many files.")
        return super().read(wanted) or b""
