"""Decima: a graph neural network that learns to schedule."""

from agents.decima.policy import Decima

__all__ = ["Decima"]
