"""Jobs made smaller or larger: what is scaled, what stays, and what cannot be."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.workload.arrivals import Burst
from llmsched_gym.workload.bank import JobBank, limits_from_past
from llmsched_gym.workload.job import MAX_DURATION_S, MAX_TOKENS, LLMTask, RegularTask
from llmsched_gym.workload.mixes import Workload, make_workload
from support.strategies import banks

FACTORS = st.floats(1e-3, 1e3)
SCALED = {"prompt_tokens", "output_tokens", "duration_s", "output_limit"}


def same(one: JobBank, other: JobBank, but: set[str] | None = None) -> None:
    for field in fields(JobBank):
        if field.name not in (but or ()):
            first, second = getattr(one, field.name), getattr(other, field.name)
            np.testing.assert_array_equal(first, second, err_msg=field.name)


@given(banks(max_size=3), banks(max_size=3), FACTORS, FACTORS, FACTORS)
def test_every_task_is_scaled_and_nothing_else(
    bank: JobBank, past: JobBank, prompt: float, output: float, duration: float
) -> None:
    workload = Workload("mine", bank, past, Burst(), notes=("read",), on_bad_job="skip")
    scaled = workload.scaled(prompt, output, duration)
    for before, after in ((workload.bank, scaled.bank), (workload.past, scaled.past)):
        same(before, after, but=SCALED)
        for old, new in zip(before.jobs(), after.jobs(), strict=True):
            for one, other in zip(old.tasks(), new.tasks(), strict=True):
                if isinstance(one, RegularTask):
                    assert isinstance(other, RegularTask)
                    assert other.duration_s == one.duration_s * duration
                else:
                    assert isinstance(other, LLMTask)
                    assert other.prompt_tokens == max(1, round(one.prompt_tokens * prompt))
                    assert other.output_tokens == max(1, round(one.output_tokens * output))
    again = JobBank.from_jobs(scaled.past.jobs())
    same(again, scaled.past)  # their limits are those of the scaled tasks
    same(limits_from_past(JobBank.from_jobs(scaled.bank.jobs()), again), scaled.bank)
    assert (scaled.name, scaled.arrivals) == (workload.name, workload.arrivals)
    assert scaled.on_bad_job == "skip"
    told = (prompt, output, duration) != (1, 1, 1)
    assert (scaled.notes[0], len(scaled.notes)) == ("read", 1 + told)


@given(banks(max_size=3))
def test_the_factor_one_changes_nothing(bank: JobBank) -> None:
    workload = Workload("mine", bank, bank, Burst())
    assert workload.scaled() is workload
    same(bank.scaled(), bank)


@given(banks(max_size=3, max_tokens=2**31 - 1), FACTORS)
def test_a_larger_factor_never_makes_a_task_smaller(bank: JobBank, factor: float) -> None:
    small, smaller = bank.scaled(1e-3, 1e-3, 1e-3), bank.scaled(*[min(1e-3, factor / 1e6)] * 3)
    for name in SCALED:
        assert (getattr(small, name) >= getattr(smaller, name)).all()
    kinds = (small.prompt_tokens > 0, small.output_tokens > 0)
    np.testing.assert_array_equal(*kinds)  # an LLM task stays one, a regular one too


def test_the_note_tells_the_factors() -> None:
    workload = make_workload(
        "planning", jobs_per_application=3, prompt_scale=0.02, output_scale=0.15, duration_scale=2
    )
    assert workload.notes == ("scaled: prompts x 0.02, outputs x 0.15, tool times x 2",)
    plain = make_workload("planning", jobs_per_application=3)
    same(workload.bank, plain.scaled(0.02, 0.15, 2).bank)
    same(workload.past, plain.scaled(0.02, 0.15, 2).past)
    assert plain.notes == ()


def test_the_arrivals_of_an_episode_stay() -> None:
    plain = make_workload("planning", jobs_per_application=9)
    drawn = [w.draw(np.random.default_rng(0), 20, 2.0) for w in (plain, plain.scaled(2, 3, 4))]
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_beliefs_are_fitted_on_the_scaled_past() -> None:
    """Tools that take ten times as long are expected to; LLM stages stay as they were."""
    plain = make_workload("task_automation", jobs_per_application=60)
    latency, settings = load_cluster("constant").latency, BeliefSettings()
    before, after = (
        load_or_fit(one.past, latency, settings) for one in (plain, plain.scaled(duration=10))
    )
    one, other = before.networks["task_automation"], after.networks["task_automation"]
    ratios = set()
    for old, new in zip(one.demand_bins, other.demand_bins, strict=True):
        ratios |= {round(ratio, 9) for ratio in (new.mean[1:] / old.mean[1:]).tolist()}
    assert ratios == {1.0, 10.0}


BAD = [0, -1, math.inf, math.nan, True, "2", None, 10**400]


@pytest.mark.parametrize("option", ["prompt", "output", "duration"])
@pytest.mark.parametrize("factor", BAD)
def test_a_bad_factor_is_named(option: str, factor: Any) -> None:
    workload = make_workload("planning", jobs_per_application=2)
    with pytest.raises(ValueError, match=f"^{option}_scale: .* is not a positive factor$") as told:
        workload.scaled(**{option: factor})
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=f"^{option}_scale: "):
        make_workload("planning", jobs_per_application=2, **{f"{option}_scale": factor})


@pytest.mark.parametrize("factor", [1e8, 1e308])
@pytest.mark.parametrize(
    ("option", "most"),
    [("prompt", MAX_TOKENS), ("output", MAX_TOKENS), ("duration", int(MAX_DURATION_S))],
)
def test_a_factor_that_makes_tasks_too_large_is_named(
    option: str, most: int, factor: float
) -> None:
    workload = make_workload("planning", jobs_per_application=2)
    small = replace(workload, bank=workload.bank.scaled(1e-3, 1e-3, 1e-3))
    for one in (workload, small):  # the past alone may be too large
        with pytest.raises(ValueError, match=f"^{option}_scale: .* at most {most} are possible$"):
            one.scaled(**{option: factor})


def test_the_largest_tasks_are_possible() -> None:
    workload = make_workload("planning", jobs_per_application=2)
    longest = max(int(bank.prompt_tokens.max()) for bank in (workload.bank, workload.past))
    scaled = workload.scaled(prompt=MAX_TOKENS / longest)
    assert max(scaled.bank.prompt_tokens.max(), scaled.past.prompt_tokens.max()) <= MAX_TOKENS
