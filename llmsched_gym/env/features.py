"""What an agent sees: the spaces, the features and their units."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class Feature(NamedTuple):
    """One column of a table of the observation."""

    name: str
    unit: str
    meaning: str


STAGE_FEATURES = (
    Feature("is_llm", "flag", "runs on an LLM engine"),
    Feature("is_regular", "flag", "runs on a regular executor"),
    Feature("is_dynamic", "flag", "placeholder of what an unfinished stage may reveal"),
    Feature("ready", "flag", "all parents are complete"),
    Feature("waiting_tasks", "tasks", "not started"),
    Feature("running_tasks", "tasks", "dispatched, not completed"),
    Feature("completed_tasks", "tasks", "completed"),
    Feature("prompt_tokens", "tokens", "of all its tasks; 0 until the stage is ready"),
    Feature("descendants", "stages", "visible unfinished stages and placeholders that wait for it"),
    Feature("presence", "probability", "that it exists (placeholder: expected number of stages)"),
    Feature("demand_s", "s", "expected remaining service demand at the current batch sizes"),
    Feature("entropy_bits", "bit", "entropy of its demand"),
    Feature("uncertainty_reduction", "bit s", "R of the stage, 0 unless ready"),
    Feature("work_s", "s", "expected remaining work on what it runs on, see `work_llm_s`"),
)
JOB_FEATURES = (
    Feature("application", "index", "the application it is a run of"),
    Feature("age_s", "s", "time since arrival"),
    Feature("waiting_tasks", "tasks", "of its ready stages, not started"),
    Feature("running_tasks", "tasks", "dispatched, not completed"),
    Feature("completed_tasks", "tasks", "completed"),
    Feature("attained_s", "slot s", "slot time its tasks have used"),
    Feature(
        "prior_demand_s",
        "s",
        "expected demand at arrival, at batch size 1: the same for a whole application",
    ),
    Feature("demand_s", "s", "expected remaining demand E[rem] at the current batch sizes"),
    Feature("demand_std_s", "s", "its standard deviation"),
    Feature("demand_low_s", "s", "lower end of its interval"),
    Feature("demand_high_s", "s", "upper end of its interval"),
    Feature("demand_llm_s", "s", "the part of demand_s that runs on LLM engines"),
    Feature("gittins_s", "s", "Gittins index of its remaining demand, scaled like demand_s"),
    Feature("work_llm_s", "s", "expected remaining engine work: engine time it takes from others"),
    Feature("work_regular_s", "s", "expected remaining time on regular executors"),
    Feature("prior_work_llm_s", "s", "expected engine work at arrival"),
    Feature("prior_work_regular_s", "s", "expected time on regular executors at arrival"),
)
CLUSTER_FEATURES = (
    Feature("time_s", "s", "since the start of the episode"),
    Feature("jobs_in_system", "jobs", "arrived, not completed"),
    Feature("jobs_not_shown", "jobs", "in the system, without a row here for want of room"),
    Feature("jobs_to_arrive", "jobs", "of this episode"),
    Feature("llm_slots", "slots", "of all engines"),
    Feature("llm_free", "slots", "without a sequence"),
    Feature("regular_executors", "executors", "in all"),
    Feature("regular_free", "executors", "idle"),
    Feature("batch_slowdown", "ratio", "l(b now) / l(1), mean over the busy engines"),
)
# They take so long to work out that an environment shows 0 there if nobody wants them.
COSTLY = "gittins_s", "uncertainty_reduction"
STAGE = {feature.name: column for column, feature in enumerate(STAGE_FEATURES)}
JOB = {feature.name: column for column, feature in enumerate(JOB_FEATURES)}
CLUSTER = {feature.name: column for column, feature in enumerate(CLUSTER_FEATURES)}


def _columns(numbers: Mapping[str, int]) -> Any:
    """The same numbers as attributes: compiled functions can read them, not dictionaries."""
    return namedtuple("Columns", numbers)(**numbers)  # type: ignore[misc]


STAGE_COLUMN, JOB_COLUMN, CLUSTER_COLUMN = map(_columns, (STAGE, JOB, CLUSTER))


class Observation(NamedTuple):
    """The arrays of one observation, in the order of the spaces.

    Rows in use come first: jobs in order of arrival, the stages of a job in topological order of
    what is seen of it, each placeholder right after the stage that fills it. Unused rows are zero.

    Attributes
    ----------
    stages : visible unfinished stages, and placeholders, by ``STAGE_FEATURES``.
    stage_job : the row of ``jobs`` that the stage belongs to.
    stage_mask : 1 for rows in use.
    edges : (from row, to row), the second waits for the first.
    edge_mask : 1 for edges in use.
    jobs : the jobs in the system, by ``JOB_FEATURES``.
    job_mask : 1 for rows in use.
    cluster : the cluster as a whole, by ``CLUSTER_FEATURES``.
    action_mask : 1 for legal actions; the last action waits.
    """

    stages: NDArray[np.float32]
    stage_job: NDArray[np.int32]
    stage_mask: NDArray[np.int8]
    edges: NDArray[np.int32]
    edge_mask: NDArray[np.int8]
    jobs: NDArray[np.float32]
    job_mask: NDArray[np.int8]
    cluster: NDArray[np.float32]
    action_mask: NDArray[np.int8]


def observation_space(max_stages: int, max_edges: int, max_jobs: int) -> spaces.Dict:
    """The one-level ``Dict`` space of fixed-size boxes (finite, as the checkers demand)."""
    largest = float(np.finfo(np.float32).max)
    return spaces.Dict(
        {
            "stages": spaces.Box(0.0, largest, (max_stages, len(STAGE_FEATURES)), np.float32),
            "stage_job": spaces.Box(0, max(max_jobs - 1, 1), (max_stages,), np.int32),
            "stage_mask": spaces.Box(0, 1, (max_stages,), np.int8),
            "edges": spaces.Box(0, max(max_stages - 1, 1), (max_edges, 2), np.int32),
            "edge_mask": spaces.Box(0, 1, (max_edges,), np.int8),
            "jobs": spaces.Box(0.0, largest, (max_jobs, len(JOB_FEATURES)), np.float32),
            "job_mask": spaces.Box(0, 1, (max_jobs,), np.int8),
            "cluster": spaces.Box(0.0, largest, (len(CLUSTER_FEATURES),), np.float32),
            "action_mask": spaces.Box(0, 1, (max_stages + 1,), np.int8),
        }
    )


def empty_observation(
    max_stages: int, max_edges: int, max_jobs: int, *clusters: int
) -> Observation:
    """All zeros; large arrays cost nothing until their rows are written.

    ``clusters`` is a leading dimension, if any.
    """
    return Observation(
        stages=np.zeros((*clusters, max_stages, len(STAGE_FEATURES)), np.float32),
        stage_job=np.zeros((*clusters, max_stages), np.int32),
        stage_mask=np.zeros((*clusters, max_stages), np.int8),
        edges=np.zeros((*clusters, max_edges, 2), np.int32),
        edge_mask=np.zeros((*clusters, max_edges), np.int8),
        jobs=np.zeros((*clusters, max_jobs, len(JOB_FEATURES)), np.float32),
        job_mask=np.zeros((*clusters, max_jobs), np.int8),
        cluster=np.zeros((*clusters, len(CLUSTER_FEATURES)), np.float32),
        action_mask=np.zeros((*clusters, max_stages + 1), np.int8),
    )


def describe() -> str:
    """The tables of features in Markdown, as docs/observation.md prints them."""
    tables = (
        ("stages", "stage row", STAGE_FEATURES),
        ("jobs", "job row", JOB_FEATURES),
        ("cluster", "entry", CLUSTER_FEATURES),
    )
    lines: list[str] = []
    for name, row, features in tables:
        lines += [f"### `{name}`, per {row}", "", "| column | name | unit | meaning |"]
        lines.append("|---|---|---|---|")
        lines += [
            f"| {column} | `{feature.name}` | {feature.unit} | {feature.meaning} |"
            for column, feature in enumerate(features)
        ]
        lines.append("")
    return "\n".join(lines)
