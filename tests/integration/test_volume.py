"""A lesion of known physical volume, as DICOM, through the node's own geometry and volume function."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from triage_node.assemble import assemble
from triage_node.infer.measure import volumes_ml
from triage_node.simulate import axial_geometry, simulate_head, write_series

UNEVEN_MM = [2.5] * 14 + [5.0] * 24


@pytest.mark.parametrize(
    ("spacing_mm", "tilt_deg"),
    [(5.0, 0.0), (5.0, 18.5), (UNEVEN_MM, 0.0), (UNEVEN_MM, 18.5)],
    ids=["even", "tilted", "uneven", "tilted and uneven"],
)
def test_the_truth_mask_measures_its_physical_volume(
    tmp_path: Path, spacing_mm: float | list[float], tilt_deg: float
) -> None:
    slices = len(UNEVEN_MM) + 1 if isinstance(spacing_mm, list) else 32
    geometry = axial_geometry(
        slices=slices, spacing_mm=spacing_mm, tilt_deg=tilt_deg, rows=192, columns=192, pixel_spacing_mm=1.2
    )
    head = simulate_head(seed=12, subtypes=("intraparenchymal",), geometry=geometry, lesion_volume_ml=30)
    paths = write_series(head, tmp_path, seed=12, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    volume = assemble(paths)
    assert volume.tilt_deg == pytest.approx(tilt_deg, abs=0.1)
    in_order = np.argsort(geometry.positions_mm @ volume.normal)
    measured = volumes_ml(head.truth[in_order], volume)["intraparenchymal"]
    assert head.volumes_ml["intraparenchymal"] == pytest.approx(30, rel=0.02)
    assert measured == pytest.approx(head.volumes_ml["intraparenchymal"], rel=0.02)
