"""The formats of other tools that become jobs: which they are, and how a file is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from llmsched_gym.workload.importers import (
    langfuse,
    langsmith,
    openinference,
    opentelemetry,
    requests,
    sweagent,
)
from llmsched_gym.workload.importers.records import Record, read_records
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.inputs import fault_of_name, given_path, other_than_file, unknown
from llmsched_gym.workload.job import Job, Kind
from llmsched_gym.workload.lines import TraceError, files_below

LOOKED_AT = 100  # records of a file, to tell its format
SUFFIXES = tuple(
    f"{suffix}{packed}"
    for suffix in (".jsonl", ".json", ".ndjson", ".traj", ".csv")
    for packed in ("", ".gz")
)
PAGE = "docs/bring_your_jobs.md"


@dataclass(frozen=True)
class Format:
    """A format: whether a record is of it, and the jobs of records of it."""

    recognises: Callable[[dict[str, Any]], bool]
    jobs: Callable[[Iterable[Record], Tally], Iterator[Job]]


# In this order: spans of OpenInference are spans of OpenTelemetry as well.
FORMATS: dict[str, Format] = {
    "openinference": Format(openinference.recognises, openinference.jobs),
    "opentelemetry": Format(opentelemetry.recognises, opentelemetry.jobs),
    "langfuse": Format(langfuse.recognises, langfuse.jobs),
    "langsmith": Format(langsmith.recognises, langsmith.jobs),
    "swe-agent": Format(sweagent.recognises, sweagent.jobs),
    "mooncake": Format(requests.MOONCAKE.recognises, requests.MOONCAKE.jobs),
    "burstgpt": Format(requests.BURSTGPT.recognises, requests.BURSTGPT.jobs),
    "azure": Format(requests.AZURE.recognises, requests.AZURE.jobs),
    "vidur": Format(requests.VIDUR.recognises, requests.VIDUR.jobs),
}


@dataclass(frozen=True)
class Imported:
    """The jobs of files of another tool.

    Attributes
    ----------
    format : a key of ``FORMATS``.
    jobs : in the order of their arrival, or of the file where that is not recorded.
    tally : what was left out, mended and guessed.
    """

    format: str
    jobs: list[Job]
    tally: Tally

    def summary(self) -> str:
        """How much there is, in a line."""
        tasks = [(stage.kind, len(stage.tasks)) for job in self.jobs for stage in job.stages]
        calls = sum(count for kind, count in tasks if kind == Kind.LLM)
        tools = sum(count for kind, count in tasks if kind == Kind.REGULAR)
        return (
            f"{self.format}: {len(self.jobs)} jobs, {len(tasks)} stages, {calls} LLM calls, "
            f"{tools} tool runs from {self.tally.read} records"
        )


def recognised(file: Path) -> str | None:
    """The format of a file, by its first records; None if it is none of ``FORMATS``."""
    try:
        records = list(islice(read_records(file), LOOKED_AT))
    except TraceError:
        return None
    for name, one in FORMATS.items():
        if any(one.recognises(record.value) for record in records):
            return name
    return None


def import_traces(
    path: str | os.PathLike[str], format: str | None = None, application: str | None = None
) -> Imported:
    """The jobs of a file of another tool, or of all such files in a folder and its sub-folders.

    Parameters
    ----------
    path : file or folder; of a folder all files with one of ``SUFFIXES``.
    format : a key of ``FORMATS``; by default it is recognised by what is in the files, which must
        all be of one.
    application : the name of all jobs' application; by default what the records say.

    Raises
    ------
    FileNotFoundError
        if there is no such file or folder.
    ValueError
        for an unknown format, or a name that no application may have.
    TraceError
        if no format is recognised, or more than one; a file is damaged; or no job comes out.
    """
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if application is not None and (fault := fault_of_name(application)):
        raise ValueError(f"application: {fault}")
    path = given_path("path", path)
    files = _files(path)
    if format is None:
        format = _common_format(path, files)
    return import_files(files, format, application)


def import_files(files: Sequence[Path], format: str, application: str | None = None) -> Imported:
    """Like :func:`import_traces`, of files that are all of one format."""
    tally = Tally()
    records = (record for file in files for record in read_records(file, tally))
    jobs = list(FORMATS[format].jobs(records, tally))
    if application is not None:
        jobs = [replace(job, application=application) for job in jobs]
    if not jobs:
        why = tally.skipped or "it has no record of this format"
        raise TraceError(f"{files[0]}: no job comes out, read as {format}: {why} (see {PAGE})")
    return Imported(format, _distinct(jobs, tally), tally)


def _files(path: Path) -> list[Path]:
    try:
        kind = other_than_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file or folder") from None
    if kind is None:
        return [path]
    if kind != "a folder":
        raise TraceError(f"{path}: {kind}, not a file (see {PAGE})")
    files = files_below(path, SUFFIXES)
    if not files:
        raise TraceError(f"{path}: no file *{', *'.join(SUFFIXES[::2])} in this folder")
    return files


def _common_format(path: Path, files: Sequence[Path]) -> str:
    """The format of those files that have one."""
    found = {file: name for file in files if (name := recognised(file)) is not None}
    formats = sorted(set(found.values()))
    if not formats and any(map(_is_ours, files)):
        raise TraceError(f"{path}: is in our format already, take it as workload.path")
    if not formats:
        raise TraceError(
            f"{path}: no format is recognised, choose from {', '.join(FORMATS)} (see {PAGE})"
        )
    if len(formats) > 1:
        raise TraceError(f"{path}: files of several formats, {' and '.join(formats)}: give one")
    return formats[0]


def _is_ours(file: Path) -> bool:
    try:
        return "stages" in next(read_records(file)).value
    except (TraceError, StopIteration):
        return False


def _distinct(jobs: Sequence[Job], tally: Tally) -> list[Job]:
    """The jobs, those that share application and id with an earlier one under another id."""
    taken = {(job.application, job.job_id) for job in jobs}
    seen: Counter[tuple[str, str]] = Counter()
    distinct = []
    for job in jobs:
        key = job.application, job.job_id
        seen[key] += 1
        if seen[key] > 1:
            tally.mended.add("a job_id that occurs again: numbered", job.source)
            names = (f"{job.job_id[:240]}-{number}" for number in count(seen[key]))
            free = next(name for name in names if (job.application, name) not in taken)
            taken.add((job.application, free))
            job = replace(job, job_id=free)
        distinct.append(job)
    return distinct
