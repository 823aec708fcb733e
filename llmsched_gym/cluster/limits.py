"""Which jobs a cluster can run and count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.latency import MOST_CHUNKS, LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.ticks import LONGEST_JOB_S, TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank

if TYPE_CHECKING:
    from llmsched_gym.workload.mixes import Workload

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class TaskTooLarge(ValueError):
    """A task that no engine of the cluster can ever take, or a job that would outlast the clock."""


def fitted(workload: Workload, cluster: Cluster) -> Workload:
    """A workload all of whose jobs, and past jobs, a cluster can run and count.

    With ``on_bad_job="skip"`` too large jobs are left out, and a note says how many and why.

    Raises
    ------
    TaskTooLarge
        if a job is too large and ``on_bad_job`` is "error" (see :func:`check_fits`), or none is
        left.
    """
    if workload.on_bad_job != "skip":
        check_fits(workload.bank, cluster)
        check_countable(workload.past, cluster)
        return workload
    found = too_large(workload.bank, cluster), uncountable(workload.past, cluster)
    if not any(found):
        return workload
    told, kept = [], []
    for bank, faults, kind in zip(
        (workload.bank, workload.past), found, ("", "past "), strict=True
    ):
        kept.append([job for job in range(len(bank)) if job not in faults])
        if faults:
            first = min(faults)
            told.append(f"{len(faults)} of {len(bank)} {kind}jobs left out, first {faults[first]}")
        if not kept[-1]:
            raise TaskTooLarge(f"no {kind}job fits cluster {cluster.name}: {told[-1]}")
    return workload.only(
        jobs=kept[0], past=kept[1], note=f"too large for cluster {cluster.name}: {'; '.join(told)}"
    )


def check_fits(bank: JobBank, cluster: Cluster) -> None:
    """Check once that every job of a bank can run on a cluster.

    Raises
    ------
    TaskTooLarge
        if the prompt and output of a task exceed the KV capacity of an engine, or the tasks of a
        job may take longer than ``LONGEST_JOB_S`` in all, where the ticks of its slot time would
        come near the largest integer. The message names application, job and, if it was read from
        a file, file and line.
    """
    _refuse(too_large(bank, cluster), "")


def check_countable(past: JobBank, cluster: Cluster) -> None:
    """Check once that the service demands of past jobs can be counted.

    Raises
    ------
    TaskTooLarge
        if the tasks of a job, each alone on an engine, take longer than ``LONGEST_JOB_S`` in all.
    """
    _refuse(uncountable(past, cluster), "past ")


def _refuse(faults: dict[int, str], kind: str) -> None:
    if faults:
        others = f" (and {len(faults) - 1} more such {kind}jobs)" if len(faults) > 1 else ""
        said = f"{faults[min(faults)]}{others}"
        raise TaskTooLarge(f"{said}; on_bad_job=skip leaves such jobs out")


def too_large(bank: JobBank, cluster: Cluster) -> dict[int, str]:
    """The jobs of a bank that a cluster cannot run, by index, and why."""
    capacity = cluster.latency.kv_capacity_tokens
    need = bank.prompt_tokens + bank.output_tokens
    faults: dict[int, str] = {}
    of_task = bank.task_job
    for task in np.flatnonzero(need > capacity):
        prompt, output = int(bank.prompt_tokens[task]), int(bank.output_tokens[task])
        job = int(of_task[task])
        faults.setdefault(
            job,
            f"{_application(bank, job)}: a prompt of {prompt} tokens and {output} output tokens of "
            f"{bank.described(job)} exceed the KV capacity of cluster {cluster.name}, "
            f"{capacity} tokens",
        )
    faults |= _too_many_chunks(bank, cluster.latency, cluster.max_batch - 1, "")
    fits = np.ones(len(bank), bool)
    fits[list(faults)] = False
    seconds = np.zeros(len(need))
    tasks = fits[of_task]
    if tasks.any():
        seconds[tasks] = _longest_s(bank, cluster, tasks)
    return faults | _too_long(bank, seconds, "", "may take")


def _longest_s(bank: JobBank, cluster: Cluster, tasks: NDArray[np.bool_]) -> FloatArray:
    """Seconds that these tasks take at most, whatever else runs."""
    latency, batch = cluster.latency, cluster.max_batch
    prompt, output = bank.prompt_tokens[tasks], bank.output_tokens[tasks]
    limit = set_aside(bank, cluster)[tasks]
    beyond = int(np.maximum(output - limit, 0).max())
    most = int((prompt + np.maximum(output, limit)).max())
    held = min(latency.kv_capacity_tokens + batch * beyond, batch * most)  # on an engine, at most
    a, c, d = latency.decode_coefficients
    p0, e, f, g = latency.prefill_coefficients
    iteration = (a + c * batch + d * held) / TICKS_PER_SECOND
    prefill = max(p0, e + f * held + g * held**2) / TICKS_PER_SECOND
    if latency.mixed:  # after all other prompts, and beside sequences that decode
        chunks = float(latency.chunks(held, batch - 1))
        prefill += chunks * (max(p0, e) + c * batch + d * held) / TICKS_PER_SECOND
    return np.where(prompt > 0, prefill + output * iteration, bank.duration_s[tasks])


def set_aside(bank: JobBank, cluster: Cluster) -> IntArray:
    """int64 [T]: tokens that an engine sets aside for the output of each task of a bank.

    The output limit of its application, as far as there is room beside the longest prompt of its
    stage; 0 for regular tasks. A task may write more.
    """
    longest = np.maximum.reduceat(bank.prompt_tokens, bank.stage_tasks[:-1])
    longest = np.repeat(longest, np.diff(bank.stage_tasks))
    limit = bank.output_limit[bank.job_application[bank.task_job]]
    limit = np.minimum(limit, cluster.latency.kv_capacity_tokens - longest)
    return np.where(bank.prompt_tokens > 0, limit, 0)


def uncountable(past: JobBank, cluster: Cluster) -> dict[int, str]:
    """The past jobs whose service demand is beyond what is counted, by index, and why."""
    seconds = past.duration_s.copy()
    faults = _too_many_chunks(past, cluster.latency, 0, "past ")
    llm = (past.output_tokens > 0) & ~np.isin(past.task_job, list(faults))
    seconds[llm] = cluster.latency.demand_s(past.prompt_tokens[llm], past.output_tokens[llm])
    return faults | _too_long(past, seconds, "past ", "take")


def _too_many_chunks(
    bank: JobBank, latency: LatencyProfile, decoding: int, kind: str
) -> dict[int, str]:
    faults: dict[int, str] = {}
    of_task = bank.task_job
    for task in np.flatnonzero(latency.chunks(bank.prompt_tokens, decoding) > MOST_CHUNKS):
        job = int(of_task[task])
        faults.setdefault(
            job,
            f"{_application(bank, job)}: a prompt of {bank.prompt_tokens[task]} tokens of "
            f"{kind}{bank.described(job)} takes more than {MOST_CHUNKS} iterations with the "
            f"token_budget of {latency.token_budget} tokens of the cluster",
        )
    return faults


def _too_long(bank: JobBank, seconds: FloatArray, kind: str, verb: str) -> dict[int, str]:
    of_jobs = np.add.reduceat(seconds, bank.stage_tasks[bank.job_stages[:-1]])
    return {
        job: f"{_application(bank, job)}: the tasks of {kind}{bank.described(job)} {verb} "
        f"{of_jobs[job]:g} s in all, the clock of the simulator allows {LONGEST_JOB_S:g} s"
        for job in np.flatnonzero(of_jobs > LONGEST_JOB_S).tolist()
    }


def _application(bank: JobBank, job: int) -> str:
    return f"application {bank.applications[bank.job_application[job]]}"
