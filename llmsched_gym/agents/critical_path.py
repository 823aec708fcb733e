"""Critical path: the stage with the longest path of work below it.

Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, and all list scheduling since; within a
job it is what the SJF-CP baseline of Decima (Mao et al., SIGCOMM 2019) does.
"""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register, stage_feature
from llmsched_gym.agents.graph import longest_path


@register("critical_path")
class CriticalPath(PriorityPolicy):
    """The stage with the longest expected path of remaining demand goes first.

    A path is added up from the stage to a last one below it, both included, each with its expected
    remaining demand over all its tasks; placeholders count with the expected demand of what they
    hide. Stages of all jobs are compared, so long jobs come before short ones: the rule is made for
    the makespan, not for the mean JCT.

    Notes
    -----
    The length of a stage is its work, the sum over its tasks, as in Decima's baseline, and not the
    time it takes when its tasks run side by side.
    """

    needs_belief = True
    reads = ()

    def priority(self, observation: Observation) -> Scores:
        """The longest path of expected remaining demand from the stage downwards, seconds."""
        return longest_path(observation, stage_feature(observation, "demand_s"))
