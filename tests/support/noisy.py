"""Networks whose weights are all random, as if they had been trained."""

from typing import Any, TypeVar

import numpy as np
import torch

from llmsched_gym.agents.decima.network import DecimaNetwork, GraphNetwork
from llmsched_gym.agents.gnn.network import GNNetwork, make_network

torch.set_num_threads(1)  # tests run side by side

N = TypeVar("N", bound=GraphNetwork)


def noisy(seed: int = 0, spread: float = 0.2, **sizes: Any) -> DecimaNetwork:
    """A network of Decima with noise added to all its weights, those that begin with 0 as well."""
    return with_noise(DecimaNetwork(**sizes, seed=seed), seed, spread)


def noisy_gnn(seed: int = 0, spread: float = 0.2, **sizes: Any) -> GNNetwork:
    """The same of the GNN."""
    return with_noise(make_network(None, seed, **sizes), seed, spread)


def with_noise(network: N, seed: int, spread: float) -> N:
    """The network, changed."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(torch.from_numpy(rng.normal(0, spread, tuple(weights.shape))))
    return network
