"""One checker for all settings: a class of typed fields, and a line for the first that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.errors import nearest


class Settings(BaseModel):
    """Settings by name; those without a default must be given, others are unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def read(cls, given: Mapping[str, Any], prefix: str = "") -> Self:
        """Check settings.

        Parameters
        ----------
        given
            As a configuration file or a command line gives them.
        prefix
            What stands before their names in errors, such as "experiment.".

        Raises
        ------
        ValueError
            for an unknown, a missing or a bad one: one line that names it and says what is valid.
        """
        for name in sorted(given.keys() - cls.model_fields.keys()):
            valid = ", ".join(cls.model_fields)
            hint = nearest(name, cls.model_fields)
            raise ValueError(f"unknown option {prefix + name!r}{hint}; valid here: {valid}")
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = prefix + ".".join(part for part in first["loc"] if isinstance(part, str))
            if first["type"] == "extra_forbidden":
                raise ValueError(f"unknown option {name!r}") from None
            raise ValueError(f"{name}: {_what(first)}") from None


def _what(error: Mapping[str, Any]) -> str:
    """What is wrong with one value."""
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "model_type":
        return f"{error['input']!r} is not a group of options, each with a name"
    return str(error.get("ctx", {}).get("error", error["msg"]))


def _whole(least: int, most: float = math.inf) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not is_whole(value, least):
            raise ValueError(f"{value!r} is not a whole number of at least {least}")
        if value > most:
            raise ValueError(f"{value!r} is above {most}")
        return int(value)

    return BeforeValidator(check)


def _positive(value: Any) -> Any:
    if not is_positive(value):
        raise ValueError(f"{value!r} is not a positive number")
    return float(value)


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _list(example: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list such as {example}")
        for one in value:
            if isinstance(one, list | dict):
                raise ValueError(f"{one!r} is not a value of a list such as {example}")
        return tuple(dict.fromkeys(value))

    return BeforeValidator(check)


def _filled(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r} is not a list that is not empty")
    return value


def _folder(value: Any) -> Any:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("it needs the name of a folder")
    return home(value)


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _policies(value: Any) -> Any:
    """Names, and names with options: ``[fcfs, {name: decima, checkpoint: a, label: mine}]``."""
    example = "a list such as [fcfs,fair] or [{name: srtf, label: mine}]"
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not {example}")
    for one in value:
        named = one.get("name") if isinstance(one, dict) else one
        if isinstance(named, list | dict | None):
            raise ValueError(f"{one!r} is not of {example}")
        if isinstance(one, dict) and not isinstance(one.get("label", ""), str):
            raise ValueError(f"label: {one['label']!r} is not a text")
    return tuple(value)


def home(path: str) -> Path:
    """A path, in which ~ is the home of the user, as it is to a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody knows where that is
        return Path(path)


Count = Annotated[int, _whole(1, most=1_000_000)]
Number = Annotated[int, _whole(0)]

Positive = Annotated[float, BeforeValidator(_positive)]

Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Folder = Annotated[Path, BeforeValidator(_folder)]
Names = Annotated[tuple[Any, ...], _list("[fcfs,fair]")]
Policies = Annotated[tuple[Any, ...], BeforeValidator(_policies)]
Counts = Annotated[tuple[Count, ...], _list("[1,2,4]")]
Numbers = Annotated[tuple[Any, ...], _list("[0.1,0.3]")]
Positives = Annotated[tuple[Positive, ...], _list("[0.9,1.3]"), BeforeValidator(_filled)]
