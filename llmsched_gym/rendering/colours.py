"""The colour of a job: the same in every picture, and for people who may not tell all apart."""

from __future__ import annotations

from functools import cache

Colour = tuple[int, int, int]

# Okabe and Ito's palette, ordered so that neighbours differ in lightness as well.
HUES = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#F0E442", "#CC79A7")
TONES = ((0, 0.0), (255, 0.5), (0, 0.4))  # mixed with that much white or black, by turns
# Of Paul Tol's muted palette, and a grey.
MORE_HUES = ("#332288", "#AA4499", "#117733", "#999933", "#661100", "#882255", "#888888")

PAPER: Colour = (255, 255, 255)
INK: Colour = (31, 36, 48)
FAINT: Colour = (100, 107, 120)
EMPTY: Colour = (240, 242, 245)
RULE: Colour = (205, 210, 218)
DONE: Colour = (91, 100, 114)


@cache
def job_colour(job: int) -> Colour:
    """Seven hues, then the same lighter, then darker, then seven others, and again."""
    return JOB_COLOURS[job % len(JOB_COLOURS)]


@cache
def tint(job: int) -> Colour:
    """What fills the bars of tools, whose edges have the colour of the job."""
    return mixed(job_colour(job), 255, 0.6)


@cache
def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is legible there."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER


def mixed(colour: Colour, towards: int, share: float) -> Colour:
    """A colour mixed with that much of a grey."""
    red, green, blue = (round(part + share * (towards - part)) for part in colour)
    return red, green, blue


def _rgb(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


JOB_COLOURS = (
    *(mixed(_rgb(hue), *tone) for tone in TONES for hue in HUES),
    *map(_rgb, MORE_HUES),
)
