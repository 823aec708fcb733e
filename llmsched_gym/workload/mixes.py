"""Workloads: which jobs arrive, when, and which past jobs a scheduler may have learnt from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.workload.applications import APPLICATIONS, CLASSES
from llmsched_gym.workload.arrivals import Arrivals, Burst, FloatArray, Poisson, Recorded
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job
from llmsched_gym.workload.traces import read_traces

MIXES: dict[str, tuple[str, ...]] = {
    "mixed": tuple(APPLICATIONS),
    **CLASSES,
    **{application: (application,) for application in APPLICATIONS},
}
WORKLOADS = (*MIXES, "traces")
ARRIVALS = ("burst", "poisson", "recorded")

PAST, EVALUATED = "past", "evaluated"
STREAMS = (PAST, EVALUATED)
ENTROPY = 20_250_721  # of all generated banks: they are the same in every process and episode
PAST_SHARE = 0.7  # of the jobs of a folder of traces


@dataclass(frozen=True, eq=False)
class Workload:
    """Jobs to draw episodes from, and the past jobs that beliefs about them are fitted on.

    Attributes
    ----------
    name : what it was made from.
    bank : the jobs that episodes draw from.
    past : jobs of the same applications, none of them in ``bank``.
    arrivals : when jobs arrive.
    replay : take the jobs in the order of the bank, again and again, instead of at random.
    notes : what its user should be told.
    """

    name: str
    bank: JobBank
    past: JobBank
    arrivals: Arrivals
    replay: bool = False
    notes: tuple[str, ...] = ()

    def draw(
        self, rng: np.random.Generator, num_jobs: int, rate: float
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """Draw an episode: int64 [num_jobs] jobs of the bank, float64 [num_jobs] arrival seconds.

        Jobs are drawn uniformly, with replacement, unless ``replay``. ``rate`` is in jobs per
        second. The same generator state gives the same jobs at every rate.

        Raises
        ------
        ValueError
            if ``num_jobs`` is below 1 or the rate is not positive and finite.
        """
        if num_jobs < 1:
            raise ValueError(f"num_jobs: {num_jobs} is below 1")
        if self.replay:
            picked = np.arange(num_jobs) % len(self.bank)
        else:
            picked = rng.integers(len(self.bank), size=num_jobs)
        return picked, self.arrivals.draw(rng, num_jobs, rate)


def make_workload(
    name: str,
    *,
    path: str | Path | None = None,
    train_path: str | Path | None = None,
    training: bool = False,
    applications: Iterable[str] | None = None,
    replay: bool = False,
    arrivals: str | Arrivals = "poisson",
    arrivals_path: str | Path | None = None,
    arrivals_column: str | None = None,
    jobs_per_application: int = 500,
) -> Workload:
    """Make a workload by name.

    A name from ``MIXES`` generates ``jobs_per_application`` jobs for each of its applications, and
    as many past jobs. "traces" reads jobs from ``path``, a JSON lines file or a folder of them
    (see :mod:`llmsched_gym.workload.traces`). By a hash of its name, each of these is a past job
    (70 %) or one to evaluate (30 %); if ``train_path`` is given, all jobs of ``path`` are to
    evaluate, and those of ``train_path`` are the past. With ``training`` the past is split once
    more, likewise: episodes draw from 30 % of it, and beliefs are fitted on the rest, so that
    neither a learner nor its beliefs know a job that is evaluated.

    ``applications`` keeps only some of the applications of the traces, ``replay`` takes their jobs
    in file order. ``arrivals`` is "poisson", "burst", "recorded" (timestamps from
    ``arrivals_path``, see :meth:`Recorded.from_csv`) or an object with their ``draw`` method.

    Raises
    ------
    ValueError
        for an unknown name, an option that does not go with the others, or a split that leaves no
        past job or none to evaluate.
    TraceError, FileNotFoundError
        if the traces cannot be read.
    """
    if name not in WORKLOADS:
        raise _unknown("workload", name, WORKLOADS)
    process = _arrivals(arrivals, arrivals_path, arrivals_column)
    if name == "traces":
        if path is None:
            raise ValueError("path: workload=traces needs a JSON lines file or a folder of them")
        past, bank = _traced_banks(path, train_path, applications, training)
        note = f"traces: {len(bank)} jobs to {'train on' if training else 'evaluate'}"
        note += f", {len(past)} past jobs"
        return Workload(name, bank, past, process, replay, (note,))
    for_traces = {
        "path": path,
        "train_path": train_path,
        "applications": applications,
        "training": training or None,
        "replay": replay or None,
    }
    for option, value in for_traces.items():
        if value is not None:
            raise ValueError(f"{option}: only workload=traces takes it, not {name}")
    if jobs_per_application < 1:
        raise ValueError(f"jobs_per_application: {jobs_per_application} is below 1")
    past, bank = (_generated_bank(MIXES[name], stream, jobs_per_application) for stream in STREAMS)
    return Workload(name, bank, past, process)


def arrival_rate(load: float, slots: int, slot_seconds_per_job: float) -> float:
    """Jobs per second that keep ``slots`` LLM slots busy for a share ``load`` of the time.

    ``slot_seconds_per_job`` is the mean time for which a job occupies LLM slots, at full batch.
    A load above 1 is more than the cluster can serve.

    Raises
    ------
    ValueError
        if load or slot seconds are not positive and finite.
    """
    if not (math.isfinite(load) and load > 0):
        raise ValueError(f"load: {load} is not a positive number")
    if not (math.isfinite(slot_seconds_per_job) and slot_seconds_per_job > 0):
        raise ValueError(
            f"load: of jobs with {slot_seconds_per_job} s of LLM work it says nothing, "
            "give an arrival rate"
        )
    return load * slots / slot_seconds_per_job


@cache
def _generated_bank(applications: tuple[str, ...], stream: str, count: int) -> JobBank:
    return JobBank.from_jobs(
        job for application in applications for job in _generated_jobs(application, stream, count)
    )


@cache
def _generated_jobs(application: str, stream: str, count: int) -> tuple[Job, ...]:
    key = tuple(APPLICATIONS).index(application), STREAMS.index(stream)
    rng = np.random.default_rng(np.random.SeedSequence(ENTROPY, spawn_key=key))
    draw = APPLICATIONS[application]
    return tuple(draw(rng, f"{application}-{stream}-{number}") for number in range(count))


def _traced_banks(
    path: str | Path,
    train_path: str | Path | None,
    applications: Iterable[str] | None,
    training: bool,
) -> tuple[JobBank, JobBank]:
    """(past jobs, jobs to draw from) from files; the past has no other applications."""
    jobs = read_traces(path)
    if applications is not None:
        jobs = _only(jobs, applications)
    if train_path is None:
        past, drawn = _split(jobs)
    else:
        past, drawn = read_traces(train_path), jobs
        _check_disjoint(past, drawn)
    past = _like(drawn, past)
    if training:
        past, drawn = _split(past, "training")
        past = _like(drawn, past)
    if not past or not drawn:
        purpose = "train on" if training else "evaluate"
        wanting = f"no job to {purpose}" if not drawn else f"no past job of those to {purpose}"
        where = f"path: {path}: the split" if train_path is None else f"train_path: {train_path}:"
        raise ValueError(f"{where} leaves {wanting} ({len(jobs)} jobs read)")
    return JobBank.from_jobs(past), JobBank.from_jobs(drawn)


def _only(jobs: Sequence[Job], applications: Iterable[str]) -> list[Job]:
    chosen = {applications} if isinstance(applications, str) else set(applications)
    available = {job.application for job in jobs}
    for name in sorted(chosen - available):
        raise _unknown("applications", name, available)
    return [job for job in jobs if job.application in chosen]


def _like(drawn: Iterable[Job], past: Iterable[Job]) -> list[Job]:
    """The past jobs of those applications that are drawn from."""
    names = {job.application for job in drawn}
    return [job for job in past if job.application in names]


def _split(jobs: Iterable[Job], purpose: str = "") -> tuple[list[Job], list[Job]]:
    """Past jobs and others, by a hash of their names, another one for each purpose."""
    past: list[Job] = []
    others: list[Job] = []
    for job in jobs:
        name = f"{purpose}{job.application}\0{job.job_id}".encode("utf-8", "surrogatepass")
        share = int.from_bytes(hashlib.sha256(name).digest()[:8]) / 2**64
        (past if share < PAST_SHARE else others).append(job)
    return past, others


def _check_disjoint(past: Iterable[Job], evaluated: Iterable[Job]) -> None:
    both = sorted(f"{job.application}/{job.job_id}" for job in set(past) & set(evaluated))
    if both:
        raise ValueError(
            f"train_path: {len(both)} of its jobs are also in path, such as {both[0]}: "
            "past jobs must not be evaluated"
        )


def _arrivals(arrivals: str | Arrivals, path: str | Path | None, column: str | None) -> Arrivals:
    if arrivals == "recorded":
        if path is None:
            raise ValueError("arrivals_path: arrivals=recorded needs a CSV file")
        return Recorded.from_csv(path, column)
    for option, value in (("arrivals_path", path), ("arrivals_column", column)):
        if value is not None:
            raise ValueError(f"{option}: only arrivals=recorded takes it")
    if not isinstance(arrivals, str):
        return arrivals
    if arrivals not in ARRIVALS:
        raise _unknown("arrivals", arrivals, ARRIVALS)
    return Burst() if arrivals == "burst" else Poisson()


def _unknown(option: str, value: str, valid: Iterable[str]) -> ValueError:
    close = get_close_matches(str(value), sorted(valid), 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return ValueError(f"{option}: unknown {value!r}{hint}, choose from {', '.join(sorted(valid))}")
