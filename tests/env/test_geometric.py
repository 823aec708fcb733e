"""The PyTorch Geometric view, against the padded arrays and PyTorch Geometric's own batches."""

from typing import Any

import numpy as np
import pytest

from llmsched_gym.env.geometric import graph_data
from llmsched_gym.env.vector import LLMSchedVectorEnv

torch = pytest.importorskip("torch")
pytest.importorskip("torch_geometric")


@pytest.fixture(scope="module")
def observation() -> dict[str, Any]:
    env = LLMSchedVectorEnv(3, workload="planning", num_jobs=8, load=3.0, belief="none")
    rng = np.random.default_rng(0)
    seen, _ = env.reset(seed=0)
    for _ in range(60):
        masks = seen["action_mask"]
        seen, *_ = env.step((rng.random(masks.shape) * masks).argmax(axis=1))
    return seen


def test_it_is_the_batch_of_single_graphs(observation: dict[str, Any]) -> None:
    from torch_geometric.data import Batch

    together = graph_data(observation)
    alone = [graph_data({key: array[b] for key, array in observation.items()}) for b in range(3)]
    theirs = Batch.from_data_list(alone)
    assert together.num_nodes == int(observation["stage_mask"].sum()) > 0
    same(together, theirs)
    assert together.validate()
    for mine, other in zip(alone, theirs.to_data_list(), strict=True):
        same(mine, other, apart={"ptr"})  # which no batch gives back


def same(mine: Any, other: Any, apart: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """The same fields, and in them the same numbers of the same type."""
    assert set(mine.keys()) - apart == set(other.keys()) - apart
    for name in set(mine.keys()) - apart:
        assert mine[name].dtype == other[name].dtype, name
        assert torch.equal(mine[name], other[name]), name


@pytest.mark.parametrize("workers", [0, 1])
def test_its_loader_makes_the_same_batches(observation: dict[str, Any], workers: int) -> None:
    from torch_geometric.loader import DataLoader

    nothing = {key: np.zeros_like(array) for key, array in observation.items()}
    every = {key: np.concatenate([array, nothing[key][:1]]) for key, array in observation.items()}
    graphs = [graph_data({key: array[b] for key, array in every.items()}) for b in (0, 3, 2, 1)]
    loader = DataLoader(graphs, batch_size=4, num_workers=workers)
    (loaded,) = loader
    same(graph_data({key: array[[0, 3, 2, 1]] for key, array in every.items()}), loaded)


def test_a_batch_of_batches_is_refused(observation: dict[str, Any]) -> None:
    from torch_geometric.data import Batch

    with pytest.raises(ValueError, match="a graph of 3 environments is a batch already"):
        Batch.from_data_list([graph_data(observation)] * 2)


def test_every_stage_finds_its_job_and_its_action(observation: dict[str, Any]) -> None:
    data = graph_data(observation)
    for stage in range(data.num_nodes):
        b, row, job = int(data.batch[stage]), int(data.row[stage]), int(data.job[stage])
        np.testing.assert_array_equal(data.x[stage], observation["stages"][b, row])
        own = observation["stage_job"][b, row]
        np.testing.assert_array_equal(data.jobs[job], observation["jobs"][b, own])
        assert int(data.job_batch[job]) == b
        assert bool(data.legal[stage]) == bool(observation["action_mask"][b, row])


def test_its_layers_take_it(observation: dict[str, Any]) -> None:
    from torch_geometric.nn import GCNConv, global_mean_pool

    data = graph_data(observation)
    embedded = GCNConv(data.num_features, 4)(data.x, data.edge_index)
    assert global_mean_pool(embedded, data.batch).shape == (3, 4)


def test_an_observation_of_nothing() -> None:
    env = LLMSchedVectorEnv(1, workload="planning", num_jobs=1, belief="none")
    seen, _ = env.reset(seed=0)
    empty = {key: np.zeros_like(array) for key, array in seen.items()}
    data = graph_data(empty)
    assert data.num_nodes == 0
    assert data.edge_index.shape == (2, 0)
