"""The network: the same as a naive one, for whatever graphs, however they are put together."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from llmsched_gym.agents.base import make_policy, rows_in_use
from llmsched_gym.agents.decima.network import (
    WAIT,
    DecimaNetwork,
    Decision,
    Graph,
    actions,
    choose,
    entropy,
    graph_of,
    join,
    log_prob,
)
from llmsched_gym.env.features import JOB, STAGE
from llmsched_gym.env.scheduling import LLMSchedEnv
from support.noisy import noisy
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
ALONE = observation([{"age_s": 3}], [{"job": 0}], max_stages=20, max_edges=190, can_wait=False)


def batch_of(seed: int, number: int = 6) -> list[Observation]:
    rng = np.random.default_rng(seed)
    members = [graph_with_more(rng) for _ in range(number)] + [EMPTY, ALONE]
    return [members[k] for k in rng.permutation(len(members))]


def rows(graph: Graph, decision: Decision, room: int) -> Array:
    """Probabilities of all actions: [B, room + 1]."""
    padded = np.zeros((len(graph.cluster), room + 1))
    cluster = graph.job_cluster[graph.stage_job]
    padded[cluster, graph.row] = decision.stage.detach().double().exp()
    padded[:, room] = decision.wait.detach().double().exp()
    return padded


# --- a naive network: one node after the other ----------------------------------------------------


def act(values: Array) -> Array:
    return np.where(values > 0, values, 0.2 * values)


def layer(of: nn.Linear, values: Array) -> Array:
    weight, bias = of.weight.detach().double().numpy(), of.bias.detach().double().numpy()
    return np.array([bias[k] + sum(weight[k] * values) for k in range(len(bias))])


def naive_embeddings(network: DecimaNetwork, edges: Array, x: Array) -> Array:
    """Equation 1, as it is written."""

    def e(v: int) -> Array:
        children = [child for parent, child in edges if parent == v]
        if not children:
            return x[v]
        messages = [act(layer(network.message, e(child))) for child in children]
        return (
            layer(network.update_out, act(layer(network.update_in, np.sum(messages, axis=0))))
            + x[v]
        )

    return np.array([e(v) for v in range(len(x))])


def naive_probabilities(network: DecimaNetwork, seen: Observation) -> Array:
    seen = rows_in_use(seen)
    stages, jobs, cluster = (
        np.log1p(seen[name].astype(float)[..., :read])
        * getattr(network, f"scale_of_{name}").numpy()
        for name, read in zip(("stages", "jobs", "cluster"), network.columns, strict=True)
    )
    jobs = jobs[: int(seen["job_mask"].sum())]
    job_of, legal = seen["stage_job"], np.flatnonzero(seen["action_mask"][:-1])
    x = [layer(network.stage_out, act(layer(network.stage_in, row))) for row in stages]
    e = naive_embeddings(network, seen["edges"], np.array(x))

    y = []
    for job, features in enumerate(jobs):
        sent = [act(layer(network.job_message, e[v])) for v in np.flatnonzero(job_of == job)]
        total = sum(sent, np.zeros(network.job_message.out_features)) / 10
        y.append(
            np.concatenate((act(layer(network.job_update, np.append(total, features))), features))
        )
    compared = [JOB[name] for name in ("demand_s", "demand_llm_s", "work_llm_s", "work_regular_s")]
    demands = jobs[:, [column for column in compared if column < jobs.shape[1]]]
    least = np.zeros(demands.shape[1])
    if len(legal):
        least = np.array([demands[job_of[v]] for v in legal]).min(axis=0)
    sent = [act(layer(network.cluster_message, row)) for row in y]
    mean = np.mean(sent, axis=0) if sent else np.zeros(network.cluster_message.out_features)
    z = act(layer(network.cluster_update, np.concatenate((mean, cluster, least))))
    of_cluster, linear, (wait,) = np.split(layer(network.heads, z), np.cumsum(network.parts)[:-1])

    weights = dict(zip((0, 1), np.split(linear, 2), strict=True))
    ranks, rest = [], []
    for v in legal:
        kind, job = int(stages[v, STAGE["is_regular"]] > 0), job_of[v]
        ranks.append(10 * weights[kind] @ np.append(stages[v], jobs[job]))
        hidden = layer(network.score_stage, np.append(stages[v], e[v])) + of_cluster
        hidden += layer(network.score_job, np.append(y[job], 4 * (demands[job] - least)))
        rest.append(layer(network.score, act(hidden))[0])
    scores = np.full(len(seen["action_mask"]), -np.inf)
    scores[legal] = np.array(rest) + np.array(ranks) - max(ranks, default=0)
    scores[-1] = wait if seen["action_mask"][-1] else -np.inf
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


@given(SEEDS)
@settings(max_examples=40)
def test_probabilities_are_those_of_a_naive_network(seed: int) -> None:
    columns = None if seed % 2 else {"stages": 13, "jobs": 13, "cluster": 9}  # read by older ones
    members, network = batch_of(seed, 3), noisy(seed % 1000, columns=columns)
    graph = graph_of(stacked(members))
    expected = [naive_probabilities(network, member) for member in members]
    np.testing.assert_allclose(rows(graph, network(graph), 20), expected, rtol=1e-3, atol=1e-5)


@st.composite
def dags(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Edges lead to higher numbers, in order of the second."""
    size = draw(st.integers(1, 12))
    pairs = [(a, b) for b in range(size) for a in range(b)]
    return size, [pair for pair in pairs if draw(st.booleans())]


