"""SRTF: shortest remaining time first."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register
from llmsched_gym.agents.demand import check_counted, remaining_demand


@register("srtf")
class SRTF(PriorityPolicy):
    """The job with the least expected remaining demand E[rem] goes first.

    What E[rem] knows is the environment's ``belief``: with "oracle" this is the clairvoyant SRPT
    that ``evaluate.py`` reports as the reference.

    Parameters
    ----------
    demand : what counts: "all" (default); "llm": engine work alone; or "own": the work on what the
        stage asks for, which is ``policy=resource_srtf``
        (:func:`llmsched_gym.agents.demand.remaining_demand`).
    """

    needs_belief = True
    reads = ()

    def __init__(self, demand: str = "all") -> None:
        self.demand = check_counted(demand)

    def priority(self, observation: Observation) -> Scores:
        """Minus the expected remaining demand of the job, seconds."""
        return -remaining_demand(observation, self.demand)
