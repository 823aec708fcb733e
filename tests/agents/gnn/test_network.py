"""The GNN: its graph against loops, and probabilities that depend on nothing but the graph."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.decima.network import (
    Decision,
    Graph,
    actions,
    choose,
    entropy,
    graph_of,
    log_prob,
)
from llmsched_gym.agents.gnn.network import GNNetwork, hetero_data, make_network
from llmsched_gym.env.features import JOB, STAGE
from support.noisy import noisy_gnn
from support.observations import (
    Observation,
    connected,
    graph_with_more,
    observation,
    random_graph,
    stacked,
    with_room,
)

Array = NDArray[Any]
SEEDS = st.integers(0, 2**32 - 1)
EMPTY = observation([], [], max_stages=20, max_edges=190)
ALONE = observation(
    [{"age_s": 3}], [{"job": 0, "is_llm": 1}], max_stages=20, max_edges=190, can_wait=False
)


def batch_of(seed: int, number: int = 6) -> list[Observation]:
    rng = np.random.default_rng(seed)
    members = [graph_with_more(rng) for _ in range(number)] + [EMPTY, ALONE]
    return [members[k] for k in rng.permutation(len(members))]


def probabilities(network: GNNetwork, seen: Observation, room: int = 20) -> Array:
    """Of all actions: [B, room + 1]."""
    graph = graph_of(seen)
    decision = network(graph)
    padded = np.zeros((len(graph.cluster), room + 1))
    padded[graph.job_cluster[graph.stage_job], graph.row] = decision.stage.detach().double().exp()
    padded[:, room] = decision.wait.detach().double().exp()
    return padded


# --- the graph ------------------------------------------------------------------------------------


@given(SEEDS)
def test_the_graph_is_that_of_loops(seed: int) -> None:
    members = batch_of(seed)
    data = hetero_data(graph_of(stacked(members)))
    stages, jobs, follows, of, on = 0, 0, set(), set(), set()
    for b, seen in enumerate(members):
        rows = int(seen["stage_mask"].sum())
        for a, c in seen["edges"][seen["edge_mask"] != 0]:
            follows.add((stages + c, stages + a))
        for row in range(rows):
            of.add((stages + row, jobs + seen["stage_job"][row]))
            for pool, name in enumerate(("is_llm", "is_regular")):
                if seen["stages"][row, STAGE[name]]:
                    on.add((stages + row, 2 * b + pool))
        stages, jobs = stages + rows, jobs + int(seen["job_mask"].sum())
    expected = {
        ("stage", "follows", "stage"): follows,
        ("stage", "of", "job"): of,
        ("job", "has", "stage"): {(job, stage) for stage, job in of},
        ("stage", "on", "pool"): on,
        ("pool", "runs", "stage"): {(pool, stage) for stage, pool in on},
    }
    assert {kind: set(map(tuple, e.T.tolist())) for kind, e in data.edge_index_dict.items()} == (
        expected
    )
    assert [data[kind].num_nodes for kind in data.node_types] == [stages, jobs, 2 * len(members)]
    assert data.validate()


@given(SEEDS)
@settings(max_examples=40)
def test_nodes_know_their_observation(seed: int) -> None:
    members = batch_of(seed)
    data = hetero_data(graph_of(stacked(members)))
    for b, seen in enumerate(members):
        used = int(seen["stage_mask"].sum())
        found = data["stage"].x[data["stage"].batch == b]
        np.testing.assert_array_equal(found, seen["stages"][:used])
        used = int(seen["job_mask"].sum())
        np.testing.assert_array_equal(data["job"].x[data["job"].batch == b], seen["jobs"][:used])
        engines, regular = data["pool"].x[data["pool"].batch == b]
        assert engines.tolist() == [0, *seen["cluster"].tolist()]
        assert regular.tolist() == [1, *seen["cluster"].tolist()]


# --- what probabilities depend on -----------------------------------------------------------------


@given(SEEDS)
@settings(max_examples=30)
def test_room_for_more_changes_nothing(seed: int) -> None:
    members, network = batch_of(seed), noisy_gnn()
    small, large = (
        network(graph_of(stacked([with_room(member, *room) for member in members])))
        for room in ((128, 10, 200), (1024, 300, 2000))
    )
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one, other)


@given(SEEDS)
@settings(max_examples=30)
def test_a_decision_does_not_depend_on_the_rest_of_the_batch(seed: int) -> None:
    members, network = batch_of(seed), noisy_gnn(spread=0.05)
    singles = [network(graph_of(member)) for member in members]
    batch = network(graph_of(stacked(members)))
    for one, other in zip(batch, map(torch.cat, zip(*singles, strict=True)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@given(SEEDS)
@settings(max_examples=30)
def test_the_order_of_jobs_and_stages_does_not_matter(seed: int) -> None:
    """Probabilities go with their stages: all nodes of a batch in any order."""
    graph, network = graph_of(stacked(batch_of(seed))), noisy_gnn(spread=0.05)
    rng = np.random.default_rng(seed)
    stage, job = (torch.from_numpy(rng.permutation(len(t))) for t in (graph.stages, graph.jobs))
    new_stage, new_job = stage.argsort(), job.argsort()
    turned = graph._replace(
        stages=graph.stages[stage],
        jobs=graph.jobs[job],
        stage_job=new_job[graph.stage_job[stage]],
        job_cluster=graph.job_cluster[job],
        edges=new_stage[graph.edges],
        height=graph.height[stage],
        legal=graph.legal[stage],
        row=graph.row[stage],
    )
    found, expected = network(turned), network(graph)
    torch.testing.assert_close(found.wait, expected.wait, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.stage, expected.stage[stage], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("table", ["stages", "jobs", "cluster", "edges", "stage_job"])
def test_each_table_matters(table: str) -> None:
    """In what is not legal too: a stage hears of what follows it, a job of its other stages."""
    stages: list[dict[str, float]] = [
        {"job": 0, "is_llm": 1},
        {"job": 0, "is_regular": 1, "demand_s": 9, "legal": 0},
        {"job": 1, "is_llm": 1},
        {"job": 1, "is_llm": 1, "demand_s": 2, "legal": 0},
    ]
    seen = connected(observation([{"demand_s": 9}, {"demand_s": 3}], stages), [(0, 1)])
    other = {name: array.copy() for name, array in seen.items()}
    if table == "edges":
        other["edge_mask"][0] = 0
    elif table == "stage_job":
        other["stage_job"][3] = 0
    else:
        row = other[table] if table == "cluster" else other[table][-1 if table == "jobs" else 3]
        row = other["jobs"][1] if table == "jobs" else row
        row[-2] += 40
    network = noisy_gnn()
    change = probabilities(network, seen, 12) - probabilities(network, other, 12)
    assert np.abs(change).max() > 1e-3


# --- actions --------------------------------------------------------------------------------------


@given(SEEDS)
@settings(max_examples=30)
def test_what_is_legal_shares_all_probability(seed: int) -> None:
    batch = stacked(batch_of(seed))
    probability = probabilities(noisy_gnn(seed % 1000, 0.05), batch)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    legal = batch["action_mask"] != 0
    assert (probability[~legal] == 0).all()
    assert (probability[legal] > 0).all()


@given(SEEDS)
@settings(max_examples=30)
def test_entropy_and_log_probability_are_those_of_the_probabilities(seed: int) -> None:
    batch, network = stacked(batch_of(seed)), noisy_gnn(spread=0.05)
    graph = graph_of(batch)
    decision, probability = network(graph), probabilities(network, batch)
    log = np.log(np.where(probability > 0, probability, 1))
    found = entropy(graph, decision).detach()
    np.testing.assert_allclose(found, -(probability * log).sum(axis=1), atol=1e-5)
    chosen = choose(graph, decision, np.random.default_rng(seed).random(len(probability)))
    acted = actions(graph, chosen, 20)
    assert np.take_along_axis(batch["action_mask"], acted[:, None], 1).all()
    logs = log_prob(decision, torch.from_numpy(chosen)).detach()
    np.testing.assert_allclose(logs, log[np.arange(len(acted)), acted], atol=1e-5)


def test_with_nothing_to_choose_nothing_is_chosen() -> None:
    found = probabilities(noisy_gnn(), stacked([EMPTY, ALONE, EMPTY]))
    assert found[:, -1].tolist() == [1, 0, 1]
    assert found[1, 0] == 1
    assert probabilities(noisy_gnn(), EMPTY).sum() == 1


@pytest.mark.parametrize(
    ("policy", "feature", "sign"),
    [("srtf", "demand_s", -1), ("sjf", "prior_demand_s", -1), ("las", "attained_s", -1)],
)
def test_one_weight_makes_it_a_well_known_policy(policy: str, feature: str, sign: int) -> None:
    """With waiting ruled out."""
    network, known = make_network(), make_policy(policy)
    with torch.no_grad():
        for part in (network.score, network.of_pool):
            for weights in part.parameters():
                weights.zero_()
        network.of_pool.bias[-1] = -100
        network.preference().view(2, -1)[:, len(STAGE) + JOB[feature]] = sign
    rng = np.random.default_rng(0)
    for _ in range(50):
        graph = graph_of(seen := random_graph(rng))
        (acted,) = actions(graph, choose(graph, network(graph)), 20)
        assert acted == known.act(seen)


@given(SEEDS)
@settings(max_examples=30)
def test_it_may_begin_as_resource_srtf(seed: int) -> None:
    network, known = noisy_gnn(seed % 1000), make_policy("resource_srtf")
    network.begin_as_resource_srtf()
    members = batch_of(seed, 3)
    found = probabilities(network, stacked(members))
    for member, of_member in zip(members, found, strict=True):
        action = int(np.asarray(known.act(member)))
        assert of_member[action] == pytest.approx(of_member.max(), rel=1e-4)


def test_a_preference_is_added_to_the_weights() -> None:
    graph, network = graph_of(stacked(batch_of(0))), noisy_gnn(spread=0.05)
    added = torch.randn(len(network.preference()), generator=torch.Generator().manual_seed(0))
    asked = network(graph, added.expand(len(graph.cluster), -1))
    network.preference().add_(added)
    for one, other in zip(asked, network(graph), strict=True):
        torch.testing.assert_close(one, other)


# --- weights --------------------------------------------------------------------------------------


def loss_of(network: GNNetwork, graph: Graph) -> torch.Tensor:
    decision: Decision = network(graph)
    chosen = torch.from_numpy(choose(graph, decision, np.linspace(0, 0.99, len(graph.cluster))))
    return (log_prob(decision, chosen) + entropy(graph, decision)).sum()


def test_the_gradient_reaches_every_weight() -> None:
    network = noisy_gnn(spread=0.05)
    members = [member for seed in range(4) for member in batch_of(seed)]
    torch.autograd.backward(loss_of(network, graph_of(stacked(members))))
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert (weights.grad != 0).any(), name


def test_the_seed_determines_the_weights_and_nothing_else_is_drawn() -> None:
    state = torch.get_rng_state()
    first, again, other = make_network(seed=1), make_network(seed=1), make_network(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    assert not torch.equal(first.of_pool.weight, other.of_pool.weight)


def test_fewer_columns_are_the_first_ones() -> None:
    """What stands in later columns, of which a checkpoint knows nothing, makes no difference."""
    fewer = make_network(columns={"stages": 11, "jobs": 8})
    graph = graph_of(stacked(batch_of(1)))
    cut = graph._replace(stages=graph.stages[:, :11], jobs=graph.jobs[:, :8])
    for one, other in zip(fewer(graph), fewer(cut), strict=True):
        assert torch.equal(one, other)
    assert len(fewer.preference()) == 2 * (11 + 8)


def test_heads_are_of_one_length() -> None:
    with pytest.raises(ValueError, match="embedding: 16 is not a multiple of 3 heads"):
        GNNetwork(heads=3)
    assert GNNetwork(embedding=6, heads=3, layers=1).options["heads"] == 3
