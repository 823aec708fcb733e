"""Held-out evaluation: whole episodes that are the same for everyone, and nobody learns from."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.learning.episodes import Act, make_environments, play
from llmsched_gym.agents.learning.run import HELD_OUT

COMPARED = ("fcfs", "sjf", "srtf", "llmsched", "resource_srtf")  # on the held-out episodes


class HeldOut:
    """The same whole episodes for everyone, with jobs that nobody learns from.

    Whatever is learnt from, what counts here is the mean JCT.
    """

    def __init__(self, environment: dict[str, Any], episodes: int) -> None:
        self._envs = make_environments(environment | {"reward": "jct"}, episodes)
        self._seeds = range(HELD_OUT, HELD_OUT + episodes)
        self.episodes = episodes
        self.scenario = self._envs.scenario

    def mean_jct_s(self, act: Act) -> float:
        """The mean JCT, seconds."""
        reward = play(self._envs, act, self._seeds).reward
        return -float(reward.sum(0).mean()) / self.scenario.num_jobs

    def mean_jct_of(self, name: str) -> float:
        """The mean JCT of a policy with its default options, seconds."""
        policy = make_policy(name)
        policy.reset(HELD_OUT)
        return self.mean_jct_s(lambda observation: np.asarray(policy.act(observation)))
