"""Whatever a file of jobs says, it is refused in one line or can be played."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import MAX_TOKENS, Job
from llmsched_gym.workload.mixes import Workload, make_workload
from llmsched_gym.workload.traces import load_traces

ROOT = Path(__file__).parents[2]
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def record(number: int, prompt: int = 100, output: int = 30) -> dict[str, Any]:
    call = {"prompt_tokens": prompt + number, "output_tokens": output + number}
    think = {"id": 0, "name": "think", "kind": "llm", "parents": [], "revealed_by": None}
    search = {"id": 1, "name": "search", "kind": "regular", "parents": [0], "revealed_by": 0}
    return {
        "app": "react",
        "job_id": f"react-{number}",
        "stages": [think | {"tasks": [call]}, search | {"tasks": [{"duration_s": 1.5}]}],
    }


def saved(file: Path, records: list[Any]) -> Path:
    file.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    return file


PLAY = """
import sys, gymnasium, numpy as np
from llmsched_gym.workload import make_workload
for path, train_path in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        workload = make_workload("traces", path=path, train_path=train_path)
        env = gymnasium.make("llmsched_gym:LLMSched-v0", workload=workload, num_jobs=4)
        seen, _ = env.reset(seed=0)
        for _ in range(12):
            assert all(np.isfinite(value).all() for value in seen.values())
            seen, _, over, _, _ = env.step(int(seen["action_mask"].argmax()))
            if over: break
        print("played")
    except ValueError as error:
        print(error)
"""
LARGE = (
    (0, "output_tokens", 8_000_000),
    (0, "output_tokens", MAX_TOKENS),
    (0, "prompt_tokens", MAX_TOKENS),
    (1, "duration_s", 1e200),
    (1, "duration_s", 3.9e6),
)


def test_large_numbers_end_no_process(tmp_path: Path) -> None:
    """Of evaluated and of past jobs: some are refused, with the place; what is not is played."""
    paths: list[str] = []
    spoilt: list[str] = []
    for number, (stage, name, value) in enumerate(LARGE):
        for part in range(2):
            jobs = [[record(n) for n in range(start, start + 30)] for start in (0, 100)]
            jobs[part][7]["stages"][stage]["tasks"][0][name] = value
            both = [saved(tmp_path / f"{number}{part}{k}", rows) for k, rows in enumerate(jobs)]
            paths += map(str, both)
            spoilt.append(f"{both[part]}:8")
    done = subprocess.run(
        [sys.executable, "-c", PLAY, *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert told[-2:] == ["played", "played"]
    assert len(told) == len(spoilt)
    for line, place in zip(told[:-2], spoilt, strict=False):
        assert place in line


# --- Any trace ------------------------------------------------------------------------------------

numbers = st.sampled_from([0, 1, 2, 7, 2**31 - 1, 2**31, 2**63, 10**25, 1e-300, 1e200, 4e6, -1])
texts = st.text(max_size=3) | st.sampled_from(["\ud800", "\x1b[2J", "think", "react", "a#1"])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
tokens = st.integers(1, 2000) | st.sampled_from([1, 100_000, 10**6, MAX_TOKENS])
seconds = st.floats(0, 100) | st.sampled_from([0, 1e-300, 1e5, 3e6, 4e6])
ids = st.sampled_from([0, 1, -5, "a", "b", "1"])


@st.composite
def records(draw: st.DrawFn) -> Any:
    """Mostly jobs, of few names, some with one or two odd values in them."""
    count = draw(st.integers(1, 4))
    names = draw(st.lists(ids, min_size=count, max_size=count, unique=True))
    stages: list[dict[str, Any]] = []
    for name in names:
        known = [stage["id"] for stage in stages]
        parents = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        task = st.fixed_dictionaries({"duration_s": seconds})
        if kind := draw(st.booleans()):
            task = st.fixed_dictionaries({"prompt_tokens": tokens, "output_tokens": tokens})
        stages.append(
            {
                "id": name,
                "name": draw(st.sampled_from(["think", "search", "日本"])),
                "kind": "llm" if kind else "regular",
                "parents": parents,
                "tasks": draw(st.lists(task, min_size=1, max_size=3)),
                "revealed_by": draw(st.sampled_from([None, *parents])),
            }
        )
    job: Any = {
        "app": draw(st.sampled_from("ab")),
        "job_id": draw(st.integers(0, 9)),
        "stages": stages,
    }
    if draw(st.booleans()):
        job["arrival_s"] = draw(st.floats(0, 100) | numbers)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        spoil(draw, job)
    return job


def spoil(draw: st.DrawFn, job: Any) -> None:
    """Set a value somewhere in a record."""
    inner = job
    while isinstance(inner, dict | list) and inner:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()) or not isinstance(inner[key], dict | list):
            inner[key] = draw(values)
            return
        inner = inner[key]


contents = st.lists(records(), min_size=1, max_size=4).map(
    lambda rows: "\n".join(map(json.dumps, rows)).encode()
) | st.binary(max_size=60)


def check_that_a_trace_is_refused_or_plays(folder: Path, content: bytes, skip: bool) -> None:
    file = folder / "any.jsonl"
    file.write_bytes(content)
    on_bad_job = "skip" if skip else "error"
    try:
        jobs = load_traces(file, on_bad_job).jobs
        workload = make_workload(
            "traces", path=file, train_path=past(folder, jobs), replay=True, on_bad_job=on_bad_job
        )
    except ValueError as error:
        said = str(error)
    else:
        play(workload, on_bad_job)
        bank = JobBank.from_jobs(jobs)  # and as past jobs of themselves
        play(Workload("own", bank, bank, workload.arrivals, on_bad_job=on_bad_job), on_bad_job)
        return
    assert said.startswith((f"{file}:", "replay: arrivals of the jobs: timestamps: "))
    assert said.isprintable()


def past(folder: Path, jobs: list[Job]) -> Path:
    """Past jobs of the same applications."""
    rows = []
    for number, application in enumerate(sorted({job.application for job in jobs})):
        rows += [deepcopy(record(10 * number + n)) | {"app": application} for n in range(3)]
    for number, row in enumerate(rows):
        row["job_id"] = f"past-{number}"
    return saved(folder / "past.jsonl", rows)


def play(workload: Workload, on_bad_job: str) -> None:
    options: Any = {"num_jobs": 3, "arrival_rate": 1.0, "belief": "prior"}
    try:
        env = gymnasium.make("LLMSched-v0", workload=workload, **options)
    except ValueError as error:
        said = str(error)
        expected = (
            r"on_bad_job=skip leaves such jobs out$"
            if on_bad_job == "error"
            else r"fits cluster|repl"
        )
        assert re.search(expected, said), said
        return
    seen, _ = env.reset(seed=0)
    for _ in range(10):
        assert all(np.isfinite(value).all() for value in seen.values())
        assert env.observation_space.contains(seen)
        seen, _, over, _, _ = env.step(int(seen["action_mask"].argmax()))
        if over:
            break


@settings(same_folder, max_examples=60)
@given(contents, st.booleans())
def test_any_trace_is_refused_or_plays(tmp_path: Path, content: bytes, skip: bool) -> None:
    check_that_a_trace_is_refused_or_plays(tmp_path, content, skip)


@pytest.mark.slow
@settings(same_folder, max_examples=2500)
@given(contents, st.booleans())
def test_any_trace_is_refused_or_plays_often(tmp_path: Path, content: bytes, skip: bool) -> None:
    check_that_a_trace_is_refused_or_plays(tmp_path, content, skip)