def embeddings(
    network: DecimaNetwork, size: int, edges: list[tuple[int, int]]
) -> tuple[Array, Array]:
    """By the network and by the naive one, from the same random x."""
    seen = observation([{}], [{"job": 0}] * size, max_stages=20)
    graph = graph_of(connected(seen, edges))
    x = np.random.default_rng(size).normal(size=(size, network.options["embedding"]))
    found = network.embed(graph, torch.from_numpy(x).float()).detach().numpy()
    return found, naive_embeddings(network, np.array(edges).reshape(-1, 2), x)


@given(dags(), st.integers(1, 20), st.integers(1, 20))
def test_embeddings_of_any_graph(
    dag: tuple[int, list[tuple[int, int]]], embedding: int, hidden: int
) -> None:
    found, expected = embeddings(noisy(embedding=embedding, hidden=hidden), *dag)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "edges"),
    [
        (4, [(0, 1), (0, 2), (1, 2), (1, 3)]),  # skips a height
        (5, [(0, 1), (1, 2), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)]),
        (1, []),
        (6, []),
    ],
)
def test_embeddings_by_name(size: int, edges: list[tuple[int, int]]) -> None:
    found, expected = embeddings(noisy(3), size, edges)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_heights_are_longest_paths() -> None:
    seen = observation([{}], [{"job": 0}] * 4)
    graph = graph_of(connected(seen, [(0, 1), (0, 2), (1, 2), (1, 3)]))
    assert graph.height.tolist() == [2, 1, 0, 0]


# --- batches --------------------------------------------------------------------------------------


def assert_equal(a: Decision, b: Decision) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@given(SEEDS)
def test_room_for_more_changes_nothing(seed: int) -> None:
    members, network = batch_of(seed), noisy()
    small, large = (
        graph_of(stacked([with_room(member, *room) for member in members]))
        for room in ((128, 10, 200), (1024, 300, 2000))
    )
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(network(small), network(large), strict=True):
        assert torch.equal(one, other)


@given(SEEDS)
@settings(max_examples=40)
def test_a_decision_does_not_depend_on_the_rest_of_the_batch(seed: int) -> None:
    members, network = batch_of(seed), noisy(spread=0.05)
    graphs = [graph_of(member) for member in members]
    batch = network(graph_of(stacked(members)))
    singles = [network(graph) for graph in graphs]
    assert_equal(batch, Decision(*map(torch.cat, zip(*singles, strict=True))))
    order = np.random.default_rng(seed).permutation(len(members))
    turned = network(graph_of(stacked([members[k] for k in order])))
    assert_equal(
        turned,
        Decision(*(torch.cat([one[k] for k in order]) for one in zip(*singles, strict=True))),
    )


