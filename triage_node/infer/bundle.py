"""A model bundle on disk: `bundle.toml` beside its weights. Checked in full before anything is loaded.

Strict: unknown or missing keys, a wrong type, a number that is not finite or weights that do not have the sha256
written beside them are refused. The weights are safetensors of a registered network, or an ONNX graph; nothing is ever
unpickled. What each key means to a site: models/README.md. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from triage_node.domain import CLASSES, OPERATING_POINT, SUBTYPES, BundleRef
from triage_node.errors import InferenceError
from triage_node.transforms import SINGLE_SLICES, Appearance, Grid, Stack

SETTINGS_FILE: Final = "bundle.toml"
WEIGHTS_FILE: Final = "weights.safetensors"
GRAPH_FILE: Final = "model.onnx"
GRAPH: Final = "onnx"
"""The network name of a bundle that brings its network as a graph."""
ENSEMBLE: Final = "ensemble"
"""The network name of a bundle of bundles."""
CHRONIC: Final = "chronic"
_BOXES: Final = "boxes"
_BOX_THRESHOLD: Final = "box_min_probability"
_SERIES_WEIGHTS: Final = ("highest", "volume", "offset")
_SHIPPED_PACKAGE: Final = "triage_node_models"

_KEYS: Final[Mapping[str, Mapping[str, type]]] = {
    "": {
        "name": str,
        "version": str,
        "sha256": str,
        "intended_use": str,
        "network": dict,
        "grid": dict,
        "windows": dict,
        "thresholds": dict,
        "calibration": dict,
        "outputs": dict,
    },
    "network": {"name": str},
    "grid": {"size_px": int, "spacing_mm": float},
    "windows": {"centres_hu": list, "widths_hu": list},
    "thresholds": {"mask_min_probability": dict, "series_min_probability": float, "speck_mm3": float},
    "thresholds.mask_min_probability": dict.fromkeys(SUBTYPES, float),
    "calibration": {"slope": dict, "offset": dict},
    "calibration.slope": dict.fromkeys(CLASSES, float),
    "calibration.offset": dict.fromkeys(CLASSES, float),
    "outputs": {"mask": bool, "classes": list},
    "ensemble": {"members": list},
    "stack": {"neighbours": bool},
    "series": {},
    "volume_interval": {},
}
"""Every key of bundle.toml, by table, and its type."""
_APPEARANCE: Final = ("sigmoid", "stretched", "equalised", "brain_only")
_OF_MEMBERS: Final[Mapping[str, Any]] = {
    "network": {"name": ENSEMBLE, "config": {}},
    "grid": {"size_px": 1, "spacing_mm": 1.0},
    "windows": {"centres_hu": [40.0], "widths_hu": [80.0]},
}
"""What an ensemble does not say of itself."""
_OPTIONAL: Final[Mapping[str, Mapping[str, type]]] = {
    "": {"stack": dict, "series": dict, "volume_interval": dict, ENSEMBLE: dict},
    "network": {"config": dict, "mirrored": bool},
    "stack": {"neighbour_mm": float, "slab_mm": float},
    "windows": {**dict.fromkeys(_APPEARANCE, bool), "at_most_hu": float},
    "calibration.slope": {CHRONIC: float},
    "calibration.offset": {CHRONIC: float},
    "thresholds": {_BOX_THRESHOLD: float},
    "outputs": {CHRONIC: bool, _BOXES: bool},
    "series": dict.fromkeys(CLASSES, list),
    "volume_interval": dict.fromkeys(CLASSES, list),
}
"""Keys that may be left out."""


@dataclass(frozen=True, kw_only=True)
class SeriesWeights:
    """How the evidence of its slices makes the probability of a series, see series.series_probabilities."""

    highest: float = 1.0
    volume: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One checked bundle."""

    folder: Path
    ref: BundleRef
    intended_use: str
    network_name: str
    network_config: Mapping[str, Any]
    """Empty for a graph."""
    mirrored: bool
    """Whether the network also sees every image mirrored left to right; what it says is averaged."""
    grid: Grid
    stack: Stack
    appearance: Appearance
    """How HU become what the network sees."""
    mask_min_probability: Mapping[str, float]
    """By subtype: a pixel whose likeliest subtype it is belongs to the mask from this probability of any blood on."""
    series_min_probability: float
    """A subtype is kept in the mask of a series only from this calibrated series probability on."""
    speck_mm3: float
    """Connected pieces of the mask that are smaller are dropped."""
    box_min_probability: float
    """A box is kept from this probability of its subtype on."""
    calibration: Mapping[str, tuple[float, float]]
    """By class, and of "chronic": (slope, offset) on the slice logit; a calibrated probability of 0.5 is the operating
    point."""
    series: Mapping[str, SeriesWeights]
    """By class."""
    volume_interval: Mapping[str, tuple[float, float]]
    """By class: what the measured volume is to be multiplied by for the ends of its 90 % interval; may lack classes."""
    members: tuple[Bundle, ...]
    """Of an ensemble; those that give a mask share `stack`, and `grid` is the finest of theirs. Empty for a bundle of
    one network."""
    outputs_mask: bool
    outputs_classes: tuple[str, ...]
    """What the bundle speaks about, "any" among it; of any other class the result is None, never 0."""
    outputs_chronic: bool
    """Whether it tells chronic from acute subdural blood."""
    outputs_boxes: bool
    """Whether it draws boxes round what bleeds."""

    @property
    def weights_path(self) -> Path:
        """The weights or the graph; `read_network` gives what is in it."""
        return self.folder / _weights_file(self.network_name)

    @property
    def channels(self) -> int:
        """Of the images that the network sees (transforms.network_images)."""
        return len(self.appearance.windows_hu) + (2 if self.stack.neighbours else 0)

    @property
    def outputs_subtypes(self) -> tuple[str, ...]:
        """Subtypes among `outputs_classes`, in the order of the bundle."""
        return tuple(name for name in self.outputs_classes if name in SUBTYPES)


