"""How much work a second of demand is: from what a job needs alone to what it takes from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief.profile import BeliefProfile, FloatArray
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Kind
from llmsched_gym.workload.template import canonical_stages


def task_seconds(bank: JobBank, latency: LatencyProfile) -> FloatArray:
    """float64 [T]: service demand of every task of a bank, seconds at batch size 1."""
    llm = bank.output_tokens > 0
    seconds = bank.duration_s.copy()
    ticks = latency.demand_ticks(bank.prompt_tokens[llm], bank.output_tokens[llm])
    seconds[llm] = ticks / TICKS_PER_SECOND
    return seconds


@dataclass(frozen=True)
class WorkRates:
    """Engine work per second of demand at batch size 1, of the past jobs of one application.

    A regular stage has the rate 1: it takes from the others what it needs alone.

    Attributes
    ----------
    stages : for each canonical stage, float64 [states of its demand]: of the past stages in each
        bin together, so that the mean work of a bin is its mean demand times its rate; 0 for state
        0, "absent", and for a bin without demand.
    tasks : float64 [2 kinds], of all its tasks together.
    """

    stages: tuple[FloatArray, ...]
    tasks: FloatArray


def work_rates(profile: BeliefProfile, past: JobBank, cluster: Cluster) -> Mapping[str, WorkRates]:
    """By application, and under ``""`` over all of them.

    Parameters
    ----------
    profile : fitted on these past jobs, with the latency of this cluster.
    past : the past jobs.
    cluster : says how many sequences share an engine: see
        :meth:`~llmsched_gym.cluster.latency.LatencyProfile.engine_seconds`.
    """
    demand_s = task_seconds(past, cluster.latency)
    work_s, llm = demand_s.copy(), past.output_tokens > 0
    work_s[llm] = cluster.latency.engine_seconds(
        past.prompt_tokens[llm], past.output_tokens[llm], cluster.max_batch
    )
    canonical = canonical_stages(past, profile.templates)
    stage_job = np.repeat(np.arange(len(past)), np.diff(past.job_stages))
    application = past.job_application[stage_job]
    of_stage = [np.add.reduceat(seconds, past.stage_tasks[:-1]) for seconds in (demand_s, work_s)]
    kind = past.stage_kind
    rates = {"": WorkRates((), _by_kind(kind, *of_stage))}
    base = 0
    for number, name in enumerate(past.applications):
        network, template = profile.networks[name], profile.templates[name]
        stages = []
        for c, bins in enumerate(network.demand_bins):
            mine = (canonical == base + c) & (kind == template.kinds[c])
            demand, work = (seconds[mine] for seconds in of_stage)
            states = bins.state(demand)
            sums = [np.bincount(states, of, len(bins)) for of in (demand, work)]
            stages.append(_ratio(*(one.astype(np.float64) for one in sums)))
        mine = application == number
        rates[name] = WorkRates(tuple(stages), _by_kind(kind[mine], *(of[mine] for of in of_stage)))
        base += len(template.stages)
    return rates


def _by_kind(kind: NDArray[Any], demand_s: FloatArray, work_s: FloatArray) -> FloatArray:
    sums = [[of[kind == k].sum() for k in (Kind.LLM, Kind.REGULAR)] for of in (demand_s, work_s)]
    return _ratio(*map(np.array, sums))


def _ratio(demand_s: FloatArray, work_s: FloatArray) -> FloatArray:
    return np.divide(work_s, demand_s, out=np.zeros_like(demand_s), where=demand_s > 0)
