"""How well bundles tell blood painted into a real head CT without any from the head as it is.

    python scripts/probe-painted.py DIR [--bundles NAME_OR_FOLDER ...] [--rounds N]

DIR holds the DICOM files of one series without blood. A round takes each slice that shows enough brain once, every
other one with a lump (5 to 18 mm, 50 to 72 HU), as a JPEG of some window, size and crop; and paints one lump
into the whole series. Each row: AUC and sensitivity at specificity 0.90 of the pictures, by the probability of any
blood; the share of pictures without a lump that reach 0.5; mean and median Dice of the lumps in the series, of which
some are as small as 0.4 mL. The same lumps and pictures for all bundles. Painted blood is none: the figures compare
bundles, and tell nothing of patients.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from painting import Image2d, bled, deep_brain, some_lump
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from triage_node.assemble import assemble
from triage_node.domain import Volume
from triage_node.infer.bundle import find_bundle
from triage_node.infer.predict import Predictor
from triage_node.learn.evaluation.metrics import auc, sensitivity_at_specificity
from triage_node.picture import picture_volume

WINDOW_WIDTHS_HU = (60, 70, 80, 90, 100, 120, 150, 180)


def main() -> None:
    """Print one row for each bundle."""
    arguments = _arguments()
    head = assemble(sorted(arguments.dir.rglob("*.dcm")))
    brains = {index: brain for index in range(len(head.hu)) if (brain := deep_brain(head, index)) is not None}
    pictures = list(_pictures(head, brains, arguments.rounds))
    series = list(_series(head, brains, arguments.rounds))
    with_lump = sum(lump for _, lump in pictures)
    print(f"{with_lump} pictures with a lump, {len(pictures) - with_lump} without; {len(series)} series with one")
    print(f"{'bundle':<24} {'AUC':>6} {'sens. at 0.90':>13} {'false':>6} {'Dice':>6} {'median':>6}")
    for name in arguments.bundles:
        _row(name, pictures, series)


def _row(name: str, pictures: list[tuple[Volume, bool]], series: list[tuple[Volume, Image2d]]) -> None:
    predictor = Predictor(Path(name) if Path(name).is_dir() else find_bundle(name))
    said = [predictor.predict(volume) for volume, _ in tqdm(pictures, desc="pictures", leave=False)]
    any_blood = np.array([float(each.slice_probabilities[0, 0]) for each in said])
    bled = np.array([lump for _, lump in pictures])
    found = [_dice(predictor.predict(volume).mask, truth) for volume, truth in tqdm(series, desc="series", leave=False)]
    print(
        f"{Path(name).name:<24} {auc(any_blood, bled):>6.3f} {sensitivity_at_specificity(any_blood, bled, 0.9):>13.3f} "
        f"{np.mean(any_blood[~bled] >= 0.5):>6.2f} {np.mean(found):>6.3f} {np.median(found):>6.3f}"
    )


def _pictures(head: Volume, brains: dict[int, Image2d], rounds: int) -> Iterator[tuple[Volume, bool]]:
    for number in range(rounds):
        for index, brain in brains.items():
            rng = np.random.default_rng((number, index))
            with_lump = bool((number + index) % 2)
            hu = head.hu[index].astype(np.float32)
            if with_lump:
                hu, _ = bled(hu, some_lump(head, brain, rng), 0.0, head.pixel_spacing_mm)
            # window, size and crop are those of the round before or after, which has a lump where this has none
            yield picture_volume(_picture(hu, np.random.default_rng((number // 2, index, 1)))), with_lump


def _series(head: Volume, brains: dict[int, Image2d], rounds: int) -> Iterator[tuple[Volume, Image2d]]:
    along_mm = head.positions_mm @ head.normal
    for number in range(rounds):
        rng = np.random.default_rng((number, 1000))
        index = int(rng.choice(list(brains)))
        lump = some_lump(head, brains[index], rng)
        slices = [
            bled(hu.astype(np.float32), lump, mm - along_mm[index], head.pixel_spacing_mm)
            for hu, mm in zip(head.hu, along_mm, strict=True)
        ]
        hu, truth = (np.stack(parts) for parts in zip(*slices, strict=True))
        yield replace(head, hu=np.rint(hu).astype(np.int16)), truth


def _picture(hu: Image2d, rng: np.random.Generator) -> Image2d:
    """8-bit grey, as a JPEG shows it."""
    centre_hu, width_hu = rng.uniform(28, 48), rng.choice(WINDOW_WIDTHS_HU)
    grey = 255 * np.clip((hu - centre_hu) / width_hu + 0.5, 0, 1)
    if rng.random() < 0.7:
        rows, columns = np.nonzero(ndimage.binary_opening(hu > -200, iterations=4))
        margin = int(rng.uniform(0, 25))
        grey = grey[
            max(0, rows.min() - margin) : rows.max() + margin, max(0, columns.min() - margin) : columns.max() + margin
        ]
    if rng.random() < 0.5:
        grey = grey[:, ::-1]
    scale = rng.uniform(130, 512) / max(grey.shape)
    image = Image.fromarray(grey.astype(np.uint8)).resize(
        (round(grey.shape[1] * scale), round(grey.shape[0] * scale)), Image.Resampling.BICUBIC
    )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.uniform(60, 97)))
    return np.asarray(Image.open(file))


def _dice(mask: Image2d | None, truth: Image2d) -> float:
    seen = np.zeros_like(truth) if mask is None else mask > 0
    return float(2 * (seen & truth).sum() / max(1, seen.sum() + truth.sum()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--bundles", nargs="+", default=["default"], metavar="NAME_OR_FOLDER")
    parser.add_argument("--rounds", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
