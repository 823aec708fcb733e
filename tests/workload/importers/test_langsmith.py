"""Runs of LangSmith, flat or nested, of all versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.workload.job import LLMTask
from support.imports import imported_lines, jobs_of, rows


def run(
    number: str, run_type: str, start: float, end: float | None, parent: str | None, **more: Any
) -> dict[str, Any]:
    return {
        "id": number,
        "trace_id": "root",
        "parent_run_id": parent,
        "name": number,
        "run_type": run_type,
        "start_time": f"2024-05-29T13:46:{start:09.6f}",
        "end_time": None if end is None else f"2024-05-29T13:46:{end:09.6f}+00:00",
        "inputs": {"messages": []},
        **more,
    }


TOKENS = {"prompt_tokens": 90, "completion_tokens": 8, "total_tokens": 98}
RUNS = [
    run("root", "chain", 0, 20, None, **TOKENS),
    run("agent", "chain", 0, 9, "root", **TOKENS),
    run("prompt", "prompt", 0, 0.001, "agent"),
    run("ChatOpenAI", "llm", 1, 3, "agent", **TOKENS),
    run("parser", "parser", 3, 3.001, "agent"),
    run("search", "tool", 10, 12.5, "root"),
    run("docs", "retriever", 10, 11, "root"),
    run("final", "llm", 13, 15, "root", **TOKENS),
]
ROWS = [
    ("agent/ChatOpenAI", "llm", set(), None, [(90, 8)]),
    ("docs", "regular", {"agent/ChatOpenAI"}, "agent/ChatOpenAI", [1.0]),
    ("search", "regular", {"agent/ChatOpenAI"}, "agent/ChatOpenAI", [2.5]),
    ("final", "llm", {"docs", "search"}, "agent/ChatOpenAI", [(90, 8)]),
]


def test_runs_in_any_order(tmp_path: Path) -> None:
    imported = imported_lines(reversed(RUNS), tmp_path)
    assert imported.format == "langsmith"
    (job,) = imported.jobs
    assert (job.application, job.job_id) == ("root", "root")
    assert rows(job) == ROWS


def test_pages_lists_and_trees(tmp_path: Path) -> None:
    assert rows(imported_lines([{"runs": RUNS, "cursors": {}}], tmp_path).jobs[0]) == ROWS
    assert rows(imported_lines([RUNS], tmp_path).jobs[0]) == ROWS
    bare = [
        {key: value for key, value in one.items() if key not in ("trace_id", "parent_run_id")}
        for one in RUNS
    ]
    tree = bare[0] | {"child_runs": [bare[1] | {"child_runs": bare[2:5]}, *bare[5:]]}
    assert rows(imported_lines([tree], tmp_path).jobs[0]) == ROWS


def test_the_trace_from_the_dotted_order() -> None:
    flat = [dict(one) for one in RUNS]
    for one in flat:
        del one["trace_id"]
        inner = "" if one["id"] == "root" else f".20240529T134601000000Z{one['id']}"
        one["dotted_order"] = f"20240529T134600000000Zroot{inner}"
    ((job,), _) = jobs_of("langsmith", flat)
    assert rows(job) == ROWS


USED = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
USED_BEFORE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


@pytest.mark.parametrize(
    "where",
    [
        USED_BEFORE,
        {"prompt_tokens": None, "outputs": {"usage_metadata": USED}},
        {
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "extra": {"metadata": {"usage_metadata": USED}},
        },
        {"outputs": {"llm_output": {"token_usage": USED_BEFORE}}},
        {"outputs": {"usage": USED}},
        {"outputs": {"generations": [[{"message": {"kwargs": {"usage_metadata": USED}}}]]}},
        {"outputs": {"generations": [{"message": {"usage_metadata": USED}}]}},
    ],
)
def test_tokens_wherever_they_are(where: dict[str, Any]) -> None:
    ((job,), _) = jobs_of("langsmith", [run("call", "llm", 0, 1, None, **where)])
    assert job.stages[0].tasks == (LLMTask(7, 2),)


def test_times_in_milliseconds() -> None:
    """As the JavaScript SDK has them."""
    call = run("call", "llm", 0, 1, None, **TOKENS)
    step = run("tool", "tool", 0, 1, None)
    times = {"start_time": 1_700_000_000_000, "end_time": 1_700_000_000_500}
    later = {"start_time": 1_700_000_001_000, "end_time": 1_700_000_001_250}
    ((job,), _) = jobs_of("langsmith", [call | times, step | later])
    assert job.arrival_s == 1_700_000_000
    assert rows(job)[1][-1] == [0.25]


def test_what_cannot_be_used_is_counted() -> None:
    values = [
        *RUNS,
        run("pending", "llm", 16, None, "root", **TOKENS),
        run("error", "llm", 16, 17, "root", error="429"),
        run("search", "tool", 10, 12.5, "root"),
        {"id": "feedback", "score": 1},
    ]
    ((job,), tally) = jobs_of("langsmith", values)
    assert rows(job) == ROWS
    assert tally.skipped.counts == {
        "an unfinished call": 1,
        "a call without token counts": 1,
        "a span that occurs again": 1,
        "an object that is no run": 1,
    }
