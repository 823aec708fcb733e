"""SJF: shortest job first, by what was known at arrival."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register
from llmsched_gym.agents.demand import check_counted, demand_at_arrival


@register("sjf")
class SJF(PriorityPolicy):
    """The job with the least expected demand goes first, as estimated once, at its arrival.

    The estimate is the mean of the application's past jobs, so that jobs of one application are
    served in the order of arrival.

    Parameters
    ----------
    demand : what counts, "all" (default), "llm" or "own"
        (:func:`llmsched_gym.agents.demand.demand_at_arrival`).
    """

    needs_belief = True
    reads = ()

    def __init__(self, demand: str = "all") -> None:
        self.demand = check_counted(demand)

    def priority(self, observation: Observation) -> Scores:
        """Minus the prior expected demand of the job, seconds."""
        return -demand_at_arrival(observation, self.demand)
