"""The graph of a job: what is seen of it, where it is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.rendering.graph import JobGraph, Status, job_graph
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind
from llmsched_gym.workload.mixes import Workload
from support.strategies import llm, tool


def environment(*jobs: Job, cluster: str | Cluster = "constant") -> LLMSchedEnv:
    bank = JobBank.from_jobs(jobs)
    workload = Workload("made", bank, bank, Poisson())
    return LLMSchedEnv(workload, cluster, belief="none", num_jobs=1)


def seen(env: LLMSchedEnv, job: int = 0) -> JobGraph:
    return job_graph(env.state, env.scenario.templates, job)


@pytest.mark.parametrize("workload", ["mixed", "planning"])
def test_it_has_the_rows_and_edges_of_the_observation_and_what_is_done(workload: str) -> None:
    env = LLMSchedEnv(workload, num_jobs=8, belief="none")
    observation, _ = env.reset(seed=0)
    rng, over, met = np.random.default_rng(0), False, set[Status]()
    while not over:
        rows: list[tuple[int, ...]] = []
        edges: list[tuple[int, int]] = []
        for place, job in enumerate(env.state.active[: env.state.clock["active"][0]].tolist()):
            graph = seen(env, job)
            met |= {node.status for node in graph.nodes}
            number = {}
            for k, node in enumerate(graph.nodes):
                if node.status != Status.DONE:
                    number[k] = len(rows)
                    rows.append((place, *features(node)))
            edges += [(number[a], number[b]) for a, b in graph.edges if {a, b} <= set(number)]
            assert all(a < b and graph.places[a, 0] < graph.places[b, 0] for a, b in graph.edges)
            assert len({tuple(one) for one in graph.places.tolist()}) == len(graph.nodes)
        used = int(observation["stage_mask"].sum())
        shown = observation["stages"][:used, [0, 1, 2, 4, 5, 6]].astype(int).tolist()
        places = observation["stage_job"][:used].tolist()
        assert rows == [(place, *row) for place, row in zip(places, shown, strict=True)]
        joined = observation["edges"][: int(observation["edge_mask"].sum())].tolist()
        assert sorted(edges) == sorted(map(tuple, joined))
        action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    assert met == set(Status)


def features(node: Any) -> tuple[int, ...]:
    kinds = (node.kind == Kind.LLM, node.kind == Kind.REGULAR, node.kind == Kind.DYNAMIC)
    waiting = node.tasks - node.started
    return (*map(int, kinds), waiting, node.started - node.completed, node.completed)


def test_what_a_plan_reveals_takes_the_place_of_the_placeholder() -> None:
    env = environment(
        Job("a", "j", (llm("plan"), tool(parents=[0], revealed_by=0), llm("end", parents=[0, 1])))
    )
    env.reset(seed=0)
    graph = seen(env)
    names = [(node.stage, node.status) for node in graph.nodes]
    assert names == [(0, Status.READY), (0, Status.PLACEHOLDER), (2, Status.WAITING)]
    assert graph.edges == ((0, 1), (0, 2), (1, 2))
    assert graph.places.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert graph.size == (3, 1)
    env.step(0)
    graph = seen(env)
    names = [(node.stage, node.status) for node in graph.nodes]
    assert names == [(0, Status.DONE), (1, Status.READY), (2, Status.WAITING)]
    assert graph.edges == ((0, 1), (0, 2), (1, 2))


def test_a_stage_runs_as_long_as_one_of_its_tasks_does() -> None:
    env = environment(Job("a", "j", (tool(tasks=3), llm(parents=[0]))))
    env.reset(seed=0)
    for started in range(1, 3):
        env.step(0)
        node = seen(env).nodes[0]
        assert (node.status, node.tasks, node.started) == (Status.RUNNING, 3, started)
    env.step(0)  # then all three end at different times, and the next decision is the call
    assert [node.status for node in seen(env).nodes] == [Status.DONE, Status.READY]


def test_a_stage_between_two_of_its_tasks_is_ready() -> None:
    one = load_cluster("constant", regular_executors=1)
    env = environment(Job("a", "j", (tool(tasks=2), llm(parents=[0]))), cluster=one)
    env.reset(seed=0)
    env.step(0)  # the next decision is when its first task has ended
    node = seen(env).nodes[0]
    assert (node.status, node.started, node.completed) == (Status.READY, 1, 1)


def test_a_job_that_has_not_arrived_shows_nothing() -> None:
    env = LLMSchedEnv("planning", num_jobs=3, belief="none", arrival_rate=1e-3)
    env.reset(seed=0)
    graph = seen(env, 2)
    assert (graph.nodes, graph.edges, graph.size) == ((), (), (1, 1))
