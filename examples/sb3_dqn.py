"""DQN of stable-baselines3, which has no masks: what it does that is illegal is counted.

    python examples/sb3_dqn.py

An illegal action waits for the next event (``info["invalid_action"]``). Small observations keep the
replay buffer small: docs/clients.md.
"""

from __future__ import annotations

import numpy as np
from gymnasium import Env, Wrapper, make, spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy

import llmsched_gym  # noqa: F401 (registers the id)

DECISIONS = 20_000
SIZES = {"workload": "planning", "num_jobs": 20, "load": 2.0, "max_stages": 32, "max_jobs": 16}
READ = ("stages", "jobs", "cluster", "stage_job", "action_mask")


class Counted(Wrapper):
    """Counts decisions, and those that were illegal."""

    decisions = illegal = 0

    def step(self, action: int) -> tuple:
        """A step."""
        result = self.env.step(action)
        self.decisions += 1
        self.illegal += "invalid_action" in result[-1]
        return result


def flat(env: Env) -> Env:
    """Float32 [n], the legal actions among it: seconds, tokens and counts in one range."""

    def in_a_row(seen: dict) -> np.ndarray:
        return np.log1p(np.concatenate([seen[name].ravel() for name in READ], dtype=np.float32))

    width = sum(int(np.prod(env.observation_space[name].shape)) for name in READ)
    return TransformObservation(env, in_a_row, spaces.Box(0, np.inf, (width,), np.float32))


def main() -> float:
    """Learn; returns the share of illegal actions of what was learnt."""
    counted = Counted(flat(make("LLMSched-v0", **SIZES)))
    model = DQN(
        *("MlpPolicy", counted),
        learning_starts=500,
        buffer_size=20_000,
        exploration_fraction=0.5,
        seed=0,
        device="cpu",
    )
    model.learn(DECISIONS)
    print(f"while learning: {counted.illegal / counted.decisions:.0%} of the actions were illegal")
    counted.illegal = counted.decisions = 0
    evaluate_policy(model, counted, n_eval_episodes=2, warn=False)
    share = counted.illegal / counted.decisions
    print(f"what was learnt: {share:.0%} of the actions are illegal")
    return share


if __name__ == "__main__":
    main()
