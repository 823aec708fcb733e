"""Resource SRTF that prefers, among jobs of nearly the same work, those it has begun."""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register
from llmsched_gym.agents.demand import remaining_demand
from llmsched_gym.checks import is_number


@register("resource_srtf_begun")
class ResourceSRTFBegun(PriorityPolicy):
    """As ``resource_srtf``, but a job that is begun counts for a little less than it needs.

    A job is begun once a task of it has completed. What a belief expects of it moves by a few per
    cent at every stage, and where that puts it behind jobs that are still whole, all of them are
    begun and none is finished. docs/beyond.md has the figures.

    Parameters
    ----------
    margin : the share of the work of a begun job that does not count, from 0 (plain
        ``resource_srtf``) to 1 (begun jobs first). The default 0.05 is tuned on seeds that no
        result uses.
    """

    needs_belief = True
    reads = ()

    def __init__(self, margin: float = 0.05) -> None:
        if not is_number(margin, 0, 1):
            raise ValueError(f"margin: {margin!r} is not a number from 0 to 1")
        self.margin = float(margin)

    def priority(self, observation: Observation) -> Scores:
        """Minus the expected remaining work of the job, seconds, less the margin if it is begun."""
        begun = job_feature(observation, "completed_tasks") > 0
        return -remaining_demand(observation, "own") * np.where(begun, 1 - self.margin, 1)
