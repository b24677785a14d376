"""How much a bundle loses where a picture of a slice is not as usual: turned, cut, inverted, of another window, ...

    python scripts/probe-spoilt.py DIR [--bundles NAME_OR_FOLDER ...] [--rounds N] [--ways NAME ...]

DIR holds the DICOM files of one series without blood. Each slice that shows enough brain, every other one with a lump
painted into it, is shown in each way of WAYS, the same lumps in all. A row for each way, and for each bundle AUC,
sensitivity at specificity 0.90 and the share of pictures without a lump that reach 0.5. Painted blood is none: a row
far below the first tells what a bundle, or the reading of pictures, does not stand.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from painting import Image2d, bled, deep_brain, some_lump
from PIL import Image, ImageDraw
from scipy import ndimage
from tqdm import tqdm

from triage_node.assemble import assemble
from triage_node.domain import Volume
from triage_node.infer.bundle import find_bundle
from triage_node.infer.predict import Predictor
from triage_node.learn.evaluation.metrics import auc, sensitivity_at_specificity
from triage_node.picture import picture_volume, read_picture


@dataclass(frozen=True)
class Slice:
    """One slice, with a lump or without."""

    hu: Image2d
    has_lump: bool
    rng: np.random.Generator


def main() -> None:
    """Print one row for each way."""
    arguments = _arguments()
    head = assemble(sorted(arguments.dir.rglob("*.dcm")))
    brains = {index: brain for index in range(len(head.hu)) if (brain := deep_brain(head, index)) is not None}
    predictors = [Predictor(Path(name) if Path(name).is_dir() else find_bundle(name)) for name in arguments.bundles]
    print(f"{arguments.rounds * len(brains)} pictures each; AUC, sensitivity at 0.90, false")
    print(f"{'':<22}" + "".join(f"{Path(name).name:<20.18}" for name in arguments.bundles))
    for name in tqdm(arguments.ways, leave=False):
        shown = [(WAYS[name](one), one.has_lump) for one in _slices(head, brains, arguments.rounds)]
        volumes = [picture_volume(np.ascontiguousarray(grey)) for grey, _ in shown]
        bled_there = np.array([has_lump for _, has_lump in shown])
        tqdm.write(f"{name:<22}" + "".join(_figures(predictor, volumes, bled_there) for predictor in predictors))


def _figures(predictor: Predictor, volumes: list[Volume], bled_there: Image2d) -> str:
    any_blood = np.array([float(predictor.predict(volume).slice_probabilities[0, 0]) for volume in volumes])
    sensitivity, false = sensitivity_at_specificity(any_blood, bled_there, 0.9), np.mean(any_blood[~bled_there] >= 0.5)
    return f"{auc(any_blood, bled_there):.3f} {sensitivity:.3f} {false:.2f}    "


def _slices(head: Volume, brains: dict[int, Image2d], rounds: int) -> Iterator[Slice]:
    for number in range(rounds):
        for index, brain in brains.items():
            rng = np.random.default_rng((number, index))
            hu, has_lump = head.hu[index].astype(np.float32), bool((number + index) % 2)
            if has_lump:
                hu, _ = bled(hu, some_lump(head, brain, rng), 0.0, head.pixel_spacing_mm)
            yield Slice(hu, has_lump, np.random.default_rng((number // 2, index)))


# ---------------------------------------------------------------- ways to show a slice


def _seen(
    one: Slice, *, centre: float = 38, width: float = 85, margin: int = 12, px: int = 320, aspect: float = 1.0
) -> Image2d:
    """(rows, columns) float32 0..255: through a window, cut to the head and `margin` pixels more, resized."""
    grey = 255 * np.clip((one.hu - centre) / width + 0.5, 0, 1)
    rows, columns = np.nonzero(ndimage.binary_opening(one.hu > -200, iterations=4))
    first, last = np.array([rows.min(), columns.min()]) - margin, np.array([rows.max(), columns.max()]) + margin
    grey = grey[max(0, first[0]) : last[0], max(0, first[1]) : last[1]]
    return _resized(grey, px, aspect)


def _resized(grey: Image2d, px: int, aspect: float = 1.0) -> Image2d:
    scale = px / max(grey.shape)
    size = (round(grey.shape[1] * scale * aspect), round(grey.shape[0] * scale))
    return np.asarray(Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC), np.float32)


def _jpeg(grey: Image2d, quality: int = 90) -> Image2d:
    file = io.BytesIO()
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _turned(one: Slice, degrees: float) -> Image2d:
    return _jpeg(ndimage.rotate(_seen(one, margin=25), degrees, reshape=False, order=1))


def _with_arrow(one: Slice) -> Image2d:
    image = Image.fromarray(_seen(one).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y = one.rng.uniform(0.3, 0.7) * image.size[0], one.rng.uniform(0.3, 0.7) * image.size[1]
    draw.line((x, y, x + 30, y - 30), fill=255, width=4)
    draw.polygon([(x, y), (x + 14, y - 4), (x + 4, y - 14)], fill=255)
    return _jpeg(np.asarray(image))


def _with_letters(one: Slice) -> Image2d:
    image = Image.fromarray(_seen(one, margin=40, px=420).astype(np.uint8))
    draw, (width, height) = ImageDraw.Draw(image), image.size
    for place in ((4, 4), (width - 70, 4), (4, height - 40), (width - 60, height - 40)):
        draw.text(place, "HEAD CT\nSE 2 IM 7\n120 kV", fill=255)
    return _jpeg(np.asarray(image))


def _without_skull(one: Slice) -> Image2d:
    bone = one.hu > 250
    inside = ndimage.binary_opening(ndimage.binary_fill_holes(bone) & ~ndimage.binary_dilation(bone), iterations=3)
    return _jpeg(_seen(Slice(np.where(inside, one.hu, -1000), one.has_lump, one.rng)))


def _windows_as_colours(one: Slice) -> Image2d:
    """Bone, subdural and brain as red, green and blue: of all orders that whose luminance shows least of the brain."""
    windows = ((600, 2800), (80, 200), (40, 80))
    colours = np.stack([_seen(one, centre=centre, width=width) for centre, width in windows], axis=-1)
    file = io.BytesIO()
    Image.fromarray(colours.astype(np.uint8)).save(file, "JPEG", quality=90)
    return read_picture(file)


def _photograph(one: Slice) -> Image2d:
    """Black is no longer black, and one side is darker."""
    grey = _seen(one)
    down, across = np.linspace(-1, 1, grey.shape[0])[:, None], np.linspace(-1, 1, grey.shape[1])[None]
    return _jpeg((25 + 0.85 * grey) * (1 - 0.15 * across - 0.1 * down))


def _noisy(one: Slice) -> Image2d:
    return _jpeg(_seen(Slice(one.hu + one.rng.normal(0, 12, one.hu.shape), one.has_lump, one.rng)))


WAYS: Final[dict[str, Callable[[Slice], Image2d]]] = {
    "as usual": lambda one: _jpeg(_seen(one)),
    "window 36/40": lambda one: _jpeg(_seen(one, centre=36, width=40)),
    "window 20/80": lambda one: _jpeg(_seen(one, centre=20, width=80)),
    "window 55/100": lambda one: _jpeg(_seen(one, centre=55, width=100)),
    "window 45/200": lambda one: _jpeg(_seen(one, centre=45, width=200)),
    "window 45/350": lambda one: _jpeg(_seen(one, centre=45, width=350)),
    "window 100/1000": lambda one: _jpeg(_seen(one, centre=100, width=1000)),
    "windows as colours": _windows_as_colours,
    "gamma 0.7": lambda one: _jpeg(255 * (_seen(one) / 255) ** 0.7),
    "gamma 1.4": lambda one: _jpeg(255 * (_seen(one) / 255) ** 1.4),
    "dimmed to 0.7": lambda one: _jpeg(0.7 * _seen(one)),
    "inverted": lambda one: 255 - _jpeg(_seen(one)),
    "narrowed to 0.8": lambda one: _jpeg(_seen(one, aspect=0.8)),
    "widened to 1.25": lambda one: _jpeg(_seen(one, aspect=1.25)),
    "turned by 15": lambda one: _turned(one, 15),
    "turned by 30": lambda one: _turned(one, 30),
    "turned by 90": lambda one: np.rot90(_jpeg(_seen(one))),
    "upside down": lambda one: _jpeg(_seen(one))[::-1],
    "cut at the scalp": lambda one: _jpeg(_seen(one, margin=0)),
    "cut in the skull": lambda one: _jpeg(_seen(one, margin=-12)),
    "cut in the brain": lambda one: _jpeg(_seen(one, margin=-35)),
    "cut below": lambda one: _jpeg(_seen(one)[:270]),
    "no skull": _without_skull,
    "letters": _with_letters,
    "an arrow in the head": _with_arrow,
    "on a white page": lambda one: _jpeg(np.pad(_seen(one), 40, constant_values=255)),
    "on a grey page": lambda one: _jpeg(np.pad(_seen(one), 30, constant_values=128)),
    "small on black": lambda one: _jpeg(np.pad(_seen(one, px=256), 160)),
    "96 pixels": lambda one: _jpeg(_seen(one, px=96)),
    "96 pixels enlarged": lambda one: _jpeg(_resized(_seen(one, px=96), 320)),
    "blurred": lambda one: _jpeg(ndimage.gaussian_filter(_seen(one), 2.0)),
    "noisy": _noisy,
    "JPEG of quality 20": lambda one: _jpeg(_seen(one), quality=20),
    "photographed": _photograph,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--bundles", nargs="+", default=["default"], metavar="NAME_OR_FOLDER")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="NAME")
    return parser.parse_args()


if __name__ == "__main__":
    main()
