"""What goes on, and somebody should know: lines on stderr.

``LLMSCHED_QUIET=1`` in the environment leaves out how far the work is.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

EVERY_S = 8.0  # how long nothing is said where there is no terminal: below 10 s where all is slow
_told: set[str] = set()
_doing: list[Callable[[], str]] = []  # the innermost last
_said = 0.0  # when the last line was, by time.monotonic


def is_quiet() -> bool:
    """Whether nobody wants to know how far the work is."""
    return os.environ.get("LLMSCHED_QUIET", "") not in ("", "0")


def note(subject: str, line: str) -> None:
    """Tell the first thing there is to tell about a subject, such as "damaged cache".

    Workers of a process, which would tell the same, are silent.
    """
    if subject not in _told and multiprocessing.parent_process() is None:
        print(f"llmsched_gym: {' '.join(line.split())}", file=sys.stderr, flush=True)
    _told.add(subject)


@contextmanager
def telling(what: Callable[[], str], wanted: bool = True, at_once: bool = True) -> Iterator[None]:
    """Tell every ``EVERY_S`` what goes on, and at once, unless it is not wanted.

    What goes on within something else is told in its place.
    """
    if not wanted or is_quiet():
        yield
        return
    _doing.append(what)
    over = threading.Event()

    def tell() -> None:
        while not over.wait(EVERY_S / 10):
            if time.monotonic() - _said > 0.9 * EVERY_S:
                _say(_doing[-1]())

    _say(what() if at_once else "")
    teller = threading.Thread(target=tell, daemon=True) if len(_doing) == 1 else None
    if teller is not None:
        teller.start()
    try:
        yield
    finally:
        over.set()
        if teller is not None:
            teller.join()
        _doing.pop()


def during(text: Callable[[], str], wanted: bool = True) -> AbstractContextManager[None]:
    """Tell what goes on at once, and every ``EVERY_S`` with how long it has gone on."""
    begin = time.monotonic()

    def what() -> str:
        took = time.monotonic() - begin
        return text() if took < EVERY_S / 2 else f"{text()}: {took:.0f} s"

    return telling(what, wanted)


@contextmanager
def counted(total: int, what: str, wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Tell every ``EVERY_S`` how many are done, "12 of 50 episodes", unless it is not wanted.

    What it gives counts one.
    """
    done = 0

    def count() -> None:
        nonlocal done
        done += 1

    with telling(lambda: f"{done} of {total} {what}", wanted, at_once=False):
        yield count


def _say(line: str) -> None:
    global _said
    _said = time.monotonic()
    if line:
        print(line, file=sys.stderr, flush=True)
