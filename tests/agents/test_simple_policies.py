from typing import Any

import pytest
from observations import observation

from agents import make_policy

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


def test_beliefs_are_needed_where_they_are_read() -> None:
    needs = {name: make_policy(name).needs_belief for name in ("fcfs", "fair", "random")}
    assert not any(needs.values())
    assert all(make_policy(name).needs_belief for name in ("sjf", "srtf", "llmsched"))
