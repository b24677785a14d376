"""Contact sheets: one slice of each of many simulated heads with the outline of its truth, to be looked at.

`python -m triage_node.simulate.sheets OUT.png --subtype SDH` shows 40 slices in a brain window (centre 40, width 80);
with `--folds mni152` as most heads of training are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from scipy import ndimage

from triage_node.domain import SUBTYPE_ABBREVIATIONS, SUBTYPES, Int16Array, UInt8Array
from triage_node.simulate.geometry import axial_geometry
from triage_node.simulate.head import SimulatedHead, simulate_head
from triage_node.simulate.template import Template, load_template

_TILE_PX: Final = 208
_PIXEL_MM: Final = 1.05
_SLICES: Final = 11
_COLOURS: Final = ((255, 210, 0), (255, 60, 60), (80, 160, 255), (80, 230, 120), (255, 120, 230))
"""Of the outlines, in the order of SUBTYPES."""


def contact_sheet(
    subtypes: Sequence[str], *, heads: int = 40, columns: int = 8, seed: int = 0, template: Template | None = None
) -> Image.Image:
    """One tile per head with `subtypes`: the slice with the most blood for even seeds, any slice with blood for odd.

    A head without blood shows any slice. The outline lies around the labelled pixels and hides none of them.
    """
    tiles = [_tile(seed + number, subtypes, template) for number in range(heads)]
    tiles += [np.zeros_like(tiles[0])] * (-heads % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def _tile(seed: int, subtypes: Sequence[str], template: Template | None) -> UInt8Array:
    geometry = axial_geometry(
        slices=_SLICES, spacing_mm=12.0, rows=_TILE_PX, columns=_TILE_PX, pixel_spacing_mm=_PIXEL_MM
    )
    head = simulate_head(seed=seed, subtypes=subtypes, geometry=geometry, measure_volumes=False, template=template)
    index = _telling_slice(head, seed)
    return _outlined(head.hu[index], head.truth[index])


def _telling_slice(head: SimulatedHead, seed: int) -> int:
    areas = head.truth.astype(bool).sum(axis=(1, 2))
    if seed % 2 == 0 and areas.any():
        return int(areas.argmax())
    bled = np.flatnonzero(areas) if areas.any() else np.arange(1, len(areas))
    return int(np.random.default_rng(seed).choice(bled))


def _outlined(hu: Int16Array, truth: UInt8Array) -> UInt8Array:
    """(rows, 2 columns, 3) uint8: the slice, and the slice with outlines."""
    grey = np.clip(hu * (255 / 80), 0, 255).astype(np.uint8)
    plain = np.repeat(grey[..., None], 3, axis=2)
    outlined = plain.copy()
    for label in range(1, 1 + len(SUBTYPES)):
        blood = truth == label
        outlined[ndimage.binary_dilation(blood) & ~blood] = _COLOURS[label - 1]
    return np.concatenate([plain, outlined], axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one sheet."""
    names = {short: name for name, short in SUBTYPE_ABBREVIATIONS.items()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--subtype", nargs="*", default=[], choices=sorted(names), help="none: heads without blood")
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first head")
    parser.add_argument("--folds", choices=["procedural", "mni152"], default="procedural")
    options = parser.parse_args(arguments)
    subtypes = [names[short] for short in options.subtype]
    template = load_template() if options.folds == "mni152" else None
    sheet = contact_sheet(subtypes, heads=options.heads, columns=options.columns, seed=options.seed, template=template)
    sheet.save(options.out)


if __name__ == "__main__":
    main()
