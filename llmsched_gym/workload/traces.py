"""Real jobs: JSON lines in and out.

One job per line::

    {"app": "react", "job_id": "react-0", "stages": [
      {"id": 0, "name": "thought", "kind": "llm", "parents": [],
       "tasks": [{"prompt_tokens": 1023, "output_tokens": 30}], "revealed_by": null},
      {"id": 1, "name": "search", "kind": "regular", "parents": [0],
       "tasks": [{"duration_s": 2.25}], "revealed_by": 0, "resource": "search"}]}

``id`` is any integer, unique in its job; ``parents`` and ``revealed_by`` refer to it. ``resource``
may be left out. See :class:`~llmsched_gym.workload.job.Stage` for the meaning of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, TypeVar

from llmsched_gym.files import replacing
from llmsched_gym.workload.job import InvalidJob, Job, Kind, LLMTask, RegularTask, Stage, Task

KINDS = {"llm": Kind.LLM, "regular": Kind.REGULAR}
STAGE_KEYS = frozenset({"id", "name", "kind", "parents", "tasks", "revealed_by"})
TYPES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}

T = TypeVar("T")


class TraceError(ValueError):
    """A malformed trace; the message is ``file:line: field: what is wrong``."""


class _FieldError(ValueError):
    """``field: what is wrong``; the reader adds file and line."""


def read_traces(path: str | Path) -> list[Job]:
    """The jobs of a JSON lines file, or of all ``*.jsonl`` files of a folder, sorted by name.

    The stages of a job are numbered in file order, whatever their ids.

    Raises
    ------
    FileNotFoundError
        if there is no such file or folder.
    TraceError
        if a folder has no ``*.jsonl`` file, a file has no job, a line is malformed or its job
        breaks a rule of :class:`~llmsched_gym.workload.job.Job`, or two jobs of an application
        share a ``job_id``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.glob("*.jsonl") if file.is_file())
        if not files:
            raise TraceError(f"{path}: no *.jsonl file in this folder")
    jobs: list[Job] = []
    places: dict[tuple[str, str], str] = {}
    for file in files:
        before = len(jobs)
        for number, line in _lines(file):
            place = f"{file}:{number}"
            try:
                job = _job(_parse(line))
            except (_FieldError, InvalidJob) as error:
                raise TraceError(f"{place}: {error}") from None
            first = places.setdefault((job.application, job.job_id), place)
            if first != place:
                raise TraceError(
                    f"{place}: job_id: {job.job_id!r} of {job.application!r} is already at {first}"
                )
            jobs.append(job)
        if len(jobs) == before:
            raise TraceError(f"{file}:1: no job: the file is empty")
    return jobs


