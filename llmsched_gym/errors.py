"""Errors of input: one line that says what is wrong."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


class InputError(Exception):
    """What the user gave cannot be evaluated: one line that says why."""


class MissingExtra(ValueError):
    """A package that an extra brings is not installed: one line that says what to install."""


class PolicyError(Exception):
    """A policy that raised something: one line that says which one, when and what.

    Attributes
    ----------
    details : the traceback of what it raised, as text, for that is all that comes from another
        process.
    """

    def __init__(self, line: str, details: str) -> None:
        super().__init__(line, details)
        self.details = details

    def __str__(self) -> str:
        return str(self.args[0])


class Interrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C or sent SIGTERM to a command."""


def one_line(error: BaseException) -> str:
    """The message of an error in one line, to be shown on any terminal."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """A text that commands no terminal: what cannot be seen is escaped, but for line ends.

    Names come from traces, files and command lines, and may hold anything.
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in text
    )


def nearest(name: object, valid: Iterable[str]) -> str:
    """A word on the valid name that is nearest to one that is none; empty if none is near."""
    close = get_close_matches(str(name), sorted(valid), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is at the bottom of an error, as when numba was compiling.

    A KeyboardInterrupt that a policy raises is none: where Python's own handler does not stand, as
    in commands and their workers, only :class:`Interrupted` is.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None or isinstance(error, Interrupted):
        return error is not None
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def raised(where: str, error: BaseException, frames: int = 1) -> BaseException:
    """What to raise for what code of the user raised: a PolicyError that says where it was.

    An interrupt is an interrupt, in whatever disguise; that the code wants to end the process is an
    error like others. The first ``frames`` of the traceback, and those of an import, are not shown.
    """
    if interrupted(error):
        return Interrupted()
    trace = error.__traceback__
    while trace and (frames > 0 or "importlib" in trace.tb_frame.f_code.co_filename):
        trace, frames = trace.tb_next, frames - 1
    details = traceback.format_exception(type(error), error, trace)
    what = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    return PolicyError(f"{printable(where)}: {what}", "".join(map(printable, details)))


def need(extra: str, what: str, *modules: str) -> None:
    """An ImportError that tells what to install, if one of the modules is missing.

    Parameters
    ----------
    extra : of ``pyproject.toml``, which has them.
    what : needs them, such as ``"figures"``.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'{what} need {", ".join(missing)}: pip install "llmsched-gym[{extra}]"',
            name=missing[0],
        )
