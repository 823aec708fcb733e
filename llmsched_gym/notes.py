"""What goes on all the same, and somebody should know: a line on stderr, once a subject."""

from __future__ import annotations

import multiprocessing
import sys

_told: set[str] = set()


def note(subject: str, line: str) -> None:
    """Tell the first thing there is to tell about a subject, such as "damaged cache".

    Workers of a process, which would tell the same, are silent.
    """
    if subject not in _told and multiprocessing.parent_process() is None:
        print(f"llmsched_gym: {' '.join(line.split())}", file=sys.stderr, flush=True)
    _told.add(subject)
