"""LAS: least attained service.

Luo et al., "Autellix: An Efficient Serving Engine for LLM Agents as General Programs", 2025
(arXiv 2502.13965), PLAS: program-level attained service.
"""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register


@register("las")
class LAS(PriorityPolicy):
    """The job that has used the least slot time goes first, then the one that arrived first.

    Without any prediction this favours short jobs: a job that has used much is probably long, and
    new ones need not wait behind it.

    Notes
    -----
    Autellix adds up the service of a program's completed LLM calls, sorts programs into a few
    queues by it, preempts, and lifts programs that have waited too long. Here tasks are not
    preempted; there are no queues, the exact number decides; nobody is lifted; and tasks that are
    still running count with the time they have used, as do tasks on regular executors.
    """

    needs_belief = False

    def priority(self, observation: Observation) -> Scores:
        """Minus the slot time that the job's tasks have used, seconds."""
        return -job_feature(observation, "attained_s")
