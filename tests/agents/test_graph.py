"""Longest paths and sums per job against loops."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.base import rows_in_use
from llmsched_gym.agents.graph import job_max, job_sum, longest_path
from support.observations import Observation, connected, observation, random_graph, stacked


def path_by_recursion(seen: Observation, length: list[float], row: int) -> float:
    edges = seen["edges"][seen["edge_mask"] != 0]
    below = [path_by_recursion(seen, length, int(b)) for a, b in edges if a == row]
    return length[row] + max(below, default=0)


def test_the_longest_path_by_hand() -> None:
    # 0 -> 1 -> 3 and 0 -> 2 -> 3; row 4 is alone.
    seen = observation([{}], [{"job": 0}] * 5)
    seen = rows_in_use(connected(seen, [(0, 1), (0, 2), (1, 3), (2, 3)]))
    assert longest_path(seen, np.array([1, 5, 2, 4, 3])).tolist() == [10, 9, 6, 4, 3]
    assert longest_path(seen, np.array([1, 5, 9, 0, 0])).tolist() == [10, 5, 9, 0, 0]


def test_without_edges_a_path_is_its_only_row() -> None:
    seen = rows_in_use(observation([{}], [{"job": 0}] * 2))
    assert longest_path(seen, np.array([3, 0])).tolist() == [3, 0]


def test_a_long_chain_in_any_order_of_its_edges() -> None:
    seen = observation([{}], [{"job": 0}] * 12)
    for edges in (
        [(row, row + 1) for row in range(11)],
        [(row, row + 1) for row in range(11)][::-1],
    ):
        chain = rows_in_use(connected(seen, edges))
        assert longest_path(chain, np.ones(12)).tolist() == list(range(12, 0, -1))


@given(st.integers(0, 2**32 - 1))
def test_longest_paths_and_sums_are_those_of_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members = [random_graph(rng, 12) for _ in range(4)]
    batch = rows_in_use(stacked(members))
    rows = batch["stage_mask"].shape[-1]
    length = rng.random((4, rows)) * (batch["stage_mask"] != 0)
    path, total, largest = (f(batch, length) for f in (longest_path, job_sum, job_max))
    for number, member in enumerate(members):
        count = int(member["stage_mask"].sum())
        own = length[number]
        expected = [path_by_recursion(member, own.tolist(), row) for row in range(count)]
        np.testing.assert_allclose(path[number, :count], expected)
        for job in range(int(member["job_mask"].sum())):
            mine = own[:count][member["stage_job"][:count] == job]
            np.testing.assert_allclose(total[number, job], mine.sum())
            assert largest[number, job] == max(mine, default=0)
        alone: Any = rows_in_use(member)
        np.testing.assert_array_equal(longest_path(alone, own[:count]), path[number, :count])
    square = {key: table.reshape(2, 2, *table.shape[1:]) for key, table in batch.items()}
    again = longest_path(square, length.reshape(2, 2, rows))
    np.testing.assert_array_equal(again.reshape(4, rows), path)
