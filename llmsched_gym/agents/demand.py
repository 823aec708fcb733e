"""What of a job counts when jobs are ordered by what they still need."""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, Scores, job_feature, stage_feature

COUNTED = ("all", "llm", "own")


def check_counted(demand: str) -> str:
    """The argument, if it is one of ``COUNTED``; else ValueError."""
    if demand not in COUNTED:
        raise ValueError(f"demand: unknown {demand!r}, choose from {', '.join(COUNTED)}")
    return demand


def remaining_demand(observation: Observation, demand: str) -> Scores:
    """For each stage the seconds that its job still needs: float32 [..., stage rows].

    "all" is E[rem], the expected demand of LLM calls and tools together, at the current batch
    sizes. "llm" is the expected engine work alone, the time that the job takes from the others on
    engines. "own" is, for each stage, the expected work on what the stage asks for: engine work for
    an LLM call, executor time for a tool. So each kind of executor serves the jobs that will soon
    ask it for nothing more, whatever they need of the other.
    """
    return _of_jobs(observation, demand, "", "demand_s")


def demand_at_arrival(observation: Observation, demand: str) -> Scores:
    """The same, of the whole job, as it was expected when it arrived."""
    return _of_jobs(observation, demand, "prior_", "prior_demand_s")


def _of_jobs(observation: Observation, demand: str, when: str, everything: str) -> Scores:
    if demand == "all":
        return job_feature(observation, everything)
    llm = job_feature(observation, f"{when}work_llm_s")
    if demand == "llm":
        return llm
    regular = job_feature(observation, f"{when}work_regular_s")
    return np.where(stage_feature(observation, "is_llm") != 0, llm, regular)
