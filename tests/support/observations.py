"""Observations made by hand: a few jobs, their stages, and what can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.env.features import CLUSTER, JOB, STAGE

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


def connected(seen: Observation, edges: Sequence[tuple[int, int]]) -> Observation:
    """The observation with these edges between stage rows instead of its own."""
    table = np.zeros((max(len(edges), len(seen["edges"])), 2), np.int32)
    mask = np.zeros(len(table), np.int8)
    table[: len(edges)] = np.reshape(edges, (-1, 2))
    mask[: len(edges)] = 1
    return {**seen, "edges": table, "edge_mask": mask}


def random_graph(rng: np.random.Generator, max_stages: int = 20) -> Observation:
    """A random observation with every feature that policies read, placeholders and edges.

    Edges lead from lower to higher rows of the same job; only ready stages are legal.
    """
    seen = random_observation(
        rng,
        jobs=int(rng.integers(1, 8)),
        stages=int(rng.integers(1, max_stages)),
        max_stages=max_stages,
    )
    job = seen["stage_job"][seen["stage_mask"] != 0]
    edges = [
        (a, b) for b in range(len(job)) for a in range(b) if job[a] == job[b] and rng.random() < 0.4
    ]
    stages, rows = seen["stages"], np.arange(len(job))
    below = np.array([sum(a == row for a, _ in edges) for row in rows])
    above = np.array([sum(b == row for _, b in edges) for row in rows])
    placeholder = (above > 0) & (rng.random(len(job)) < 0.3)
    llm = rng.random(len(job)) < 0.6
    stages[rows, STAGE["is_dynamic"]] = placeholder
    stages[rows, STAGE["is_llm"]] = llm & ~placeholder
    stages[rows, STAGE["is_regular"]] = ~llm & ~placeholder
    stages[rows, STAGE["ready"]] = above == 0
    stages[rows, STAGE["descendants"]] = below
    stages[rows, STAGE["entropy_bits"]] = rng.integers(0, 4, len(job)) / 2
    for name in ("waiting_tasks", "running_tasks"):
        stages[rows, STAGE[name]] *= ~placeholder
    running = stages[rows, STAGE["running_tasks"]] * (above == 0)
    stages[rows, STAGE["running_tasks"]] = running
    seen["action_mask"][rows] *= above == 0
    jobs = np.flatnonzero(seen["job_mask"])
    seen["jobs"][jobs, JOB["attained_s"]] = rng.integers(0, 5, len(jobs))
    seen["jobs"][jobs, JOB["running_tasks"]] = [running[job == one].sum() for one in jobs]
    for name in ("llm_slots", "regular_executors"):
        seen["cluster"][CLUSTER[name]] = rng.integers(1, 20)
    most = max_stages * (max_stages - 1) // 2  # the same in every observation, to be stacked
    table = np.zeros((most, 2), np.int32)
    return connected({**seen, "edges": table}, edges)


def graph_with_more(rng: np.random.Generator, max_stages: int = 20) -> Observation:
    """A random observation with numbers in all columns; sometimes nothing can be run."""
    seen = random_graph(rng, max_stages)
    for table, mask in (("stages", "stage_mask"), ("jobs", "job_mask")):
        used, columns = int(seen[mask].sum()), seen[table].shape[1]
        noise = rng.gamma(0.5, 50, (used, columns)) * (rng.random((used, columns)) < 0.5)
        seen[table][:used] += np.where(seen[table][:used] == 0, noise, 0).astype(np.float32)
    kinds = [STAGE[name] for name in ("is_llm", "is_regular", "is_dynamic", "ready")]
    seen["stages"][:, kinds] = seen["stages"][:, kinds] == 1
    seen["cluster"][:] = rng.gamma(1, 5, len(CLUSTER))
    seen["action_mask"][:-1] *= rng.random() < 0.8
    seen["action_mask"][-1] = not seen["action_mask"][:-1].any() or rng.random() < 0.7
    return seen


def with_room(seen: Observation, max_stages: int, max_jobs: int, max_edges: int) -> Observation:
    """The same observation in larger tables."""
    sizes = {"stages": max_stages, "stage_job": max_stages, "stage_mask": max_stages}
    sizes |= {"edges": max_edges, "edge_mask": max_edges, "jobs": max_jobs, "job_mask": max_jobs}
    larger = {}
    for name, table in seen.items():
        shape = (sizes.get(name, len(table)), *table.shape[1:])
        larger[name] = np.zeros(shape, table.dtype)
        larger[name][: len(table)] = table
    mask = np.zeros(max_stages + 1, np.int8)
    mask[: len(seen["action_mask"]) - 1] = seen["action_mask"][:-1]
    mask[-1] = seen["action_mask"][-1]
    return {**larger, "action_mask": mask}
