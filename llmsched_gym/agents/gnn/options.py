"""The options of training the GNN: without torch, so that commands can list them quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmsched_gym.agents.decima.options import DecimaOptions

if TYPE_CHECKING:
    from llmsched_gym.agents.gnn.network import GNNetwork


@dataclass(frozen=True)
class GNNOptions(DecimaOptions):
    """How the GNN is trained: as Decima is (:mod:`llmsched_gym.agents.decima.training`).

    Attributes
    ----------
    embedding, hidden, head, layers, heads : sizes of the network
        (:class:`llmsched_gym.agents.gnn.network.GNNetwork`).

    Raises
    ------
    ValueError
        for a number out of its range, heads that are not of one length, or another device.
    """

    kind: ClassVar[str] = "gnn"
    embedding: int = 16
    hidden: int = 32
    head: int = 32
    layers: int = 2
    heads: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding % self.heads:
            raise ValueError(
                f"agent.embedding: {self.embedding} is not a multiple of agent.heads={self.heads}"
            )

    def make_network(self, seed: int = 0) -> GNNetwork:
        """A network of these sizes, whose weights follow from the seed."""
        from llmsched_gym.agents.gnn.network import GNNetwork

        return GNNetwork(self.embedding, self.hidden, self.head, self.layers, self.heads, seed)
