"""Proximal policy optimisation by stable-baselines3: its options, and the policy it learns."""

from llmsched_gym.agents.learning.registry import register_learner
from llmsched_gym.agents.ppo.options import PPOOptions
from llmsched_gym.agents.ppo.policy import PPO

register_learner("ppo", PPOOptions, f"{__name__}.training")

__all__ = ["PPO", "PPOOptions"]