def shipped_bundles() -> dict[str, Path]:
    """The folder of each shipped bundle by its name; a name with a dot in front is what a killed release left."""
    found = (path for shipped in _shipped_folders() for path in sorted(shipped.glob(f"[!.]*/{SETTINGS_FILE}")))
    folders: dict[str, Path] = {}
    for path in found:
        folders.setdefault(path.parent.name, path.parent)
    return folders


def find_bundle(name_or_path: str | Path) -> Path:
    """Folder of a bundle: an existing folder, else a shipped bundle of that name. InferenceError where neither is."""
    folder = Path(name_or_path)
    if (folder / SETTINGS_FILE).is_file():
        return folder
    if str(name_or_path) in (shipped := shipped_bundles()):
        return shipped[str(name_or_path)]
    raise InferenceError(
        f"no model bundle {str(name_or_path)!r}: give the name of a shipped bundle (default) "
        f"or a folder that holds {SETTINGS_FILE} and {WEIGHTS_FILE} or {GRAPH_FILE}"
    )


def load_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle. InferenceError names the file and what to do."""
    folder = Path(path)
    settings_path = folder / SETTINGS_FILE
    settings = _read_settings(settings_path)
    is_ensemble = ENSEMBLE in settings
    if is_ensemble:
        settings = _as_one(settings, settings_path)
    for table in _KEYS:
        if table not in _OPTIONAL[""] or table in settings:
            _check_table(settings, table, settings_path)
    _check_values(settings, settings_path)
    _check_thresholds(settings, settings_path)
    _check_outputs(settings, settings_path)
    if is_ensemble:
        return _ensemble(folder, settings)
    bundle = _bundle(folder, settings)
    read_network(bundle)
    return bundle


def read_network(bundle: Bundle) -> bytes:
    """The weights or the graph: the very bytes whose sha256 is in the settings. InferenceError where it is not."""
    path = bundle.weights_path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InferenceError(f"{path}: cannot be read ({error.strerror}); a bundle needs this file") from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != bundle.ref.sha256:
        raise InferenceError(
            f"{path}: has sha256 {actual}, but {SETTINGS_FILE} says {bundle.ref.sha256}; restore the bundle, "
            "the two files do not belong together"
        )
    return data


def ensemble_sha256(members: Iterable[Bundle]) -> str:
    """Of the hashes of the members' networks, in their order."""
    return hashlib.sha256("".join(member.ref.sha256 for member in members).encode()).hexdigest()


