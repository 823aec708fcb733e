"""What an episode came to: the completion times of its jobs, and the metrics in ``info``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.workload.job import Kind


def job_table(state: ClusterState, applications: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Per job of the episode: application, arrival_s, completion_s and jct_s.

    A job that has not completed has NaN.
    """
    jobs = state.jobs
    done = jobs["completion"] >= 0
    completion = np.where(done, jobs["completion"] / TICKS_PER_SECOND, np.nan)
    jct = np.where(done, (jobs["completion"] - jobs["arrival"]) / TICKS_PER_SECOND, np.nan)
    return {
        "application": np.array(applications)[jobs["application"]],
        "arrival_s": jobs["arrival"] / TICKS_PER_SECOND,
        "completion_s": completion,
        "jct_s": jct,
    }


def episode_metrics(state: ClusterState, applications: Sequence[str]) -> dict[str, Any]:
    """How an episode went, of the jobs that have completed; NaN where none has.

    Returns
    -------
    mean_jct_s, p50_jct_s, p95_jct_s, p99_jct_s : mean and percentiles of job completion times, s.
    makespan_s : from the start of the episode to this moment, s.
    jobs_completed : how many.
    decisions : tasks that were started.
    llm_utilisation, regular_utilisation : share of the time of all LLM slots, and of all regular
        executors, that was in use.
    application_jct_s : mean completion time by application, s.
    """
    table = job_table(state, applications)
    jct = table["jct_s"][~np.isnan(table["jct_s"])]
    end = float(state.clock["now"][0]) / TICKS_PER_SECOND
    p50, p95, p99 = np.percentile(jct, (50, 95, 99)) if len(jct) else (np.nan,) * 3
    return {
        "mean_jct_s": float(jct.mean()) if len(jct) else float("nan"),
        "p50_jct_s": float(p50),
        "p95_jct_s": float(p95),
        "p99_jct_s": float(p99),
        "makespan_s": end,
        "jobs_completed": len(jct),
        "decisions": int(state.clock["dispatched"][0]),
        **_utilisation(state, end),
        "application_jct_s": _by_application(table),
    }


def _utilisation(state: ClusterState, end: float) -> dict[str, float]:
    """Share of slot time in use from the start of the episode to its end."""
    tasks = state.tasks
    started = tasks["start"] >= 0
    last = np.where(tasks["end"] >= 0, tasks["end"], state.clock["now"][0])
    busy = np.where(started, last - tasks["start"], 0) / TICKS_PER_SECOND
    llm = state.stages["kind"][tasks["stage"]] == Kind.LLM
    span = max(end, 1e-12)
    return {
        "llm_utilisation": float(busy[llm].sum() / (span * state.sequences.size)),
        "regular_utilisation": float(busy[~llm].sum() / (span * len(state.executors))),
    }


def _by_application(table: dict[str, NDArray[Any]]) -> dict[str, float]:
    done = ~np.isnan(table["jct_s"])
    return {
        name: float(table["jct_s"][done & (table["application"] == name)].mean())
        for name in sorted(set(table["application"][done].tolist()))
    }
