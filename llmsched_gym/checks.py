"""What counts as a number: one rule, wherever numbers enter."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def is_whole(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is an integer, Python's or numpy's, in this range: no boolean is."""
    known = isinstance(value, Integral) and not isinstance(value, bool)
    return known and bool(least <= value <= most)


def is_number(value: Any, least: float, most: float) -> bool:
    """Whether a value is a number, Python's or numpy's, in this range: no NaN or boolean is."""
    known = isinstance(value, Real) and not isinstance(value, bool)
    return known and bool(least <= value <= most)


def is_positive(value: Any) -> bool:
    """Whether a value is a number, Python's or numpy's, above 0 and finite: no boolean is."""
    try:
        known = isinstance(value, Real) and not isinstance(value, bool)
        return known and 0 < float(value) < math.inf
    except OverflowError:  # a whole number beyond all floats
        return False
