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
    theirs = Batch.from_data_list(alone, exclude_keys=["batch", "ptr", "job", "job_batch"])
    assert together.num_nodes == int(observation["stage_mask"].sum()) > 0
    for name in ("x", "edge_index", "batch", "ptr", "jobs", "cluster", "row", "legal", "can_wait"):
        assert torch.equal(together[name], theirs[name]), name
    assert together.validate()


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
