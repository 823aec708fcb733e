from typing import Any

import pytest

from llmsched_gym.agents.base import make_policy
from llmsched_gym.env.features import CLUSTER
from support.observations import observation

JOBS: list[dict[str, Any]] = [
    {"running_tasks": 2, "prior_demand_s": 30, "demand_s": 5},
    {"running_tasks": 0, "prior_demand_s": 20, "demand_s": 15},
    {"running_tasks": 0, "prior_demand_s": 10, "demand_s": 10},
    {"running_tasks": 1, "prior_demand_s": 10, "demand_s": 5},
]
STAGES: list[dict[str, Any]] = [{"job": job} for job in (0, 0, 1, 2, 2, 3)]


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("fcfs", 0, "job 0 arrived first, and this is its first stage"),
        ("fair", 2, "jobs 1 and 2 have nothing running, job 1 arrived first"),
        ("sjf", 3, "jobs 2 and 3 had the least demand at arrival, job 2 arrived first"),
        ("srtf", 0, "jobs 0 and 3 have the least demand left, job 0 arrived first"),
    ],
)
def test_who_goes_first(name: str, row: int, why: str) -> None:
    assert make_policy(name).act(observation(JOBS, STAGES)) == row, why


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("fcfs", 1, "the second stage of job 0"),
        ("fair", 3, "the first stage of job 2, now that job 1 cannot run"),
        ("sjf", 4, "the second stage of job 2"),
        ("srtf", 1, "the second stage of job 0"),
    ],
)
def test_what_cannot_run_is_passed_over(name: str, row: int, why: str) -> None:
    blocked = {0, 2} if name == "fair" else {0, 3}
    stages = [{**stage, "legal": number not in blocked} for number, stage in enumerate(STAGES)]
    assert make_policy(name).act(observation(JOBS, stages)) == row, why


@pytest.mark.parametrize("name", ["srtf", "llmsched"])
@pytest.mark.parametrize(
    ("llm_free", "regular_free", "row", "why"),
    [
        (1, 1, 2, "both are waited for: 20 s in all is the least"),
        (1, 9, 1, "only LLM slots are waited for: 5 s of LLM calls is the least"),
        (9, 1, 0, "only tools are waited for: 2 s of tools is the least"),
        (9, 9, 0, "nobody waits: in order of arrival"),
    ],
)
def test_scarce_demand_counts_what_jobs_wait_for(
    name: str, llm_free: int, regular_free: int, row: int, why: str
) -> None:
    jobs: list[dict[str, Any]] = [
        {"demand_s": 30, "demand_llm_s": 28},
        {"demand_s": 40, "demand_llm_s": 5},
        {"demand_s": 20, "demand_llm_s": 10},
    ]
    seen = observation(jobs, [{"job": 0}, {"job": 1}, {"job": 2}])
    seen["cluster"][CLUSTER["llm_free"]] = llm_free
    seen["cluster"][CLUSTER["regular_free"]] = regular_free
    assert make_policy(name, demand="scarce").act(seen) == row, why
    assert make_policy(name).act(seen) == 2, "all demand counts unless it is said"


@pytest.mark.parametrize("name", ["srtf", "llmsched"])
def test_own_demand_is_of_the_kind_that_is_asked_for(name: str) -> None:
    jobs: list[dict[str, Any]] = [
        {"demand_s": 30, "demand_llm_s": 28},
        {"demand_s": 40, "demand_llm_s": 5},
        {"demand_s": 20, "demand_llm_s": 10},
    ]
    policy = make_policy(name, demand="own")
    llm = [{"job": job, "is_llm": 1, "is_regular": 0} for job in range(3)]
    tool = [{"job": job, "is_llm": 0, "is_regular": 1} for job in range(3)]
    assert policy.act(observation(jobs, llm)) == 1, "5 s of LLM calls is the least"
    assert policy.act(observation(jobs, tool)) == 0, "2 s of tools is the least"


def test_an_unknown_way_to_count_demand() -> None:
    with pytest.raises(ValueError, match="demand: unknown 'some', choose from all, scarce, own"):
        make_policy("srtf", demand="some")


def test_beliefs_are_needed_where_they_are_read() -> None:
    needs = {name: make_policy(name).needs_belief for name in ("fcfs", "fair", "random")}
    assert not any(needs.values())
    assert all(make_policy(name).needs_belief for name in ("sjf", "srtf", "llmsched"))
