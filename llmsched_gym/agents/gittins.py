"""Gittins: the job most likely to be over for the least service first (Hermes, TACO 2026)."""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register
from llmsched_gym.agents.demand import check_counted, remaining_demand


@register("gittins")
class Gittins(PriorityPolicy):
    """The job with the least Gittins index of its remaining demand goes first.

    The index of a remaining demand X is ``inf_D E[min(X, D)] / P(X <= D)``: the service that the
    best budget D costs per completion it brings. On one machine with preemption, and jobs whose
    demand is known by its distribution alone, this order has the least mean time in system
    (Gittins 1979); with a known demand it is SRTF. Here X is what the environment's ``belief``
    says, so that completed stages and whatever they revealed count.

    Parameters
    ----------
    demand : "all" (default): the index of all remaining demand; "llm" or "own": as much of the
        index as that part is of the expected demand
        (:func:`llmsched_gym.agents.demand.remaining_demand`), as if all parts were alike uncertain.
    """

    needs_belief = True
    reads = ("gittins_s",)

    def __init__(self, demand: str = "all") -> None:
        self.demand = check_counted(demand)

    def priority(self, observation: Observation) -> Scores:
        """Minus the index of the job, seconds."""
        index = job_feature(observation, "gittins_s")
        if self.demand == "all":
            return -index
        whole = job_feature(observation, "demand_s")
        part = remaining_demand(observation, self.demand)
        return -part * np.divide(index, whole, out=np.ones_like(index), where=whole > 0)
