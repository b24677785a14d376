"""A picture of a slice becomes a Volume with the head at its place, whatever window, background, margins and format."""

from __future__ import annotations

import struct
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from triage_node.errors import UsageError
from triage_node.picture import HEAD_MM, bone_white, find_head, hu_of_grey, picture_mask, picture_volume, read_picture
from triage_node.simulate import axial_geometry, simulate_head

WINDOWS = [(40, 80), (35, 150), (40, 400), (500, 2000)]
Box = tuple[int, int, int, int]


@cache
def hounsfield() -> np.ndarray:
    """One slice at the height of the ventricles, (200, 200) HU."""
    geometry = axial_geometry(slices=3, spacing_mm=30.0, rows=200, columns=200, pixel_spacing_mm=1.2)
    return simulate_head(seed=5, geometry=geometry, measure_volumes=False).hu[1].astype(float)


def grey(window: tuple[int, int], background: int = 0) -> np.ndarray:
    centre, width = window
    picture = np.clip((hounsfield() - centre + width / 2) / width * 255, 0, 255)
    return np.where(head_mask(window), picture, background if background else picture).astype(np.uint8)


def head_mask(window: tuple[int, int]) -> np.ndarray:
    """What of the head is brighter than black in that window: the largest piece, filled."""
    centre, width = window
    shown = ndimage.binary_fill_holes(hounsfield() > max(centre - 0.43 * width, -900))
    pieces, count = ndimage.label(ndimage.binary_opening(shown, iterations=2))
    sizes = ndimage.sum_labels(shown, pieces, range(1, count + 1))
    return np.asarray(pieces == 1 + int(np.argmax(sizes)))


def head_box(window: tuple[int, int]) -> Box:
    rows, columns = np.nonzero(head_mask(window))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def assert_found(picture: np.ndarray, true: Box) -> None:
    head = find_head(picture)
    off = np.subtract((head.rows.start, head.rows.stop, head.columns.start, head.columns.stop), true)
    assert np.abs(off).max() <= 0.05 * max(true[1] - true[0], true[3] - true[2]), (head.rows, head.columns, true)


@pytest.mark.parametrize("window", WINDOWS)
def test_the_head_is_found_in_every_window(window: tuple[int, int]) -> None:
    assert_found(grey(window), head_box(window))


@pytest.mark.parametrize("background", [60, 140, 255])
def test_the_head_is_found_on_grey_and_white(background: int) -> None:
    assert_found(grey((40, 80), background), head_box((40, 80)))


@pytest.mark.parametrize("size", [64, 1000])
def test_the_head_is_found_in_a_picture_of_any_size(size: int) -> None:
    picture = np.asarray(Image.fromarray(grey((40, 80))).resize((size, size)))
    top, bottom, left, right = (round(edge * size / 200) for edge in head_box((40, 80)))
    assert_found(picture, (top, bottom, left, right))


def test_letters_in_every_corner_and_a_scale_bar_are_no_head() -> None:
    image = Image.fromarray(grey((40, 80)))
    draw = ImageDraw.Draw(image)
    for corner in ((0, 0), (160, 0), (0, 175), (160, 175)):
        draw.text(corner, "ABC 12\nXYZ 34", fill=255)
    draw.rectangle((3, 60, 6, 150), fill=255)
    assert_found(np.asarray(image), head_box((40, 80)))


def test_logos_in_every_corner_are_no_head() -> None:
    picture = grey((40, 80)).copy()
    logo = np.random.default_rng(1).integers(0, 256, (24, 24), np.uint8)
    for rows in (slice(24), slice(-24, None)):
        for columns in (slice(24), slice(-24, None)):
            picture[rows, columns] = logo
    assert_found(picture, head_box((40, 80)))


def test_a_head_that_touches_the_border_is_found() -> None:
    top, bottom, left, right = head_box((40, 80))
    assert_found(grey((40, 80))[:, left:], (top, bottom, 0, right - left))
    assert_found(grey((40, 80))[top:bottom, left:right], (0, bottom - top, 0, right - left))


@pytest.mark.parametrize("window", WINDOWS)
def test_margins_of_a_white_page_are_passed_over(window: tuple[int, int]) -> None:
    page = np.full((330, 290), 255, np.uint8)
    page[60:260, 30:230] = grey(window)
    top, bottom, left, right = head_box(window)
    assert_found(page, (top + 60, bottom + 60, left + 30, right + 30))


def test_where_no_head_stands_out_the_picture_is_the_head() -> None:
    noise = np.random.default_rng(1).normal(100, 20, (90, 120)).clip(0, 255).astype(np.uint8)
    for picture in (noise, np.zeros((90, 120), np.uint8)):
        head = find_head(picture)
        assert (head.rows, head.columns, head.mask) == (slice(0, 90), slice(0, 120), None)


