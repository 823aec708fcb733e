"""What users name and give: files and names, looked at before they are used."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from reprlib import Repr

from llmsched_gym.errors import nearest

LONGEST_NAME = 255  # characters
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FILE_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_REPR = Repr()
_REPR.maxlevel = 1


def given_path(option: str, path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, ``~`` expanded; it need not exist.

    Raises
    ------
    ValueError
        if it is neither text nor a path.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise ValueError(f"{option}: {shown(path)} is not a path")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~nobody/
        return Path(path)


def other_than_file(path: Path) -> str | None:
    """What is at a path if it is not a file, e.g. "a pipe"; nothing is opened or waited for.

    Raises
    ------
    FileNotFoundError
        if there is nothing.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        raise FileNotFoundError(f"{path}: no such file") from None
    return next((kind for holds, kind in _FILE_KINDS if holds(mode)), None)


def fault_of_name(name: object) -> str | None:
    """What is wrong with the name of an application, job or stage, or None."""
    if not isinstance(name, str):
        return f"{shown(name)} is not text"
    if not name:
        return "empty name"
    if len(name) > LONGEST_NAME:
        return f"{name[:20]!r}... is longer than {LONGEST_NAME} characters"
    if _UNPRINTABLE.search(name):
        return f"{name!r} has characters that cannot be printed"
    return None


def printable(path: Path) -> str:
    """A path in a message, with escapes for what cannot be printed."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], str(path))


def shown(value: object) -> str:
    """A value in a message, short however large or deep it is."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"


def unknown(option: str, value: object, valid: Iterable[str]) -> ValueError:
    """What to raise for a name that is none of the valid ones; it names the nearest."""
    names = sorted(valid)
    hint = nearest(value, names)
    return ValueError(f"{option}: unknown {shown(value)}{hint}, choose from {', '.join(names)}")
