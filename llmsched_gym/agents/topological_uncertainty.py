"""Most topologically uncertain first.

Y. Zhu et al., "Towards Efficient Compound Large Language Model System Serving in the Wild", a
poster at IWQoS 2024 by the authors of LLMSched.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register, stage_feature
from llmsched_gym.agents.graph import longest_path


@register("topological_uncertainty")
class TopologicalUncertainty(PriorityPolicy):
    """The stage with the most uncertain hidden structure below it goes first, then by arrival.

    Only the poster's abstract is public: compound LLM applications have *temporal* and
    *topological* uncertainty, and stages are scheduled by a priority made from them. Our reading:
    the topological uncertainty of a stage is the entropy of what is still hidden below it, in bits,
    added up over the placeholders along the path that has most of it.

    Notes
    -----
    A placeholder's entropy is that of the demands of the stages it hides, where absence is one of
    the values. It holds the uncertainty of whether they will exist and, for want of a feature
    without it, of how long they would take. Jobs with nothing left to reveal come last.
    """

    needs_belief = True
    reads = ()

    def priority(self, observation: Observation) -> Scores:
        """The most entropy of placeholders on a path from the stage downwards, bits."""
        hidden = stage_feature(observation, "is_dynamic") != 0
        entropy = stage_feature(observation, "entropy_bits")
        return longest_path(observation, np.where(hidden, entropy, 0))