@given(SEEDS)
def test_batches_are_joined_as_if_they_had_been_one(seed: int) -> None:
    members = batch_of(seed)
    parts = [members[:1], members[1:4], members[4:]]
    joined = join([graph_of(stacked(part)) for part in parts])
    for one, other in zip(joined, graph_of(stacked(members)), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_leading_dimensions() -> None:
    members = batch_of(0)
    batch = stacked(members)
    two = {name: table.reshape(2, -1, *table.shape[1:]) for name, table in batch.items()}
    for one, other in zip(graph_of(two), graph_of(batch), strict=True):
        assert torch.equal(one, other)
    alone, stack = graph_of(members[0]), graph_of(stacked(members[:1]))
    assert all(torch.equal(one, other) for one, other in zip(alone, stack, strict=True))


# --- actions --------------------------------------------------------------------------------------


@given(SEEDS)
def test_what_is_legal_shares_all_probability(seed: int) -> None:
    batch = stacked(batch_of(seed))
    graph = graph_of(batch)
    probability = rows(graph, noisy(seed % 1000, 0.1)(graph), 20)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    legal = batch["action_mask"] != 0
    assert (probability[~legal] == 0).all()
    assert (probability[legal] > 0).all()


def test_with_nothing_to_choose_nothing_is_chosen() -> None:
    graph = graph_of(stacked([EMPTY, ALONE, EMPTY]))
    decision = noisy()(graph)
    assert decision.wait.exp().tolist() == [1, 0, 1]
    assert decision.stage.exp().tolist() == [1]
    assert choose(graph, decision).tolist() == [WAIT, 0, WAIT]
    nothing = graph_of(stacked([EMPTY]))
    decision = noisy()(nothing)
    chosen = choose(nothing, decision, np.array([0.5]))
    assert actions(nothing, chosen, 20).tolist() == [20]
    assert log_prob(decision, torch.from_numpy(chosen)).tolist() == [0]
    assert entropy(nothing, decision).tolist() == [0]


@given(SEEDS)
def test_entropy_and_log_probability_are_those_of_the_probabilities(seed: int) -> None:
    batch = stacked(batch_of(seed))
    graph = graph_of(batch)
    decision = noisy(spread=0.1)(graph)
    probability = rows(graph, decision, 20)
    log = np.log(np.where(probability > 0, probability, 1))
    found = entropy(graph, decision).detach()
    np.testing.assert_allclose(found, -(probability * log).sum(axis=1), atol=1e-5)
    chosen = choose(graph, decision, np.random.default_rng(seed).random(len(probability)))
    acted = actions(graph, chosen, 20)
    assert np.take_along_axis(batch["action_mask"], acted[:, None], 1).all()
    logs = log_prob(decision, torch.from_numpy(chosen)).detach()
    np.testing.assert_allclose(logs, log[np.arange(len(acted)), acted], atol=1e-5)


@given(SEEDS)
@settings(max_examples=40)
def test_actions_are_drawn_as_often_as_they_are_probable(seed: int) -> None:
    members, draws = batch_of(seed, 2), 500
    graph = graph_of(stacked(members))
    decision = noisy(spread=0.1)(graph)
    counts = np.zeros((len(members), 21))
    for uniform in (np.arange(draws) + 0.5) / draws:
        chosen = choose(graph, decision, np.full(len(members), uniform))
        counts[np.arange(len(members)), actions(graph, chosen, 20)] += 1
    np.testing.assert_allclose(counts / draws, rows(graph, decision, 20), atol=1.01 / draws)


@given(SEEDS)
def test_the_greedy_choice_is_the_likeliest(seed: int) -> None:
    graph = graph_of(stacked(batch_of(seed)))
    decision = noisy()(graph)
    found = actions(graph, choose(graph, decision), 20)
    assert found.tolist() == rows(graph, decision, 20).argmax(axis=1).tolist()


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_what_is_drawn_are_legal(uniform: float) -> None:
    for seed in range(30):
        batch = stacked(batch_of(seed))
        graph = graph_of(batch)
        chosen = choose(graph, noisy()(graph), np.full(len(batch["cluster"]), uniform))
        acted = actions(graph, chosen, 20)
        assert np.take_along_axis(batch["action_mask"], acted[:, None], 1).all()


@pytest.mark.parametrize(
    ("policy", "feature", "sign"),
    [
        ("fcfs", "age_s", 1),
        ("srtf", "demand_s", -1),
        ("sjf", "prior_demand_s", -1),
        ("gittins", "gittins_s", -1),
        ("las", "attained_s", -1),
        ("fair", "running_tasks", -1),
        ("argus", "descendants", 1),
    ],
)
def test_one_weight_makes_it_a_well_known_policy(policy: str, feature: str, sign: int) -> None:
    """With waiting ruled out."""
    network = DecimaNetwork()
    of_job = feature in JOB and policy != "argus"
    column = len(STAGE) + JOB[feature] if of_job else STAGE[feature]
    with torch.no_grad():
        for weights in (network.score.weight, network.heads.weight, network.heads.bias):
            weights.zero_()
        _, linear, wait = network.heads.bias.split_with_sizes(network.parts)
        linear.view(2, -1)[:, column] = sign
        wait.fill_(-100)
    rng, known = np.random.default_rng(0), make_policy(policy)
    for _ in range(100):
        seen = random_graph(rng)
        jobs = int(seen["job_mask"].sum())
        seen["jobs"][:jobs, JOB["gittins_s"]] = rng.integers(1, 6, jobs)
        seen["jobs"][:jobs, JOB["age_s"]] = np.arange(jobs, 0, -1)
        graph = graph_of(seen)
        (acted,) = actions(graph, choose(graph, network(graph)), 20)
        assert acted == known.act(seen)


# --- learning -------------------------------------------------------------------------------------


def test_the_gradient_reaches_every_weight() -> None:
    network = DecimaNetwork()
    graph = graph_of(stacked([member for seed in range(4) for member in batch_of(seed)]))
    decision = network(graph)
    chosen = choose(graph, decision, np.linspace(0, 0.99, len(graph.cluster)))
    loss = log_prob(decision, torch.from_numpy(chosen)) + entropy(graph, decision)
    torch.autograd.backward(loss.sum())
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert (weights.grad != 0).any(), name


@given(SEEDS)
@settings(max_examples=40)
def test_the_gradient_is_that_of_small_changes(seed: int) -> None:
    network = noisy(seed % 1000, 0.1).double()
    graph = graph_of(stacked(batch_of(seed, 2)))
    graph = graph._replace(
        stages=graph.stages.double(), jobs=graph.jobs.double(), cluster=graph.cluster.double()
    )
    rng = np.random.default_rng(seed)
    chosen = torch.from_numpy(choose(graph, network(graph), rng.random(len(graph.cluster))))
    weights = list(network.parameters())
    direction = [torch.from_numpy(rng.normal(size=tuple(w.shape))) for w in weights]

    def loss() -> Tensor:
        decision = network(graph)
        factors = torch.linspace(1, 2, len(chosen), dtype=torch.float64)
        losses = log_prob(decision, chosen) + entropy(graph, decision)
        return (losses * factors).sum()

    gradients = torch.autograd.grad(loss(), weights, allow_unused=True, materialize_grads=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    small, ends = 1e-7, []
    with torch.no_grad():
        for step in (small, -2 * small):
            for weight, along in zip(weights, direction, strict=True):
                weight.add_(step * along)
            ends.append(loss())
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * small), slope, rtol=1e-3, atol=1e-3)


