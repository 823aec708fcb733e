"""Observations of Langfuse, in the shapes that its API and exports have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.workload.job import LLMTask
from support.imports import imported_lines, jobs_of, rows


def observation(
    number: str, type: str, start: int, end: int | None, parent: str | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "id": number,
        "traceId": "trace-1",
        "type": type,
        "name": number,
        "startTime": f"2024-05-29T13:46:{start:02}.250Z",
        "endTime": None if end is None else f"2024-05-29T13:46:{end:02}.250Z",
        "parentObservationId": parent,
        **more,
    }


USAGE = {"input": 120, "output": 30, "total": 150, "unit": "TOKENS"}
TRACE = [
    observation("agent", "SPAN", 0, 20),
    observation("plan", "GENERATION", 0, 2, "agent", usage=USAGE),
    observation("search", "SPAN", 3, 5, "agent"),
    observation("lookup", "TOOL", 3, 4, "agent"),
    observation("answer", "GENERATION", 6, 9, "agent", usageDetails=USAGE),
    observation("mark", "EVENT", 9, None, "agent"),
]
ROWS = [
    ("plan", "llm", set(), None, [(120, 30)]),
    ("lookup", "regular", {"plan"}, "plan", [1.0]),
    ("search", "regular", {"plan"}, "plan", [2.0]),
    ("answer", "llm", {"lookup", "search"}, "plan", [(120, 30)]),
]


def test_observations_in_any_order(tmp_path: Path) -> None:
    imported = imported_lines(reversed(TRACE), tmp_path)
    assert imported.format == "langfuse"
    (job,) = imported.jobs
    assert (job.application, job.job_id) == ("agent", "trace-1")
    assert rows(job) == ROWS
    guess = "a span that holds no other: taken as a tool"
    assert imported.tally.guessed.counts[guess] == 1


def test_pages_and_traces(tmp_path: Path) -> None:
    pages = [{"data": TRACE[:3], "meta": {}}, {"data": TRACE[3:], "meta": {}}]
    assert rows(imported_lines(pages, tmp_path).jobs[0]) == ROWS
    trace = {"id": "trace-1", "name": "shop", "observations": TRACE[1:]}
    for value in (trace, {"data": [trace]}, [trace]):
        (job,) = imported_lines([value], tmp_path).jobs
        assert job.application == "shop"
        assert rows(job) == ROWS


def test_exports_to_a_bucket(tmp_path: Path) -> None:
    keys = {
        "traceId": "trace_id",
        "parentObservationId": "parent_observation_id",
        "startTime": "start_time",
        "endTime": "end_time",
        "usageDetails": "usage_details",
    }
    lines = []
    for row in TRACE:
        line = {keys.get(key, key): value for key, value in row.items()} | {"trace_name": "shop"}
        for key in ("start_time", "end_time"):
            line[key] = line[key] and line[key].replace("T", " ").replace("Z", "000")
        lines.append(line)
    (job,) = imported_lines(lines, tmp_path).jobs
    assert job.application == "agent"  # the root's name, though the trace has one, too
    assert rows(job) == ROWS
    (job,) = imported_lines(lines[1:], tmp_path).jobs
    assert job.application == "shop"


@pytest.mark.parametrize(
    ("usage", "prompt", "output"),
    [
        ({"usageDetails": {"input": "7", "output": 2.0}}, 7, 2),
        ({"usageDetails": {"input": 7, "input_cached_tokens": 3, "output": 2, "total": 12}}, 10, 2),
        ({"usageDetails": {"input": 7, "cache_read_input_tokens": 3, "output": 2}}, 10, 2),
        ({"usageDetails": {"input": 7, "output": 2, "output_reasoning_tokens": 5}}, 7, 7),
        ({"usageDetails": {}, "usage": {"input": 7, "output": 2, "inputCost": 1}}, 7, 2),
        ({"usageDetails": '{"input": 7, "output": 2}'}, 7, 2),
        ({"usage": {"promptTokens": 7, "completionTokens": 2, "totalTokens": 9}}, 7, 2),
        ({"promptTokens": 7, "completionTokens": 2, "usage": None}, 7, 2),
    ],
)
def test_tokens_of_all_versions(usage: dict[str, Any], prompt: int, output: int) -> None:
    ((job,), _) = jobs_of("langfuse", [observation("call", "GENERATION", 0, 1, **usage)])
    assert job.stages[0].tasks == (LLMTask(prompt, output),)


def test_what_cannot_be_used_is_counted() -> None:
    values = [
        *TRACE,
        observation("failed", "GENERATION", 10, 11, "agent", usage={"input": 0, "output": 0}),
        observation("open", "GENERATION", 10, None, "agent", usage=USAGE),
        {"type": "SCORE", "value": 1},
        {"id": "x", "type": "SPAN"},
    ]
    ((job,), tally) = jobs_of("langfuse", values)
    assert rows(job) == ROWS
    assert tally.skipped.counts == {
        "a call without token counts": 1,
        "an unfinished call": 1,
        "an object that is no observation": 2,
    }
