"""Checks of times that were measured: they say something only where the machine had time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

TRIES = 5
BUSY = 0.01  # of the time, from which on waiting for a CPU says that the machine had none


def agree(measure: Callable[[], None]) -> None:
    """Measure and compare until that agrees: what else runs can only make times longer.

    Where it never does, the AssertionError stands; but not if the process itself had to wait for a
    CPU every time, for then it is the machine that was measured: the test is skipped.
    """
    shares = []
    for _ in range(TRIES):
        begin_s, waited_s = time.monotonic(), _waited_s()
        try:
            measure()
            return
        except AssertionError as error:
            failure = error
        shares.append((_waited_s() - waited_s) / (time.monotonic() - begin_s))
    if min(shares) < BUSY:
        raise failure
    pytest.skip(f"no time on this machine: {min(shares):.1%} of it waiting for a CPU")


def _waited_s() -> float:
    """Seconds that this thread has waited for a CPU, 0 where the system does not count them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
