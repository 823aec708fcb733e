"""Policies of a user: registered nowhere."""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, stage_feature


class ByDemand(PriorityPolicy):
    def __init__(self, sign: float, bonus: float = 0.0) -> None:
        self.sign = sign
        self.bonus = bonus

    def priority(self, observation: Observation) -> Scores:
        return self.sign * stage_feature(observation, "demand_s") + self.bonus


class Unsure(PriorityPolicy):
    """Has numbers for some rows only."""

    scores: tuple[float, ...] = ()

    def priority(self, observation: Observation) -> Scores:
        return np.array(self.scores)