# ---------------------------------------------------------------- ensembles


def leading(members: Sequence[Bundle]) -> Bundle:
    """The member whose grid is that of the ensemble: the finest of those that give a mask; without any, the first."""
    seeing = (member for member in members if member.outputs_mask)
    return min(seeing, key=lambda member: member.grid.spacing_mm, default=members[0])


def _as_one(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """With the tables that members have in place of an ensemble, so that all else is checked as ever."""
    own = [table for table in (*_OF_MEMBERS, "stack") if table in settings]
    if own:
        raise InferenceError(f"{path}: an ensemble has no [{own[0]}]; its members have")
    return {**settings, **_OF_MEMBERS}


def _ensemble(folder: Path, settings: Mapping[str, Any]) -> Bundle:
    """Every member is a folder beside bundle.toml, and a whole bundle of one network."""
    path, names = folder / SETTINGS_FILE, settings[ENSEMBLE]["members"]
    if len(names) < 2 or not all(_is_folder_name(name) for name in names):
        raise InferenceError(f"{path}: [ensemble] members must be two or more names of folders beside this file")
    members = tuple(load_bundle(folder / name) for name in names)
    if nested := [member for member in members if member.members]:
        raise InferenceError(f"{nested[0].folder}: is an ensemble itself; list its members")
    seeing = [member for member in members if member.outputs_mask]
    if len({(member.stack, frozenset(member.outputs_subtypes)) for member in seeing}) > 1:
        raise InferenceError(f"{path}: members that give a mask must have the same [stack] and classes")
    lead = leading(members)
    bundle = replace(_bundle(folder, settings), grid=lead.grid, stack=lead.stack, members=members)
    if (actual := ensemble_sha256(members)) != bundle.ref.sha256:
        raise InferenceError(
            f"{path}: the members have sha256 {actual} together, but it says {bundle.ref.sha256}; restore the bundle"
        )
    _check_members(bundle, path)
    return bundle


def _is_folder_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _check_members(bundle: Bundle, path: Path) -> None:
    """That each thing which is promised is given by one of them at least."""
    given = {
        "mask": any(member.outputs_mask for member in bundle.members),
        CHRONIC: any(member.outputs_chronic for member in bundle.members),
        _BOXES: any(member.outputs_boxes for member in bundle.members),
        **{name: any(name in member.outputs_classes for member in bundle.members) for name in CLASSES},
    }
    promised = {"mask": bundle.outputs_mask, CHRONIC: bundle.outputs_chronic, _BOXES: bundle.outputs_boxes}
    promised |= dict.fromkeys(bundle.outputs_classes, True)
    lacking = [name for name, wanted in promised.items() if wanted and not given[name]]
    if lacking:
        raise InferenceError(f"{path}: [outputs] {lacking[0]}: no member gives it")


def _weights_file(network_name: str) -> str:
    return GRAPH_FILE if network_name == GRAPH else WEIGHTS_FILE


def _shipped_folders() -> list[Path]:
    """The installed package of bundles, then the models/ folder of a source checkout."""
    shipped = find_spec(_SHIPPED_PACKAGE)
    # importlib.resources fails here where the package is installed editable: its search path holds more than folders.
    locations = (shipped.submodule_search_locations or []) if shipped is not None else []
    return [*map(Path, locations), Path(__file__).parents[2] / "models"]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InferenceError(f"{path}: cannot be read ({error.strerror}); a bundle needs this file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InferenceError(f"{path}: is not valid TOML ({error}); restore the bundle") from error


def _check_table(settings: Mapping[str, Any], table: str, path: Path) -> None:
    """The keys of _KEYS, perhaps those of _OPTIONAL, no others, each of its type. TOML integers pass for floats."""
    where = f"[{table}] " if table else ""
    values: Any = settings
    for part in filter(None, table.split(".")):
        values = values[part]
    known = {**_KEYS[table], **_OPTIONAL.get(table, {})}
    unknown, missing = sorted(set(values) - set(known)), sorted(set(_KEYS[table]) - set(values))
    if unknown:
        raise InferenceError(f"{path}: {where}unknown key {unknown[0]!r}; remove it (known: {', '.join(known)})")
    if missing:
        raise InferenceError(f"{path}: {where}key {missing[0]!r} is missing; add it")
    for key, value in values.items():
        if not _is_of(value, known[key]):
            what = value if isinstance(value, float) else type(value).__name__
            kind = "finite float" if known[key] is float else known[key].__name__
            raise InferenceError(f"{path}: {where}{key} must be {kind}, not {what}")


def _is_of(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_values(settings: Mapping[str, Any], path: Path) -> None:
    """What types cannot say."""
    windows = settings["windows"]
    if not 0 < len(windows["centres_hu"]) == len(windows["widths_hu"]):
        raise InferenceError(f"{path}: [windows] centres_hu and widths_hu must be of one length")
    if (windows.get("stretched") or windows.get("equalised")) and find_spec("skimage") is None:
        raise InferenceError(f"{path}: [windows] stretched and equalised need scikit-image: pip install scikit-image")
    numbers = [*windows["centres_hu"], *windows["widths_hu"]]
    if not all(_is_of(number, float) for number in numbers) or min(windows["widths_hu"]) <= 0:
        raise InferenceError(f"{path}: [windows] holds numbers, and widths are above 0")
    if windows.get("brain_only") and "at_most_hu" in windows:
        raise InferenceError(f"{path}: [windows] brain_only needs the bone that at_most_hu takes away; remove one")
    if settings["grid"]["size_px"] < 1 or settings["grid"]["spacing_mm"] <= 0:
        raise InferenceError(f"{path}: [grid] size_px and spacing_mm must be above 0")
    stack = _stack(settings)
    if stack.neighbour_mm <= 0 or stack.slab_mm < 0:
        raise InferenceError(f"{path}: [stack] neighbour_mm must be above 0 and slab_mm not below")
    for table, length in (("series", 3), ("volume_interval", 2)):
        for name, numbers in settings.get(table, {}).items():
            if len(numbers) != length or not all(_is_of(number, float) for number in numbers):
                raise InferenceError(f"{path}: [{table}] {name} must be {length} finite numbers")
    if (settings["network"]["name"] == GRAPH) == ("config" in settings["network"]):
        raise InferenceError(
            f"{path}: [network.config] holds the choices of a registered network: a table, perhaps empty, is needed; "
            f'a graph (name = "{GRAPH}") has none'
        )


def _check_thresholds(settings: Mapping[str, Any], path: Path) -> None:
    """That no number silences the bundle, or turns evidence round."""
    thresholds = settings["thresholds"]
    probabilities = [*thresholds["mask_min_probability"].values(), thresholds["series_min_probability"]]
    probabilities.append(thresholds.get(_BOX_THRESHOLD, OPERATING_POINT))
    if not all(0 < probability <= 1 for probability in probabilities):
        raise InferenceError(f"{path}: [thresholds] probabilities must be above 0 and at most 1")
    if min(settings["calibration"]["slope"].values()) <= 0:
        raise InferenceError(f"{path}: [calibration.slope] must be above 0")
    for name, (highest, volume, _) in settings.get("series", {}).items():
        if min(highest, volume) < 0:
            raise InferenceError(f"{path}: [series] {name}: the first two numbers, its weights, must not be below 0")
    for name, (low, high) in settings.get("volume_interval", {}).items():
        if not 0 <= low <= high:
            raise InferenceError(f"{path}: [volume_interval] {name} must be a lower and a higher number, not below 0")


def _check_outputs(settings: Mapping[str, Any], path: Path) -> None:
    """That what is promised can be kept."""
    outputs, classes = settings["outputs"], settings["outputs"]["classes"]
    strange = [name for name in classes if name not in CLASSES]
    if strange:
        raise InferenceError(f"{path}: [outputs] unknown class {strange[0]!r} (known: {', '.join(CLASSES)})")
    if "any" not in classes or len(set(classes)) < len(classes):
        raise InferenceError(
            f'{path}: [outputs] classes must hold "any", which the priority is made of, each class once'
        )
    for shown in ("mask", _BOXES):
        if outputs.get(shown) and not set(classes) & set(SUBTYPES):
            raise InferenceError(
                f"{path}: [outputs] {shown} shows subtypes; list those in classes, or write {shown} = false"
            )
    if outputs.get(CHRONIC) and "subdural" not in classes:
        raise InferenceError(f"{path}: [outputs] chronic is said of subdural blood; list it in classes")


def _stack(settings: Mapping[str, Any]) -> Stack:
    return Stack(**settings["stack"]) if "stack" in settings else SINGLE_SLICES


def _series_weights(settings: Mapping[str, Any], name: str) -> SeriesWeights:
    numbers = settings.get("series", {}).get(name)
    return SeriesWeights() if numbers is None else SeriesWeights(**dict(zip(_SERIES_WEIGHTS, numbers, strict=True)))


def _bundle(folder: Path, settings: Mapping[str, Any]) -> Bundle:
    thresholds, windows, calibration = settings["thresholds"], settings["windows"], settings["calibration"]
    return Bundle(
        folder=folder,
        ref=BundleRef(name=settings["name"], version=settings["version"], sha256=settings["sha256"]),
        intended_use=settings["intended_use"],
        network_name=settings["network"]["name"],
        network_config=settings["network"].get("config", {}),
        mirrored=settings["network"].get("mirrored", False),
        grid=Grid(size_px=settings["grid"]["size_px"], spacing_mm=float(settings["grid"]["spacing_mm"])),
        stack=_stack(settings),
        appearance=Appearance(
            windows_hu=tuple(
                (float(centre), float(width))
                for centre, width in zip(windows["centres_hu"], windows["widths_hu"], strict=True)
            ),
            **{name: windows[name] for name in (*_APPEARANCE, "at_most_hu") if name in windows},
        ),
        mask_min_probability={name: float(value) for name, value in thresholds["mask_min_probability"].items()},
        series_min_probability=float(thresholds["series_min_probability"]),
        speck_mm3=float(thresholds["speck_mm3"]),
        box_min_probability=float(thresholds.get(_BOX_THRESHOLD, OPERATING_POINT)),
        calibration={
            name: (float(calibration["slope"].get(name, 1.0)), float(calibration["offset"].get(name, 0.0)))
            for name in (*CLASSES, CHRONIC)
        },
        series={name: _series_weights(settings, name) for name in CLASSES},
        volume_interval={
            name: (float(low), float(high)) for name, (low, high) in settings.get("volume_interval", {}).items()
        },
        members=(),
        outputs_mask=settings["outputs"]["mask"],
        outputs_classes=tuple(settings["outputs"]["classes"]),
        outputs_chronic=settings["outputs"].get(CHRONIC, False),
        outputs_boxes=settings["outputs"].get(_BOXES, False),
    )
