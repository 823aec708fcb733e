"""Gittins: the job most likely to be over for the least service first (Hermes, TACO 2026)."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register


@register("gittins")
class Gittins(PriorityPolicy):
    """The job with the least Gittins index of its remaining demand goes first.

    The index of a remaining demand X is ``inf_D E[min(X, D)] / P(X <= D)``: the service that the
    best budget D costs per completion it brings. On one machine with preemption, and jobs whose
    demand is known by its distribution alone, this order has the least mean time in system
    (Gittins 1979); with a known demand it is SRTF. Here X is what the environment's ``belief``
    says, so that completed stages and whatever they revealed count.
    """

    needs_belief = True

    def priority(self, observation: Observation) -> Scores:
        """Minus the index of the job, seconds."""
        return -job_feature(observation, "gittins_s")
