"""FCFS: first come, first served."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register


@register("fcfs")
class FCFS(PriorityPolicy):
    """The job that arrived first goes first, as job queues of serving systems do by default."""

    needs_belief = False

    def priority(self, observation: Observation) -> Scores:
        """Minus the row of the job: jobs are listed in the order of their arrival."""
        return -observation["stage_job"]
