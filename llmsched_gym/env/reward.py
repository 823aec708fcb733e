"""Rewards by name: functions of what happened since the last step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Amount = Any  # a number, or an array with one for each of many clusters


class Step(NamedTuple):
    """What happened between two decisions.

    Attributes
    ----------
    elapsed_s : time that passed, seconds.
    job_seconds : integral over that time of the number of jobs in the system, job seconds.
    completed_jobs : jobs that completed.
    """

    elapsed_s: Amount
    job_seconds: Amount
    completed_jobs: Amount


def jct(step: Step) -> Amount:
    """Minus the job seconds: the return of an episode is minus the sum of its completion times."""
    return -step.job_seconds


def makespan(step: Step) -> Amount:
    """Minus the time passed: the return is minus the makespan, in seconds."""
    return -step.elapsed_s


def completions(step: Step) -> Amount:
    """Jobs completed: the return is the same for all, so use it with discounting."""
    return step.completed_jobs * 1.0


REWARDS: dict[str, Callable[[Step], Amount]] = {
    "jct": jct,
    "makespan": makespan,
    "completions": completions,
}
