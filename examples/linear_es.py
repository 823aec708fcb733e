"""A learner of one's own, trained by train.py: a weight for each feature, by evolution strategies.

    python train.py agent=custom agent.path=examples.linear_es:LinearES +agent.pairs=16 \
        workload=planning workload.load=2 output_dir=outputs/linear
    python evaluate.py policy=custom policy.path=examples.linear_es:LinearES \
        +policy.checkpoint=outputs/linear/best.safetensors workload=planning workload.load=2

Salimans, Ho, Chen, Sidor and Sutskever, "Evolution Strategies as a Scalable Alternative to
Reinforcement Learning", 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmsched_gym.agents import CustomLearner, PriorityPolicy, job_feature
from llmsched_gym.env import LLMSchedVectorEnv

READ = ("age_s", "attained_s", "demand_s", "demand_std_s", "gittins_s")  # of the job of a stage


class LinearES(CustomLearner, PriorityPolicy):
    """The stage goes first whose job's features, weighted, have the largest sum."""

    columns = ("spread",)  # what iterate() says beside the decisions and the return

    def __init__(
        self, checkpoint: str | None = None, pairs: int = 8, noise: float = 0.3, rate: float = 0.3
    ) -> None:
        self.pairs, self.noise, self.rate = pairs, noise, rate
        self.weights = np.zeros(len(READ))
        self.load(checkpoint)

    def priority(self, observation: Any) -> Any:
        """Of one observation or a batch; ``weights`` are [features], or [batch, features]."""
        seen = np.stack([job_feature(observation, name) for name in READ], -1)
        return (np.log1p(np.maximum(seen, 0)) * self.weights[..., None, :]).sum(-1)

    def begin(self, training: Any) -> None:
        """Two clusters a pair: one with some noise on the weights, one with its opposite."""
        self.clusters = LLMSchedVectorEnv(
            2 * self.pairs, autoreset_mode="Disabled", **training.environment
        )

    def iterate(self, rng: np.random.Generator) -> dict[str, float]:
        """An episode in each cluster, of the same jobs; the weights go where it was better."""
        half = rng.normal(size=(self.pairs, len(READ)))
        noise, mean = np.concatenate([half, -half]), self.weights
        self.weights = mean + self.noise * noise
        seen, _ = self.clusters.reset(seed=[int(rng.integers(2**31))] * len(noise))
        returns, decisions, over = np.zeros(len(noise)), 0, np.zeros(len(noise), bool)
        while not over.all():
            decisions += int((~over).sum())
            seen, reward, terminated, truncated, _ = self.clusters.step(self.act(seen))
            returns, over = returns + reward, over | terminated | truncated
        score = (returns - returns.mean()) / (returns.std() + 1e-9)
        self.weights = mean + self.rate * (score[:, None] * noise).mean(0)
        return {"decisions": decisions, "return": returns.mean(), "spread": returns.std()}

    def state_dict(self) -> dict[str, Any]:
        """All it has learnt, and needs to go on."""
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite."""
        self.weights = state["weights"].numpy()
