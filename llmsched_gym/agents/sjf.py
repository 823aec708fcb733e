"""SJF: shortest job first, by what was known at arrival."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register


@register("sjf")
class SJF(PriorityPolicy):
    """The job with the least expected demand goes first, as estimated once, at its arrival.

    The estimate is the mean of the application's past jobs, so that jobs of one application are
    served in the order of arrival.
    """

    needs_belief = True

    def priority(self, observation: Observation) -> Scores:
        """Minus the prior expected demand of the job, seconds."""
        return -job_feature(observation, "prior_demand_s")
