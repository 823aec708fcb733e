"""The GNN: what a network of PyTorch Geometric has learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched_gym.agents.base import register
from llmsched_gym.agents.decima.policy import Decima
from llmsched_gym.agents.gnn.options import SIZES
from llmsched_gym.env.features import COSTLY

if TYPE_CHECKING:
    from llmsched_gym.agents.gnn.network import GNNetwork


@register("gnn")
class GNN(Decima):
    """Runs what a network thinks best that ``train.py agent=gnn`` has trained.

    What it sees is a graph of stages, jobs and what they run on
    (:mod:`llmsched_gym.agents.gnn.network`).

    Parameters
    ----------
    checkpoint : the name of a shipped one, "mixed_bayes" (the workload and the belief it was
        trained with; the default), or the path of a file that ``train.py agent=gnn`` wrote.
    greedy : take the likeliest action (default); else draw one from the network's probabilities.
    network : of one's own that the checkpoint is of, my_module:MyNetwork; None (default): ours.

    Raises
    ------
    ValueError
        if there is no such network.
    CheckpointError
        a ValueError, if there is no such checkpoint or it cannot be used.
    MissingExtra
        a ValueError, if torch or PyTorch Geometric is not installed.
    """

    reads = COSTLY
    kind = "gnn"
    sizes = SIZES
    shipped = Path(__file__).parent / "checkpoints"

    def __init__(
        self, checkpoint: str | None = None, greedy: bool = True, network: str | None = None
    ) -> None:
        self._path = network
        super().__init__(checkpoint, greedy)

    def _network(self, **options: Any) -> GNNetwork:
        from llmsched_gym.agents.gnn.network import make_network

        return make_network(self._path, **options)