def test_the_seed_determines_the_weights_and_nothing_else_is_drawn() -> None:
    state = torch.get_rng_state()
    first, again, other = DecimaNetwork(seed=1), DecimaNetwork(seed=1), DecimaNetwork(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    assert not torch.equal(first.stage_in.weight, other.stage_in.weight)


@pytest.mark.parametrize("num_jobs", [50, 300])
def test_any_number_of_jobs(num_jobs: int) -> None:
    env = LLMSchedEnv("planning", num_jobs=num_jobs, load=50.0)
    seen, _ = env.reset(seed=0)
    policy, network = make_policy("fcfs"), noisy()
    for _ in range(200):
        seen, *_ = env.step(int(np.asarray(policy.act(seen))))
        graph = graph_of(seen)
        probability = rows(graph, network(graph), env.max_stages)[0]
        assert probability.sum() == pytest.approx(1, abs=1e-5)
        assert not probability[seen["action_mask"] == 0].any()


@given(SEEDS)
@settings(max_examples=40)
def test_it_may_begin_as_resource_srtf(seed: int) -> None:
    """The likeliest action, before anything is learnt, is the one that resource SRTF takes."""
    network = noisy(seed % 1000)
    network.begin_as_resource_srtf()
    members = batch_of(seed, 3)
    graph = graph_of(stacked(members))
    found = rows(graph, network(graph), 20)
    policy = make_policy("resource_srtf")
    for member, probabilities in zip(members, found, strict=True):
        action = int(np.asarray(policy.act(member)))
        assert probabilities[action] == pytest.approx(probabilities.max(), rel=1e-4)
