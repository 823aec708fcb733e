"""Decima's message passing in PyTorch Geometric: to read, and to test the fast path by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu
from torch_geometric.nn import MessagePassing

from llmsched_gym.agents.decima.network import DecimaNetwork, Graph


class BottomUp(MessagePassing):  # type: ignore[misc]  # its library says nothing of types
    """Equation 1, ``e_v = g(sum_u f(e_u)) + x_v``, with the maps f and g of a network.

    ``BottomUp(network)(graph, x)`` is ``network.embed(graph, x)``, which visits each stage once:
    here all stages send in every round, and after k rounds those of height k are right.
    """

    def __init__(self, network: DecimaNetwork) -> None:
        super().__init__(aggr="add", flow="target_to_source")  # from children to parents
        self.network = network

    def forward(self, graph: Graph, x: Tensor) -> Tensor:
        """The embedding e of each stage, from x: both [n, embedding]."""
        e, waits = x, graph.height.unsqueeze(1) > 0
        for _ in range(max(graph.height.tolist(), default=0)):
            e = torch.where(waits, self.propagate(graph.edges, x=e) + x, x)
        return e

    def message(self, x_j: Tensor) -> Tensor:
        """What each child tells: f."""
        return leaky_relu(self.network.message(x_j), 0.2)

    def update(self, inputs: Tensor) -> Tensor:
        """What a parent makes of the sum: g."""
        return self.network.update_out(leaky_relu(self.network.update_in(inputs), 0.2))
