"""Argus: the stage that the most other stages wait for.

Wu, Chen, Wang and Jin, "Argus: Efficient Job Scheduling in RDMA-assisted Big Data Processing",
IPDPS 2021, as the LLMSched paper compares with it.
"""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register, stage_feature


@register("argus")
class Argus(PriorityPolicy):
    """The stage with the most descendants goes first, then the job that arrived first.

    Argus gives every stage an *influence*, how far its completion enables others, and serves the
    stage of the largest influence of all jobs. Its reason is that slots stand idle for want of
    stages that can run; it knows the graph, but no durations.

    Notes
    -----
    Our reading of influence is the number of stages below, as the LLMSched paper has it. Here a
    part of the graph is hidden: what an unfinished stage may reveal counts as one descendant, its
    placeholder, however much it turns out to be.
    """

    needs_belief = False

    def priority(self, observation: Observation) -> Scores:
        """The number of unfinished stages and placeholders that wait for the stage."""
        return stage_feature(observation, "descendants")
