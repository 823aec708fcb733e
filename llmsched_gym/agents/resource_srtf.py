"""Resource SRTF: SRTF, resource by resource."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register
from llmsched_gym.agents.demand import remaining_demand


@register("resource_srtf")
class ResourceSRTF(PriorityPolicy):
    """The job with the least expected remaining work on what the stage asks for goes first.

    LLM slots go to the job that will take the least of the engines, tools to the one that will
    take the least of the tools. Work on an engine is the engine time that a task takes from the
    others, not what it lasts alone: a decode iteration is shared by all sequences of a batch, a
    prefill stops them all
    (:meth:`llmsched_gym.cluster.latency.LatencyProfile.engine_seconds`). On one resource this is
    the shortest expected remaining processing time; there is no parameter. docs/beyond.md says
    why and how well.
    """

    needs_belief = True
    reads = ()

    def priority(self, observation: Observation) -> Scores:
        """Minus the expected remaining work of the job, seconds."""
        return -remaining_demand(observation, "own")
