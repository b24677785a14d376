"""Drawing for people: dark page, header band, footer band, one built-in font. Text never lies over the brain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from triage_node.domain import Priority, Rgb, UInt8Array

PAGE: Final[Rgb] = (0, 0, 0)
BAND: Final[Rgb] = (24, 29, 36)
INK: Final[Rgb] = (236, 240, 244)
QUIET: Final[Rgb] = (158, 168, 179)
PRIORITY_FILL: Final = {
    Priority.STAT: (192, 57, 43),
    Priority.HIGH: (201, 122, 20),
    Priority.ROUTINE: (66, 84, 104),
    Priority.NONE: (90, 90, 90),
}
MARGIN_PX: Final = 24
ELLIPSIS: Final = "…"


class Canvas:
    """An RGB page to write on."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), PAGE)
        self.draw = ImageDraw.Draw(self.image)

    @property
    def width(self) -> int:
        """Pixels."""
        return self.image.width

    def band(self, top: int, bottom: int) -> None:
        """A slightly lighter stripe over the whole width."""
        self.draw.rectangle((0, top, self.width, bottom), fill=BAND)

    def text(self, x: int, y: int, text: str, size: int, fill: Rgb = INK, *, bold: bool = False) -> int:
        """One line whose vertical middle is `y`, cut with an ellipsis at the right margin; returns its right end."""
        font = ImageFont.load_default(size)
        fitted = self._fitted(text, font, self.width - MARGIN_PX - x)
        # the built-in font has one weight; half a pixel of outline makes the other
        self.draw.text((x, y), fitted, fill=fill, font=font, anchor="lm", stroke_width=0.5 if bold else 0)
        return x + round(self.draw.textlength(fitted, font=font))

    def centered(self, x: int, y: int, text: str, size: int, fill: Rgb = INK) -> None:
        """One line centred on (x, y)."""
        self.draw.text((x, y), text, fill=fill, font=ImageFont.load_default(size), anchor="mm")

    def pill(self, x: int, y: int, text: str, size: int, fill: Rgb) -> int:
        """White text on a rounded field, vertical middle at `y`; returns its right end."""
        font = ImageFont.load_default(size)
        right = x + round(self.draw.textlength(text, font=font)) + size
        box = (x, y - round(size * 0.78), right, y + round(size * 0.78))
        self.draw.rounded_rectangle(box, radius=round(size * 0.35), fill=fill)
        self.draw.text(((x + right) / 2, y), text, fill=(255, 255, 255), font=font, anchor="mm", stroke_width=0.5)
        return right

    def swatch(self, x: int, y: int, size: int, fill: Rgb) -> None:
        """A small filled square, vertical middle at `y`."""
        self.draw.rounded_rectangle((x, y - size // 2, x + size, y + size // 2), radius=3, fill=fill)

    def wrapped(self, x: int, y: int, text: str, size: int, fill: Rgb = INK) -> int:
        """Lines broken at spaces to the right margin, the first around `y`; returns the `y` after the last."""
        font = ImageFont.load_default(size)
        for line in self._lines(text.split(), font, self.width - MARGIN_PX - x):
            self.text(x, y, line, size, fill)
            y += round(size * 1.45)
        return y

    def pixels(self) -> UInt8Array:
        """(rows, columns, 3) uint8, RGB."""
        return np.asarray(self.image, dtype=np.uint8)

    def _lines(self, words: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
        lines: list[str] = []
        for word in words:
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.draw.textlength(longer, font=font) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def _fitted(self, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
        if self.draw.textlength(text, font=font) <= width:
            return text
        while text and self.draw.textlength(text + ELLIPSIS, font=font) > width:
            text = text[:-1]
        return text.rstrip() + ELLIPSIS
