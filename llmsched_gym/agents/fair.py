"""Fair: as many running tasks for each job."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register


@register("fair")
class Fair(PriorityPolicy):
    """The job with the fewest running tasks goes first, then the one that arrived first.

    With tasks that cannot be preempted this is max-min fairness in slots, one slot at a time. LLM
    slots and regular executors count alike: our choice.
    """

    needs_belief = False

    def priority(self, observation: Observation) -> Scores:
        """Minus the number of running tasks of the job."""
        return -job_feature(observation, "running_tasks")
