"""Proximal policy optimisation by stable-baselines3: its options, and the policy it learns."""

from agents.ppo.policy import PPO

__all__ = ["PPO"]
