"""Errors of input: one line that says what is wrong."""

from __future__ import annotations


class InputError(Exception):
    """What the user gave cannot be evaluated: one line that says why."""


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is at the bottom of an error, as when numba was compiling."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
