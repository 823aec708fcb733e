"""JobBank: many jobs packed in flat arrays, from which an episode is drawn by index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.checks import is_positive
from llmsched_gym.workload.inputs import shown
from llmsched_gym.workload.job import (
    MAX_DURATION_S,
    MAX_TOKENS,
    Job,
    Kind,
    LLMTask,
    RegularTask,
    Stage,
    Task,
)

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JobBank:
    """J jobs with S stages and T tasks in all, packed in compressed rows.

    The stages of a job are stored in its own order, which says nothing of what is hidden: parents
    may come after their children. Stage numbers inside a job (``parents``, ``stage_revealed_by``)
    are counted from the job's first stage. Banks are shared: do not write into their arrays.

    Attributes
    ----------
    applications : the A application names, sorted.
    stage_names : the N canonical stage names (:meth:`Job.canonical_names`), sorted.
    job_ids : J names, for reports.
    job_application : int64 [J], index into ``applications``.
    job_stages : int64 [J + 1]; job j owns stages ``job_stages[j]:job_stages[j + 1]``.
    stage_name : int64 [S], index into ``stage_names``.
    stage_kind : int64 [S], 0 LLM, 1 regular.
    stage_revealed_by : int64 [S], stage number inside the job, -1 if known at arrival.
    stage_parents : int64 [S + 1]; stage s owns ``parents[stage_parents[s]:stage_parents[s + 1]]``.
    parents : int64 [P], stage numbers inside the job.
    stage_tasks : int64 [S + 1]; stage s owns tasks ``stage_tasks[s]:stage_tasks[s + 1]``.
    prompt_tokens, output_tokens : int64 [T], 0 for regular tasks.
    duration_s : float64 [T], seconds, 0 for LLM tasks.
    output_limit : int64 [A], tokens that a cluster sets aside for the output of any task of the
        application, its ``max_tokens``: by default the largest number of output tokens of its
        tasks in the bank. In a workload past jobs tell it (:func:`limits_from_past`).
    arrival_s : J times, or None where none was recorded.
    sources : J places where the jobs were read, ``file:line``, or "".
    """

    applications: tuple[str, ...]
    stage_names: tuple[str, ...]
    job_ids: tuple[str, ...]
    job_application: IntArray
    job_stages: IntArray
    stage_name: IntArray
    stage_kind: IntArray
    stage_revealed_by: IntArray
    stage_parents: IntArray
    parents: IntArray
    stage_tasks: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    duration_s: NDArray[np.float64]
    output_limit: IntArray
    arrival_s: tuple[float | None, ...]
    sources: tuple[str, ...]

    @classmethod
    def from_jobs(cls, jobs: Iterable[Job]) -> JobBank:
        """Pack jobs, in the order given.

        Raises
        ------
        ValueError
            if there is no job.
        """
        jobs = tuple(jobs)
        if not jobs:
            raise ValueError("jobs: a bank needs at least one job")
        applications = tuple(sorted({job.application for job in jobs}))
        names = [job.canonical_names() for job in jobs]
        stage_names = tuple(sorted({name for job_names in names for name in job_names}))
        name_index = {name: index for index, name in enumerate(stage_names)}
        application_index = {name: index for index, name in enumerate(applications)}

        stages: list[Stage] = []
        stage_name: list[int] = []
        revealed_by: list[int] = []
        parents: list[list[int]] = []
        for job, job_names in zip(jobs, names, strict=True):
            for stage, stage_is in zip(job.stages, job_names, strict=True):
                stages.append(stage)
                stage_name.append(name_index[stage_is])
                parents.append(sorted(stage.parents))
                revealed_by.append(-1 if stage.revealed_by is None else stage.revealed_by)
        tasks = [task for stage in stages for task in stage.tasks]
        output = _ints(t.output_tokens if isinstance(t, LLMTask) else 0 for t in tasks)
        task_application = np.repeat(
            [application_index[job.application] for job in jobs],
            [sum(len(stage.tasks) for stage in job.stages) for job in jobs],
        )
        return cls(
            applications=applications,
            stage_names=stage_names,
            job_ids=tuple(job.job_id for job in jobs),
            job_application=_ints(application_index[job.application] for job in jobs),
            job_stages=_starts(len(job.stages) for job in jobs),
            stage_name=_ints(stage_name),
            stage_kind=_ints(int(stage.kind) for stage in stages),
            stage_revealed_by=_ints(revealed_by),
            stage_parents=_starts(len(row) for row in parents),
            parents=_ints(parent for row in parents for parent in row),
            stage_tasks=_starts(len(stage.tasks) for stage in stages),
            prompt_tokens=_ints(t.prompt_tokens if isinstance(t, LLMTask) else 0 for t in tasks),
            output_tokens=output,
            duration_s=np.array(
                [t.duration_s if isinstance(t, RegularTask) else 0.0 for t in tasks], np.float64
            ),
            output_limit=_largest(output, task_application, len(applications)),
            arrival_s=tuple(job.arrival_s for job in jobs),
            sources=tuple(job.source for job in jobs),
        )

    def __len__(self) -> int:
        return len(self.job_ids)

    def __deepcopy__(self, memo: dict[int, Any]) -> JobBank:
        """Nothing in it ever changes, so copies of what uses it share it."""
        return self

    def job(self, index: int) -> Job:
        """Job ``index`` as an object."""
        first, last = int(self.job_stages[index]), int(self.job_stages[index + 1])
        return Job(
            application=self.applications[self.job_application[index]],
            job_id=self.job_ids[index],
            stages=tuple(self._stage(stage) for stage in range(first, last)),
            arrival_s=self.arrival_s[index],
            source=self.sources[index],
        )

    def jobs(self) -> list[Job]:
        """All jobs as objects."""
        return [self.job(index) for index in range(len(self))]

    def select(self, indices: Sequence[int]) -> JobBank:
        """A bank of the given jobs, in that order."""
        return JobBank.from_jobs(self.job(index) for index in indices)

    def scaled(
        self,
        prompt: float = 1.0,
        output: float = 1.0,
        duration: float = 1.0,
        *,
        tokens_option: str | None = None,
    ) -> JobBank:
        """The same jobs with longer or shorter tasks; see :meth:`Workload.scaled`.

        Output limits are once more the largest number of output tokens of an application's tasks.
        ``tokens_option`` is what errors name in place of "prompt_scale" and "output_scale".

        Raises
        ------
        ValueError
            see :meth:`Workload.scaled`.
        """
        tokens = _scaled(self.output_tokens, output, tokens_option or "output_scale", MAX_TOKENS)
        written = np.maximum(np.rint(tokens), self.output_tokens > 0).astype(np.int64)
        tokens = _scaled(self.prompt_tokens, prompt, tokens_option or "prompt_scale", MAX_TOKENS)
        read = np.maximum(np.rint(tokens), self.prompt_tokens > 0).astype(np.int64)
        of_task = self.job_application[self.task_job]
        return replace(
            self,
            prompt_tokens=read,
            output_tokens=written,
            duration_s=_scaled(self.duration_s, duration, "duration_scale", MAX_DURATION_S),
            output_limit=_largest(written, of_task, len(self.applications)),
        )

    @property
    def task_job(self) -> IntArray:
        """int64 [T]: the job of every task."""
        return np.repeat(np.arange(len(self)), np.diff(self.stage_tasks[self.job_stages]))

    def described(self, index: int) -> str:
        """How messages name job ``index`` within its application: and where it was read."""
        place = f" ({self.sources[index]})" if self.sources[index] else ""
        return f"job {self.job_ids[index]}{place}"

    def _stage(self, stage: int) -> Stage:
        kind = Kind(int(self.stage_kind[stage]))
        revealed_by = int(self.stage_revealed_by[stage])
        parents = slice(self.stage_parents[stage], self.stage_parents[stage + 1])
        tasks = slice(self.stage_tasks[stage], self.stage_tasks[stage + 1])
        packed: Iterable[Task]
        if kind == Kind.LLM:
            packed = map(
                LLMTask, self.prompt_tokens[tasks].tolist(), self.output_tokens[tasks].tolist()
            )
        else:
            packed = map(RegularTask, self.duration_s[tasks].tolist())
        return Stage(
            name=self.stage_names[self.stage_name[stage]].partition("#")[0],
            kind=kind,
            parents=tuple(self.parents[parents].tolist()),
            tasks=tuple(packed),
            revealed_by=None if revealed_by < 0 else revealed_by,
        )


def limits_from_past(bank: JobBank, past: JobBank) -> JobBank:
    """The bank with the output limits that past jobs tell: nothing hidden in its jobs shows.

    The limit of an application is the smallest power of two that no task of its past jobs exceeds,
    and at least 16; of an application without past LLM tasks, the largest of these limits.
    """
    longest = np.zeros(len(past.applications), np.int64)
    np.maximum.at(longest, past.job_application[past.task_job], past.output_tokens)
    known = {
        name: 1 << max(4, int(tokens - 1).bit_length())
        for name, tokens in zip(past.applications, longest, strict=True)
        if tokens > 0
    }
    largest = max(known.values(), default=16)
    limit = _ints(known.get(name, largest) for name in bank.applications)
    return bank if np.array_equal(limit, bank.output_limit) else replace(bank, output_limit=limit)


def _scaled(values: NDArray[Any], factor: float, name: str, most: float) -> NDArray[np.float64]:
    """The values times a factor; ValueError, with the option's name, where that cannot be."""
    if not is_positive(factor):
        raise ValueError(f"{name}: {shown(factor)} is not a positive factor")
    with np.errstate(over="ignore"):
        scaled: NDArray[np.float64] = values * float(factor)
    if scaled.max(initial=0.0) > most:
        unit = "s" if values.dtype.kind == "f" else "tokens"
        raise ValueError(
            f"{name}: {factor} makes a task of {values.max():g} {unit} one of {scaled.max():g} "
            f"{unit}, at most {most:.10g} are possible"
        )
    return scaled


def _largest(values: IntArray, groups: IntArray, count: int) -> IntArray:
    """int64 [count]: the largest value of each group, at least 1."""
    largest = np.ones(count, np.int64)
    np.maximum.at(largest, groups, values)
    return largest


def _ints(values: Iterable[int]) -> IntArray:
    return np.fromiter(values, np.int64)


def _starts(counts: Iterable[int]) -> IntArray:
    return np.fromiter(accumulate(counts, initial=0), np.int64)
