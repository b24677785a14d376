"""Headers of a plain head CT as four makers' scanners word them, written over a neutral simulated image.

What differs is what receivers trip over: wording, multi-valued windows and kernels, signed or unsigned pixels with
different intercepts, the sign of the tilt, the direction in which images are numbered, and absent elements. From
published conformance statements and public images; institution, station and serial number stay those of a simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How HU are stored: HU = stored + intercept (PS3.3 C.11.1)."""

    signed: bool
    intercept: int
    bits: int


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The habits of one maker; where there are several, each series has one of them."""

    manufacturer: str
    models: tuple[str, ...]
    descriptions: tuple[str, ...]
    protocols: tuple[str, ...]
    body_parts: tuple[str | None, ...]
    """None: the element is absent."""
    kernels: tuple[str | tuple[str, ...], ...]
    image_types: tuple[tuple[str, ...], ...]
    """After ORIGINAL, PRIMARY."""
    scan_options: tuple[str | None, ...]
    filters: tuple[str, ...]
    windows: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    """(centres, widths)."""
    explains_windows: bool
    pixel_formats: tuple[PixelFormat, ...]
    padding: int | None
    """PixelPaddingValue, stored."""
    tilt_sign: int
    position_digits: int
    spacing_between: bool
    """Writes SpacingBetweenSlices."""
    acquisition_number: str
    """one, per image, or empty."""
    images_downwards: tuple[bool, ...]
    """InstanceNumber rises from head to feet."""


_TWELVE_BITS: Final = PixelFormat(signed=False, intercept=-1024, bits=12)

VENDORS: Final = {
    "GE": Vendor(
        manufacturer="GE MEDICAL SYSTEMS",
        models=("LightSpeed VCT", "Revolution CT", "Optima CT660"),
        descriptions=("HEAD W/O", "5MM STD HEAD", "AXIAL BRAIN", "Routine Head 5.0", "STD"),
        protocols=("1.1 Routine Head", "1.4 HEAD TRAUMA"),
        body_parts=("HEAD", "HEAD", None),
        kernels=("STANDARD", "SOFT", "STND", "STD+"),
        image_types=(("AXIAL",), ("AXIAL", "ADD")),
        scan_options=("AXIAL MODE", "HELICAL MODE"),
        filters=("HEAD FILTER", "MEDIUM FILTER"),
        windows=((("40",), ("80",)), (("35",), ("100",))),
        explains_windows=False,
        pixel_formats=(
            PixelFormat(signed=True, intercept=-1024, bits=16),
            PixelFormat(signed=True, intercept=0, bits=16),
        ),
        padding=-2000,
        tilt_sign=-1,
        position_digits=3,
        spacing_between=True,
        acquisition_number="one",
        images_downwards=(False,),
    ),
    "SIEMENS": Vendor(
        manufacturer="SIEMENS",
        models=("SOMATOM Definition AS", "SOMATOM Force", "Sensation 64"),
        descriptions=(
            "Head  5.0  H31s",
            "Schaedel nativ 5.0 J37s 3",
            "HeadSeq 4.8 H31s",
            "Kopf 5.0 Hr38f 3",
            "Schädel nativ 5.0",
        ),
        protocols=("HeadRoutine", "01_Schaedel_Nativ", "HeadSeq"),
        body_parts=("HEAD", "HEAD", "BRAIN", None),
        kernels=("H31s", "H40s", ("J37s", "3"), ("Hr38f", "3")),
        image_types=(("AXIAL", "CT_SOM5 SPI"), ("AXIAL", "CT_SOM5 SEQ"), ("AXIAL", "CT_SOM7 SPI")),
        scan_options=(None,),
        filters=("0", "WEDGE_2", "FLAT"),
        windows=((("35", "700"), ("80", "3200")), (("40", "40"), ("100", "80"))),
        explains_windows=True,
        pixel_formats=(_TWELVE_BITS, PixelFormat(signed=False, intercept=-8192, bits=16)),
        padding=None,
        tilt_sign=1,
        position_digits=9,
        spacing_between=False,
        acquisition_number="one",
        images_downwards=(True, False),
    ),
    "PHILIPS": Vendor(
        manufacturer="Philips",
        models=("Brilliance 64", "Ingenuity CT", "iCT 256"),
        descriptions=("HEAD 5mm, iDose (3)", "Head Nativ", "Brain, iDose (2)", "5/5 UB"),
        protocols=("Head helical/Head", "Brain Axial/Head"),
        body_parts=("HEAD", None),
        kernels=("UB", "UA", "B"),
        image_types=(("AXIAL", "HELIX"), ("AXIAL",)),
        scan_options=("HELIX", "AXIAL"),
        filters=("UB", "B"),
        windows=((("00035", "00035"), ("00080", "00080")), (("00040", "00040"), ("00090", "00090"))),
        explains_windows=False,
        pixel_formats=(_TWELVE_BITS,),
        padding=None,
        tilt_sign=1,
        position_digits=6,
        spacing_between=False,
        acquisition_number="empty",
        images_downwards=(True, False),
    ),
    "CANON": Vendor(
        manufacturer="Canon Medical Systems",
        models=("Aquilion ONE", "Aquilion PRIME"),
        descriptions=("Head 5.0", "HEAD S&V STD", "BRAIN PLAIN 5.0", "AIDR 3D 5.0"),
        protocols=("Head Routine", "BRAIN HELICAL"),
        body_parts=("HEAD",),
        kernels=("FC21", "FC26", "FC64"),
        image_types=(("AXIAL",),),
        scan_options=("HELICAL_CT", "NORMAL_CT", "VOLUME"),
        filters=("LARGE", "SMALL"),
        windows=((("35",), ("90",)), (("40",), ("80",))),
        explains_windows=False,
        pixel_formats=(PixelFormat(signed=True, intercept=0, bits=16),),
        padding=-2048,
        tilt_sign=1,
        position_digits=4,
        spacing_between=False,
        acquisition_number="per image",
        images_downwards=(True, False),
    ),
}
"""By the names that write_series knows."""


def restyle(image: Dataset, vendor: Vendor, *, seed: int, index: int, count: int, spacing_mm: float) -> PixelFormat:
    """Write `vendor`'s words over those of slice `index` of `count` and tell how its pixels are stored.

    The choices follow from `seed`: all images of a series agree. `spacing_mm` usually lies between slices.
    """
    rng = np.random.default_rng([seed, *vendor.manufacturer.encode()])
    _name_series(image, vendor, rng)
    _name_scan(image, vendor, rng)
    _window(image, vendor, rng)
    _number(image, vendor, rng, index, count)
    image.ImagePositionPatient = [_rounded(v, vendor.position_digits) for v in image.ImagePositionPatient]
    if vendor.spacing_between:
        image.SpacingBetweenSlices = _rounded(spacing_mm, 4)
    pixels = vendor.pixel_formats[int(rng.integers(len(vendor.pixel_formats)))]
    if vendor.padding is not None:
        image.add_new("PixelPaddingValue", "SS" if pixels.signed else "US", vendor.padding)
    return pixels


def _name_series(image: Dataset, vendor: Vendor, rng: np.random.Generator) -> None:
    image.Manufacturer = vendor.manufacturer
    image.ManufacturerModelName = str(rng.choice(vendor.models))
    image.SeriesDescription = str(rng.choice(vendor.descriptions))
    image.ProtocolName = str(rng.choice(vendor.protocols))
    body_part = vendor.body_parts[int(rng.integers(len(vendor.body_parts)))]
    _set_or_drop(image, "BodyPartExamined", body_part)
    if body_part is None:
        image.Laterality = ""  # Type 2C where nothing says that the part is not paired (PS3.3 C.7.3.1)


def _name_scan(image: Dataset, vendor: Vendor, rng: np.random.Generator) -> None:
    kernel = vendor.kernels[int(rng.integers(len(vendor.kernels)))]
    image.ConvolutionKernel = kernel if isinstance(kernel, str) else list(kernel)
    image.ImageType = ["ORIGINAL", "PRIMARY", *vendor.image_types[int(rng.integers(len(vendor.image_types)))]]
    _set_or_drop(image, "ScanOptions", vendor.scan_options[int(rng.integers(len(vendor.scan_options)))])
    image.FilterType = str(rng.choice(vendor.filters))
    image.GantryDetectorTilt = _rounded(vendor.tilt_sign * float(image.GantryDetectorTilt), 3)


def _window(image: Dataset, vendor: Vendor, rng: np.random.Generator) -> None:
    centers, widths = vendor.windows[int(rng.integers(len(vendor.windows)))]
    image.WindowCenter, image.WindowWidth = list(centers), list(widths)
    if vendor.explains_windows:
        image.WindowCenterWidthExplanation = [f"WINDOW{number + 1}" for number in range(len(centers))]


def _number(image: Dataset, vendor: Vendor, rng: np.random.Generator, index: int, count: int) -> None:
    downwards = bool(rng.choice(vendor.images_downwards))
    image.InstanceNumber = count - index if downwards else index + 1
    numbers = {"one": 1, "per image": int(image.InstanceNumber), "empty": None}
    image.AcquisitionNumber = numbers[vendor.acquisition_number]


def _set_or_drop(image: Dataset, keyword: str, value: str | None) -> None:
    if value is not None:
        setattr(image, keyword, value)
    elif keyword in image:
        delattr(image, keyword)


def _rounded(value: float, digits: int) -> str:
    text = f"{float(value):.{digits}f}"
    return text if float(text) else "0"
