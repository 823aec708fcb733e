"""Traces: exact round trips, and one clear line for everything that is malformed."""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import socket
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.inputs import LONGEST_NAME
from llmsched_gym.workload.job import MAX_DURATION_S, Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.traces import TraceError, load_traces, read_traces, write_traces
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
            if field.name != "sources":
                np.testing.assert_array_equal(getattr(read, field.name), getattr(bank, field.name))


@same_folder
@given(
    name=st.text(
        st.characters(exclude_characters="#", exclude_categories=("Cc", "Cs", "Zl", "Zp")),
        min_size=1,
        max_size=LONGEST_NAME,
    ),
    duration_s=st.floats(0, MAX_DURATION_S),
)
def test_any_printable_text_and_any_duration_survive(
    tmp_path: Path, name: str, duration_s: float
) -> None:
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
        (edited("app", value=""), "application: empty name"),
        (edited("app", value=3), "app: expected text, got 3"),
        (edited("job_id", value=7.0), "job_id: expected text or a whole number, got 7.0"),
        (edited("job_id", value=None), "job_id: expected text or a whole number, got null"),
        (edited("app", value="a\x1b[2Jb"), "application: 'a\\x1b[2Jb' has characters that cannot"),
        (edited("app", value="\ud800"), "application: '\\ud800' has characters that cannot be"),
        (edited("job_id", value="a\nb"), "job_id: 'a\\nb' has characters that cannot be printed"),
        (
            edited("app", value="a" * 256),
            "application: 'aaaaaaaaaaaaaaaaaaaa'... is longer than 255",
        ),
        (edited("arrival_s", value="noon"), 'arrival_s: expected a number, got "noon"'),
        (edited("arrival_s", value=True), "arrival_s: expected a number, got true"),
        (edited("arrival_s", value=1e21), "arrival_s: 1e+21 is not a time in seconds"),
        (edited("arrival_s", value=10**400), "arrival_s: not a time in seconds"),
        (edited("stages", value={}), "stages: expected a list, got {}"),
        (edited("stages", value=[]), "stages: a job needs at least one stage"),
        (edited("stages", 0, value=5), "stages[0]: expected an object, got 5"),
        (without("stages", 1, "id"), "stages[1].id: missing"),
        (without("stages", 1, "name"), "stages[1].name: missing"),
        (without("stages", 1, "kind"), "stages[1].kind: missing"),
        (without("stages", 1, "parents"), "stages[1].parents: missing"),
        (without("stages", 1, "tasks"), "stages[1].tasks: missing"),
        (without("stages", 1, "revealed_by"), "stages[1].revealed_by: missing"),
        (edited("stages", 1, "id", value=10), "stages[1].id: 10 is also the id of stages[0]"),
        (edited("stages", 1, "id", value=[]), "stages[1].id: expected text or a whole number, got"),
        (edited("stages", 1, "id", value=True), "stages[1].id: expected text or a whole number, g"),
        (edited("stages", 1, "id", value=1.0), "stages[1].id: expected text or a whole number, go"),
        (edited("stages", 1, "name", value="\x9b1m"), "stages[1].name: '\\x9b1m' has characters"),
        (
            edited("stages", 1, "resource", value="\u2028"),
            "stages[1].resource: '\\u2028' has chara",
        ),
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
            edited("stages", 1, "tasks", 1, "duration_s", value=1e200),
            "stages[1].tasks[1].duration_s: 1e+200 is not a time in seconds, 0 to 4e+06",
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
            'stages[1].parents: no stage has id "10"',
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
            'stages[1].revealed_by: no stage has id "plan"',
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
    assert str(error.value).endswith(" (see docs/workloads.md, trace format)")
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
        def write_half(path: Path, data: bytes) -> int:
            write(path, data[: len(data) // 2])
            raise OSError("No space left on device")

        return write_half

    monkeypatch.setattr(Path, "write_bytes", full(Path.write_bytes))
    with pytest.raises(OSError, match="No space left"):
        write_traces(file, [JOB, Job("app", "second", (tool(),))])
    monkeypatch.undo()
    assert read_traces(file) == [JOB]
    assert list(tmp_path.iterdir()) == [file]


# --- Traces as people have them -------------------------------------------------------------------


def test_stages_and_jobs_may_have_names_or_numbers_for_ids(tmp_path: Path) -> None:
    record = edited("job_id", value=7)
    plan, search = record["stages"]
    plan["id"], search["id"] = "plan", 10
    search["parents"], search["revealed_by"] = ["plan"], "plan"
    (job,) = read_traces(saved(tmp_path, json.dumps(record)))
    assert job.job_id == "7"
    assert job.stages == JOB.stages


def test_ids_of_two_types_are_two_ids(tmp_path: Path) -> None:
    record = edited("stages", 1, "id", value="10")
    assert read_traces(saved(tmp_path, json.dumps(record))) == [JOB]


def test_keys_of_others_are_ignored_with_one_note(tmp_path: Path) -> None:
    record = edited("stages", 1, "tasks", 0, "worker", value={"deep": [1]})
    record["stages"][0]["tasks"][0]["duration_s"] = 3.0  # not a key of an LLM task
    record["stages"][0]["cost"] = record["user"] = record["a\x1bb"] = 1
    file = saved(tmp_path, f"{json.dumps(record)}\n{json.dumps(record | {'job_id': '2'})}\n")
    jobs, numbers, notes = load_traces(file)
    assert jobs[0] == JOB
    assert numbers == [0, 1]
    keys = '"a\\u001bb", job.user, stage.cost, task.duration_s, task.worker'
    assert notes == (f"traces: ignored keys job.{keys} (docs/workloads.md, trace format)",)
    assert load_traces(saved(tmp_path, json.dumps(RECORD))).notes == ()


def test_a_note_names_a_few_keys(tmp_path: Path) -> None:
    many = RECORD | {f"key{number}": number for number in range(9)}
    (note,) = load_traces(saved(tmp_path, json.dumps(many))).notes
    assert "job.key4 and 4 more (" in note
    assert "key5" not in note


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.JSONL.GZ", "a.jsonl", "anything"])
def test_compressed_files_are_unpacked_whatever_their_name(tmp_path: Path, name: str) -> None:
    packed = gzip.compress(f"{json.dumps(RECORD)}\n".encode())
    file = saved(tmp_path, packed, name)
    assert read_traces(file) == [JOB]
    if name != "anything":
        assert read_traces(tmp_path) == [JOB]


def test_a_damaged_compressed_file_is_one_line(tmp_path: Path) -> None:
    line = f"{json.dumps(RECORD)}\n".encode()
    packed = gzip.compress(b"".join(line.replace(b"agent-0", b"%d" % n) for n in range(5000)))
    for damaged in (
        packed[:-4],
        packed[:3000],
        packed[:2000] + b"\0" * 100 + packed[2100:],
        packed[:12],
        packed + b"more",
        packed[:2],
        b"\x1f\x8b" + zlib.compress(line),
    ):
        with pytest.raises(TraceError, match=r"jobs\.jsonl:\d+: ") as error:
            read_traces(saved(tmp_path, damaged), "skip")
        assert "\n" not in str(error.value)


def test_a_folder_is_read_with_its_folders_but_nothing_hidden(tmp_path: Path) -> None:
    for number, name in enumerate(("b/deep/2.JSONL", "a.jsonl", "b/1.Jsonl", "c.jsonl/x.jsonl")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        saved(tmp_path, json.dumps(edited("job_id", value=number)), name)
    for name in ("._a.jsonl", ".hidden/a.jsonl", "b/.ipynb_checkpoints/1.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        saved(tmp_path, b"\0\5\x16\7\0\2\0\0Mac OS X", name)
    assert [job.job_id for job in read_traces(tmp_path)] == ["1", "2", "0", "3"]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_traces("~/mine.jsonl", [JOB])
    assert read_traces("~/mine.jsonl") == read_traces(Path("~/mine.jsonl")) == [JOB]
    with pytest.raises(FileNotFoundError, match="~nobody-of-that-name/x: no such file"):
        read_traces("~nobody-of-that-name/x")


def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, plug = tmp_path / "pipe.jsonl", socket.socket(socket.AF_UNIX)
    os.mkfifo(pipe)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    plug.bind("socket.jsonl")
    (tmp_path / "nothing").symlink_to("nowhere")
    for path, what in (
        (pipe, "a pipe, not a file"),
        (tmp_path / "socket.jsonl", "a socket, not a file"),
        (Path("/dev/zero"), "a device, not a file"),
        (tmp_path, "pipe.jsonl: a pipe, not a file"),
    ):
        with pytest.raises(TraceError, match=what):
            read_traces(path)
    plug.close()
    for missing in ("nothing", "jobs.jsonl/below", "null\0character"):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            read_traces(tmp_path / missing)
    for nonsense in (5, None, b"jobs.jsonl"):
        with pytest.raises(ValueError, match="path: .* is not a path"):
            read_traces(nonsense)  # type: ignore[arg-type]


def test_arrivals_survive(tmp_path: Path) -> None:
    jobs = [replace(JOB, job_id=str(n), arrival_s=time) for n, time in enumerate((3.5, None, -1))]
    write_traces(tmp_path / "jobs.jsonl", jobs)
    read = read_traces(tmp_path / "jobs.jsonl")
    assert [job.arrival_s for job in read] == [3.5, None, -1.0]
    assert [job.source for job in read] == [f"{tmp_path / 'jobs.jsonl'}:{n}" for n in (1, 2, 3)]
    bank = JobBank.from_jobs(read)
    assert [job.arrival_s for job in bank.jobs()] == [3.5, None, -1.0]
    assert bank.described(1) == f"job 1 ({tmp_path / 'jobs.jsonl'}:2)"
    assert JobBank.from_jobs([JOB]).described(0) == "job agent-0"


def test_bad_jobs_are_left_out_on_request_with_their_number_and_reasons(tmp_path: Path) -> None:
    empty = [edited("stages", 0, "tasks", 0, "output_tokens", value=0) for _ in range(3)]
    empty[2]["stages"].reverse()
    good = [edited("job_id", value=f"good-{n}") for n in range(2)]
    rows = [good[0], *empty, without("app"), good[1], good[0]]
    file = saved(tmp_path, "".join(f"{json.dumps(row)}\n" for row in rows) + "{")
    with pytest.raises(TraceError, match=r"jobs\.jsonl:2: "):
        read_traces(file)
    jobs, numbers, (note,) = load_traces(file, "skip")
    assert [job.job_id for job in jobs] == ["good-0", "good-1"]
    assert numbers == [0, 5]
    assert note.startswith(
        "traces: 6 jobs left out: 3 x stages[].tasks[].output_tokens: 0 is not between 1 and "
        f"2147483647 (first {file}:2); 1 x app: missing (first {file}:5); 1 x job_id: 'good-0' of "
        f"'agent' is already at {file}:1 (first {file}:7); 1 x JSON: "
    )
    with pytest.raises(TraceError, match="no job is left: traces: 1 jobs left out: 1 x app: miss"):
        read_traces(saved(tmp_path, json.dumps(without("app"))), "skip")
    with pytest.raises(ValueError, match="on_bad_job: unknown 'ignore', choose from error, skip"):
        read_traces(file, "ignore")


def test_a_line_without_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmsched_gym.workload.lines.LONGEST_LINE", 1000)
    file = saved(tmp_path, gzip.compress(json.dumps(RECORD).encode() + b" " * 10**6))
    with pytest.raises(TraceError, match=r"jobs\.jsonl:1: longer than 1000 bytes"):
        read_traces(file)


@pytest.mark.parametrize("depth", [10, 900, 990, 995, 1000, 10_000])
def test_deep_brackets_are_shown_shortly(tmp_path: Path, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    file = saved(tmp_path, json.dumps(edited("app", value="?")).replace('"?"', nested))
    with pytest.raises(TraceError, match=r"jobs\.jsonl:1: (app: expected text, got|JSON: )"):
        read_traces(file)
