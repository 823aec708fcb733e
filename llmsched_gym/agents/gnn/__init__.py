"""A scheduler made of PyTorch Geometric: a graph of jobs, stages and what they run on."""

from llmsched_gym.agents.gnn.options import GNNOptions
from llmsched_gym.agents.gnn.policy import GNN
from llmsched_gym.agents.learning.registry import register_learner

register_learner("gnn", GNNOptions, "llmsched_gym.agents.decima.training")

__all__ = ["GNN", "GNNOptions"]
