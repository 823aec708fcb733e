"""The policies in the environment."""

import numpy as np
import pytest

from llmsched_gym.agents.base import POLICIES, Policy, PriorityPolicy, make_policy
from llmsched_gym.env.scheduling import LLMSchedEnv


def play(policy: Policy, seed: int = 0, **options: str | float) -> LLMSchedEnv:
    """An episode in an overloaded cluster that takes offence at illegal actions."""
    env = LLMSchedEnv("planning", num_jobs=30, load=3.0, strict=True, **options)  # type: ignore[arg-type]
    observation, _ = env.reset(seed=seed)
    policy.reset(seed)
    over = False
    while not over:
        action = int(np.asarray(policy.act(observation)))
        if isinstance(policy, PriorityPolicy):
            assert action < env.max_stages or not observation["action_mask"][:-1].any()
        observation, _, over, _, _ = env.step(action)
    return env


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_completes_all_jobs(name: str) -> None:
    assert np.isfinite(play(make_policy(name)).job_table()["jct_s"]).all()


def test_knowing_more_helps_when_the_cluster_is_overloaded() -> None:
    def mean(name: str, belief: str) -> float:
        policy = make_policy(name)
        played = [play(policy, seed, belief=belief).job_table()["jct_s"] for seed in range(3)]
        return float(np.mean(played))

    oracle, srtf, fcfs = mean("srtf", "oracle"), mean("srtf", "bayes"), mean("fcfs", "none")
    assert oracle < srtf < fcfs
