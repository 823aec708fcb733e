"""What goes on, and somebody should know: lines on stderr.

``LLMSCHED_QUIET=1`` in the environment leaves out how far the work is.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY_S = 10.0  # how long nothing is said, where there is no terminal
_told: set[str] = set()


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
def counted(total: int, what: str, wanted: bool = True) -> Iterator[Callable[[], None]]:
    """Tell every 10 s how many of so many are done: "12 of 50 episodes", unless it is not wanted.

    What it gives counts one.
    """
    done, over = 0, threading.Event()

    def count() -> None:
        nonlocal done
        done += 1

    def tell() -> None:
        while not over.wait(EVERY_S):
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    if wanted and not is_quiet():
        teller.start()
    try:
        yield count
    finally:
        over.set()
        if teller.ident is not None:
            teller.join()
