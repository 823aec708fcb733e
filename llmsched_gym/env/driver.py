"""Drivers: who says what happens to a cluster between two decisions, the simulator by default."""

from __future__ import annotations

from typing import Protocol

from llmsched_gym.cluster import simulator
from llmsched_gym.cluster.state import ClusterState


class Driver(Protocol):
    """Brings the state of a cluster to the next decision, whoever runs its tasks.

    Both methods return ``DECIDE``, ``FINISHED`` or ``TRUNCATED`` of :mod:`..cluster.simulator`, and
    leave in the clock what an observation needs: ``slowdown``, ``room`` and ``can_wait``.
    """

    def start(self, state: ClusterState) -> int:
        """Bring a new state to its first decision."""
        ...

    def step(self, state: ClusterState, stage: int) -> int:
        """Run the next task of a stage, or wait if it is negative; on to the next decision."""
        ...


class Simulated:
    """The driver that simulates: all there is to know is in the state."""

    start = staticmethod(simulator.start)
    step = staticmethod(simulator.step)
