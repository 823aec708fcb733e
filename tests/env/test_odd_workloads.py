# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls, no-disallow-incomplete-defs
"""Workloads that no application would make: nothing hangs, crashes or leaves no legal action."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.agents.base import POLICIES, make_policy
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job
from llmsched_gym.workload.mixes import Workload
from support.strategies import job_lists, llm, tool


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Beliefs of odd jobs stay out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def environment(evaluated, past, **options):
    workload = Workload("odd", JobBank.from_jobs(evaluated), JobBank.from_jobs(past), Poisson())
    return LLMSchedEnv(workload, "constant", num_jobs=6, arrival_rate=1.0, **options)


def play(env, act, seed=0):
    """To the end, checking what holds at every step."""
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        assert observation["action_mask"].any()
        assert env.observation_space.contains(observation)
        observation, reward, over, truncated, info = env.step(act(observation))
        assert not truncated
        total += reward
    assert observation["action_mask"].any()
    assert info["jobs_completed"] == env.num_jobs
    assert total == pytest.approx(-env.job_table()["jct_s"].sum())


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda observation: int(rng.choice(np.flatnonzero(observation["action_mask"])))


def circle(number):
    """By turns a job in which stage "a" reveals "b", and one in which "b" reveals "a"."""
    first, second = (llm, tool) if number % 2 else (tool, llm)
    names = ("a", "b") if number % 2 else ("b", "a")
    stages = (
        llm("plan", tasks=1 + number % 3),
        first(names[0], parents=(0,), revealed_by=0),
        second(names[1], parents=(1,), revealed_by=1, tasks=1 + number % 4),
        tool("end", parents=(2,), revealed_by=2),
    )
    return Job("circle", f"job-{number}", stages)


@pytest.mark.parametrize("belief", BELIEFS)
def test_stages_that_reveal_each_other_by_turns(belief):
    jobs = [circle(number) for number in range(120)]
    env = environment(jobs[:40], jobs[40:], belief=belief)
    reveals = env.scenario.templates.reveals, env.scenario.templates.reveals_of
    pairs = {(r, int(s)) for r in range(len(reveals[1]) - 1) for s in np.split(*reveals)[r + 1]}
    assert pairs & {(s, r) for r, s in pairs}, "there is a circle"
    for name in POLICIES:
        if belief != "none" or not POLICIES[name].needs_belief:
            policy = make_policy(name)
            policy.reset(0)
            play(env, lambda observation, policy=policy: int(policy.act(observation)))


@given(job_lists(max_size=4), job_lists(max_size=4), st.integers(0, 100))
@settings(max_examples=40, derandomize=True)
def test_any_jobs_whatever_the_past_was_like(evaluated, past, seed):
    play(environment(evaluated, past, belief="none"), at_random(seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("belief", ["prior", "bayes", "oracle"])
@given(st.data())
@settings(max_examples=15, derandomize=True)
def test_any_jobs_with_a_belief(belief, data):
    evaluated, past = data.draw(job_lists(max_size=4)), data.draw(job_lists(max_size=8))
    fit = BeliefSettings(min_jobs=2, bins=2)
    env = environment(evaluated, past, belief=belief, belief_settings=fit)
    play(env, at_random(data.draw(st.integers(0, 100))))
