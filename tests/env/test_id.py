"""What `LLMSched-v0` is: a change that fails here makes other numbers, and is `LLMSched-v1`.

See docs/project.md, "Versions". The numbers are what this code makes, not what an oracle says.
"""

from __future__ import annotations

import hashlib

import gymnasium
import pytest

from llmsched_gym.agents import make_policy
from llmsched_gym.env import CLUSTER_FEATURES, JOB_FEATURES, STAGE_FEATURES

TABLES = (STAGE_FEATURES, JOB_FEATURES, CLUSTER_FEATURES)
COLUMNS = "26eefc0118869854"  # of the names and units of all columns, in their order


@pytest.mark.parametrize(
    ("workload", "policy", "belief", "mean_jct_s"),
    [
        ("mixed", "fcfs", "none", 45.2282127231613),
        ("predefined", "fcfs", "none", 184.79935329388215),
        ("chain_like", "fcfs", "none", 9.244046358963832),
        ("planning", "fcfs", "none", 17.96892890936973),
        ("planning", "srtf", "bayes", 17.606002491453467),
    ],
)
def test_the_same_options_and_seed_give_the_same_numbers(
    workload: str, policy: str, belief: str, mean_jct_s: float
) -> None:
    env = gymnasium.make("LLMSched-v0", workload=workload, num_jobs=30, belief=belief)
    chooses = make_policy(policy)
    observation, info = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(chooses.act(observation))
        total, over = total + float(reward), terminated or truncated
    assert info["mean_jct_s"] == pytest.approx(mean_jct_s, rel=1e-9)
    assert total == pytest.approx(-30 * mean_jct_s, rel=1e-9)


def test_columns_are_where_they_were() -> None:
    named = repr([[tuple(feature)[:2] for feature in table] for table in TABLES])
    assert hashlib.sha256(named.encode()).hexdigest()[:16] == COLUMNS
