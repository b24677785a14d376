"""Millilitres from a mask. numpy only."""

from __future__ import annotations

import numpy as np

from triage_node.domain import SUBTYPES, UInt8Array, Volume

_MM3_PER_ML = 1000.0


def volumes_ml(mask: UInt8Array, volume: Volume) -> dict[str, float]:
    """Volume of each class of domain.CLASSES in mL; "any" is the sum of the subtypes.

    `mask` is (slices, rows, columns) uint8 on the slices of `volume`. Each slice counts for `weights_mm` along its
    normal, so uneven spacing and gantry tilt come out right. ValueError where the shapes differ.
    """
    if mask.shape != volume.hu.shape:
        raise ValueError(f"the mask is {mask.shape}, the volume {volume.hu.shape}")
    pixel_mm2 = volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]
    slice_ml = pixel_mm2 * volume.weights_mm / _MM3_PER_ML
    subtypes = {
        subtype: float(np.array([np.count_nonzero(image == label) for image in mask]) @ slice_ml)
        for label, subtype in enumerate(SUBTYPES, start=1)
    }
    return {"any": sum(subtypes.values()), **subtypes}
