"""The options of training the GNN: without torch, so that commands can list them quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.learning.run import TrainingError

if TYPE_CHECKING:
    from llmsched_gym.agents.gnn.network import GNNetwork

SIZES = ("embedding", "hidden", "head", "layers", "heads")  # of a network


@dataclass(frozen=True)
class GNNOptions(DecimaOptions):
    """How the GNN is trained: as Decima is (:mod:`llmsched_gym.agents.decima.training`).

    Attributes
    ----------
    embedding, hidden, head, layers, heads : sizes of the network
        (:class:`llmsched_gym.agents.gnn.network.GNNetwork`).
    network : one of one's own, my_module:MyNetwork, or None.

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
    network: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding % self.heads:
            raise ValueError(
                f"agent.embedding: {self.embedding} is not a multiple of agent.heads={self.heads}"
            )

    def make_network(self, seed: int = 0) -> GNNetwork:
        """A network of these sizes, whose weights follow from the seed.

        Raises
        ------
        TrainingError
            if there is no such network of one's own.
        PolicyError
            for what its module raises.
        """
        from llmsched_gym.agents.gnn.network import make_network

        sizes = {name: getattr(self, name) for name in SIZES}
        try:
            return make_network(self.network, seed, **sizes)
        except ValueError as error:
            raise TrainingError(f"agent.network: {error}") from error
