"""Random: a runnable stage, uniformly."""

from __future__ import annotations

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, register


@register("random")
class Random(PriorityPolicy):
    """Every runnable stage is equally likely: the floor that any idea should beat."""

    needs_belief = False

    def priority(self, observation: Observation) -> Scores:
        """Independent uniform numbers."""
        return self.rng.random(observation["stage_mask"].shape)
