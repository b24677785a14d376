"""A result.json and its pictures as the pages show them: findings, the viewer's values, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import HTTPException, Response
from fastapi.responses import FileResponse

from triage_node.domain import CLASSES, COLORS, OPERATING_POINT, SUBTYPES, probability_text
from triage_node.web import words

FILES: Final = {
    "thumbnail.png": "image/png",
    "picture.png": "image/png",
    "plain.png": "image/png",
    "ct.nii.gz": "application/octet-stream",
    "mask.nii.gz": "application/octet-stream",
}
"""What the worker leaves of a series or a picture, see report.view."""


def findings(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each class that the bundle tells, any first."""
    lines = []
    for name in CLASSES:
        probability = (result.get("probabilities") or {}).get(name)
        if probability is None:
            continue
        location = (result.get("locations") or {}).get(name) or {}
        lines.append(
            {
                "name": name,
                "title": words.class_title(name),
                "label": SUBTYPES.index(name) + 1 if name in SUBTYPES else 0,
                "suspected": bool(says(result, name)),
                "probability": probability,
                "probability_text": probability_text(probability),
                "volume_ml": (result.get("volumes_ml") or {}).get(name),
                "interval_ml": (result.get("volume_intervals_ml") or {}).get(name),
                "laterality": location.get("laterality"),
                "slices": location.get("slices"),
            }
        )
    return lines


def says(result: Mapping[str, Any], finding: str) -> bool | None:
    """Whether the node says that a class is there; None where its bundle does not tell."""
    probability = (result.get("probabilities") or {}).get(finding)
    if probability is None:
        return None
    found = result.get("findings") or ()
    return bool(found) or probability >= OPERATING_POINT if finding == "any" else finding in found


def viewer(folder: Path | None, files: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What static/study.js needs, `files` being where its files are; None where there is nothing to look at."""
    if folder is None or not (folder / "about.json").is_file():
        return None
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    slices = result.get("slices") or []
    return {
        **about,
        "files": files,
        "mask": (folder / "mask.nii.gz").is_file(),
        "probabilities": [[each["probabilities"].get(name) for name in CLASSES] for each in slices],
        "colors": [COLORS[name] for name in SUBTYPES],
    }


def file(folder: Path | None, name: str) -> Response:
    """A picture or a volume. HTTPException 404 where it is not there."""
    if name not in FILES or folder is None or not (folder / name).is_file():
        raise HTTPException(404, "this is not there")
    return FileResponse(folder / name, media_type=FILES[name])
