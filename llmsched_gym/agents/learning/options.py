"""Checks of what learners are told to do: without torch, so that commands list options quickly."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from llmsched_gym.checks import is_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MOST = 10**9  # of any number that may not be infinite
MOST_UNITS = 1024  # of a layer of a network
_MOST = {
    **dict.fromkeys(("embedding", "hidden", "head", "layers", "heads"), MOST_UNITS),
    **dict.fromkeys(("groups", "replicas", "environments", "evaluation_episodes"), 10_000),
}


def check_numbers(
    options: DataclassInstance, may_be_zero: Collection[str], may_be_infinite: Collection[str]
) -> None:
    """ValueError for a number of ``agent`` that is out of its range or of another type.

    Fields are of the types int, float, str, and of these or None. Numbers are at most ``MOST``,
    sizes of networks ``MOST_UNITS``, and episodes side by side 10,000.
    """
    for field in fields(options):
        value, kind = getattr(options, field.name), str(field.type)
        if value is None and "None" in kind:
            continue
        if "str" in kind:
            if not isinstance(value, str):
                raise ValueError(f"agent.{field.name}: {value!r} is not a name")
            continue
        zero, most = field.name in may_be_zero, _MOST.get(field.name, MOST)
        if "int" in kind:
            good = is_whole(value, 0 if zero else 1)
            wanted = f"a whole number of at least {0 if zero else 1}"
        else:
            good = isinstance(value, int | float) and not isinstance(value, bool)
            good = good and (value > 0 or (zero and value == 0))
            wanted = "a number of at least 0" if zero else "a positive number"
        if not good or (value == math.inf and field.name not in may_be_infinite):
            raise ValueError(f"agent.{field.name}: {value!r} is not {wanted}")
        if value > most and value != math.inf:
            raise ValueError(f"agent.{field.name}: {value!r} is above {most}")


def in_seconds(
    options: DataclassInstance, jobs: Mapping[str, float], jobs_per_s: float
) -> dict[str, Any]:
    """The times that are None, as those in which so many jobs arrive, seconds."""
    return {
        name: number / jobs_per_s for name, number in jobs.items() if getattr(options, name) is None
    }
