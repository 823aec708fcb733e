"""Decisions per second of training Decima, and where the time goes.

    python benchmarks/training_speed.py [--iterations 6] [--jobs 50] [--workload mixed]
        [--belief bayes]

Throughput is of whole iterations, collection and learning together, as ``train.py`` does them: in
two threads, with the default options. Decisions are what the environment was told; of those where
only one action is legal the network is not asked. Then the same iterations are done once more in
one thread, with a clock around each part; a part's time does not contain that of other parts.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from decision_latency import machine

from llmsched_gym.agents.decima import rollout
from llmsched_gym.agents.decima import training as ppo
from llmsched_gym.agents.decima.network import DecimaNetwork
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.learning.run import Training
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.env.vector import LLMSchedVectorEnv

BAR = 2500  # decisions per second
PARTS = {  # of an iteration: what to put a clock around
    "environment": ((LLMSchedVectorEnv, "step"), (LLMSchedVectorEnv, "reset")),
    "graphs of observations": ((rollout, "graph_of"),),
    "forward": ((DecimaNetwork, "forward"),),
    "drawing actions": ((rollout, "choose"), (rollout, "actions")),
    "minibatches": ((ppo, "merge"), (ppo, "samples_of")),
    "backward": ((torch.autograd, "grad"),),
    "Adam": ((torch.optim.Adam, "step"),),
}


Clocks = dict[str, float]  # seconds of each part


def train(
    training: Training, options: DecimaOptions, iterations: int, threads: int, taken: Clocks
) -> tuple[int, float, float]:
    """Decisions of some iterations, and the seconds of collecting them and of learning.

    The first iteration, which compiles, does not count, and not in ``taken`` either.
    """
    learner = ppo.begin(training, options)
    learner.iteration = 0
    decisions, collect_s, update_s = 0, 0.0, 0.0
    with rollout.in_threads(training, options) as collect, ThreadPoolExecutor(threads) as pool:
        for _ in range(1 + iterations):
            before = learner.decisions
            row = ppo.iterate(learner, collect, training.seed, options, pool)
            if learner.iteration == 1:
                taken.clear()
                continue
            decisions += learner.decisions - before
            collect_s += row["collect_s"]
            update_s += row["update_s"]
    return decisions, collect_s, update_s


@contextmanager
def clocks(taken: Clocks) -> Iterator[None]:
    """Add up the seconds of each part, less those of the parts within it."""
    within = [0.0]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            within.append(0.0)
            begin = time.perf_counter()
            result = function(*arguments, **options)
            elapsed = time.perf_counter() - begin
            taken[name] += elapsed - within.pop()
            within[-1] += elapsed
            return result

        return call

    with ExitStack() as stack:
        for name, functions in PARTS.items():
            for owner, function in functions:
                clocked = timed(name, getattr(owner, function))
                stack.enter_context(patch.object(owner, function, clocked))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=50, help="of each episode")
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--belief", default="bayes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    environment = {"workload": given.workload, "num_jobs": given.jobs, "belief": given.belief}
    options = DecimaOptions(warm_start=None).at_rate(Scenario(**environment).rate)

    def training(workers: int) -> Training:
        nowhere = Path("no such folder")
        return Training(
            environment, 0, workers, "threads", None, None, 1.0, False, nowhere, "csv", {}
        )

    print(machine())
    decisions, collect_s, update_s = train(training(2), options, given.iterations, ppo.THREADS, {})
    per_s = decisions / (collect_s + update_s)
    print(
        f"{decisions:,} decisions in two threads: {per_s:,.0f}/s "
        f"({collect_s / (collect_s + update_s):.0%} of the time collects, the rest learns), "
        f"bar {BAR:,}: {'met' if per_s >= BAR else 'missed'}"
    )

    taken: Clocks = defaultdict(float)
    with clocks(taken):
        decisions, collect_s, update_s = train(training(1), options, given.iterations, 1, taken)
    whole = collect_s + update_s
    taken["everything else"] = whole - sum(taken.values())
    print(f"\n{'in one thread':24}{'us/decision':>12}{'share':>8}")
    for name, seconds in {**taken, "whole": whole}.items():
        print(f"{name:24}{1e6 * seconds / decisions:12.1f}{seconds / whole:8.0%}")


if __name__ == "__main__":
    main()
