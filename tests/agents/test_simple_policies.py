from typing import Any

import pytest

from llmsched_gym.agents.base import make_policy
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


WORK: list[dict[str, Any]] = [
    {"demand_s": 30, "work_llm_s": 9, "work_regular_s": 2, "gittins_s": 15},
    {"demand_s": 40, "work_llm_s": 2, "work_regular_s": 30, "gittins_s": 40},
    {"demand_s": 20, "work_llm_s": 4, "work_regular_s": 10, "gittins_s": 14},
]
AT_ARRIVAL = [
    {name if name == "gittins_s" else f"prior_{name}": value for name, value in row.items()}
    for row in WORK
]
LLM = [{"job": job, "is_llm": 1, "is_regular": 0} for job in range(3)]
TOOLS = [{"job": job, "is_llm": 0, "is_regular": 1} for job in range(3)]


@pytest.mark.parametrize("name", ["srtf", "llmsched", "llmsched_priced", "gittins", "sjf"])
def test_what_of_a_job_counts(name: str) -> None:
    jobs = AT_ARRIVAL if name == "sjf" else WORK
    llm, tools = observation(jobs, LLM), observation(jobs, TOOLS)
    policy = make_policy(name)
    assert policy.act(llm) == policy.act(tools) == 2, "20 s in all, an index of 14, is the least"
    policy = make_policy(name, demand="llm")
    assert policy.act(llm) == policy.act(tools) == 1, "2 s of engine work is the least"
    policy = make_policy(name, demand="own")
    assert policy.act(llm) == 1, "2 s of engine work is the least"
    assert policy.act(tools) == 0, "2 s of tools is the least"


def test_the_index_of_a_part_is_its_share() -> None:
    jobs: list[dict[str, Any]] = [
        {"demand_s": 10, "work_llm_s": 5, "gittins_s": 8},  # 4 of 8
        {"demand_s": 10, "work_llm_s": 6, "gittins_s": 6},  # 3.6 of 6
        {"demand_s": 0, "work_llm_s": 3.8, "gittins_s": 0},  # nothing is known: the work itself
    ]
    assert make_policy("gittins", demand="own").act(observation(jobs, LLM)) == 1


def test_resource_srtf_is_srtf_of_the_own_work() -> None:
    for rows in (LLM, TOOLS):
        seen = observation(WORK, rows)
        own = make_policy("srtf", demand="own").act(seen)
        assert make_policy("resource_srtf").act(seen) == own


@pytest.mark.parametrize(
    ("margin", "llm", "tool"),
    [
        (0.05, 1, 2),  # 1.9 of 2 s count, less than 1.95; of the tools 9.5 of 10 s, not below 9
        (0.02, 0, 2),  # 1.96 of 2 s
        (0.2, 1, 1),  # 8 of 10 s of tools
        (0, 0, 2),
        (1, 1, 1),
    ],
)
def test_what_is_begun_goes_before_what_is_nearly_as_short(
    margin: float, llm: int, tool: int
) -> None:
    jobs: list[dict[str, Any]] = [
        {"work_llm_s": 1.95, "work_regular_s": 12},
        {"work_llm_s": 2, "work_regular_s": 10, "completed_tasks": 3},
        {"work_llm_s": 3, "work_regular_s": 9, "running_tasks": 2},  # of it nothing is known yet
    ]
    policy = make_policy("resource_srtf_begun", margin=margin)
    assert policy.act(observation(jobs, LLM)) == llm
    assert policy.act(observation(jobs, TOOLS)) == tool


@pytest.mark.parametrize("margin", [-0.1, 1.1, "much", float("nan")])
def test_a_margin_is_a_share(margin: Any) -> None:
    with pytest.raises(ValueError, match=f"margin: {margin!r} is not a number from 0 to 1"):
        make_policy("resource_srtf_begun", margin=margin)


def test_an_unknown_way_to_count_demand() -> None:
    with pytest.raises(ValueError, match="demand: unknown 'some', choose from all, llm, own"):
        make_policy("srtf", demand="some")


def test_beliefs_are_needed_where_they_are_read() -> None:
    needs = {name: make_policy(name).needs_belief for name in ("fcfs", "fair", "random")}
    assert not any(needs.values())
    assert all(make_policy(name).needs_belief for name in ("sjf", "srtf", "llmsched"))
