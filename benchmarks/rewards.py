"""What rewards cost in a vector environment: ``python benchmarks/rewards.py``."""

from __future__ import annotations

import timeit

import numpy as np

from llmsched_gym.env import LLMSchedVectorEnv, Step
from llmsched_gym.env.reward import REWARDS, Custom, Reward

CLUSTERS, JOBS, STEPS = 64, 100, 300


def own(step: Step) -> float:
    """The cheapest reward of one's own."""
    return -float(step.job_seconds)


def main() -> None:
    """Print microseconds for a step of all clusters."""
    envs = LLMSchedVectorEnv(CLUSTERS, num_jobs=JOBS, belief="none", max_stages=256)
    observation, _ = envs.reset(seed=0)
    before = envs._so_far
    for _ in range(STEPS):
        observation, *_ = envs.step(observation["action_mask"].argmax(axis=1))
    every = np.ones(CLUSTERS, np.bool_)
    rewards: dict[str, Reward] = {**REWARDS, "one's own": Custom(own, "own")}
    for name, reward in rewards.items():
        envs.scenario.reward = reward
        seconds = min(
            timeit.repeat(
                lambda: envs.scenario.rewards(before, envs._so_far, envs._states.jobs, every),
                number=20,
            )
        )
        print(f"{name:12} {seconds / 20 * 1e6:6.0f} us")
    seconds = min(timeit.repeat(lambda: envs.step(envs._mask.argmax(axis=1)), number=20))
    print(f"{'whole step':12} {seconds / 20 * 1e6:6.0f} us, with the last of them")


if __name__ == "__main__":
    main()
