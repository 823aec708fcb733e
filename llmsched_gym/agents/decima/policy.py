"""Decima: what a graph neural network has learnt.

Mao, Schwarzkopf, Venkatakrishnan, Meng and Alizadeh, "Learning Scheduling Algorithms for Data
Processing Clusters", SIGCOMM 2019.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llmsched_gym.agents.base import Actions, Observation, Policy, register
from llmsched_gym.agents.learning.options import MOST_UNITS
from llmsched_gym.checks import is_whole
from llmsched_gym.env.features import COSTLY
from llmsched_gym.errors import MissingExtra

if TYPE_CHECKING:  # torch takes seconds to import, and nobody else needs it
    import numpy as np
    from numpy.typing import NDArray

    from llmsched_gym.agents.decima.network import GraphNetwork
    from llmsched_gym.agents.learning.episodes import Act

DEFAULT = "mixed_bayes"


@register("decima")
class Decima(Policy):
    """Runs what a trained network thinks best.

    Parameters
    ----------
    checkpoint : the name of a shipped one, such as "mixed_bayes" (the workload and the belief it
        was trained with; the default), or the path of a file that ``train.py`` wrote
        (:mod:`llmsched_gym.agents.learning.checkpoint`).
    greedy : take the likeliest action (default); else draw one from the network's probabilities.

    Raises
    ------
    CheckpointError
        a ValueError, if there is no such checkpoint or it cannot be used.
    MissingExtra
        a ValueError, if torch is not installed.
    """

    needs_belief = True
    reads = COSTLY
    kind: ClassVar[str] = "decima"  # of its checkpoints
    sizes: ClassVar[Collection[str]] = ("embedding", "head", "hidden")  # that make a network
    shipped: ClassVar[Path] = Path(__file__).parent / "checkpoints"

    def __init__(self, checkpoint: str | None = None, greedy: bool = True) -> None:
        if not isinstance(greedy, bool):
            raise ValueError(f"greedy: {greedy!r} is not true or false")
        self.greedy = greedy
        path = self._find(DEFAULT if checkpoint is None else str(checkpoint))
        self.network = self._load(path)
        self._preferred = self._without_network()

    def act(self, observation: Observation) -> Actions:
        """The likeliest action, or one drawn: a number for each member of a batch."""
        acted = (self._preferred or self._by_network)(observation)
        return acted if acted.ndim else int(acted)

    def _by_network(self, observation: Observation) -> NDArray[np.int64]:
        import torch

        from llmsched_gym.agents.decima.network import actions, choose, graph_of

        mask = observation["action_mask"]
        graph = graph_of(observation)
        uniform = None if self.greedy else self.rng.random(len(graph.cluster))
        with _one_thread(), torch.inference_mode():
            chosen = choose(graph, self.network(graph), uniform)
        return actions(graph, chosen, mask.shape[-1] - 1).reshape(mask.shape[:-1])

    def _without_network(self) -> Act | None:
        """The same without the network, where the linear part of scores decides alone."""
        from llmsched_gym.agents.decima.preferred import Preferred

        return Preferred(self.network) if self.greedy and self.network.only_prefers() else None

    def _find(self, checkpoint: str) -> Path:
        """The file of a shipped checkpoint, or the one at a path."""
        shipped = sorted(file.stem for file in self.shipped.glob("*.safetensors"))
        if checkpoint in shipped:
            return self.shipped / f"{checkpoint}.safetensors"
        with suppress(OSError):  # a name too long, a folder that may not be read
            if Path(checkpoint).is_file():
                return Path(checkpoint)
        names = ", ".join(shipped) if shipped else "none is shipped"
        raise ValueError(
            f"checkpoint: no file {checkpoint!r}; give the path of one that train.py wrote, "
            f"or the name of a shipped one ({names})"
        )

    def _network(self, **options: Any) -> GraphNetwork:
        """A network with these options, others being the default."""
        from llmsched_gym.agents.decima.network import DecimaNetwork

        return DecimaNetwork(**options)

    def _load(self, path: Path) -> GraphNetwork:
        """The network of a checkpoint."""
        try:
            from llmsched_gym.agents.learning.checkpoint import CheckpointError, check_tensors, load

            self._network()
        except ImportError as error:
            raise MissingExtra(
                f"it needs {error.name}: python -m pip install 'llmsched-gym[train]'"
            ) from error
        tensors, meta = load(path, self.kind, fewer=True)
        sizes = meta.get("network")
        if not (
            isinstance(sizes, dict) and {*sizes} <= {*self.sizes} and _are_sizes(sizes.values())
        ):
            raise CheckpointError(
                f"{path}: it does not say how its network is made: {', '.join(self.sizes)} are "
                f"whole numbers between 1 and {MOST_UNITS}"
            )
        columns = {table: len(names) for table, names in meta["features"].items()}
        try:
            network = self._network(**sizes, columns=columns)
            check_tensors(tensors, network.state_dict())
        except ValueError as error:
            raise CheckpointError(
                f"{path}: its tensors are not those of a network {sizes}: {error}"
            ) from error
        network.load_state_dict(tensors)
        return network


@contextmanager
def _one_thread() -> Iterator[None]:
    """For graphs as small as these more threads only get in each other's way."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _are_sizes(values: Iterable[object]) -> bool:
    return all(is_whole(value, 1, MOST_UNITS) for value in values)
