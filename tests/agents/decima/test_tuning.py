"""Tuning: noise in opposite pairs, the direction it finds, and that it goes there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.decima import training as decima
from llmsched_gym.agents.decima.network import (
    DecimaNetwork,
    GraphNetwork,
    actions,
    choose,
    graph_of,
)
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.rollout import (
    COLLECTORS,
    Chunk,
    Collect,
    Rollout,
    Task,
    job_seconds,
    likeliest,
    noise_of,
    pack,
    unpack,
    weights_of,
    where_to_choose,
)
from llmsched_gym.agents.decima.training import train
from llmsched_gym.agents.decima.tuning import FAR, ascent, tune
from llmsched_gym.agents.learning.course import Learner
from llmsched_gym.agents.learning.episodes import Trajectory, make_environments, play
from llmsched_gym.agents.learning.held_out import HeldOut
from llmsched_gym.agents.learning.registry import LEARNERS
from llmsched_gym.agents.learning.run import TrainingError
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.features import JOB, STAGE
from llmsched_gym.workload.mixes import make_workload
from support.noisy import noisy
from support.runs import ENVIRONMENT, learnt, stopped, training

OPTIONS = DecimaOptions(iterations=1, groups=2, replicas=4, tuning_iterations=10, tuning_noise=0.3)
SIZE = 2 * (len(STAGE) + len(JOB))


def learner_with(network: GraphNetwork, iteration: int = 1) -> Learner[GraphNetwork]:
    optimizer = torch.optim.Adam(network.parameters())
    return Learner(network, network, optimizer, iteration=iteration)


# --- noise ----------------------------------------------------------------------------------------


def test_noise_is_opposite_in_each_two_replicas_and_else_independent() -> None:
    noise = noise_of(0, 3, range(50), 8, 20).reshape(50, 4, 2, 20)
    np.testing.assert_array_equal(noise[:, :, 0], -noise[:, :, 1])
    drawn = noise[:, :, 0].reshape(-1, 20)
    assert len(np.unique(drawn)) == drawn.size
    assert drawn.mean() == pytest.approx(0, abs=0.06)
    assert drawn.std() == pytest.approx(1, abs=0.04)
    assert not np.array_equal(noise, noise_of(0, 4, range(50), 8, 20).reshape(noise.shape))
    assert not np.array_equal(noise, noise_of(1, 3, range(50), 8, 20).reshape(noise.shape))


def test_groups_have_the_same_noise_wherever_they_are_played() -> None:
    parts = [noise_of(0, 0, groups, 4, 5) for groups in ([0], [1, 2])]
    np.testing.assert_array_equal(np.concatenate(parts), noise_of(0, 0, range(3), 4, 5))


# --- acting ---------------------------------------------------------------------------------------


def test_preferences_of_nothing_change_nothing_and_of_one_thing_decide_alone() -> None:
    """Where each environment has its own."""
    preference, columns = np.zeros((3, SIZE)), (JOB["age_s"], JOB["demand_s"])
    for number, column in enumerate(columns, start=1):
        preference[number].reshape(2, -1)[:, len(STAGE) + column] = 1e6
    network = noisy(spread=0.01)
    act = likeliest(network, preference)
    chosen = [0, 0]

    def checked(seen: Any) -> Any:
        acted, wait = act(seen), seen["action_mask"].shape[1] - 1
        alone = graph_of({name: table[0] for name, table in seen.items()})
        assert acted[0] == actions(alone, choose(alone, network(alone)), wait)[0]
        for number, column in enumerate(columns, start=1):
            value = seen["jobs"][number, seen["stage_job"][number], column]
            legal = seen["action_mask"][number, :-1] != 0
            if acted[number] != wait:
                assert value[acted[number]] == pytest.approx(value[legal].max(), rel=1e-4)
                chosen[number - 1] += np.ptp(value[legal]) > 0
        return acted

    play(make_environments(ENVIRONMENT, 3, 1), checked, [5, 5, 5])
    assert min(chosen) > 2


def test_episodes_are_whole_and_do_not_depend_on_the_number_of_chunks(tmp_path: Path) -> None:
    task = Task(4, None, weights_of(noisy(spread=0.01)), noise=0.3)
    found = []
    for workers in (1, 2):
        with COLLECTORS["threads"](training(tmp_path, workers=workers), OPTIONS) as collect:
            found.append(job_seconds(collect(task)))
    np.testing.assert_array_equal(found[0], found[1])
    assert len(np.unique(found[0])) > OPTIONS.groups
    chunk = Chunk(training(tmp_path), OPTIONS, range(2))
    (rollout,) = chunk.collect(task)
    ((envs, _),) = chunk._parts
    mean_jct_s = job_seconds([rollout]) / ENVIRONMENT["num_jobs"]
    jct_s = [envs.job_table(k)["jct_s"].mean() for k in range(8)]
    np.testing.assert_allclose(mean_jct_s, jct_s)
    again = unpack(pack(rollout))
    assert again.choices == rollout.choices == []
    np.testing.assert_array_equal(job_seconds([again]), job_seconds([rollout]))


@pytest.mark.parametrize("name", ["decima", "gnn"])
def test_where_preferences_decide_alone_the_network_says_the_same(name: str) -> None:
    if name == "gnn":
        pytest.importorskip("torch_geometric")
    network = LEARNERS[name].options().make_network()
    network.begin_as_resource_srtf()
    assert network.only_prefers()
    preference = 0.2 * noise_of(0, 0, [0], 4, SIZE)
    alone, same, chose = likeliest(network, preference), 0, 0

    def both(seen: Any) -> Any:
        nonlocal same, chose
        acted, choosing = alone(seen), where_to_choose(seen)[1]
        some = {name: table[choosing] for name, table in seen.items()}
        graph, own = graph_of(some), torch.from_numpy(preference[choosing]).float()
        said = choose(graph, network(graph, own)) if len(choosing) else np.empty(0, int)
        wait = seen["action_mask"].shape[1] - 1
        same += int((actions(graph, said, wait) == acted[choosing]).sum())
        chose += len(choosing)
        return acted

    play(make_environments(ENVIRONMENT, 4, 1), both, [5, 5, 6, 6])
    assert chose > 100
    assert same == chose


def test_whatever_else_a_network_has_learnt_is_heard() -> None:
    network = DecimaNetwork()
    assert not network.only_prefers()
    for name, at in (("score.weight", (0, 3)), ("heads.weight", (40, 2)), ("heads.bias", (-1,))):
        network.begin_as_resource_srtf()
        with torch.no_grad():
            network.get_parameter(name)[at] = 0.1
        assert not network.only_prefers(), name


# --- several environments -------------------------------------------------------------------------


def test_groups_are_dealt_to_the_environments(tmp_path: Path) -> None:
    """And each chunk plays its own, in the order of the groups."""
    other = ENVIRONMENT | {"num_jobs": 5}
    options = DecimaOptions(groups=4, replicas=2)
    task = Task(4, None, weights_of(noisy(spread=0.01)), noise=0.3)
    costs = []
    for workers in (1, 2, 3, 4):
        run = training(tmp_path, workers=workers, also=[other])
        with COLLECTORS["threads"](run, options) as collect:
            costs.append(job_seconds(collect(task)))
    for cost in costs[1:]:
        np.testing.assert_array_equal(cost, costs[0])
    with COLLECTORS["threads"](training(tmp_path, environment=other), options) as collect:
        alone = job_seconds(collect(task))
    np.testing.assert_array_equal(costs[0][4:], alone[4:])
    assert not np.array_equal(costs[0][:4], alone[:4])


def test_each_environment_counts_alike(tmp_path: Path) -> None:
    """However much episodes differ in it."""
    noise = noise_of(0, 1, range(2), 4, SIZE)
    cost = np.array([90.0, 110.0, 100.0, 100.0, 1.0, 3.0, 2.5, 1.5])
    network, rates = noisy(spread=0.01), []
    for scaled in (cost, cost * np.repeat((1.0, 50.0), 4)):
        before = network.preference().clone()
        tune(learner_with(network), that_costs(scaled), 0, OPTIONS, 2)
        rates.append((network.preference() - before).numpy())
    ways = [ascent(cost[part], noise[part], 4) for part in (slice(4), slice(4, 8))]
    for found in rates:
        np.testing.assert_allclose(found, np.mean(ways, axis=0), atol=1e-5)


def that_costs(cost: np.ndarray) -> Collect:
    """Collects episodes with one step."""
    times = np.array([np.zeros(len(cost)), np.ones(len(cost))])
    rollout = Rollout(Trajectory(times, -cost[None], np.ones(len(cost), np.int64)), [])
    return lambda task: [rollout]


def test_held_out_episodes_of_several_count_alike() -> None:
    other = ENVIRONMENT | {"num_jobs": 5}
    act = likeliest(noisy(spread=0.01))
    one, two = (HeldOut([environment], 3).mean_jct_s(act) for environment in (ENVIRONMENT, other))
    assert HeldOut([ENVIRONMENT, other], 3).mean_jct_s(act) == pytest.approx((one * two) ** 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "agent.groups: 3 groups are not as many in each of 2 scenarios"),
        ({"iterations": 1}, "agent.iterations: 1 of imitation and PPO, which learn from one"),
    ],
)
def test_several_environments_want_tuning_alone(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(
            training(tmp_path, also=[ENVIRONMENT]), replace(DecimaOptions(iterations=0), **options)
        )


def test_a_run_on_several_goes_on_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DecimaOptions(
        iterations=0,
        groups=2,
        replicas=2,
        begin_as="resource_srtf",
        warm_start=None,
        tuning_iterations=3,
        evaluate_every=1,
        evaluation_episodes=2,
    )
    also = [ENVIRONMENT | {"num_jobs": 5}]
    train(training(tmp_path / "whole", also=also), options)
    cut = training(tmp_path / "cut", also=also)
    with monkeypatch.context() as patched:
        patched.setattr(decima, "tune", stopped(tune, 2, KeyboardInterrupt, "after"))
        with pytest.raises(KeyboardInterrupt):
            train(cut, options)
    train(replace(cut, resume=True), options)
    one, other = learnt(tmp_path / "whole", "decima"), learnt(tmp_path / "cut", "decima")
    assert one["counters"]["iteration"] == 3
    assert one == other


# --- the direction --------------------------------------------------------------------------------


def test_by_hand() -> None:
    """One preference; the first of each pair costs 90 where the second costs 110: it was better."""
    noise = np.array([[1.0], [-1.0], [2.0], [-2.0]])
    cost = np.array([90.0, 110.0, 900.0, 1100.0])  # two groups of two
    assert ascent(cost, noise, 2) == pytest.approx([1.5])
    assert ascent(cost[::-1], noise, 2) == pytest.approx([-1.5])
    assert ascent(np.ones(4), noise, 2) == pytest.approx([0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
def test_it_is_the_mean_of_noise_times_gain(seed: int, groups: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.gamma(2.0, 100.0, groups * pairs * 2)
    noise = noise_of(seed, 0, range(groups), 2 * pairs, 3)
    gains, drawn = [], []
    for group in range(groups):
        mean = cost[2 * pairs * group : 2 * pairs * (group + 1)].mean()
        for pair in range(pairs):
            first = 2 * (pairs * group + pair)
            gains.append((cost[first + 1] - cost[first]) / mean)
            drawn.append(noise[first])
    deviation = np.sqrt(sum(gain**2 for gain in gains) / len(gains))
    wanted = sum(
        max(-FAR, min(FAR, gain / deviation)) * one for gain, one in zip(gains, drawn, strict=True)
    ) / len(gains)
    np.testing.assert_allclose(ascent(cost, noise, 2 * pairs), wanted)


def test_preferences_change_and_nothing_else(tmp_path: Path) -> None:
    network = noisy(spread=0.01)
    learner = learner_with(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with COLLECTORS["threads"](training(tmp_path), OPTIONS) as collect:
        row = tune(learner, collect, 0, OPTIONS)
    assert learner.iteration == 2
    assert learner.decisions > 0
    assert row["learning_rate"] == OPTIONS.tuning_rate
    after = network.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["heads.bias"]
    head, preferences, wait = before["heads.bias"].split_with_sizes(network.parts)
    new_head, tuned, new_wait = after["heads.bias"].split_with_sizes(network.parts)
    assert torch.equal(head, new_head)
    assert torch.equal(wait, new_wait)
    step = (tuned - preferences).norm().item()
    assert step == pytest.approx(OPTIONS.tuning_rate * row["gradient"], rel=1e-4)


@pytest.mark.slow
def test_tuning_makes_schedules_better(tmp_path: Path) -> None:
    """From those that serve the longest jobs first."""
    workload = make_workload("mixed", jobs_per_application=100)
    cluster = load_cluster("a100_llama2_7b", engines=1, max_batch=8)
    environment = ENVIRONMENT | {"workload": workload, "cluster": cluster, "num_jobs": 20}
    options = DecimaOptions(iterations=1, groups=4, replicas=8, tuning_iterations=12)
    network = DecimaNetwork()
    with torch.no_grad():
        for weights in (network.score.weight, network.heads.weight, network.heads.bias):
            weights.zero_()
        network.preference().view(2, -1)[:, len(STAGE) + JOB["demand_s"]] = 0.3
    learner = learner_with(network)
    environments = make_environments(environment, 32, 1)

    def held_out() -> float:
        act = likeliest(network)
        return -float(play(environments, act, range(100, 132)).reward.sum())

    before = held_out()
    run = training(tmp_path, environment=environment)
    with COLLECTORS["threads"](run, options) as collect:
        for _ in range(options.tuning_iterations):
            tune(learner, collect, 0, options)
    assert held_out() < 0.8 * before
