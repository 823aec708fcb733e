"""A canvas on which letters and marks are drawn once and stamped ever after.

Pillow alone draws it: no plotting library, and no display.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.errors import printable
from llmsched_gym.rendering.colours import INK, PAPER, Colour

FINER = 4  # marks are drawn so many times larger, and shrunk: their edges are smooth
DASHES = 8  # of a dashed outline


class Canvas:
    """A picture to draw on; places are pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def array(self) -> NDArray[np.uint8]:
        """The picture, uint8 [height, width, 3]."""
        return np.array(self.image)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, edge: Colour | None = None
    ) -> None:
        """A rectangle of at least one pixel: it ends before ``x1`` and ``y1``."""
        left, top = round(x0), round(y0)
        corners = (left, top, max(left, round(x1) - 1), max(top, round(y1) - 1))
        self._draw.rectangle(corners, fill, edge)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """A line of one pixel."""
        self._draw.line((round(x0), round(y0), round(x1), round(y1)), colour)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: Colour = INK,
        size: int = 13,
        align: str = "left",
        room: float | None = None,
    ) -> None:
        """A line of text: ``y`` is its middle; ``x`` its left, its middle ("centre") or its right.

        It is cut where it has no room.
        """
        if room is not None:
            text = cut(text, size, room)
        mask = _letters(text, size)
        back = {"left": 0.0, "centre": 0.5, "right": 1.0}[align] * mask.width
        self.image.paste(colour, (round(x - back), round(y - mask.height / 2)), mask)

    def mark(self, x: float, y: float, size: int, round_: bool, fill: Colour, edge: Colour) -> None:
        """A disc or a square round a middle, with an edge."""
        corner = (round(x - size / 2), round(y - size / 2))
        self.image.paste(edge, corner, _mark(size, round_, 0))
        self.image.paste(fill, corner, _mark(size, round_, max(1, size // 7)))

    def dashed(self, x: float, y: float, size: int, edge: Colour) -> None:
        """A dashed circle round a middle."""
        self.image.paste(edge, (round(x - size / 2), round(y - size / 2)), _dashes(size))


def width_of(text: str, size: int) -> int:
    """Of a line of text, in pixels."""
    return int(_letters(text, size).width)


@lru_cache(2048)
def cut(text: str, size: int, room: float) -> str:
    """As much of a text as there is room for, in pixels; what cannot be seen is escaped."""
    text = printable(text).replace("\n", " ")
    if len(text) < 200 and width_of(text, size) <= room:
        return text
    shown = text[:200]
    while shown and width_of(f"{shown}…", size) > room:
        shown = shown[:-1]
    return f"{shown}…"


@lru_cache(8192)
def _letters(text: str, size: int) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    mask = Image.new("L", (max(1, round(font.getlength(text))), 1 + round(1.25 * size)))
    ImageDraw.Draw(mask).text((0, mask.height / 2), text, 255, font, "lm")
    return mask


@lru_cache(512)
def _mark(size: int, round_: bool, inset: int) -> Any:
    from PIL import Image, ImageDraw

    mask = Image.new("L", (size * FINER, size * FINER))
    corners = (inset * FINER, inset * FINER, *[(size - inset) * FINER - 1] * 2)
    if corners[2] >= corners[0]:
        draw = ImageDraw.Draw(mask)
        (draw.ellipse if round_ else draw.rectangle)(corners, 255)
    return mask.resize((size, size), Image.Resampling.BOX)


@lru_cache(64)
def _dashes(size: int) -> Any:
    from PIL import Image, ImageDraw

    mask = Image.new("L", (size * FINER, size * FINER))
    draw = ImageDraw.Draw(mask)
    for dash in range(DASHES):
        begin = dash * 360 / DASHES
        end = begin + 220 / DASHES
        draw.arc((0, 0, *[size * FINER - 1] * 2), begin, end, 255, FINER * 3 // 2)
    return mask.resize((size, size), Image.Resampling.BOX)
