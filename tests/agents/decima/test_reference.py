"""The fast path of Decima's message passing is the layer that a reader would write."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.decima.network import graph_of
from llmsched_gym.agents.decima.reference import BottomUp
from support.noisy import noisy
from support.observations import graph_with_more, observation, stacked

EMPTY = observation([], [], max_stages=20, max_edges=190)


@given(st.integers(0, 2**32 - 1))
def test_embeddings_are_those_of_the_fast_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = graph_of(stacked([*(graph_with_more(rng) for _ in range(4)), EMPTY]))
    network = noisy(seed % 1000)
    x = torch.from_numpy(rng.normal(size=(len(graph.stages), 8))).float()
    found, fast = BottomUp(network)(graph, x), network.embed(graph, x)
    torch.testing.assert_close(found, fast, rtol=1e-4, atol=1e-4)
    assert not graph.edges.shape[1] or not torch.equal(found, x), "something was heard"


def test_a_chain_by_hand() -> None:
    seen = observation([{}], [{"job": 0}] * 3)
    seen["edges"][:2], seen["edge_mask"][:2] = [(0, 1), (1, 2)], 1
    network, x = noisy(1), torch.linspace(-1, 1, 24).reshape(3, 8)
    layer = BottomUp(network)
    middle = layer.update(layer.message(x[2:])) + x[1:2]
    top = layer.update(layer.message(middle)) + x[:1]
    torch.testing.assert_close(layer(graph_of(seen), x), torch.cat((top, middle, x[2:])))


def test_no_stages() -> None:
    assert BottomUp(noisy())(graph_of(EMPTY), torch.zeros(0, 8)).shape == (0, 8)
