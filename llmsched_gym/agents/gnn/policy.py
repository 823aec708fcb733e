"""The GNN: what a network of PyTorch Geometric has learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmsched_gym.agents.base import register
from llmsched_gym.agents.decima.policy import Decima

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

    Raises
    ------
    CheckpointError
        a ValueError, if there is no such checkpoint or it cannot be used.
    MissingExtra
        a ValueError, if torch or PyTorch Geometric is not installed.
    """

    kind = "gnn"
    sizes = ("embedding", "head", "heads", "hidden", "layers")
    shipped = Path(__file__).parent / "checkpoints"

    @staticmethod
    def _network(**sizes: int) -> GNNetwork:
        from llmsched_gym.agents.gnn.network import GNNetwork

        return GNNetwork(**sizes)
