"""SRTF: shortest remaining time first."""

from __future__ import annotations

from agents.base import Observation, PriorityPolicy, Scores, job_feature, register


@register("srtf")
class SRTF(PriorityPolicy):
    """The job with the least expected remaining demand E[rem] goes first.

    What E[rem] knows is the environment's ``belief``: with "oracle" this is the clairvoyant SRPT
    that ``evaluate.py`` reports as the reference.
    """

    needs_belief = True

    def priority(self, observation: Observation) -> Scores:
        """Minus the expected remaining demand of the job, seconds."""
        return -job_feature(observation, "demand_s")
