"""What of a job's expected remaining demand counts when jobs are ordered by it."""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, Scores, job_feature, stage_feature
from llmsched_gym.env.features import CLUSTER

COUNTED = ("all", "scarce", "own")


def check_counted(demand: str) -> str:
    """The argument, if it is one of ``COUNTED``; else ValueError."""
    if demand not in COUNTED:
        raise ValueError(f"demand: unknown {demand!r}, choose from {', '.join(COUNTED)}")
    return demand


def remaining_demand(observation: Observation, demand: str) -> Scores:
    """For each stage the seconds that its job still needs, E[rem]: float32 [..., stage rows].

    "all" counts LLM calls and tools. "scarce" counts what runs on executors that jobs wait for:
    LLM demand while at most one LLM slot is free, regular demand while at most one regular executor
    is. A job that will wait for nobody's tools but its own takes nothing from the others by having
    long ones. (The one free slot is that of the decision.)

    "own" counts, for each stage, what its job still needs of the kind of executor that the stage
    asks for: LLM demand for an LLM call, regular demand for a tool. So each kind serves the jobs
    that will soon ask it for nothing more, whatever they need of the other.
    """
    everything = job_feature(observation, "demand_s")
    if demand == "all":
        return everything
    llm = job_feature(observation, "demand_llm_s")
    if demand == "own":
        return np.where(stage_feature(observation, "is_llm") != 0, llm, everything - llm)
    cluster = observation["cluster"]
    llm_scarce = cluster[..., CLUSTER["llm_free"], None] <= 1
    regular_scarce = cluster[..., CLUSTER["regular_free"], None] <= 1
    return np.where(llm_scarce, llm, 0) + np.where(regular_scarce, everything - llm, 0)
