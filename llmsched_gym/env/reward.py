"""Rewards: functions of what happened since the last step, by name or anybody's own.

A reward of one's own takes a :class:`Step` and returns a number::

    def impatient(step: Step) -> float:
        return step.completed_jobs - 0.1 * step.job_seconds

    env = gymnasium.make("LLMSched-v0", reward=impatient)  # or reward="my_module:impatient"
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.checks import is_number, is_positive
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.errors import InputError, nearest
from llmsched_gym.imports import import_for

Amount = Any  # a number, or an array with one for each of many clusters


class RewardError(InputError, ValueError):
    """A reward that is no finite number."""


class Jobs:
    """The jobs of an episode in order of arrival, those to come among them.

    Arrays are [jobs] (of shipped rewards in a vector environment [clusters, jobs]), of this
    moment, and worked out when they are asked for. A reward may know what policies may not.

    Parameters
    ----------
    table : ``JOB`` of ``cluster.state``.
    applications : their names.
    empty : knows how long jobs take alone.
    """

    def __init__(
        self, table: NDArray[np.void], applications: Sequence[str], empty: EmptyCluster
    ) -> None:
        self._table, self._applications, self._empty = table, applications, empty

    @property
    def application(self) -> NDArray[np.str_]:
        """Names of their applications."""
        return np.array(self._applications)[self._table["application"]]

    @property
    def arrival_s(self) -> NDArray[np.float64]:
        """When they arrive, seconds."""
        return self._table["arrival"] / TICKS_PER_SECOND

    @property
    def completion_s(self) -> NDArray[np.float64]:
        """When they completed, seconds; infinity for those that have not."""
        ticks = self._table["completion"]
        return np.where(ticks >= 0, ticks / TICKS_PER_SECOND, np.inf)

    @property
    def jct_s(self) -> NDArray[np.float64]:
        """Their completion times, seconds; infinity for those that have not completed."""
        ticks = self._table["completion"] - self._table["arrival"]
        return np.where(self._table["completion"] >= 0, ticks / TICKS_PER_SECOND, np.inf)

    @property
    def alone_s(self) -> NDArray[np.float64]:
        """How long each takes alone on the cluster, seconds (``cluster.alone``)."""
        return self._empty.alone_s(self._table["bank_job"])


class Step(NamedTuple):
    """What happened between two decisions.

    Attributes
    ----------
    elapsed_s : time that passed, seconds.
    job_seconds : integral over that time of the number of jobs in the system, job seconds.
    completed_jobs : jobs that completed.
    begin_s, end_s : when it began and when it ended, seconds of the episode.
    jobs : the jobs of the episode at its end.
    """

    elapsed_s: Amount
    job_seconds: Amount
    completed_jobs: Amount
    begin_s: Amount
    end_s: Amount
    jobs: Jobs


Reward = Callable[[Step], Amount]


def jct(step: Step) -> Amount:
    """Minus the job seconds: the return of an episode is minus the sum of its completion times."""
    return -step.job_seconds


def makespan(step: Step) -> Amount:
    """Minus the time passed: the return is minus the makespan, in seconds."""
    return -step.elapsed_s


def completions(step: Step) -> Amount:
    """Jobs completed: the return is the same for all, so use it with discounting."""
    return step.completed_jobs * 1.0


def slowdown(step: Step) -> Amount:
    """Minus the time integral of the sum over jobs in the system of 1 / (their time alone).

    The return is minus the sum of their slowdowns: completion time over the time that the job takes
    alone on the same cluster. So a second that a short job waits costs more. A job that takes no
    time alone costs nothing.
    """
    alone_s, begin, end = step.jobs.alone_s, _column(step.begin_s), _column(step.end_s)
    there_s = np.minimum(step.jobs.completion_s, end) - np.maximum(step.jobs.arrival_s, begin)
    share = np.divide(there_s, alone_s, out=np.zeros_like(there_s), where=alone_s > 0)
    return -np.maximum(share, 0.0).sum(axis=-1)


@dataclass(frozen=True)
class Slo:
    """Minus the jobs whose deadline passed: the return is minus the jobs that missed it.

    A job is due ``factor`` times as long after its arrival as it takes alone on the same cluster;
    it costs 1 at the moment at which it is overdue. Of an episode that is truncated, jobs count
    whose deadline was before its end. A job that takes no time alone has no deadline.

    Parameters
    ----------
    factor : positive, default 5.

    Raises
    ------
    ValueError
        for a factor that is not positive and finite.
    """

    factor: float = 5.0

    def __post_init__(self) -> None:
        if not is_positive(self.factor):
            raise ValueError(f"reward: slo: {self.factor!r} is not a positive factor")

    def __call__(self, step: Step) -> Amount:
        """Minus the jobs that became overdue in this step."""
        jobs, begin, end = step.jobs, _column(step.begin_s), _column(step.end_s)
        alone_s, jct_s = jobs.alone_s, jobs.jct_s
        allowed_s = self.factor * alone_s
        late = (alone_s > 0) & (jct_s > allowed_s)
        due_s = np.minimum(jobs.arrival_s + allowed_s, jobs.completion_s)
        return -1.0 * np.count_nonzero(late & (begin < due_s) & (due_s <= end), axis=-1)


def _column(amount: Amount) -> NDArray[np.float64]:
    """Numbers that meet arrays of jobs: [..., 1]."""
    return np.asarray(amount)[..., np.newaxis]


REWARDS: dict[str, Reward] = {
    "jct": jct,
    "makespan": makespan,
    "completions": completions,
    "slowdown": slowdown,
    "slo": Slo(),
}


class Custom:
    """A reward of one's own: a function of a :class:`Step` of one cluster, checked at each call.

    Raises
    ------
    ValueError
        for what is no function of a step.
    RewardError
        when called, if it returns anything but a finite number.
    """

    def __init__(self, function: Any, label: str) -> None:
        if not callable(function) or isinstance(function, type):
            raise ValueError(f"reward: {label} is no function of a step")
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            raise ValueError(f"reward: {label} does not take one argument, the step") from None
        except ValueError:  # built-in ones that tell nothing
            pass
        self.function, self.label = function, label

    def __call__(self, step: Step) -> float:
        """What the function returns, checked."""
        amount = self.function(step)
        if not _is_finite(amount):
            shown = " ".join(repr(amount).split())
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise RewardError(f"reward: {self.label} returned {shown}, not a finite number")
        return float(amount)


def reward_of(reward: Any) -> Reward:
    """The reward that an option names.

    Parameters
    ----------
    reward : a name in ``REWARDS``; "slo:FACTOR", an :class:`Slo`; "module:function", looked for as
        Python does and in the working directory; or a function of a :class:`Step`.

    Raises
    ------
    ValueError
        for what is none.
    PolicyError
        for what the module raises.
    """
    if isinstance(reward, Slo) or any(reward is one for one in REWARDS.values()):
        return reward
    if not isinstance(reward, str):
        if not callable(reward):
            shown = " ".join(repr(reward).split())[:60]
            raise ValueError(f"reward: {shown} is neither a name nor a function of a step")
        return Custom(reward, getattr(reward, "__qualname__", type(reward).__qualname__))
    if reward in REWARDS:
        return REWARDS[reward]
    module, colon, name = reward.partition(":")
    if module == "slo" and colon:
        return Slo(_factor(name))
    if not colon:
        hint = nearest(reward, REWARDS)
        valid = ", ".join(REWARDS)
        raise ValueError(
            f"reward: unknown {reward!r}{hint}, choose from {valid}, slo:FACTOR or module:function"
        )
    found = getattr(import_for(f"reward {reward}", module), name, None)
    if found is None:
        raise ValueError(f"reward: {module} has no {name!r}")
    return found if isinstance(found, Slo) else Custom(found, reward)


def _is_finite(amount: Any) -> bool:
    try:
        return is_number(amount, -math.inf, math.inf) and math.isfinite(amount)
    except OverflowError:  # a whole number beyond all floats
        return False


def _factor(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
