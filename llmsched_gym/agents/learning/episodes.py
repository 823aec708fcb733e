"""Episodes played in many environments at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from llmsched_gym.agents.base import Observation
from llmsched_gym.env.features import CLUSTER
from llmsched_gym.env.vector import LLMSchedVectorEnv

Act = Callable[[Observation], NDArray[np.int64]]


class Trajectory(NamedTuple):
    """N episodes, over T steps of a vector environment: as many as the longest has.

    Attributes
    ----------
    time_s : float64 [T + 1, N], when each step began, and the end; constant after an episode's end.
    reward : float64 [T, N], of the time from a step to the next; 0 after the end.
    decisions : int64 [N], the steps of each episode.
    """

    time_s: NDArray[np.float64]
    reward: NDArray[np.float64]
    decisions: NDArray[np.int64]


class Stopped(Exception):
    """Nobody waits for these episodes any more."""


def make_environments(
    environment: dict[str, Any], number: int, threads: int | None = None
) -> LLMSchedVectorEnv:
    """So many clusters, which stay as they are at the end of their episodes."""
    return LLMSchedVectorEnv(
        number, autoreset_mode=AutoresetMode.DISABLED, copy=False, threads=threads, **environment
    )


def play(
    envs: LLMSchedVectorEnv,
    act: Act,
    seeds: Sequence[int],
    limit_s: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Trajectory:
    """Play an episode in each environment until all are over.

    Raises
    ------
    Stopped
        as soon as ``stopped()``.
    """
    options = None if limit_s is None else {"time_limit": limit_s}
    observation, _ = envs.reset(seed=list(seeds), options=options)
    over = np.zeros(envs.num_envs, np.bool_)
    decisions = np.zeros(envs.num_envs, np.int64)
    times, rewards = [times_s(observation)], []
    while not over.all():
        if stopped():
            raise Stopped
        decisions += ~over
        observation, reward, terminated, truncated, _ = envs.step(act(observation))
        over |= terminated | truncated
        times.append(times_s(observation))
        rewards.append(np.array(reward))
    return Trajectory(np.stack(times), np.stack(rewards), decisions)


def times_s(observation: Observation) -> NDArray[np.float64]:
    """The time in each environment: float64 [N], seconds."""
    return observation["cluster"][:, CLUSTER["time_s"]].astype(np.float64)
