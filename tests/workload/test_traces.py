"""Traces: exact round trips, and one clear line for everything that is malformed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.traces import TraceError, read_traces, write_traces
from support.strategies import job_lists, llm, tool

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

RECORD: dict[str, Any] = {
    "app": "agent",
    "job_id": "agent-0",
    "stages": [
        {
            "id": 10,
            "name": "plan",
            "kind": "llm",
            "parents": [],
            "tasks": [{"prompt_tokens": 100, "output_tokens": 20}],
            "revealed_by": None,
        },
        {
            "id": -3,
            "name": "search",
            "kind": "regular",
            "parents": [10],
            "tasks": [{"duration_s": 0.25}, {"duration_s": 2}],
            "revealed_by": 10,
            "resource": "web",
        },
    ],
}
JOB = Job(
    "agent",
    "agent-0",
    (
        Stage("plan", Kind.LLM, (), (LLMTask(100, 20),)),
        Stage("search", Kind.REGULAR, (0,), (RegularTask(0.25), RegularTask(2.0)), 0, "web"),
    ),
)


def saved(folder: Path, text: str | bytes, name: str = "jobs.jsonl") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def edited(*keys: str | int, value: Any) -> dict[str, Any]:
    """RECORD with one value set; the last key may be new."""
    record = copy.deepcopy(RECORD)
    inner: Any = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return record


def without(*keys: str | int) -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    inner: Any = record
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return record


def complaint(file: Path) -> str:
    try:
        read_traces(file)
    except TraceError as error:
        return str(error)
    return "fine"


def test_stage_ids_are_any_distinct_integers(tmp_path: Path) -> None:
    assert read_traces(saved(tmp_path, json.dumps(RECORD))) == [JOB]


@same_folder
@given(given_jobs=job_lists(max_size=3))
def test_what_is_written_is_read_back_exactly(tmp_path: Path, given_jobs: list[Job]) -> None:
    write_traces(tmp_path / "jobs.jsonl", given_jobs)
    assert read_traces(tmp_path / "jobs.jsonl") == given_jobs


@same_folder
@given(given_jobs=job_lists(max_size=3))
def test_the_order_of_stages_in_a_file_does_not_matter(
    tmp_path: Path, given_jobs: list[Job]
) -> None:
    """Children listed before their parents make the same bank, to the last number."""
    bank = JobBank.from_jobs(given_jobs)
    write_traces(tmp_path / "any.jsonl", given_jobs)
    write_traces(tmp_path / "parents_first.jsonl", bank.jobs())
    for name in ("any.jsonl", "parents_first.jsonl"):
        read = JobBank.from_jobs(read_traces(tmp_path / name))
        for field in fields(JobBank):
            np.testing.assert_array_equal(getattr(read, field.name), getattr(bank, field.name))


@same_folder
@given(
    name=st.text(min_size=1).filter(lambda text: "#" not in text),
    duration_s=st.floats(0, allow_infinity=False),
)
def test_any_text_and_any_duration_survive(tmp_path: Path, name: str, duration_s: float) -> None:
    stage = Stage(name, Kind.REGULAR, (), (RegularTask(duration_s),), None, name)
    job = Job(name, name, (stage,))
    write_traces(tmp_path / "jobs.jsonl", [job])
    assert read_traces(tmp_path / "jobs.jsonl") == [job]


def test_real_traces_are_written_as_they_were(shared: Path, tmp_path: Path) -> None:
    for file in sorted((shared / "traces").glob("*.jsonl")):
        write_traces(tmp_path / file.name, read_traces(file))
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_traces(tmp_path / f"{name}.jsonl", [Job("app", name, (llm(),))])
    saved(tmp_path, "no jobs here", "notes.txt")
    assert [job.job_id for job in read_traces(tmp_path)] == ["a", "b", "c"]
    assert read_traces(str(tmp_path / "a.jsonl")) == [Job("app", "a", (llm(),))]


def test_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    line = json.dumps(RECORD).encode()
    assert read_traces(saved(tmp_path, b"\xef\xbb\xbf" + line + b"\r\n\r\n")) == [JOB]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "job: expected an object, got []"),
        ("job", 'job: expected an object, got "job"'),
        (without("app"), "app: missing"),
        (without("job_id"), "job_id: missing"),
        (without("stages"), "stages: missing"),
        (edited("extra", value=1), 'job: unknown key "extra"'),
        (edited("a\nb", value=1), 'job: unknown key "a\\nb"'),
        (edited("app", value=""), "application: empty name"),
        (edited("app", value=3), "app: expected text, got 3"),
        (edited("job_id", value=7), "job_id: expected text, got 7"),
        (edited("job_id", value=None), "job_id: expected text, got null"),
        (edited("stages", value={}), "stages: expected a list, got {}"),
        (edited("stages", value=[]), "stages: a job needs at least one stage"),
        (edited("stages", 0, value=5), "stages[0]: expected an object, got 5"),
        (without("stages", 1, "id"), "stages[1].id: missing"),
        (without("stages", 1, "name"), "stages[1].name: missing"),
        (without("stages", 1, "kind"), "stages[1].kind: missing"),
        (without("stages", 1, "parents"), "stages[1].parents: missing"),
        (without("stages", 1, "tasks"), "stages[1].tasks: missing"),
        (without("stages", 1, "revealed_by"), "stages[1].revealed_by: missing"),
        (edited("stages", 1, "cost", value=1), 'stages[1]: unknown key "cost"'),
        (edited("stages", 1, "id", value=10), "stages[1].id: 10 is also the id of stages[0]"),
        (edited("stages", 1, "id", value="a"), 'stages[1].id: expected a whole number, got "a"'),
        (edited("stages", 1, "id", value=True), "stages[1].id: expected a whole number, got true"),
        (edited("stages", 1, "id", value=1.0), "stages[1].id: expected a whole number, got 1.0"),
        (edited("stages", 0, "name", value=""), "stages[0].name: '' is empty"),
        (edited("stages", 0, "name", value="a#1"), "stages[0].name: 'a#1' is empty or contains"),
        (edited("stages", 0, "name", value=None), "stages[0].name: expected text, got null"),
        (edited("stages", 0, "kind", value="gpu"), 'stages[0].kind: "gpu" is neither llm nor'),
        (edited("stages", 0, "kind", value="dynamic"), 'stages[0].kind: "dynamic" is neither'),
        (edited("stages", 0, "kind", value=0), "stages[0].kind: expected text, got 0"),
        (edited("stages", 0, "kind", value="regular"), "stages[0].tasks[0].duration_s: missing"),
        (edited("stages", 1, "kind", value="llm"), "stages[1].tasks[0].output_tokens: missing"),
        (edited("stages", 1, "resource", value=2), "stages[1].resource: expected text, got 2"),
        (edited("stages", 0, "tasks", value=[]), "stages[0].tasks: a stage needs at least one"),
        (edited("stages", 0, "tasks", value=3), "stages[0].tasks: expected a list, got 3"),
        (edited("stages", 0, "tasks", 0, value=3), "stages[0].tasks[0]: expected an object, got"),
        (
            edited("stages", 0, "tasks", 0, "duration_s", value=1),
            'stages[0].tasks[0]: unknown key "duration_s"',
        ),
        (
            edited("stages", 0, "tasks", 0, "prompt_tokens", value=0),
            "stages[0].tasks[0].prompt_tokens: 0 is not between 1 and 2147483647",
        ),
        (
            edited("stages", 0, "tasks", 0, "output_tokens", value=-1),
            "stages[0].tasks[0].output_tokens: -1 is not between",
        ),
        (
            edited("stages", 0, "tasks", 0, "output_tokens", value=10**30),
            "stages[0].tasks[0].output_tokens: 1000000000000000000000000000000 is not between",
        ),
        (
            edited("stages", 0, "tasks", 0, "output_tokens", value=True),
            "stages[0].tasks[0].output_tokens: expected a whole number, got true",
        ),
        (
            edited("stages", 0, "tasks", 0, "output_tokens", value=20.0),
            "stages[0].tasks[0].output_tokens: expected a whole number, got 20.0",
        ),
        (
            edited("stages", 1, "tasks", 1, "duration_s", value=-0.5),
            "stages[1].tasks[1].duration_s: -0.5 is not a time in seconds",
        ),
        (
            edited("stages", 1, "tasks", 1, "duration_s", value=False),
            "stages[1].tasks[1].duration_s: expected a number, got false",
        ),
        (
            edited("stages", 1, "tasks", 1, "duration_s", value="1"),
            'stages[1].tasks[1].duration_s: expected a number, got "1"',
        ),
        (
            edited("stages", 1, "tasks", 1, "duration_s", value=10**400),
            "stages[1].tasks[1].duration_s: not a time in seconds",
        ),
        (edited("stages", 0, "parents", value=[10]), "stages[0].parents: the graph has a cycle"),
        (edited("stages", 0, "parents", value=[-3]), "stages[0].parents: the graph has a cycle"),
        (edited("stages", 1, "parents", value=[0]), "stages[1].parents: no stage has id 0"),
        (edited("stages", 1, "parents", value=[10, 10]), "stages[1].parents: names stages[0] twi"),
        (edited("stages", 1, "parents", value=10), "stages[1].parents: expected a list, got 10"),
        (
            edited("stages", 1, "parents", value=["10"]),
            'stages[1].parents: expected a whole number, got "10"',
        ),
        (edited("stages", 1, "revealed_by", value=4), "stages[1].revealed_by: no stage has id 4"),
        (
            edited("stages", 1, "revealed_by", value=-3),
            "stages[1].revealed_by: stages[1] is no ancestor",
        ),
        (
            edited("stages", 0, "revealed_by", value=-3),
            "stages[0].revealed_by: stages[1] is no ancestor",
        ),
        (
            edited("stages", 1, "revealed_by", value="plan"),
            'stages[1].revealed_by: expected a whole number, got "plan"',
        ),
    ],
)
def test_a_malformed_job_is_named_by_file_line_and_field(
    tmp_path: Path, record: Any, message: str
) -> None:
    good = json.dumps(edited("job_id", value="good"))
    file = saved(tmp_path, f"{good}\n\n{json.dumps(record)}\n")
    with pytest.raises(TraceError, match=re.escape(f"{file}:3: {message}")) as error:
        read_traces(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps(RECORD)[:-1], "JSON: "),
        ("not json", "JSON: Expecting value (column 1)"),
        (json.dumps(RECORD).replace("0.25", "NaN"), "JSON: NaN is no number"),
        (json.dumps(RECORD).replace("0.25", "Infinity"), "JSON: Infinity is no number"),
        (json.dumps(RECORD).replace("0.25", "-Infinity"), "JSON: -Infinity is no number"),
        (json.dumps(RECORD).replace("0.25", "1e999"), "stages[1].tasks[0].duration_s: inf is not"),
        (json.dumps(RECORD).replace("100", "1" * 5000), "JSON: Exceeds the limit"),
        (json.dumps(RECORD).replace('"app"', '"app": "x", "app"'), 'JSON: key "app" occurs twice'),
        ("[" * 100_000, "JSON: "),
        (b'{"app": "\xff"}', "text: not UTF-8 (byte 10)"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str | bytes, message: str) -> None:
    file = saved(tmp_path, line)
    with pytest.raises(TraceError, match=re.escape(f"{file}:1: {message}")) as error:
        read_traces(file)
    assert "\n" not in str(error.value)


@same_folder
@given(st.data())
def test_a_damaged_file_is_a_trace_error_or_another_valid_trace(
    tmp_path: Path, data: st.DataObject
) -> None:
    text = bytearray(json.dumps(RECORD).encode())
    cut = data.draw(st.integers(1, len(text) - 1))
    with pytest.raises(TraceError):
        read_traces(saved(tmp_path, bytes(text[:cut])))
    text[cut] = data.draw(st.integers(0, 255))
    file = saved(tmp_path, bytes(text))
    assert complaint(file).startswith((f"{file}:1: ", "fine"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@same_folder
@given(st.data(), json_values)
def test_any_value_in_any_place_is_a_trace_error_or_a_valid_trace(
    tmp_path: Path, data: st.DataObject, value: Any
) -> None:
    places: list[tuple[str | int, ...]] = [("app",), ("job_id",), ("stages",)]
    for stage in range(2):
        places += [("stages", stage, key) for key in RECORD["stages"][stage]]
        tasks = RECORD["stages"][stage]["tasks"]
        places += [
            ("stages", stage, "tasks", number, key)
            for number, task in enumerate(tasks)
            for key in task
        ]
    record = edited(*data.draw(st.sampled_from(places)), value=value)
    file = saved(tmp_path, json.dumps(record))
    assert complaint(file).startswith((f"{file}:1: ", "fine"))
    assert "\n" not in complaint(file)


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    write_traces(tmp_path / "a.jsonl", [JOB])
    file = saved(tmp_path, text, "b.jsonl")
    with pytest.raises(TraceError, match=re.escape(f"{file}:1: no job: the file is empty")):
        read_traces(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, json.dumps(RECORD), "jobs.json")
    with pytest.raises(TraceError, match=re.escape(f"{tmp_path}: no *.jsonl file")):
        read_traces(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.jsonl"])
def test_a_missing_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / name}: no such file")):
        read_traces(tmp_path / name)


def test_a_job_is_named_once_in_an_application(tmp_path: Path) -> None:
    first = saved(tmp_path, json.dumps(RECORD), "a.jsonl")
    other = json.dumps(edited("app", value="other"))
    second = saved(tmp_path, f"{other}\n{json.dumps(RECORD)}\n", "b.jsonl")
    message = f"{second}:2: job_id: 'agent-0' of 'agent' is already at {first}:1"
    with pytest.raises(TraceError, match=re.escape(message)):
        read_traces(tmp_path)


def test_writing_what_could_not_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    with pytest.raises(ValueError, match="'agent-0' of 'agent' occurs twice"):
        write_traces(file, [JOB, JOB])
    with pytest.raises(ValueError, match="no job to write"):
        write_traces(file, [])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_traces(tmp_path / "nowhere" / "jobs.jsonl", [JOB])
    assert list(tmp_path.iterdir()) == []


def failing_jobs() -> Any:
    yield Job("app", "first", (tool(),))
    raise RuntimeError("interrupted")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jobs.jsonl"
    write_traces(file, [JOB])
    with pytest.raises(RuntimeError, match="interrupted"):
        write_traces(file, failing_jobs())

    def full(write: Callable[..., int]) -> Callable[..., int]:
        def write_half(path: Path, text: str, **options: Any) -> int:
            write(path, text[: len(text) // 2], **options)
            raise OSError("No space left on device")

        return write_half

    monkeypatch.setattr(Path, "write_text", full(Path.write_text))
    with pytest.raises(OSError, match="No space left"):
        write_traces(file, [JOB, Job("app", "second", (tool(),))])
    monkeypatch.undo()
    assert read_traces(file) == [JOB]
    assert list(tmp_path.iterdir()) == [file]
