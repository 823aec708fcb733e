"""The JSON Schema of our format and its reader: one accepts what the other does."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmsched_gym.workload
from llmsched_gym.workload import sample_path
from llmsched_gym.workload.traces import TraceError, read_traces, write_traces
from support.strategies import job_lists

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = Path(llmsched_gym.workload.__file__).with_name("schema.json")
BEYOND = re.compile(  # what a schema cannot say
    r"is also the id of|no stage has id|has a cycle|is no ancestor|names stages\[\d+\] twice|"
    r"a whole number, got -?\d(e\+20|\.0)"
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def validator() -> Any:
    contents = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(contents)
    return jsonschema.Draft202012Validator(contents)


def complaint(folder: Path, record: Any) -> str:
    """What the reader says of a record, nothing if it takes it."""
    file = folder / "job.jsonl"
    file.write_text(json.dumps(record))
    try:
        read_traces(file)
    except TraceError as error:
        return str(error)
    return ""


def agree(folder: Path, record: Any) -> None:
    told = complaint(folder, record)
    if validator().is_valid(record):
        assert told == "" or BEYOND.search(told), told
    else:
        assert told != "", list(validator().iter_errors(record))


def test_the_sample_is_valid() -> None:
    for line in sample_path().read_text().splitlines():
        validator().validate(json.loads(line))


def test_the_example_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text(encoding="utf-8")
    block = page.split("```json\n", 1)[1].split("```", 1)[0]
    assert block.count("\n") == 2
    for line in block.splitlines():
        validator().validate(json.loads(line))


@same_folder
@given(jobs=job_lists(max_size=2))
def test_what_is_written_is_valid(tmp_path: Path, jobs: list[Any]) -> None:
    write_traces(tmp_path / "jobs.jsonl", jobs)
    for line in (tmp_path / "jobs.jsonl").read_text().splitlines():
        validator().validate(json.loads(line))


RECORD: dict[str, Any] = {
    "app": "agent",
    "job_id": "agent-0",
    "arrival_s": 1.5,
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
            "id": "b",
            "name": "search",
            "kind": "regular",
            "parents": [10],
            "tasks": [{"duration_s": 0.25}, {"duration_s": 2}],
            "revealed_by": 10,
            "resource": "web",
        },
    ],
}
NAMES = ("", "a", "a#b", "a\n", "\x7f", "\u2028", "\ud800", "x" * 255, "x" * 256, "é", "10", "b")
NUMBERS = (0, 1, -1, 0.5, 10, 2**31 - 1, 2**31, 4_000_000, 4_000_000.5, 1e20, 2e20, -1e20, -2e20)
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    (*NAMES, *NUMBERS, None, True, False, [], {}, [10], ["b"], [10, 10], [1.5], "llm", "regular")
)


def paths(value: Any, before: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where there are values in a record, and one key that is new at each object."""
    inner: Any = []
    if isinstance(value, dict):
        inner = [*value.items(), ("new", None)]
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path for key, one in inner for path in [(*before, key), *paths(one, (*before, key))]]


@settings(same_folder, max_examples=300)
@given(
    path=st.sampled_from([("resource",), *paths(RECORD)]),
    value=VALUES,
    remove=st.booleans(),
    second=st.none() | st.tuples(st.sampled_from(paths(RECORD)), VALUES),
)
def test_schema_and_reader_agree(
    tmp_path: Path,
    path: tuple[str | int, ...],
    value: Any,
    remove: bool,
    second: tuple[tuple[str | int, ...], Any] | None,
) -> None:
    """Of records with one or two values changed, or one left out."""
    record = copy.deepcopy(RECORD)
    for keys, new in ((path, value), *([second] if second else [])):
        inner: Any = record
        try:
            for key in keys[:-1]:
                inner = inner[key]
            if remove and keys == path and isinstance(inner, dict):
                inner.pop(keys[-1], None)
            else:
                inner[keys[-1]] = new
        except (TypeError, KeyError, IndexError):  # the first change took the place away
            continue
    agree(tmp_path, record)


@pytest.mark.parametrize("count", [0, 1, 4000, 4001])
def test_how_many_stages(tmp_path: Path, count: int) -> None:
    stages = [RECORD["stages"][0] | {"id": number} for number in range(count)]
    record = RECORD | {"stages": stages}
    agree(tmp_path, record)
    assert validator().is_valid(record) == (1 <= count <= 4000)