def write_traces(path: str | Path, jobs: Iterable[Job]) -> None:
    """Write jobs to a JSON lines file, from which :func:`read_traces` makes equal jobs.

    The file appears whole or not at all.

    Raises
    ------
    ValueError
        if there is no job, or two jobs of an application share a ``job_id``.
    FileNotFoundError
        if the folder to write to does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    records: dict[tuple[str, str], str] = {}
    for job in jobs:
        key = job.application, job.job_id
        if key in records:
            raise ValueError(f"job_id: {job.job_id!r} of {job.application!r} occurs twice")
        records[key] = json.dumps(_record(job), separators=(",", ":"), allow_nan=False)
    if not records:
        raise ValueError(f"{path}: no job to write")
    with replacing(path) as part:
        part.write_text("".join(f"{line}\n" for line in records.values()), encoding="ascii")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line


def _parse(line: bytes) -> object:
    try:
        return json.loads(
            line.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_not_finite
        )
    except _FieldError:
        raise
    except UnicodeDecodeError as error:
        raise _FieldError(f"text: not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise _FieldError(f"JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 5,000 brackets
        raise _FieldError(f"JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise _FieldError(f"JSON: key {_shown(key)} occurs twice")
        record[key] = value
    return record


def _not_finite(text: str) -> float:
    raise _FieldError(f"JSON: {text} is no number")


def _job(value: object) -> Job:
    record = _keys(value, "", {"app", "job_id", "stages"})
    rows = _typed(record["stages"], list, "stages")
    index_of: dict[int, int] = {}
    for index, row in enumerate(rows):
        where = f"stages[{index}]"
        _keys(row, where, STAGE_KEYS, optional={"resource"})
        number = _typed(row["id"], int, f"{where}.id")
        if number in index_of:
            raise _FieldError(f"{where}.id: {number} is also the id of stages[{index_of[number]}]")
        index_of[number] = index
    return Job(
        application=_typed(record["app"], str, "app"),
        job_id=_typed(record["job_id"], str, "job_id"),
        stages=tuple(_stage(row, f"stages[{i}]", index_of) for i, row in enumerate(rows)),
    )


def _stage(row: dict[str, Any], where: str, index_of: dict[int, int]) -> Stage:
    def index(number: object, field: str) -> int:
        identifier = _typed(number, int, f"{where}.{field}")
        if identifier not in index_of:
            raise _FieldError(f"{where}.{field}: no stage has id {identifier}")
        return index_of[identifier]

    kind = _typed(row["kind"], str, f"{where}.kind")
    if kind not in KINDS:
        raise _FieldError(f"{where}.kind: {_shown(kind)} is neither llm nor regular")
    tasks = _typed(row["tasks"], list, f"{where}.tasks")
    parents = _typed(row["parents"], list, f"{where}.parents")
    return Stage(
        name=_typed(row["name"], str, f"{where}.name"),
        kind=KINDS[kind],
        parents=tuple(index(parent, "parents") for parent in parents),
        tasks=tuple(
            _task(task, f"{where}.tasks[{i}]", KINDS[kind]) for i, task in enumerate(tasks)
        ),
        revealed_by=None
        if row["revealed_by"] is None
        else index(row["revealed_by"], "revealed_by"),
        resource=_typed(row["resource"], str, f"{where}.resource") if "resource" in row else None,
    )


def _task(value: object, where: str, kind: Kind) -> Task:
    if kind == Kind.LLM:
        record = _keys(value, where, {"prompt_tokens", "output_tokens"})
        return LLMTask(
            prompt_tokens=_typed(record["prompt_tokens"], int, f"{where}.prompt_tokens"),
            output_tokens=_typed(record["output_tokens"], int, f"{where}.output_tokens"),
        )
    record = _keys(value, where, {"duration_s"})
    duration_s = record["duration_s"]
    if not isinstance(duration_s, int | float) or isinstance(duration_s, bool):
        raise _FieldError(f"{where}.duration_s: expected a number, got {_shown(duration_s)}")
    try:
        return RegularTask(float(duration_s))
    except OverflowError:
        raise _FieldError(f"{where}.duration_s: not a time in seconds") from None


def _keys(
    value: object, where: str, required: Set[str], optional: Set[str] = frozenset()
) -> dict[str, Any]:
    """The value, checked to be an object with these keys and no others."""
    record = _typed(value, dict, where or "job")
    for key in sorted(required - record.keys()):
        raise _FieldError(f"{where}.{key}: missing" if where else f"{key}: missing")
    for key in sorted(record.keys() - required - optional):
        raise _FieldError(f"{where or 'job'}: unknown key {_shown(key)}")
    return record


def _typed(value: Any, expected: type[T], where: str) -> T:
    """The value, checked to be of the type (a bool is no int)."""
    if not isinstance(value, expected) or isinstance(value, bool):
        raise _FieldError(f"{where}: expected {TYPES[expected]}, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _record(job: Job) -> dict[str, Any]:
    return {
        "app": job.application,
        "job_id": job.job_id,
        "stages": [_stage_record(index, stage) for index, stage in enumerate(job.stages)],
    }


def _stage_record(index: int, stage: Stage) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": index,
        "name": stage.name,
        "kind": Kind(stage.kind).name.lower(),
        "parents": [int(parent) for parent in stage.parents],
        "tasks": [_task_record(task) for task in stage.tasks],
        "revealed_by": None if stage.revealed_by is None else int(stage.revealed_by),
    }
    if stage.resource is not None:
        record["resource"] = stage.resource
    return record


def _task_record(task: Task) -> dict[str, Any]:
    if isinstance(task, LLMTask):
        return {
            "prompt_tokens": int(task.prompt_tokens),
            "output_tokens": int(task.output_tokens),
        }
    return {"duration_s": float(task.duration_s)}
