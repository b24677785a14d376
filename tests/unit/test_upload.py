"""What is sent to the page for trying: what is taken, what is refused and why, and that nothing is left of that."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.uploads import CONTENT_TYPE, ct_images, field, file, form, zipped
from triage_node.domain import TrialKind
from triage_node.web.upload import Allowance, Form, Kept, Refused, keep_usable, refuse_where_full

OURS = field("csrf", "ours")
MB = 1_000_000


def png() -> bytes:
    data = BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "PNG")
    return data.getvalue()


def allowance(most_mb: int = 5, most_files: int = 50, has_room: Callable[[], bool] = lambda: True) -> Allowance:
    return Allowance(most_mb=most_mb, most_files=most_files, has_room=has_room)


def new_form(folder: Path, limits: Allowance | None = None, content_type: str = CONTENT_TYPE) -> Form:
    return Form(content_type, folder, csrf="ours", allowance=limits or allowance())


def take(sent: Form, data: bytes, step: int = 1000) -> None:
    """All of it, in small pieces."""
    try:
        for start in range(0, len(data), step):
            sent.take(data[start : start + step])
        sent.end()
    finally:
        sent.close()


def keep(folder: Path, *files: bytes, limits: Allowance | None = None) -> Kept:
    """What is kept of files that came."""
    folder.mkdir()
    paths = [folder / f"{number}.part" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return keep_usable(paths, folder / "images", limits or allowance())


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- the form


def test_files_of_a_form_are_kept_as_they_were_under_names_of_ours(tmp_path: Path) -> None:
    sent = new_form(tmp_path / "trial")
    contents = [b"one" * 5000, b"\r\n--boundary-of-the-tes" * 300, b""]
    names = ["../../etc/passwd", "/a.dcm", "C:\\a.dcm"]
    parts = [file(data, name) for data, name in zip(contents, names, strict=True)]
    take(sent, form(OURS, *parts, file(b"", name="")))
    assert [path.read_bytes() for path in sent.files] == contents
    assert below(tmp_path) == ["trial/000001.part", "trial/000002.part", "trial/000003.part"]


@pytest.mark.parametrize(
    "parts",
    [
        [file(b"x")],
        [field("csrf", "guessed"), file(b"x")],
        [field("csrf", ""), file(b"x")],
        [field("csrf", "ours" + "x" * 300), file(b"x")],
        [field("other", "ours"), file(b"x")],
        [file(b"x"), OURS],
        [],
    ],
)
def test_a_form_that_is_not_of_this_session_writes_nothing(tmp_path: Path, parts: Iterable[bytes]) -> None:
    with pytest.raises(Refused, match="not of your session") as refused:
        take(new_form(tmp_path / "trial"), form(*parts))
    assert refused.value.code == 403
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_is_too_large_is_stopped_at_the_limit(tmp_path: Path) -> None:
    sent = new_form(tmp_path / "trial", allowance(most_mb=1))
    sent.take(OURS + file(b""))
    taken = 0
    with pytest.raises(Refused, match="more than 1 MB") as refused:
        while taken < 10 * MB:
            sent.take(file(bytes(100_000)))
            taken += 100_000
    sent.close()
    assert refused.value.code == 413
    assert taken < MB
    assert sum(path.stat().st_size for path in sent.files) < MB


def test_too_many_files_and_a_full_disk_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="more than 50 files"):
        take(new_form(tmp_path / "many"), form(OURS, *[file(b"x")] * 51))
    with pytest.raises(Refused, match="disk") as refused:
        take(new_form(tmp_path / "full", allowance(has_room=lambda: False)), form(OURS, file(b"x")))
    assert refused.value.code == 507
    assert not (tmp_path / "full").exists()


def test_the_disk_is_looked_at_while_it_fills(tmp_path: Path) -> None:
    looks: list[int] = []

    def has_room() -> bool:
        looks.append(1)
        return len(looks) < 3

    sent = new_form(tmp_path / "trial", allowance(most_mb=1000, has_room=has_room))
    with pytest.raises(Refused, match="disk"):
        take(sent, form(OURS, file(bytes(60 * MB))), step=MB)
    assert sent.files[0].stat().st_size < 40 * MB


@pytest.mark.parametrize(
    ("content_type", "data", "code"),
    [
        ("application/x-www-form-urlencoded", b"csrf=ours", 415),
        ("multipart/form-data", form(OURS), 415),
        ("", form(OURS), 415),
        (CONTENT_TYPE, b"no form at all", 400),
        (CONTENT_TYPE, form(OURS, file(b"x" * 5000))[:3000], 400),
    ],
)
def test_what_is_no_form_or_breaks_off_is_refused(tmp_path: Path, content_type: str, data: bytes, code: int) -> None:
    with pytest.raises(Refused) as refused:
        take(new_form(tmp_path / "trial", content_type=content_type), data)
    assert refused.value.code == code


def test_headers_without_end_take_no_memory(tmp_path: Path) -> None:
    sent = new_form(tmp_path / "trial")
    with pytest.raises(Refused):
        take(sent, OURS + b"--boundary-of-the-test\r\nContent-Disposition: " + b"x" * MB)
    assert len(sent._disposition) <= 4096


# ---------------------------------------------------------------- what is of use


def test_ct_images_are_found_by_their_content_wherever_they_are(tmp_path: Path) -> None:
    first, second, third = ct_images(tmp_path / "ct", 3)
    inside = {"a/b/1": first, "c.txt": second, "a/README.dcm": b"text", "inner.zip": zipped({"3.dcm": third})}
    kept = keep(tmp_path / "trial", zipped(inside), third, b"text", png())
    assert (kept.kind, kept.files, kept.passed_over) == (TrialKind.SERIES, 3, 4)
    images = sorted((tmp_path / "trial/images").iterdir())
    assert [path.read_bytes() for path in images] == [first, second, third]
    assert below(tmp_path / "trial") == [f"images/{path.name}" for path in images], "all else is gone"
    assert kept.size_bytes == len(first) + len(second) + len(third)


def test_one_picture_is_a_picture_whatever_its_name(tmp_path: Path) -> None:
    kept = keep(tmp_path / "trial", zipped({"slice.dcm": png(), "note.txt": b"hello"}))
    assert (kept.kind, kept.files, kept.passed_over) == (TrialKind.PICTURE, 1, 1)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ([b"text"], "The file is no DICOM CT image"),
        ([b"text", b"PK", b""], "None of the 3 files is a DICOM CT image"),
        ([zipped({})], "no file in it"),
        ([zipped({"inner.zip": zipped({"a": b"a"})})], "The file is no"),
        ([png(), png()], "These are 2 pictures"),
        ([zipped({"a": b"a" * 5000})[:80]], "broken"),
        ([zipped({"a": b"a"}, zipfile.ZIP_LZMA)], "a rare way"),
    ],
)
def test_what_is_of_no_use_is_refused_in_plain_words(tmp_path: Path, contents: list[bytes], said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        keep(tmp_path / "trial", *contents)
    assert refused.value.code == 415


def test_a_deflated_data_set_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(ct_images(tmp_path / "ct")[0])
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path)
    with pytest.raises(Refused, match="The file is no"):
        keep(tmp_path / "trial", path.read_bytes())


def test_headers_that_would_fill_the_memory_are_not_read(tmp_path: Path) -> None:
    """Items of 8 bytes, of which pydicom makes half a kilobyte each."""
    whole = ct_images(tmp_path / "ct")[0]
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    bomb = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + 200_000 * item
    at = whole.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    with_bomb = whole[:at] + bomb + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) + whole[at:]
    with pytest.raises(Refused, match="The file is no"):
        keep(tmp_path / "one", with_bomb)
    smaller = with_bomb.replace(101_000 * item, b"", 1)
    assert keep(tmp_path / "smaller", smaller).files == 1
    with pytest.raises(Refused, match="far too long"):
        keep(tmp_path / "several", *[smaller] * 3, limits=allowance(most_files=200))


def test_a_disk_that_runs_full_is_not_called_a_broken_zip(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="disk") as refused:
        refuse_where_full(OSError(errno.ENOSPC, "No space left on device"))
    assert refused.value.code == 507
    refuse_where_full(OSError(errno.EIO, "Input/output error"))


# ---------------------------------------------------------------- hostile zips


def test_a_zip_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    bomb = zipped({"a.dcm": bytes(40 * MB)})
    assert len(bomb) < MB
    with pytest.raises(Refused, match="more than 5 MB") as refused:
        keep(tmp_path / "trial", bomb)
    assert refused.value.code == 413
    assert sum(path.stat().st_size for path in (tmp_path / "trial").rglob("*") if path.is_file()) <= 5 * MB + len(bomb)


def test_a_zip_bomb_in_a_zip_stays_packed(tmp_path: Path) -> None:
    (image,) = ct_images(tmp_path / "ct", 1)
    kept = keep(tmp_path / "trial", zipped({"bomb.zip": zipped({"a": bytes(40 * MB)}), "1": image}))
    assert (kept.files, kept.passed_over) == (1, 1)


def test_many_small_bombs_count_together(tmp_path: Path) -> None:
    bombs = [zipped({str(number): bytes(2 * MB) for number in range(2)}) for _ in range(2)]
    with pytest.raises(Refused, match="more than 5 MB"):
        keep(tmp_path / "trial", *bombs)


def test_sizes_that_a_zip_lies_about_are_not_believed(tmp_path: Path) -> None:
    lying = bytearray(zipped({"a.dcm": bytes(40 * MB)}))
    struct.pack_into("<I", lying, 22, 10)
    struct.pack_into("<I", lying, lying.index(b"PK\x01\x02") + 24, 10)
    with pytest.raises(Refused, match="broken"):
        keep(tmp_path / "trial", bytes(lying))


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="more than 50 files") as refused:
        keep(tmp_path / "trial", zipped({str(number): b"" for number in range(51)}))
    assert refused.value.code == 413
    with pytest.raises(Refused, match="far too many files"):  # before its directory is read
        keep(tmp_path / "more", zipped({f"{number:0100}": b"" for number in range(3000)}))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    encrypted = bytearray(zipped({"a.dcm": b"secret"}))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(Refused, match="without a password"):
        keep(tmp_path / "trial", bytes(encrypted))


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    (image,) = ct_images(tmp_path / "ct", 1)
    data = BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in ("../../out.dcm", "/tmp/triage-node-out.dcm", "a\\..\\..\\out.dcm"):
            archive.writestr(name, image)
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    kept = keep(tmp_path / "trial", data.getvalue())
    assert (kept.files, kept.passed_over) == (3, 1)
    assert [path for path in tmp_path.rglob("*") if "out" in path.name or path.is_symlink()] == []
    assert not Path("/tmp/triage-node-out.dcm").exists()
