"""Microseconds of Decima's network: of one decision, and of learning from many at once.

    python benchmarks/decima_speed.py [--jobs 50] [--states 300] [--batch 512] [--stages 100]
        [--repeats 20] [--workload mixed]

One decision, where about ``--jobs`` jobs (within 5 %) are in the system and something can run: the
graph made from the observation, the forward pass, and the choice of the likeliest action. Learning:
batches of observations with about ``--stages`` rows each (within 20 %), the forward pass alone, and
with the backward pass of what PPO minimises, per decision; a time is the median of ``--repeats``.
Parts of a forward pass are the embeddings, the summaries of jobs and of clusters, and the rest:
scaling the features, scores and probabilities. The weights are random, all on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from decision_latency import machine

from llmsched_gym.agents.base import Observation, make_policy
from llmsched_gym.agents.decima.network import (
    DecimaNetwork,
    Graph,
    actions,
    choose,
    entropy,
    graph_of,
    join,
    log_prob,
)
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import Workload, make_workload

PARTS = ("embed", "summarise_jobs", "summarise_clusters")
DECISION_US, LEARNING_US = 1500, 150  # the bars


def observations(workload: Workload, load: float, num_jobs: int) -> Iterator[Observation]:
    """Whatever SRTF sees where a stage can be run, in one episode after the other."""
    env, policy = LLMSchedEnv(workload, num_jobs=num_jobs, load=load), make_policy("srtf")
    for seed in range(1000):
        seen, _ = env.reset(seed=seed)
        over = False
        while not over:
            if seen["action_mask"][:-1].any():
                yield seen
            seen, _, over, _, _ = env.step(int(np.asarray(policy.act(seen))))


class Timed(DecimaNetwork):
    """Notes what its parts take: microseconds of each call of each."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, list[float]] = defaultdict(list)
        for name in PARTS:
            setattr(self, name, self.timed(name, getattr(self, name)))

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any) -> Any:
            begin = time.perf_counter_ns()
            result = function(*arguments)
            self.taken[name].append((time.perf_counter_ns() - begin) / 1000)
            return result

        return call


def decide(network: Timed, seen: list[Observation]) -> dict[str, list[float]]:
    """Microseconds of the parts of decisions, one at a time."""
    taken = defaultdict(list)
    network.taken.clear()
    for one in seen:
        with torch.inference_mode():
            marks = [time.perf_counter_ns()]
            graph = graph_of(one)
            marks.append(time.perf_counter_ns())
            decision = network(graph)
            marks.append(time.perf_counter_ns())
            actions(graph, choose(graph, decision), len(one["stage_mask"]))
            marks.append(time.perf_counter_ns())
        steps = (np.diff(marks) / 1000).tolist()
        for name, step in zip(("graph", "forward", "choice"), steps, strict=True):
            taken[name].append(step)
        taken["whole decision"].append(sum(steps))
    return taken | network.taken


def learn(network: Timed, graph: Graph, repeats: int) -> dict[str, list[float]]:
    """Microseconds of passes over a batch, and of the parts of the forward one."""
    taken = defaultdict(list)
    network.taken.clear()
    with torch.no_grad():
        decision = network(graph)
    chosen = torch.from_numpy(choose(graph, decision))
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        decision = network(graph)
        forward = time.perf_counter_ns()
        loss = (log_prob(decision, chosen) + entropy(graph, decision)).sum()
        torch.autograd.backward(loss)
        taken["forward"].append((forward - begin) / 1000)
        taken["forward and backward"].append((time.perf_counter_ns() - begin) / 1000)
        network.zero_grad()
    return taken | network.taken


def report(taken: dict[str, list[float]], per: int = 1) -> None:
    """Median and p99 of each, and for the parts of the forward pass their share of it."""
    forward = np.median(taken["forward"])
    for name, times in taken.items():
        median, p99 = np.percentile(times, (50, 99)) / per
        line = f"{name:>22}{median:10.1f}{p99:10.1f}"
        print(line + (f"{np.median(times) / forward:10.0%}" if name in PARTS else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=50, help="in the system, one decision")
    parser.add_argument("--states", type=int, default=300, help="in which one decision is timed")
    parser.add_argument("--batch", type=int, default=512, help="decisions to learn from at once")
    parser.add_argument("--stages", type=int, default=100, help="rows of each of them")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workload", default="mixed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload, network = make_workload(options.workload), Timed()
    print(f"{machine()}, torch {version('torch')}")
    print(f"{sum(weights.numel() for weights in network.parameters())} weights")

    stream = observations(workload, options.jobs / 5, 3 * options.jobs)
    about = (
        one for one in stream if abs(one["job_mask"].sum() - options.jobs) <= options.jobs / 20
    )
    seen = [one for one, _ in zip(about, range(options.states), strict=False)]
    decide(network, seen[:20])  # compile and warm up
    rows = np.mean([one["stage_mask"].sum() for one in seen])
    print(f"\none decision at about {options.jobs} jobs, {rows:.0f} rows: us")
    print(f"{'':22}{'median':>10}{'p99':>10}{'share':>10}")
    taken = decide(network, seen)
    report(taken)
    verdict = "met" if np.median(taken["whole decision"]) < DECISION_US else "missed"
    print(f"the bar of {DECISION_US} us: {verdict}")

    stream = observations(workload, 2.0, 200)
    about = (one for one in stream if abs(one["stage_mask"].sum() / options.stages - 1) <= 0.2)
    graphs = [graph_of(one) for one, _ in zip(about, range(options.batch), strict=False)]
    graph = join(graphs)
    begin = time.perf_counter_ns()
    join(graphs)
    joined = (time.perf_counter_ns() - begin) / 1000 / len(graphs)
    print(
        f"\n{len(graphs)} decisions, {len(graph.stages) / len(graphs):.0f} rows each: us/decision"
    )
    print(f"{'':22}{'median':>10}{'p99':>10}{'share':>10}")
    taken = learn(network, graph, options.repeats)
    report(taken, len(graphs))
    print(f"{'join':>22}{joined:10.1f}")
    median = np.median(taken["forward and backward"]) / len(graphs)
    print(f"the bar of {LEARNING_US} us: {'met' if median < LEARNING_US else 'missed'}")


if __name__ == "__main__":
    main()
