"""Decima: a graph neural network that learns to schedule."""

from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.policy import Decima
from llmsched_gym.agents.learning.registry import register_learner

register_learner("decima", DecimaOptions, f"{__name__}.training")

__all__ = ["Decima", "DecimaOptions"]
