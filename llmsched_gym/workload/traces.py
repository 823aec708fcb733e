"""Real jobs: JSON lines in and out.

One job per line::

    {"app": "react", "job_id": "react-0", "stages": [
      {"id": 0, "name": "thought", "kind": "llm", "parents": [],
       "tasks": [{"prompt_tokens": 1023, "output_tokens": 30}], "revealed_by": null},
      {"id": 1, "name": "search", "kind": "regular", "parents": [0],
       "tasks": [{"duration_s": 2.25}], "revealed_by": 0, "resource": "search"}]}

``docs/workloads.md`` ("Trace format") has every key with its type and range, and how files are
found. See :class:`~llmsched_gym.workload.job.Stage` for the meaning of stages.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from llmsched_gym.files import replacing
from llmsched_gym.workload.importers.formats import SUFFIXES as OTHERS
from llmsched_gym.workload.importers.formats import import_files, recognised
from llmsched_gym.workload.importers.tally import SHOWN, listed
from llmsched_gym.workload.inputs import given_path, printable, unknown
from llmsched_gym.workload.job import InvalidJob, Job, Kind, LLMTask, RegularTask, Stage, Task
from llmsched_gym.workload.lines import (
    FORMAT,
    FieldError,
    files_below,
    lines,
    parsed,
    shown_json,
    trace_files,
)
from llmsched_gym.workload.lines import TraceError as TraceError
from llmsched_gym.workload.samples import sample_path

SAMPLE = "sample"  # the path of the jobs that ship, unless there is something of that name
ON_BAD_JOB = ("error", "skip")
KINDS = {"llm": Kind.LLM, "regular": Kind.REGULAR}
STAGE_KEYS = frozenset({"id", "name", "kind", "parents", "tasks", "revealed_by"})
TYPES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}

Id = int | str
T = TypeVar("T")


class Traces(NamedTuple):
    """What was read.

    Attributes
    ----------
    jobs : in order.
    numbers : of each job among all that the files hold, those left out too; 0 is the first.
    notes : what a user should be told: which keys were ignored, how many jobs left out and why.
    """

    jobs: list[Job]
    numbers: list[int]
    notes: tuple[str, ...]


def read_traces(path: str | os.PathLike[str], on_bad_job: str = "error") -> list[Job]:
    """The jobs of a JSON lines file, or of those in a folder and its sub-folders, in their order.

    In a folder these are all files named ``*.jsonl`` or ``*.jsonl.gz`` (in upper case too) in the
    order of their paths, but none whose name begins with a dot. ``~`` is the home folder. Files
    may be compressed by gzip, whatever their names. The stages of a job are numbered in file
    order, whatever their ids.

    Files of other tools are imported (:mod:`llmsched_gym.workload.importers`): those of one format
    together, where the first of them is. A folder without ``*.jsonl`` may hold them under the names
    that they usually have (``*.traj``, ``*.csv``, ``*.json``).

    Parameters
    ----------
    path : file or folder, or "sample" for the jobs that ship, unless there is something so called.
    on_bad_job : "error", or "skip" to leave out jobs that are malformed.

    Raises
    ------
    FileNotFoundError
        if there is no such file or folder.
    TraceError
        if a folder has no such file, what is named is a pipe or a device, a file is damaged or has
        no job, a line is malformed or its job breaks a rule of
        :class:`~llmsched_gym.workload.job.Job`, or two jobs of an application share a ``job_id``.
    """
    return load_traces(path, on_bad_job).jobs


def load_traces(path: str | os.PathLike[str], on_bad_job: str = "error") -> Traces:
    """Like :func:`read_traces`, with notes on ignored keys and on jobs that were left out."""
    if on_bad_job not in ON_BAD_JOB:
        raise unknown("on_bad_job", on_bad_job, ON_BAD_JOB)
    path = _path(path)
    reading = _Reading(skip=on_bad_job == "skip")
    reading.read_all(_files(path))
    if not reading.jobs:
        raise TraceError(f"{path}: no job is left: {reading.notes()[-1]}")
    return Traces(reading.jobs, reading.numbers, reading.notes())


def check_traces(
    path: str | os.PathLike[str],
) -> tuple[list[Job], list[tuple[str, str]], tuple[str, ...]]:
    """The good jobs of a file or folder, what is wrong with the others, and notes.

    What is wrong is a pair for each bad job in the order of the files: ``file:line`` and why.

    Raises
    ------
    FileNotFoundError, TraceError
        like :func:`read_traces`, but not for bad jobs, though none be left.
    """
    reading = _Reading(skip=True)
    reading.read_all(_files(_path(path)))
    return reading.jobs, reading.problems, reading.notes()


def _path(path: str | os.PathLike[str]) -> Path:
    """The path that a user gave, or that of the sample."""
    given = given_path("path", path)
    return sample_path() if given == Path(SAMPLE) and not given.exists() else given


def _files(path: Path) -> list[Path]:
    files = trace_files(path) or [one for one in files_below(path, OTHERS) if recognised(one)]
    if not files:
        raise TraceError(f"{path}: no *.jsonl file in this folder (see {FORMAT})")
    return files


def write_traces(path: str | os.PathLike[str], jobs: Iterable[Job]) -> None:
    """Write jobs to a JSON lines file, from which :func:`read_traces` makes equal jobs.

    The file appears whole or not at all; it is compressed if its name ends with ``.gz``.

    Raises
    ------
    ValueError
        if there is no job, or two jobs of an application share a ``job_id``.
    FileNotFoundError
        if the folder to write to does not exist.
    """
    path = given_path("path", path)
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
    data = "".join(f"{line}\n" for line in records.values()).encode("ascii")
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    with replacing(path) as part:
        part.write_bytes(data)


@dataclass
class _Reading:
    """What has been read so far."""

    skip: bool
    found: int = 0
    jobs: list[Job] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)  # keys
    problems: list[tuple[str, str]] = field(default_factory=list)  # places and what is wrong there
    imports: list[str] = field(default_factory=list)  # notes on files of other tools

    def read_all(self, files: Sequence[Path]) -> None:
        """The jobs of all files; those of another tool together, where the first of them is."""
        formats = {file: None if _is_ours(file) else recognised(file) for file in files}
        alike: dict[str, list[Path]] = {}
        for file, name in formats.items():
            if name is not None:
                alike.setdefault(name, []).append(file)
        for file, name in formats.items():
            if name is None:
                self.read(file)
            elif file == alike[name][0]:
                self._import(alike[name], name)

    def read(self, file: Path) -> None:
        """The jobs of one file, whose last line may lack its end."""
        before = self.found
        for number, line in lines(file):
            place = f"{printable(file)}:{number}"
            try:
                self._add(_job(parsed(line), place, self.ignored))
            except (FieldError, InvalidJob) as error:
                if not self.skip:
                    raise TraceError(f"{place}: {error} (see {FORMAT})") from None
                self.problems.append((place, str(error)))
            self.found += 1
        if self.found == before:
            raise TraceError(f"{file}:1: no job: the file is empty (see {FORMAT})")

    def _import(self, files: Sequence[Path], name: str) -> None:
        imported = import_files(files, name)
        for job in imported.jobs:
            try:
                self._add(job)
            except FieldError as error:
                if not self.skip:
                    raise TraceError(f"{job.source}: {error} (see {FORMAT})") from None
                self.problems.append((job.source, str(error)))
            self.found += 1
        where = printable(files[0]) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        self.imports.append(f"traces: {where} read as {imported.summary()}")
        self.imports += (f"traces: {name}: {note}" for note in imported.tally.notes())

    def _add(self, job: Job) -> None:
        first = self.places.setdefault((job.application, job.job_id), job.source)
        if first != job.source:
            raise FieldError(f"job_id: {job.job_id!r} of {job.application!r} is already at {first}")
        self.jobs.append(job)
        self.numbers.append(self.found)

    def notes(self) -> tuple[str, ...]:
        notes = list(self.imports)
        if self.ignored:
            keys = sorted(self.ignored)
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            notes.append(f"traces: ignored keys {', '.join(keys[:SHOWN])}{more} ({FORMAT})")
        if self.problems:
            counts: Counter[str] = Counter()
            places: dict[str, str] = {}
            for place, error in self.problems:
                reason = re.sub(r"\[\d+\]", "[]", error)
                counts[reason] += 1
                places.setdefault(reason, place)
            told = listed(counts, places)
            notes.append(f"traces: {len(self.problems)} jobs left out: {told}")
        return tuple(notes)


def _is_ours(file: Path) -> bool:
    """Whether the first line that can be read is an object with one of our keys."""
    for _, line in islice(lines(file), 1):
        try:
            value = parsed(line)
        except FieldError:
            return False
        return isinstance(value, dict) and ("stages" in value or "app" in value)
    return False


def _job(value: object, source: str, ignored: Counter[str]) -> Job:
    record = _keys(value, "", {"app", "job_id", "stages"})
    rows = _typed(record["stages"], list, "stages")
    index_of: dict[Id, int] = {}
    for index, row in enumerate(rows):
        where = f"stages[{index}]"
        _keys(row, where, STAGE_KEYS)
        name = _id(row["id"], f"{where}.id")
        if name in index_of:
            raise FieldError(
                f"{where}.id: {shown_json(name)} is also the id of stages[{index_of[name]}]"
            )
        index_of[name] = index
    arrival_s = record.get("arrival_s")
    job = Job(
        application=_typed(record["app"], str, "app"),
        job_id=str(_id(record["job_id"], "job_id")),
        stages=tuple(_stage(row, f"stages[{i}]", index_of) for i, row in enumerate(rows)),
        arrival_s=None if arrival_s is None else _number(arrival_s, "arrival_s"),
        source=source,
    )
    ignored.update(_unknown_keys(record))
    return job


def _unknown_keys(record: dict[str, Any]) -> Iterator[str]:
    """The keys of a valid job that say nothing to us, each with the kind of object it is in."""
    for key in record.keys() - {"app", "job_id", "stages", "arrival_s"}:
        yield f"job.{_named(key)}"
    for row in record["stages"]:
        for key in row.keys() - STAGE_KEYS - {"resource"}:
            yield f"stage.{_named(key)}"
        known = {"prompt_tokens", "output_tokens"} if row["kind"] == "llm" else {"duration_s"}
        for task in row["tasks"]:
            for key in task.keys() - known:
                yield f"task.{_named(key)}"


def _named(key: str) -> str:
    return key if key.isascii() and key.isprintable() and len(key) <= 40 else shown_json(key)


def _stage(row: dict[str, Any], where: str, index_of: dict[Id, int]) -> Stage:
    def index(value: object, field: str) -> int:
        name = _id(value, f"{where}.{field}")
        if name not in index_of:
            raise FieldError(f"{where}.{field}: no stage has id {shown_json(name)}")
        return index_of[name]

    kind = _typed(row["kind"], str, f"{where}.kind")
    if kind not in KINDS:
        raise FieldError(f"{where}.kind: {shown_json(kind)} is neither llm nor regular")
    tasks = _typed(row["tasks"], list, f"{where}.tasks")
    parents = _typed(row["parents"], list, f"{where}.parents")
    resource = row.get("resource")
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
        resource=None if resource is None else _typed(resource, str, f"{where}.resource"),
    )


def _task(value: object, where: str, kind: Kind) -> Task:
    if kind == Kind.LLM:
        record = _keys(value, where, {"prompt_tokens", "output_tokens"})
        return LLMTask(
            prompt_tokens=_typed(record["prompt_tokens"], int, f"{where}.prompt_tokens"),
            output_tokens=_typed(record["output_tokens"], int, f"{where}.output_tokens"),
        )
    record = _keys(value, where, {"duration_s"})
    return RegularTask(_number(record["duration_s"], f"{where}.duration_s"))


def _keys(value: object, where: str, required: Set[str]) -> dict[str, Any]:
    """The value, checked to be an object with these keys."""
    record = _typed(value, dict, where or "job")
    for key in sorted(required - record.keys()):
        raise FieldError(f"{where}.{key}: missing" if where else f"{key}: missing")
    return record


def _typed(value: Any, expected: type[T], where: str) -> T:
    """The value, checked to be of the type (a bool is no int)."""
    if not isinstance(value, expected) or isinstance(value, bool):
        raise FieldError(f"{where}: expected {TYPES[expected]}, got {shown_json(value)}")
    return value


def _id(value: object, where: str) -> Id:
    """The value, checked to be what jobs and stages may be called by."""
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise FieldError(f"{where}: expected text or a whole number, got {shown_json(value)}")
    return value


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FieldError(f"{where}: expected a number, got {shown_json(value)}")
    try:
        return float(value)
    except OverflowError:
        raise FieldError(f"{where}: not a time in seconds") from None


def _record(job: Job) -> dict[str, Any]:
    arrival = {} if job.arrival_s is None else {"arrival_s": float(job.arrival_s)}
    return {
        "app": job.application,
        "job_id": job.job_id,
        **arrival,
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