def test_the_volume_has_the_head_in_the_middle_190_mm_long_and_80_hu_for_white() -> None:
    volume = picture_volume(grey((40, 80)))
    rows, columns = np.nonzero(head_mask_of(volume.hu[0]))
    extent_px = max(np.ptp(rows), np.ptp(columns)) + 1
    assert volume.hu.shape[0] == 1
    assert volume.hu.max() == 80
    assert extent_px * volume.pixel_spacing_mm[0] == pytest.approx(HEAD_MM, rel=0.03)
    middle = [
        (of.min() + of.max() + 1) / 2 / side for of, side in zip((rows, columns), volume.hu.shape[1:], strict=True)
    ]
    assert middle == pytest.approx([0.5, 0.5], abs=0.02)


def test_a_white_background_becomes_black_and_the_brain_stays() -> None:
    dark, light = (picture_volume(grey((40, 80), background)).hu[0] for background in (0, 255))
    corner = light[: len(light) // 10, : len(light) // 10]
    assert corner.max() == 0
    brains = [
        of[int(0.45 * len(of)) : int(0.55 * len(of)), int(0.45 * len(of)) : int(0.55 * len(of))] for of in (dark, light)
    ]
    assert np.median(brains[0]) == pytest.approx(np.median(brains[1]), abs=3)


@pytest.mark.parametrize("window", WINDOWS[:3])
def test_an_inverted_picture_is_turned_back(window: tuple[int, int]) -> None:
    as_usual, inverted = grey(window), 255 - grey(window)
    np.testing.assert_array_equal(bone_white(inverted), as_usual)
    np.testing.assert_array_equal(picture_volume(inverted).hu, picture_volume(as_usual).hu)
    np.testing.assert_array_equal(picture_mask(head_mask(window), inverted), picture_mask(head_mask(window), as_usual))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("background", [0, 120, 255])
def test_a_picture_whose_bone_is_white_stays(window: tuple[int, int], background: int) -> None:
    np.testing.assert_array_equal(bone_white(grey(window, background)), grey(window, background))


@pytest.mark.parametrize("window", [(40, 400), (100, 1000)])
def test_what_a_much_wider_window_shows_is_brought_near_the_brain_window(window: tuple[int, int]) -> None:
    usual, wide = (brain_of(picture_volume(grey(each)).hu[0]) for each in ((40, 80), window))
    untouched = brain_of(np.rint(grey(window) * (80 / 255)))
    assert np.median(wide) == pytest.approx(np.median(usual), abs=10)
    assert 0.6 < wide.std() / usual.std() < 1.6
    assert untouched.std() < 0.4 * usual.std()


@pytest.mark.parametrize("window", [(40, 80), (35, 150)])
def test_a_usual_window_counts_as_the_brain_window(window: tuple[int, int]) -> None:
    picture = grey(window)
    assert np.isin(picture_volume(picture).hu, np.rint(np.unique(picture) * (80 / 255))).all()


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_a_dim_picture_counts_as_one_whose_bone_is_white(share: float) -> None:
    usual = grey((40, 80))
    dim = (share * usual).astype(np.uint8)
    tissue = (usual > 0) & (usual < 200)
    counted, wanted = (hu_of_grey(shown, find_head(shown))[shown][tissue] for shown in (dim, usual))
    assert np.abs(counted - wanted).max() <= 2


def test_a_brain_without_skull_is_not_taken_for_a_dim_picture() -> None:
    inside = ndimage.binary_opening(ndimage.binary_erosion(head_mask((40, 80)), iterations=12) & (hounsfield() < 60))
    brain = np.where(inside, grey((40, 80)), 0).astype(np.uint8)
    np.testing.assert_array_equal(hu_of_grey(brain, find_head(brain)), np.rint(np.arange(256) * 80 / 255))


def test_a_picture_of_one_grey_is_none_of_a_wide_window() -> None:
    flat = np.zeros((128, 128), np.uint8)
    flat[30:100, 30:100] = 120
    assert set(np.unique(picture_volume(flat).hu)) == {0, 38}


def brain_of(hu: np.ndarray) -> np.ndarray:
    middle = slice(int(0.4 * len(hu)), int(0.6 * len(hu)))
    return hu[middle, middle].astype(float)


def head_mask_of(hu: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.binary_opening(ndimage.binary_fill_holes(hu > 5), iterations=2))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_every_kind_of_png_gives_the_same_grey(mode: str, tmp_path: Path) -> None:
    picture = grey((40, 80))
    Image.fromarray(picture).convert(mode).save(tmp_path / "a.png")
    assert np.abs(read_picture(tmp_path / "a.png").astype(int) - picture).max() <= 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_windows_as_colours_that_of_the_brain_is_read(order: tuple[int, int, int], tmp_path: Path) -> None:
    windows = [grey(window) for window in ((40, 80), (80, 200), (600, 2800))]
    Image.fromarray(np.stack([windows[each] for each in order], axis=-1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), windows[0])


def test_of_a_grey_picture_with_coloured_marks_the_luminance_is_read(tmp_path: Path) -> None:
    marked = Image.fromarray(grey((40, 80))).convert("RGB")
    ImageDraw.Draw(marked).ellipse((80, 80, 130, 120), outline=(255, 0, 0), fill=(255, 255, 0))
    marked.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.asarray(marked.convert("L")))


