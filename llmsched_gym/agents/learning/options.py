"""Checks of what learners are told to do: without torch, so that commands list options quickly."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_numbers(
    options: DataclassInstance, may_be_zero: Collection[str], may_be_infinite: Collection[str]
) -> None:
    """ValueError for a number of ``agent`` that is out of its range; None and names are not."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None or isinstance(value, str):
            continue
        if field.name in may_be_zero:
            good, wanted = 0 <= value < math.inf, "a number of at least 0"
        elif isinstance(value, int):
            good, wanted = value >= 1, "a whole number of at least 1"
        else:
            good, wanted = value > 0, "a positive number"
        if not good or (value == math.inf and field.name not in may_be_infinite):
            raise ValueError(f"agent.{field.name}: {value!r} is not {wanted}")


def in_seconds(
    options: DataclassInstance, jobs: Mapping[str, float], jobs_per_s: float
) -> dict[str, Any]:
    """The times that are None, as those in which so many jobs arrive, seconds."""
    return {
        name: number / jobs_per_s for name, number in jobs.items() if getattr(options, name) is None
    }
