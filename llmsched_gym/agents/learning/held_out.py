"""Held-out evaluation: whole episodes that are the same for everyone, and nobody learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.learning.episodes import Act, make_environments, play
from llmsched_gym.agents.learning.run import HELD_OUT

COMPARED = ("fcfs", "sjf", "srtf", "llmsched", "resource_srtf")  # on the held-out episodes


class HeldOut:
    """The same whole episodes for everyone, with jobs that nobody learns from.

    Whatever is learnt from, what counts here is the mean JCT; of several environments its geometric
    mean over them, so that a per cent is worth as much in each.
    """

    def __init__(self, environments: Sequence[dict[str, Any]], episodes: int) -> None:
        self._all = [make_environments(one | {"reward": "jct"}, episodes) for one in environments]
        self._seeds = range(HELD_OUT, HELD_OUT + episodes)
        self.episodes = episodes
        self.scenario = self._all[0].scenario

    def mean_jct_s(self, act: Act) -> float:
        """The mean JCT, seconds."""
        means = []
        for envs in self._all:
            reward = play(envs, act, self._seeds).reward
            means.append(-float(reward.sum(0).mean()) / envs.scenario.num_jobs)
        return means[0] if len(means) == 1 else float(np.exp(np.log(means).mean()))

    def mean_jct_of(self, name: str) -> float:
        """The mean JCT of a policy with its default options, seconds."""
        policy = make_policy(name)
        policy.reset(HELD_OUT)
        return self.mean_jct_s(lambda observation: np.asarray(policy.act(observation)))
