"""Another past than that of the jobs that are drawn: what beliefs are then fitted on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents import make_policy
from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.env import LLMSchedEnv
from llmsched_gym.evaluation import play
from llmsched_gym.workload.arrivals import Burst
from llmsched_gym.workload.bank import JobBank, limits_from_past
from llmsched_gym.workload.job import MAX_TOKENS, LLMTask
from llmsched_gym.workload.mixes import Workload, make_workload
from support.strategies import banks


def same(one: JobBank, other: JobBank, but: str = "") -> None:
    for field in fields(JobBank):
        if field.name != but:
            first, second = getattr(one, field.name), getattr(other, field.name)
            np.testing.assert_array_equal(first, second, err_msg=field.name)


@given(banks(max_size=8), banks(max_size=3), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_the_past_changes_and_the_jobs_stay(
    past: JobBank, bank: JobBank, count: int, scale: float
) -> None:
    workload = Workload("mine", bank, past, Burst(), notes=("read",))
    changed = workload.with_past(jobs=count, token_scale=scale)
    same(workload.bank, changed.bank, but="output_limit")
    same(limits_from_past(bank, changed.past), changed.bank)
    kept = [job for n, job in enumerate(past.jobs()) if earlier(past, n) < count]
    for old, new in zip(kept, changed.past.jobs(), strict=True):
        assert (old.application, old.job_id) == (new.application, new.job_id)
        for one, other in zip(old.tasks(), new.tasks(), strict=True):
            if not isinstance(one, LLMTask):
                assert one == other
                continue
            assert isinstance(other, LLMTask)
            assert other.prompt_tokens == max(1, round(one.prompt_tokens * scale))
            assert other.output_tokens == max(1, round(one.output_tokens * scale))
    assert len(changed.notes) == 2


def earlier(bank: JobBank, index: int) -> int:
    """Jobs of the same application before one of them."""
    row = bank.job_application.tolist()
    return row[:index].count(row[index])


@given(banks(max_size=3))
def test_without_a_change_it_is_the_same_workload(bank: JobBank) -> None:
    workload = Workload("mine", bank, bank, Burst())
    assert workload.with_past() is workload


def test_options_of_a_workload() -> None:
    plain = make_workload("planning", jobs_per_application=9)
    fewer = make_workload("planning", jobs_per_application=9, past_jobs=3)
    assert Counter(fewer.past.job_application.tolist()) == {0: 3, 1: 3}
    same(fewer.past, make_workload("planning", jobs_per_application=3).past)
    assert fewer.notes == ("past: 6 jobs of parallel_function_calling, task_automation",)
    other = make_workload("planning", jobs_per_application=9, past_mix="web_search")
    same(other.past, make_workload("web_search", jobs_per_application=9).past)
    drifted = make_workload("planning", jobs_per_application=9, past_token_scale=0.5)
    same(drifted.past, plain.past.scaled(0.5, 0.5))
    assert drifted.notes[0].endswith(", tokens x 0.5")
    both = make_workload(
        "planning", jobs_per_application=9, past_token_scale=0.5, output_scale=4, duration_scale=2
    )
    same(both.past, plain.past.scaled(0.5, 0.5).scaled(1, 4, 2))
    for one in (fewer, other, drifted):
        same(plain.bank, one.bank, but="output_limit")
    assert plain.notes == ()


def test_jobs_arrive_as_before_and_a_policy_without_belief_does_the_same() -> None:
    pasts: list[dict[str, Any]] = [{"past_jobs": 5}, {"past_mix": "planning"}]
    found = []
    for past in ({}, *pasts, {"past_token_scale": 2}):
        env = LLMSchedEnv(make_workload("mixed", **past), num_jobs=30, belief="none")
        found.append(play(env, make_policy("fcfs"), "fcfs", 0, 0))
    for one in found[1:]:
        for column in ("arrival_s", "jct_s"):
            np.testing.assert_array_equal(one.jobs[column], found[0].jobs[column])


def test_applications_without_a_past_are_unknown_and_can_be_played() -> None:
    workload = make_workload("chain_like", past_mix="predefined", jobs_per_application=40)
    env = LLMSchedEnv(workload, num_jobs=8)
    profile = load_or_fit(workload.past, env.cluster.latency, BeliefSettings())
    missing = profile.missing(workload.bank.applications)
    assert [note.partition(":")[0] for note in missing] == ["code_generation", "web_search"]
    assert (play(env, make_policy("llmsched"), "llmsched", 0, 0).jobs["jct_s"] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"past_jobs": n}, "past_jobs: .* is not a whole number of at least 1$")
            for n in (0, 2.5)
        ),
        ({"past_jobs": "9"}, "past_jobs: '9' is not a whole number"),
        ({"past_jobs": True}, "past_jobs: True is not a whole number"),
        ({"past_mix": "planing"}, r"past_mix: unknown 'planing' \(did you mean 'planning'\?\)"),
        ({"past_mix": "traces"}, "past_mix: unknown 'traces', choose from"),
        ({"past_mix": 5}, "past_mix: unknown 5, choose from"),
        *(
            ({"past_token_scale": x}, "past_token_scale: .* is not a positive factor$")
            for x in (0, -1.0, math.nan, math.inf, True, "2", None)
        ),
        ({"past_token_scale": 1e9}, f"past_token_scale: .* at most {MAX_TOKENS} are possible$"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as told:
        make_workload("planning", jobs_per_application=2, **options)
    assert "\n" not in str(told.value)