def test_of_a_heat_map_the_luminance_is_read_and_no_colour_in_which_most_of_the_brain_is_black(tmp_path: Path) -> None:
    heat = 3 * grey((20, 80)).astype(int)[..., None] - np.array([0, 255, 510])
    drawn = Image.fromarray(heat.clip(0, 255).astype(np.uint8))
    drawn.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.asarray(drawn.convert("L")))


def test_a_colour_that_falls_where_the_others_rise_is_not_read(tmp_path: Path) -> None:
    shown = grey((40, 80))
    colours = np.stack([shown // 2, shown * 0.7, 255 - shown], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), colours[..., 1])


def test_of_colours_that_show_no_tissue_the_luminance_is_read(tmp_path: Path) -> None:
    drawn = Image.new("RGB", (100, 100))
    ImageDraw.Draw(drawn).ellipse((20, 20, 80, 80), fill=(250, 10, 120))
    drawn.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.asarray(drawn.convert("L")))


def test_sixteen_bits_are_brought_to_eight_by_those_in_use(tmp_path: Path) -> None:
    picture = grey((40, 80))
    for name, shift in (("full.png", 8), ("twelve.png", 4), ("eight.png", 0)):
        Image.fromarray(picture.astype(np.uint16) << shift).save(tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name), picture)


@pytest.mark.parametrize("offset", [1024, 32768])
def test_hounsfield_units_in_sixteen_bits_are_seen_through_the_brain_window(offset: int, tmp_path: Path) -> None:
    stored = np.rint(hounsfield()).clip(-1000, 3000).astype(np.int32) + offset
    Image.fromarray(stored.astype(np.uint16)).save(tmp_path / "a.png")
    assert np.abs(read_picture(tmp_path / "a.png").astype(int) - grey((40, 80))).max() <= 2


def test_a_huge_picture_is_made_smaller(tmp_path: Path) -> None:
    Image.fromarray(grey((40, 80))).resize((4200, 4200)).save(tmp_path / "a.png", compress_level=1)
    read = read_picture(tmp_path / "a.png")
    assert read.shape == (1050, 1050)
    assert_found(read, tuple(round(edge * 1050 / 200) for edge in head_box((40, 80))))


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    alpha = Image.new("LA", (40, 40), (255, 0))
    alpha.putpixel((20, 20), (200, 255))
    alpha.save(tmp_path / "a.png")
    read = read_picture(tmp_path / "a.png")
    assert (read[0, 0], read[20, 20]) == (0, 200)


def test_a_jpeg_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 3, (40, 1))).save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = read_picture(tmp_path / "a.jpg")
    assert read.shape == (64, 40)
    assert read[0].mean() + 100 < read[-1].mean()


@pytest.mark.parametrize("tag", [0x0101, 0x011A])  # a length and a resolution, here as text
def test_odd_exif_is_no_picture_and_no_crash(tag: int, tmp_path: Path) -> None:
    """To turn a picture, pillow writes its EXIF anew: struct.error or TypeError where a value is not of its kind."""
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    text = struct.pack("<HHI4s", tag, 2, 4, b"abc")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + text + bytes(4)
    Image.new("L", (64, 40)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(UsageError, match="no readable"):
        read_picture(tmp_path / "a.jpg")


def cut_off(picture: Image.Image) -> bytes:
    data = BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()[: len(data.getvalue()) // 2]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no readable"),
        (b"GIF89a" + bytes(40), "no readable"),
        (cut_off(Image.effect_noise((100, 100), 50)), "no readable"),
    ],
)
def test_a_file_that_is_no_picture_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UsageError, match=said):
        read_picture(tmp_path / "a.png")


def test_a_picture_too_small_or_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (20, 100)).save(tmp_path / "small.png")
    Image.new("1", (7200, 7200)).save(tmp_path / "large.png")
    Image.new("L", (40, 200)).save(tmp_path / "strip.png")
    with pytest.raises(UsageError, match="more than 4 times"):
        read_picture(tmp_path / "strip.png")
    with pytest.raises(UsageError, match="smaller than 32"):
        read_picture(tmp_path / "small.png")
    with pytest.raises(UsageError, match="more than 50 million"):
        read_picture(tmp_path / "large.png")
