# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls, no-disallow-incomplete-defs
"""The environment's contract: spaces, checkers, masks, rewards, seeds, errors."""

import pickle
import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import llmsched_gym
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.actions import InvalidAction
from llmsched_gym.env.features import CLUSTER, JOB, STAGE
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import WORKLOADS, make_workload

GENERATED = [name for name in WORKLOADS if name not in ("traces", "described")]


def make(**options):
    defaults: dict[str, Any] = {"workload": "planning", "num_jobs": 8, "belief": "none"}
    return LLMSchedEnv(**(defaults | options))


def run(env, seed, rng=None):
    """Random legal actions to the end; returns every reward, and the last info."""
    rng = rng or np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    rewards, done = [], False
    while not done:
        assert observation["action_mask"].any()
        action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        done = terminated or truncated
    assert observation["action_mask"][-1] == 1
    return rewards, info, observation


def test_registered_with_and_without_the_import():
    assert "LLMSched-v0" in gymnasium.registry
    env = gymnasium.make("llmsched_gym:LLMSched-v0", num_jobs=2, belief="none")
    assert isinstance(env.unwrapped, LLMSchedEnv)
    assert llmsched_gym.__version__


def check_with_gymnasium(workload, belief):
    env = make(workload=workload, belief=belief, num_jobs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


def check_with_stable_baselines(workload, belief):
    """It may only remark that tables are 2-D."""
    env = make(workload=workload, belief=belief, num_jobs=4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sb3_check_env(env, skip_render_check=True)
    others = [str(w.message) for w in said if "is not 1-D" not in str(w.message)]
    others = [text for text in others if "unconventional shape" not in text]
    assert others == []


@pytest.mark.parametrize("belief", BELIEFS)
@pytest.mark.parametrize("workload", ["planning", "chain_like", "predefined"])
def test_checkers_have_no_complaint(workload, belief):
    check_with_gymnasium(workload, belief)
    check_with_stable_baselines(workload, belief)


@pytest.mark.slow
@pytest.mark.parametrize("belief", BELIEFS)
@pytest.mark.parametrize("workload", GENERATED)
def test_checkers_on_every_workload(workload, belief):
    check_with_gymnasium(workload, belief)
    check_with_stable_baselines(workload, belief)


@pytest.mark.slow
@pytest.mark.parametrize("belief", BELIEFS)
def test_checkers_on_traces(shared, belief):
    workload = make_workload("traces", path=shared / "traces")
    check_with_gymnasium(workload, belief)
    check_with_stable_baselines(workload, belief)


@pytest.mark.parametrize("seed", range(3))
def test_return_is_minus_the_sum_of_completion_times(seed):
    env = make()
    rewards, info, _ = run(env, seed)
    jct = env.job_table()["jct_s"]
    assert np.all(jct >= 0)
    assert sum(rewards) == pytest.approx(-jct.sum(), rel=1e-9)
    assert info["mean_jct_s"] == pytest.approx(jct.mean())
    assert info["makespan_s"] == pytest.approx(env.job_table()["completion_s"].max())


def test_same_seed_same_episode_other_seed_another():
    first, info, observation = run(make(belief="bayes"), 5)
    again, info_again, observation_again = run(make(belief="bayes"), 5)
    assert first == again
    assert info["application_jct_s"] == info_again["application_jct_s"]
    for key in observation:
        np.testing.assert_array_equal(observation[key], observation_again[key])
    assert run(make(belief="bayes"), 6)[0] != first


def test_every_policy_meets_the_same_jobs():
    env = make()
    run(env, 3, np.random.default_rng(1))
    jobs = env.job_table()
    run(env, 3, np.random.default_rng(2))
    np.testing.assert_array_equal(jobs["arrival_s"], env.job_table()["arrival_s"])
    np.testing.assert_array_equal(jobs["application"], env.job_table()["application"])


def test_observations_are_fresh_arrays():
    env = make()
    first, _ = env.reset(seed=0)
    kept = {key: value.copy() for key, value in first.items()}
    env.step(int(np.flatnonzero(first["action_mask"])[0]))
    for key in first:
        np.testing.assert_array_equal(first[key], kept[key])


def test_masks_agree_and_writing_into_them_changes_nothing():
    env = make()
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(info["action_mask"], observation["action_mask"])
    np.testing.assert_array_equal(env.action_masks(), observation["action_mask"].astype(bool))
    legal = int(np.flatnonzero(observation["action_mask"])[0])
    observation["action_mask"][:] = 0
    info["action_mask"][:] = 0
    assert "invalid_action" not in env.step(legal)[4]


def test_illegal_action_waits_and_says_so_or_raises_when_strict():
    env, waiting = make(), make()
    observation, _ = env.reset(seed=1)
    waiting.reset(seed=1)
    illegal = int(np.flatnonzero(observation["action_mask"] == 0)[0])
    got, reward, *_, info = env.step(illegal)
    same, same_reward, *_, _ = waiting.step(waiting.max_stages)
    assert info["invalid_action"] is True
    assert reward == same_reward
    np.testing.assert_array_equal(got["stages"], same["stages"])
    strict = make(strict=True)
    strict.reset(seed=1)
    with pytest.raises(InvalidAction, match=f"row {illegal}"):
        strict.step(illegal)


def test_an_illegal_action_where_nothing_ends_a_wait_runs_the_first_legal_stage():
    workload = make_workload("mixed", arrivals="burst", jobs_per_application=20)
    env, legal = make(workload=workload), make(workload=workload)
    observation, _ = env.reset(seed=1)
    legal.reset(seed=1)
    assert observation["action_mask"][-1] == 0, "all jobs are there, and none runs"
    got, reward, *_, info = env.step(env.max_stages)
    same, same_reward, *_ = legal.step(int(observation["action_mask"].argmax()))
    assert info["invalid_action"] is True
    assert reward == same_reward
    np.testing.assert_array_equal(got["stages"], same["stages"])


def test_small_tables_show_the_oldest_jobs_and_count_the_rest():
    rows = make(num_jobs=1).max_stages
    env = make(num_jobs=30, load=20.0, max_stages=rows, max_jobs=3)
    hidden = 0.0
    observation, _ = env.reset(seed=0)
    done = False
    while not done:
        cluster = observation["cluster"]
        shown = observation["job_mask"].sum()
        assert cluster[CLUSTER["jobs_in_system"]] == shown + cluster[CLUSTER["jobs_not_shown"]]
        hidden = max(hidden, float(cluster[CLUSTER["jobs_not_shown"]]))
        action = int(np.flatnonzero(observation["action_mask"])[0])
        observation, _, done, _, info = env.step(action)
    assert hidden > 0
    assert info["jobs_completed"] == 30


def test_time_limit_truncates():
    env = make(num_jobs=50, time_limit=5.0)
    _, info, _ = run(env, 0)
    assert info["makespan_s"] == 5.0
    assert info["jobs_completed"] < 50
    assert np.isnan(env.job_table()["jct_s"]).any()


def test_features_mean_what_they_say():
    env = make(workload="mixed", num_jobs=20, belief="bayes", load=3.0)
    observation, _ = env.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(300):
        stages = observation["stages"][observation["stage_mask"] == 1]
        jobs = observation["jobs"][observation["job_mask"] == 1]
        owner = observation["stage_job"][observation["stage_mask"] == 1]
        kinds = stages[:, [STAGE["is_llm"], STAGE["is_regular"], STAGE["is_dynamic"]]]
        assert (kinds.sum(axis=1) == 1).all()
        running = np.bincount(owner, stages[:, STAGE["running_tasks"]], len(jobs))
        np.testing.assert_allclose(running, jobs[:, JOB["running_tasks"]])
        demand = np.bincount(owner, stages[:, STAGE["demand_s"]], len(jobs))
        assert (demand <= jobs[:, JOB["demand_s"]] * (1 + 1e-4) + 1e-3).all()
        low, mean, high = (
            jobs[:, JOB[name]] for name in ("demand_low_s", "demand_s", "demand_high_s")
        )
        assert (low <= high + 1e-4).all()
        assert (mean >= 0).all()
        edges = observation["edges"][observation["edge_mask"] == 1]
        assert (edges[:, 0] < edges[:, 1]).all()
        assert (owner[edges[:, 0]] == owner[edges[:, 1]]).all()
        action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
        observation, _, done, _, _ = env.step(action)
        if done:
            break


def test_ansi_rendering_names_applications():
    env = make(render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert "jobs" in text
    assert any(name in text for name in env.bank.applications)


def test_environment_can_be_pickled_mid_episode():
    env = make(belief="bayes")
    observation, _ = env.reset(seed=4)
    copy = pickle.loads(pickle.dumps(env))
    for _ in range(20):
        action = int(np.flatnonzero(observation["action_mask"])[0])
        observation, reward, *_ = env.step(action)
        other, other_reward, *_ = copy.step(action)
        assert reward == other_reward
        np.testing.assert_array_equal(observation["jobs"], other["jobs"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "nosuch"}, "mixed"),
        ({"cluster": "nosuch"}, "a100_llama2_7b"),
        ({"belief": "nosuch"}, "oracle"),
        ({"reward": "nosuch"}, "makespan"),
        ({"render_mode": "nosuch"}, "ansi"),
        ({"load": 0.0}, "load"),
        ({"load": -1.0}, "load"),
        ({"load": float("nan")}, "load"),
        ({"arrival_rate": 0.0}, "arrival_rate"),
        ({"num_jobs": 0}, "num_jobs"),
        ({"max_stages": 1}, "max_stages"),
        ({"max_jobs": 0}, "max_jobs"),
        ({"time_limit": 0.0}, "time_limit"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_a_task_larger_than_the_kv_cache_is_refused():
    cluster = load_cluster("a100_llama2_7b")
    tiny = replace(cluster, latency=replace(cluster.latency, kv_capacity_tokens=100))
    with pytest.raises(ValueError, match="100"):
        make(cluster=tiny)


def test_render_before_reset_is_an_error():
    with pytest.raises(RuntimeError, match="reset"):
        make(render_mode="ansi").render()


def test_one_job_bank_runs():
    workload = make_workload("web_search")
    one = JobBank.from_jobs([workload.bank.job(0)])
    env = make(workload=type(workload)("one", one, workload.past, workload.arrivals), num_jobs=1)
    _, info, _ = run(env, 0)
    assert info["jobs_completed"] == 1
