"""Networks whose weights are all random, as if they had been trained."""

from typing import Any

import numpy as np
import torch

from llmsched_gym.agents.decima.network import DecimaNetwork

torch.set_num_threads(1)  # tests run side by side


def noisy(seed: int = 0, spread: float = 0.2, **sizes: Any) -> DecimaNetwork:
    """A network with noise added to all its weights, those that begin with 0 as well."""
    network, rng = DecimaNetwork(**sizes, seed=seed), np.random.default_rng(seed)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(torch.from_numpy(rng.normal(0, spread, tuple(weights.shape))))
    return network
