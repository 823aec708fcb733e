"""How good a belief is: what it expects of running jobs, beside what then happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import Observation, Policy
from llmsched_gym.env.features import CLUSTER, JOB, STAGE
from llmsched_gym.env.scheduling import LLMSchedEnv

BELIEF_COLUMNS = (
    *("belief", "workload", "episode", "job", "application", "progress"),
    *("predicted_s", "std_s", "low_s", "high_s", "actual_s"),
)


def belief_rows(
    believers: Mapping[str, LLMSchedEnv],
    oracle: LLMSchedEnv,
    policy: Policy,
    seed: int,
    episode: int = 0,
) -> list[dict[str, Any]]:
    """Play an episode in several environments at once that differ in what they believe.

    A job is looked at when it arrives and whenever one of its stages has completed, through the
    same observations that policies get; all beliefs are judged at the same moments.

    Parameters
    ----------
    believers
        Environments by the name of their belief, such as "bayes" and "prior". They have the same
        workload, cluster, number of jobs and rate as ``oracle``, and whole observations
        (``max_stages=None``).
    oracle
        The environment with ``belief="oracle"``, which tells what really remains.
    policy
        It sees what the first of ``believers`` shows; reset it before.
    seed
        Of the episode.
    episode
        Only copied to the rows.

    Returns
    -------
    Rows with ``BELIEF_COLUMNS``. ``job`` counts in order of arrival; ``progress`` is the share of
    the job's demand at batch size 1 that is complete; the rest is the remaining demand in seconds
    at the batch sizes of that moment: its expectation, standard deviation and interval, and what
    it really is. A task that runs remains in full.
    """
    envs = (*believers.values(), oracle)
    seen = _Seen()
    rows: list[dict[str, Any]] = []
    observations = [env.reset(seed=seed)[0] for env in envs]
    over = False
    while not over:
        # Observations do not number the jobs, and two may have arrived at one instant.
        shown = oracle.state.active[: oracle.state.clock["active"][0]]
        truth = observations[-1]
        for row in seen.changed(shown, truth):
            common = {
                "workload": oracle.workload.name,
                "episode": episode,
                "job": int(shown[row]),
                "application": oracle.bank.applications[
                    int(truth["jobs"][row, JOB["application"]])
                ],
                "progress": seen.progress(int(shown[row]), _at_batch_1(truth, row)),
            }
            for name, observation in zip(believers, observations, strict=False):
                rows.append({"belief": name} | common | _judged(observation, truth, row))
        action: Any = policy.act(observations[0])
        for number, env in enumerate(envs):
            observations[number], _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    return rows


class _Seen:
    """What is known of each job from earlier looks at it."""

    def __init__(self) -> None:
        self._completed: dict[int, float] = {}
        self._whole: dict[int, float] = {}

    def changed(self, shown: NDArray[np.int64], truth: Observation) -> list[int]:
        """The rows of the jobs that are new or have completed another stage."""
        unfinished = np.bincount(  # completed tasks of stages that are still shown
            truth["stage_job"], truth["stages"][:, STAGE["completed_tasks"]], len(truth["jobs"])
        )
        completed = (truth["jobs"][:, JOB["completed_tasks"]] - unfinished).tolist()
        jobs = shown.tolist()
        rows = [row for row, job in enumerate(jobs) if self._completed.get(job) != completed[row]]
        self._completed.update(zip(jobs, completed, strict=False))
        return rows

    def progress(self, job: int, remaining: float) -> float:
        """The share of a job's demand that is complete: 0 at the first look."""
        whole = self._whole.setdefault(job, remaining)
        return 1.0 - remaining / whole if whole > 0 else 0.0


def _judged(observation: Observation, truth: Observation, row: int) -> dict[str, float]:
    job = observation["jobs"][row]
    return {
        "predicted_s": float(job[JOB["demand_s"]]),
        "std_s": float(job[JOB["demand_std_s"]]),
        "low_s": float(job[JOB["demand_low_s"]]),
        "high_s": float(job[JOB["demand_high_s"]]),
        "actual_s": float(truth["jobs"][row, JOB["demand_s"]]),
    }


def _at_batch_1(truth: Observation, row: int) -> float:
    demand, llm = (float(truth["jobs"][row, JOB[name]]) for name in ("demand_s", "demand_llm_s"))
    return demand - llm + llm / float(truth["cluster"][CLUSTER["batch_slowdown"]])
