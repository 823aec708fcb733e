"""Servers that compute nothing, for tests, and small jobs to play on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.testbed import Fault, fake_server

PROFILE = LatencyProfile("fake", 3.0, 0.1, 0.001, 3.0, 3.0, 0.01, 0.0, 4000, "mixed", 256, "late")
SLOW = replace(PROFILE, a=10.0, p0=10.0)  # to be timed: a busy machine wakes a sleeper in less
SLOTS = 4
SCALES = {"prompt_scale": 0.02, "output_scale": 0.1, "duration_scale": 0.01}


@contextmanager
def fake_servers(
    count: int, faults: tuple[Fault, ...] = (), profile: LatencyProfile = PROFILE
) -> Iterator[tuple[str, ...]]:
    """The URLs of some servers, all alike."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(fake_server(profile, SLOTS, faults=faults)) for _ in range(count)
        )
