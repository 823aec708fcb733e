"""Observations made by hand: a few jobs, their stages, and what can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.env.observation import CLUSTER, JOB, STAGE

Observation = dict[str, NDArray[Any]]


def observation(
    jobs: Sequence[Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    *,
    max_stages: int = 12,
    max_jobs: int = 8,
    max_edges: int = 10,
    can_wait: bool = True,
) -> Observation:
    """Tables with one row for each dictionary of features; others are 0.

    A stage names the row of its job as "job". It is legal unless it says "legal": 0.
    """
    made: Observation = {
        "stages": np.zeros((max_stages, len(STAGE)), np.float32),
        "stage_job": np.zeros(max_stages, np.int32),
        "stage_mask": np.zeros(max_stages, np.int8),
        "edges": np.zeros((max_edges, 2), np.int32),
        "edge_mask": np.zeros(max_edges, np.int8),
        "jobs": np.zeros((max_jobs, len(JOB)), np.float32),
        "job_mask": np.zeros(max_jobs, np.int8),
        "cluster": np.zeros(len(CLUSTER), np.float32),
        "action_mask": np.zeros(max_stages + 1, np.int8),
    }
    for row, features in enumerate(jobs):
        made["job_mask"][row] = 1
        for name, value in features.items():
            made["jobs"][row, JOB[name]] = value
    for row, given in enumerate(stages):
        features = dict(given)
        made["stage_mask"][row] = 1
        made["stage_job"][row] = features.pop("job")
        made["action_mask"][row] = features.pop("legal", 1)
        for name, value in features.items():
            made["stages"][row, STAGE[name]] = value
    made["action_mask"][-1] = can_wait
    return made


def random_observation(
    rng: np.random.Generator,
    *,
    jobs: int = 5,
    stages: int = 12,
    max_stages: int = 20,
    max_jobs: int = 8,
) -> Observation:
    """Jobs with small whole demands, so that ties are common; some stages are not legal."""
    job_rows = []
    for _ in range(jobs):
        low, width = rng.integers(0, 20), rng.integers(0, 6)
        job_rows.append(
            {
                "running_tasks": rng.integers(0, 3),
                "prior_demand_s": rng.integers(1, 4),
                "demand_s": rng.integers(1, 6),
                "demand_low_s": low,
                "demand_high_s": low + width,
            }
        )
    stage_rows = [
        {
            "job": job,
            "legal": rng.integers(0, 2),
            "ready": 1,
            "waiting_tasks": rng.integers(1, 8),
            "running_tasks": rng.integers(0, 3),
            "uncertainty_reduction": max(0, rng.integers(-2, 4)),
            "demand_s": rng.integers(0, 4),
        }
        for job in sorted(rng.integers(0, jobs, size=stages))
    ]
    return observation(job_rows, stage_rows, max_stages=max_stages, max_jobs=max_jobs)


def stacked(observations: Sequence[Observation]) -> Observation:
    """A batch: one leading dimension."""
    return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
