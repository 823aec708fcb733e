"""Rewards: what their returns are, one's own, and that many clusters are as one."""

from __future__ import annotations

import sys
import types
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from llmsched_gym import metrics
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.env.reward import REWARDS, RewardError, Slo, Step, jct, reward_of
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from support.comparing import check_same
from support.sampled import sampled

SMALL: dict[str, Any] = {"workload": "planning", "num_jobs": 8, "load": 3.0, "belief": "none"}


def own(step: Step) -> float:
    """Of everything that a step has."""
    weight = np.where(step.jobs.application == "task_automation", 2.0, 1.0)
    there = step.jobs.completion_s > step.end_s
    late = (step.jobs.jct_s > 2 * step.jobs.alone_s) & (step.jobs.arrival_s <= step.end_s)
    return float((weight * there).sum() - late.sum() + step.elapsed_s - jct(step))


def played(reward: Any, seed: int = 0, **options: Any) -> tuple[float, LLMSchedEnv]:
    """The return of random actions, and the environment at the end."""
    env = LLMSchedEnv(**{**SMALL, **options}, reward=reward)
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action = int(rng.choice(np.flatnonzero(info["action_mask"])))
        _, amount, terminated, truncated, info = env.step(action)
        assert type(amount) is float
        total, over = total + amount, terminated or truncated
    return total, env


def alone_s(env: LLMSchedEnv) -> Any:
    return EmptyCluster(env.bank, env.cluster).alone_s(env.state.jobs["bank_job"])


@pytest.mark.parametrize("seed", range(5))
def test_the_return_of_slowdown_is_minus_the_sum_of_slowdowns(seed: int) -> None:
    total, env = played("slowdown", seed)
    slowdowns = metrics.slowdown(env.job_table()["jct_s"], alone_s(env))
    assert total == pytest.approx(-slowdowns.sum(), rel=1e-9)


@sampled("factor", [0.5, 1.0, 1.5, 2.0, 3.0, 1e9])
def test_the_return_of_slo_is_minus_the_jobs_that_missed_their_deadline(factor: float) -> None:
    for seed in range(5):
        total, env = played(Slo(factor), seed)
        missed = (env.job_table()["jct_s"] > factor * alone_s(env)).sum()
        assert total == -missed
        assert played(f"slo:{factor}", seed)[0] == -missed
    assert {0.5: missed == 8, 1e9: missed == 0}.get(factor, True)


def test_a_truncated_episode_counts_the_deadlines_before_its_end() -> None:
    total, env = played("slo:1.5", time_limit=20.0, num_jobs=30)
    table = env.job_table()
    assert np.isnan(table["jct_s"]).any()
    allowed = 1.5 * alone_s(env)
    due = table["arrival_s"] + allowed <= 20.0
    assert total == -(due & ~(table["jct_s"] <= allowed)).sum() < 0


def test_slowdown_of_a_truncated_episode_counts_the_time_so_far() -> None:
    total, env = played("slowdown", time_limit=20.0, num_jobs=30)
    table = env.job_table()
    there = np.where(np.isnan(table["jct_s"]), 20.0, table["completion_s"]) - table["arrival_s"]
    assert total == pytest.approx(-(np.maximum(there, 0) / alone_s(env)).sum(), rel=1e-9)


@sampled("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("reward", [*REWARDS, Slo(1.2), own], ids=[*REWARDS, "Slo", "own"])
def test_each_cluster_is_the_single_environment(mode: str, reward: Any) -> None:
    count, options = 3, {**SMALL, "num_jobs": 3, "reward": reward}
    ours = LLMSchedVectorEnv(count, autoreset_mode=mode, **options)
    theirs = SyncVectorEnv([lambda: LLMSchedEnv(**options)] * count, autoreset_mode=mode)
    seen, expected = ours.reset(seed=5), cast(Any, theirs.reset(seed=5))
    rng, episodes = np.random.default_rng(0), 0
    for _ in range(150):
        actions = (
            rng.random(expected[0]["action_mask"].shape) * expected[0]["action_mask"]
        ).argmax(1)
        seen, expected = cast(Any, ours.step(actions)), cast(Any, theirs.step(actions))
        check_same(seen, expected)
        over = expected[2] | expected[3]
        episodes += int(over.sum())
        if mode == "Disabled" and over.any():
            seen = ours.reset(options={"reset_mask": over})
            expected = theirs.reset(options={"reset_mask": over})
    assert episodes >= count


def test_one_that_is_ones_own() -> None:
    assert played(lambda step: -step.job_seconds)[0] == played("jct")[0]
    made = gymnasium.make("LLMSched-v0", **SMALL, reward=own)
    made.reset(seed=0)
    assert isinstance(made.step(0)[1], float)
    envs = gymnasium.make_vec("LLMSched-v0", num_envs=2, **SMALL, reward=own)
    envs.reset(seed=0)
    assert envs.step(np.array([0, 0]))[1].shape == (2,)


def test_one_in_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("module_of_rewards")
    module.__dict__.update(own=own, tight=Slo(1.5), number=3)
    monkeypatch.setitem(sys.modules, "module_of_rewards", module)
    assert played("module_of_rewards:own")[0] == played(own)[0]
    assert played("module_of_rewards:tight")[0] == played(Slo(1.5))[0]
    for name, why in (("nosuch", "has no 'nosuch'"), ("number", "is no function of a step")):
        with pytest.raises(ValueError, match=f"^reward: module_of_rewards.*{why}$"):
            reward_of(f"module_of_rewards:{name}")


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        ("slodown", r"unknown 'slodown' \(did you mean 'slowdown'\?\), choose from jct, "),
        ("", "unknown '', choose from"),
        ("slo:", "slo: nan is not a positive factor"),
        ("slo:-1", "slo: -1.0 is not a positive factor"),
        ("slo:five", "slo: nan is not a positive factor"),
        ("no_such_module:f", "no_such_module:f: cannot import 'no_such_module'"),
        (3, "3 is neither a name nor a function of a step"),
        (None, "None is neither"),
        (Slo, "Slo is no function of a step"),
        (lambda: 0.0, "does not take one argument, the step"),
        (lambda a, b: 0.0, "does not take one argument, the step"),
    ],
)
def test_what_is_no_reward(reward: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"^reward:? .*{why}|^reward: {why}") as raised:
        LLMSchedEnv(**SMALL, reward=reward)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "amount",
    [
        float("nan"),
        float("inf"),
        10**400,
        None,
        "1",
        True,
        np.zeros(2),
        np.zeros(()),
        np.zeros((9, 9)),
        1j,
    ],
    ids=repr,
)
def test_what_a_reward_may_not_return(amount: Any) -> None:
    def mine(step: Step) -> Any:
        return amount

    for env in (LLMSchedEnv(**SMALL, reward=mine), LLMSchedVectorEnv(2, **SMALL, reward=mine)):
        env.reset(seed=0)
        with pytest.raises(RewardError, match=r"mine returned .*, not a finite number$") as raised:
            env.step(cast(Any, 0 if isinstance(env, LLMSchedEnv) else np.zeros(2, np.int64)))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("amount", [1, np.float32(0.5), np.int64(-3)])
def test_what_it_may_return(amount: Any) -> None:
    env = LLMSchedEnv(**SMALL, reward=lambda step: amount)
    env.reset(seed=0)
    assert env.step(0)[1] == float(amount)
