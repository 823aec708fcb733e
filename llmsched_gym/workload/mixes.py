"""Workloads: which jobs arrive, when, and which past jobs a scheduler may have learnt from."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.checks import is_whole
from llmsched_gym.workload.applications import APPLICATIONS, CLASSES
from llmsched_gym.workload.arrivals import (
    Arrivals,
    Burst,
    FloatArray,
    InterruptedPoisson,
    Poisson,
    Recorded,
)
from llmsched_gym.workload.bank import JobBank, limits_from_past
from llmsched_gym.workload.described import SUFFIXES as DESCRIPTIONS
from llmsched_gym.workload.described import Description, read_description
from llmsched_gym.workload.inputs import shown, unknown
from llmsched_gym.workload.job import Job
from llmsched_gym.workload.lines import SUFFIXES
from llmsched_gym.workload.traces import ON_BAD_JOB, load_traces

MIXES: dict[str, tuple[str, ...]] = {
    "mixed": tuple(name for members in CLASSES.values() for name in members),
    **CLASSES,
    **{application: (application,) for application in APPLICATIONS},
}
DESCRIBED = "described"  # in a file of the user
WORKLOADS = (*MIXES, "traces", DESCRIBED)
GENERATED_ARRIVALS: dict[str, Callable[[], Arrivals]] = {
    "burst": Burst,
    "interrupted_poisson": InterruptedPoisson,
    "poisson": Poisson,
}
ARRIVALS = (*GENERATED_ARRIVALS, "recorded")

PAST, EVALUATED = "past", "evaluated"
STREAMS = (PAST, EVALUATED)
ENTROPY = 20_250_721  # of all generated banks: they are the same in every process and episode
PAST_SHARE = 0.7  # of the jobs of a folder of traces
MOST_GENERATED = 100_000  # jobs of an application


@dataclass(frozen=True, eq=False)
class Workload:
    """Jobs to draw episodes from, and the past jobs that beliefs about them are fitted on.

    Attributes
    ----------
    name : what it was made from.
    bank : the jobs that episodes draw from; its output limits become those that ``past`` tells
        (:func:`~llmsched_gym.workload.bank.limits_from_past`).
    past : jobs of the same applications, none of them in ``bank``; others with :meth:`with_past`.
    arrivals : when jobs arrive.
    replay : take the jobs in the order of the bank, again and again, instead of at random; with
        ``Recorded`` arrivals job i of the bank arrives at timestamp i, scaled to the rate.
    notes : what its user should be told.
    on_bad_job : what becomes of jobs that are too large for a cluster: "error", or "skip" to leave
        them out with a note (:func:`llmsched_gym.cluster.limits.fitted`).

    Raises
    ------
    ValueError
        for an unknown ``on_bad_job``.
    """

    name: str
    bank: JobBank
    past: JobBank
    arrivals: Arrivals
    replay: bool = False
    notes: tuple[str, ...] = ()
    on_bad_job: str = "error"

    def __post_init__(self) -> None:
        if self.on_bad_job not in ON_BAD_JOB:
            raise unknown("on_bad_job", self.on_bad_job, ON_BAD_JOB)
        object.__setattr__(self, "bank", limits_from_past(self.bank, self.past))

    @property
    def has_rate(self) -> bool:
        """Whether jobs arrive at a rate, so that it makes sense to speak of a load."""
        return bool(getattr(self.arrivals, "has_rate", True))

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
        if not self.replay:
            picked = rng.integers(len(self.bank), size=num_jobs)
            return picked, self.arrivals.draw(rng, num_jobs, rate)
        picked = np.arange(num_jobs) % len(self.bank)
        if isinstance(self.arrivals, Recorded):
            return picked, self.arrivals.in_order(num_jobs, rate)
        return picked, self.arrivals.draw(rng, num_jobs, rate)

    def only(self, jobs: Sequence[int], past: Sequence[int], note: str) -> Workload:
        """The same workload with some of its jobs and past jobs, and one more note."""
        arrivals = self.arrivals
        if self.replay and isinstance(arrivals, Recorded):
            arrivals = _recorded(arrivals.at(jobs).tolist())
        return replace(
            self,
            bank=self.bank.select(jobs),
            past=self.past.select(past),
            arrivals=arrivals,
            notes=(*self.notes, note),
        )

    def scaled(self, prompt: float = 1.0, output: float = 1.0, duration: float = 1.0) -> Workload:
        """The same jobs, those of the past among them, with longer or shorter tasks.

        So jobs of large models suit a small server. Graphs, arrivals and names stay; beliefs and
        output limits follow from the scaled past.

        Parameters
        ----------
        prompt, output
            Factors of the tokens of LLM tasks, which stay whole numbers of at least 1.
        duration
            Factor of the seconds of regular tasks.

        Raises
        ------
        ValueError
            for a factor that is not positive and finite, and one that makes a task larger than a
            task may be; the message begins with ``prompt_scale``, ``output_scale`` or
            ``duration_scale``, what :func:`make_workload` calls them.
        """
        factors = prompt, output, duration
        bank, past = self.bank.scaled(*factors), self.past.scaled(*factors)
        if factors == (1, 1, 1):
            return self
        note = f"scaled: prompts x {prompt:g}, outputs x {output:g}, tool times x {duration:g}"
        return replace(self, bank=bank, past=past, notes=(*self.notes, note))

    def with_past(
        self, other: JobBank | None = None, jobs: int | None = None, token_scale: float = 1.0
    ) -> Workload:
        """The same jobs to draw from with another past, as where beliefs were fitted elsewhere.

        Output limits follow from the new past. To beliefs, applications that it lacks are unknown.

        Parameters
        ----------
        other
            In place of the past jobs.
        jobs
            So many of each application at most, the first ones; None keeps all.
        token_scale
            Factor of the tokens of past LLM tasks, prompts and outputs, which stay whole numbers of
            at least 1: calls have become 1 / ``token_scale`` times as long since.

        Raises
        ------
        ValueError
            for a number of jobs below 1, and a factor that is not positive and finite or makes a
            task larger than a task may be; the message begins with ``past_jobs`` or
            ``past_token_scale``, what :func:`make_workload` calls them.
        """
        if jobs is not None and not is_whole(jobs, 1):
            raise ValueError(f"past_jobs: {shown(jobs)} is not a whole number of at least 1")
        past = self.past if other is None else other
        if jobs is not None:
            past = past.select(_first_of_each(past.job_application, int(jobs)))
        past = past.scaled(token_scale, token_scale, tokens_option="past_token_scale")
        if other is None and jobs is None and token_scale == 1:
            return self
        note = f"past: {len(past)} jobs of {', '.join(past.applications)}"
        note += "" if token_scale == 1 else f", tokens x {token_scale:g}"
        return replace(self, past=past, notes=(*self.notes, note))


def _first_of_each(groups: NDArray[np.int64], count: int) -> list[int]:
    """The indices of the first ``count`` members of each group, in their order."""
    seen = Counter[int]()
    first = []
    for index, group in enumerate(groups.tolist()):
        seen[group] += 1
        if seen[group] <= count:
            first.append(index)
    return first


Source = Description  # of jobs: a path, or what describes an application


@dataclass(frozen=True)
class _Files:
    """The options of :func:`make_workload` on what is read."""

    path: Source | None
    train_path: str | os.PathLike[str] | None
    training: bool
    applications: Iterable[str] | None
    replay: bool


def make_workload(
    name: Source,
    *,
    path: Source | None = None,
    train_path: str | os.PathLike[str] | None = None,
    training: bool = False,
    applications: Iterable[str] | None = None,
    replay: bool = False,
    arrivals: str | Arrivals | None = None,
    arrivals_path: str | os.PathLike[str] | None = None,
    arrivals_column: str | None = None,
    jobs_per_application: int = 500,
    on_bad_job: str = "error",
    prompt_scale: float = 1.0,
    output_scale: float = 1.0,
    duration_scale: float = 1.0,
    past_jobs: int | None = None,
    past_mix: str | None = None,
    past_token_scale: float = 1.0,
) -> Workload:
    """Make a workload by name, or of the traces at a path.

    A name from ``MIXES`` generates ``jobs_per_application`` jobs for each of its applications, and
    as many past jobs; "described" those of the application that ``path``, a YAML file or a
    dictionary, describes (:mod:`llmsched_gym.workload.described`). "traces" reads jobs from
    ``path``, a JSON lines file or a folder of them (:mod:`llmsched_gym.workload.traces`). A path or
    a dictionary for a name means the same. By a hash of its name, each job of traces is a past job
    (70 %) or one to evaluate (30 %); if ``train_path`` is given, all jobs of ``path`` are to
    evaluate, and those of ``train_path`` are the past. With ``training`` the past is split once
    more, likewise: episodes draw from 30 % of it, and beliefs are fitted on the rest, so that
    neither a learner nor its beliefs know a job that is evaluated.

    ``applications`` keeps only some of the applications of the traces, ``replay`` takes their jobs
    in file order. ``arrivals`` is "poisson" (the default), "interrupted_poisson", "burst" (all at
    once), "recorded" (timestamps from ``arrivals_path``, see :meth:`Recorded.from_csv`) or an
    object with their ``draw`` method. With ``replay``, job i of the file arrives at timestamp i;
    without ``arrivals``, at its own ``arrival_s`` if all jobs have one. ``on_bad_job="skip"``
    leaves out malformed and too large jobs, with a note. Scales: see :meth:`Workload.scaled`. The
    past is that of ``past_mix``, a name from ``MIXES``, as :meth:`Workload.with_past` changes it.

    Raises
    ------
    ValueError
        for an unknown name, an option that does not go with the others, or a split that leaves no
        past job or none to evaluate.
    TraceError, DescriptionError, FileNotFoundError
        if what is at the path cannot be read.
    """
    if on_bad_job not in ON_BAD_JOB:
        raise unknown("on_bad_job", on_bad_job, ON_BAD_JOB)
    name, path = _named(name, path)
    process = _arrivals(arrivals, arrivals_path, arrivals_column)
    files = _Files(path, train_path, training, applications, replay)
    if name == "traces":
        made = _traced(files, process, replay and arrivals is None, on_bad_job)
    else:
        made = _generated(name, files, process, jobs_per_application, on_bad_job)
    other = None if past_mix is None else _past_of(past_mix, jobs_per_application)
    made = made.with_past(other, past_jobs, past_token_scale)
    return made.scaled(prompt_scale, output_scale, duration_scale)


def _named(name: Source, path: Source | None) -> tuple[str, Source | None]:
    """Name and path of a workload, of which the path may stand in place of the name."""
    if isinstance(name, str) and name in WORKLOADS:
        return name, path
    if not isinstance(name, str | os.PathLike | Mapping):
        raise ValueError(f"workload: {shown(name)} is neither a name nor a path nor a Workload")
    if not isinstance(name, str) or _is_path(name):
        if path is not None:
            raise ValueError(f"path: given twice, as {_shown_source(name)} too")
        described = isinstance(name, Mapping) or str(name).lower().endswith(DESCRIPTIONS)
        return DESCRIBED if described else "traces", name
    raise unknown("workload", name, WORKLOADS)


def _is_path(name: str) -> bool:
    """Whether a text that is no name of a workload looks like the path of traces."""
    if "/" in name or os.sep in name or name.startswith("~"):
        return True
    return name.lower().endswith(SUFFIXES + DESCRIPTIONS) or os.path.exists(name)


def _shown_source(source: Source) -> str:
    return shown(source) if isinstance(source, Mapping) else repr(os.fspath(source))


def _generated(
    name: str, files: _Files, arrivals: Arrivals, jobs_per_application: int, on_bad_job: str
) -> Workload:
    for option, value in vars(files).items():
        if value is None or value is False or (option == "path" and name == DESCRIBED):
            continue
        raise ValueError(f"{option}: only workload=traces takes it, not {name}")
    count = _generated_count(jobs_per_application)
    if name == DESCRIBED:
        name, past, bank = _described_banks(files.path, count)
    else:
        past, bank = _generated_banks(MIXES[name], count)
    return Workload(name, bank, past, arrivals, on_bad_job=on_bad_job)


def _generated_count(jobs_per_application: int) -> int:
    """The number; ValueError for one that cannot be generated."""
    if not is_whole(jobs_per_application, -math.inf, MOST_GENERATED):
        raise ValueError(
            f"jobs_per_application: {shown(jobs_per_application)} is not a whole number from 1 to "
            f"{MOST_GENERATED}"
        )
    if jobs_per_application < 1:
        raise ValueError(f"jobs_per_application: {jobs_per_application} is below 1")
    return int(jobs_per_application)


def _past_of(mix: str, jobs_per_application: int) -> JobBank:
    """The past jobs of a generated workload."""
    if not isinstance(mix, str) or mix not in MIXES:
        raise unknown("past_mix", mix, MIXES)
    return _generated_banks(MIXES[mix], _generated_count(jobs_per_application))[0]


def _described_banks(source: Source | None, count: int) -> tuple[str, JobBank, JobBank]:
    """The name of the application, past jobs and those to evaluate."""
    if source is None:
        raise ValueError("path: workload=described needs a YAML file or a dictionary")
    made = read_description(source)
    past, bank = (
        JobBank.from_jobs(made.jobs(ENTROPY, number, f"{made.application}-{stream}", count))
        for number, stream in enumerate(STREAMS)
    )
    return made.application, past, bank


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
def _generated_banks(applications: tuple[str, ...], count: int) -> tuple[JobBank, JobBank]:
    """Past jobs and those to evaluate."""
    past, bank = (
        JobBank.from_jobs(
            job
            for application in applications
            for job in _generated_jobs(application, stream, count)
        )
        for stream in STREAMS
    )
    return past, limits_from_past(bank, past)


@cache
def _generated_jobs(application: str, stream: str, count: int) -> tuple[Job, ...]:
    key = tuple(APPLICATIONS).index(application), STREAMS.index(stream)
    rng = np.random.default_rng(np.random.SeedSequence(ENTROPY, spawn_key=key))
    draw = APPLICATIONS[application]
    return tuple(draw(rng, f"{application}-{stream}-{number}") for number in range(count))


def _traced(files: _Files, arrivals: Arrivals, own_arrivals: bool, on_bad_job: str) -> Workload:
    """Real jobs; with ``own_arrivals`` they arrive when they did, if all of them say when."""
    past, drawn, notes = _traced_jobs(files, arrivals, on_bad_job)
    times = [job.arrival_s for job in drawn if job.arrival_s is not None]
    aligned = files.replay and isinstance(arrivals, Recorded)
    if aligned or (own_arrivals and len(times) == len(drawn)):
        drawn.sort(key=lambda job: job.arrival_s or 0.0)  # none is None
        arrivals = _recorded(sorted(times))
    note = f"traces: {len(drawn)} jobs to {'train on' if files.training else 'evaluate'}"
    note += f", {len(past)} past jobs"
    bank, before = JobBank.from_jobs(drawn), JobBank.from_jobs(past)
    return Workload("traces", bank, before, arrivals, files.replay, (note, *notes), on_bad_job)


def _recorded(times: list[float]) -> Recorded:
    """The arrivals of jobs that are replayed."""
    try:
        return Recorded(times)
    except ValueError as error:
        raise ValueError(f"replay: arrivals of the jobs: {error}; try arrivals=burst") from None


def _traced_jobs(
    files: _Files, arrivals: Arrivals, on_bad_job: str
) -> tuple[list[Job], list[Job], tuple[str, ...]]:
    """Past jobs, jobs to draw from and notes; the past has no other applications."""
    if files.path is None or isinstance(files.path, Mapping):
        raise ValueError("path: workload=traces needs a JSON lines file or a folder of them")
    jobs, notes = _read(files.path, files.replay, arrivals, on_bad_job)
    count = len(jobs)
    if files.applications is not None:
        jobs = _only(jobs, files.applications)
    if files.train_path is None:
        past, drawn = _split(jobs)
    else:
        past, more = _read(files.train_path, files.replay, arrivals, on_bad_job)
        drawn, notes = jobs, tuple(dict.fromkeys((*notes, *more)))
        _check_disjoint(past, drawn)
    past = _like(drawn, past)
    if files.training:
        past, drawn = _split(past, "training")
        past = _like(drawn, past)
    if not past or not drawn:
        purpose = "train on" if files.training else "evaluate"
        wanting = f"no job to {purpose}" if not drawn else f"no past job of those to {purpose}"
        where = f"train_path: {files.train_path}:"
        if files.train_path is None:
            where = f"path: {files.path}: the split"
        raise ValueError(f"{where} leaves {wanting} ({count} jobs read)")
    return past, drawn, notes


def _read(
    path: str | os.PathLike[str], replay: bool, arrivals: Arrivals, on_bad_job: str
) -> tuple[list[Job], tuple[str, ...]]:
    """Jobs and notes; with ``replay``, job i arrives at recorded timestamp i."""
    jobs, numbers, notes = load_traces(path, on_bad_job)
    if replay and isinstance(arrivals, Recorded):
        times = arrivals.at(numbers).tolist()
        jobs = [replace(job, arrival_s=time) for job, time in zip(jobs, times, strict=True)]
    return jobs, notes


def _only(jobs: Sequence[Job], applications: Iterable[str]) -> list[Job]:
    if not isinstance(applications, Iterable):
        raise ValueError(f"applications: {shown(applications)} is not a list of names")
    chosen = {applications} if isinstance(applications, str) else set(map(str, applications))
    available = {job.application for job in jobs}
    for name in sorted(chosen - available):
        raise unknown("applications", name, available)
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


def _arrivals(
    arrivals: str | Arrivals | None, path: str | os.PathLike[str] | None, column: str | None
) -> Arrivals:
    if arrivals == "recorded":
        if path is None:
            raise ValueError("arrivals_path: arrivals=recorded needs a CSV file")
        return Recorded.from_csv(path, column)
    for option, value in (("arrivals_path", path), ("arrivals_column", column)):
        if value is not None:
            raise ValueError(f"{option}: only arrivals=recorded takes it")
    if arrivals is None:
        return Poisson()
    if not isinstance(arrivals, str):
        if not hasattr(arrivals, "draw"):
            raise ValueError(f"arrivals: {shown(arrivals)} is neither a name nor has it draw()")
        return arrivals
    if arrivals not in ARRIVALS:
        raise unknown("arrivals", arrivals, ARRIVALS)
    return GENERATED_ARRIVALS[arrivals]()
