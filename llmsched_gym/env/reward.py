"""Rewards by name: functions of what happened since the last step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """What happened between two decisions.

    Attributes
    ----------
    elapsed_s : time that passed, seconds.
    job_seconds : integral over that time of the number of jobs in the system, job seconds.
    completed_jobs : jobs that completed.
    """

    elapsed_s: float
    job_seconds: float
    completed_jobs: int


def jct(step: Step) -> float:
    """Minus the job seconds: the return of an episode is minus the sum of its completion times."""
    return -step.job_seconds


def makespan(step: Step) -> float:
    """Minus the time passed: the return is minus the makespan, in seconds."""
    return -step.elapsed_s


def completions(step: Step) -> float:
    """Jobs completed: the return is the same for all, so use it with discounting."""
    return float(step.completed_jobs)


REWARDS: dict[str, Callable[[Step], float]] = {
    "jct": jct,
    "makespan": makespan,
    "completions": completions,
}
