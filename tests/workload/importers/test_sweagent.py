"""Trajectories of SWE-agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.workload import import_traces
from support.imports import jobs_of, rows


def step(response: str, action: str | None, observation: str = "", **more: Any) -> dict[str, Any]:
    return {
        "response": response,
        "thought": response,
        "action": action,
        "observation": observation,
        "execution_time": 0.5,
        "state": {},
        **more,
    }


def trajectory(*steps: dict[str, Any], **stats: int) -> dict[str, Any]:
    return {
        "environment": "swe_main",
        "trajectory": list(steps),
        "history": [
            {"role": "system", "content": "s" * 40},
            {"role": "assistant", "content": "d" * 20, "is_demo": True},
            {"role": "user", "content": [{"type": "text", "text": "u" * 20}]},
            {"role": "assistant", "content": "r" * 8},
        ],
        "info": {"exit_status": "submitted", "model_stats": stats},
    }


RUN = trajectory(
    step("r" * 8, "ls -F\n", "o" * 12),
    step("r" * 4, "cd /testbed && python a.py", ""),
    step("r" * 8, "submit"),
    tokens_sent=560,
    tokens_received=10,
    api_calls=3,
)


def test_a_trajectory(tmp_path: Path) -> None:
    file = tmp_path / "django__django-1.traj"
    file.write_text(json.dumps(RUN, indent=2))
    imported = import_traces(tmp_path)
    assert imported.format == "swe-agent"
    (job,) = imported.jobs
    assert (job.application, job.job_id, job.arrival_s) == ("swe-agent", "django__django-1", None)
    # characters read: 80, 100, 104 of 284; written: 8, 4, 8 of 20
    calls = [(158, 4), (197, 2), (205, 4)]
    assert rows(job) == [
        ("step", "llm", set(), None, [calls[0]]),
        ("ls", "regular", {"step"}, "step", [0.5]),
        ("step", "llm", {"ls"}, "step", [calls[1]]),
        ("python", "regular", {"step"}, "step", [0.5]),
        ("step", "llm", {"python"}, "step", [calls[2]]),
        ("submit", "regular", {"step"}, "step", [0.5]),
    ]
    assert job.stages[3].parents == (2,)
    assert job.stages[3].revealed_by == 2
    assert imported.tally.guessed.counts == {"tokens of a call: from its characters": 3}


def test_messages_where_they_are_recorded() -> None:
    steps = [
        step("abcd", "ls", query=[{"role": "user", "content": "q" * size}]) for size in (10, 30)
    ]
    ((job,), _) = jobs_of("swe-agent", [trajectory(*steps, tokens_sent=400, tokens_received=8)])
    assert [row[-1][0] for row in rows(job)[::2]] == [(100, 4), (300, 4)]


def test_four_characters_a_token_where_no_total_is_recorded() -> None:
    ((job,), _) = jobs_of("swe-agent", [trajectory(step("r" * 40, None))])
    assert rows(job) == [("step", "llm", set(), None, [(20, 10)])]


@pytest.mark.parametrize("seconds", [None, -1, "x", float("nan")])
def test_times_that_are_missing_count_as_none(seconds: Any) -> None:
    ((job,), tally) = jobs_of("swe-agent", [trajectory(step("r", "ls", execution_time=seconds))])
    assert rows(job)[1][-1] == [0.0]
    assert tally.mended.counts == {"a command without execution_time: taken as 0 s": 1}


def test_steps_without_a_response_made_no_call() -> None:
    """Such as those by which a run ends that ran out of money."""
    runs = [trajectory(step("r", "ls"), step("", "exit_cost")), trajectory(step("", "exit_cost"))]
    jobs, tally = jobs_of("swe-agent", runs)
    assert [len(job.stages) for job in jobs] == [2]
    assert tally.skipped.counts == {"a trajectory without a response": 1}


def test_trials_of_one_instance_are_jobs_of_their_own(tmp_path: Path) -> None:
    for trial in ("a", "b", "c"):
        (tmp_path / trial).mkdir()
        (tmp_path / trial / "django-1.traj").write_text(json.dumps(RUN))
    imported = import_traces(tmp_path)
    assert [job.job_id for job in imported.jobs] == ["django-1", "django-1-2", "django-1-3"]
    assert imported.tally.mended.counts == {"a job_id that occurs again: numbered": 2}
