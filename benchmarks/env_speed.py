"""Steps/s of a single environment with random legal actions, and where the time goes.

    python benchmarks/env_speed.py [--steps 20000] [--max-stages 256] [--serving vllm] [--copies]

The parts are timed one by one on copies of the same states, so their shares add up to the step.
With --serving: also with the traits of that engine, as a ratio, runs of the two by turns.
With --copies: what a copy, a snapshot and a restoration of a running environment cost, in steps.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import time
import timeit
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env import view
from llmsched_gym.env.driver import Simulated
from llmsched_gym.env.scheduling import LLMSchedEnv


class Stopwatch:
    """Wrap a function of a module or a class and add up the time spent in it."""

    def __init__(self, module: ModuleType | type, name: str) -> None:
        self.module, self.name = module, name
        self.seconds = 0.0
        self.original: Callable[..., Any] = getattr(module, name)
        self.kept = vars(module)[name]

    def __call__(self, *arguments: Any) -> Any:
        begin = time.perf_counter()
        result = self.original(*arguments)
        self.seconds += time.perf_counter() - begin
        return result

    def __enter__(self) -> Stopwatch:
        setattr(self.module, self.name, self)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.module, self.name, self.kept)


def random_steps(env: LLMSchedEnv, steps: int, seed: int) -> float:
    """Run random legal actions; returns the seconds spent in ``step``, resets excluded."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seconds = 0.0
    for _ in range(steps):
        legal = observation["action_mask"].nonzero()[0]
        action = int(legal[int(rng.random() * len(legal))])
        begin = time.perf_counter()
        observation, _, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - begin
        if terminated or truncated:
            observation, _ = env.reset()
    return seconds


def shares(env: LLMSchedEnv, steps: int) -> dict[str, float]:
    """Share of a step's time spent in each part; the rest is Python."""
    simulation = Stopwatch(Simulated, "step")
    belief, observation = Stopwatch(view, "update"), Stopwatch(view, "observe")
    with simulation, belief, observation:
        total = random_steps(env, steps, 2)
    parts = {
        "simulation": simulation.seconds,
        "observation": observation.seconds,
        "belief": belief.seconds,
    }
    return {
        **{name: seconds / total for name, seconds in parts.items()},
        "Python": 1 - sum(parts.values()) / total,
    }


def copies(env: LLMSchedEnv, steps: int) -> dict[str, float]:
    """How many steps each way of keeping a running environment takes as long as."""
    random_steps(env, steps, 0)
    step = random_steps(env, steps, 0) / steps
    snapshot = env.snapshot()
    pickled = pickle.dumps(snapshot)
    ways: dict[str, Callable[[], Any]] = {
        "deepcopy": lambda: copy.deepcopy(env),
        "snapshot": env.snapshot,
        "restore": lambda: env.restore(snapshot),
        "pickled": lambda: pickle.dumps(snapshot),
        "loaded": lambda: pickle.loads(pickled),
    }
    return {name: min(timeit.repeat(way, number=20)) / 20 / step for name, way in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--max-stages", type=int, default=None)
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--serving", default=None)
    parser.add_argument("--copies", action="store_true")
    options = parser.parse_args()
    for belief in ("none", "prior", "bayes", "oracle"):
        envs = [
            LLMSchedEnv(
                options.workload,
                load_cluster("a100_llama2_7b", serving=serving),
                num_jobs=100,
                load=1.3,
                belief=belief,
                max_stages=options.max_stages,
            )
            for serving in (None, options.serving)[: 2 if options.serving else 1]
        ]
        if options.copies:
            costs = copies(envs[0], 2_000).items()
            shown = "  ".join(f"{name} {cost:4.1f}" for name, cost in costs)
            print(f"belief={belief:<7} in steps: {shown}")
            continue
        for env in envs:
            random_steps(env, 2_000, 0)  # compile and warm up
        runs = [
            [options.steps / random_steps(env, options.steps, seed) for env in envs]
            for seed in range(3)
        ]
        speed = np.median(runs, axis=0)
        where = "  ".join(f"{name} {share:4.0%}" for name, share in shares(envs[0], 5_000).items())
        print(f"belief={belief:<7} {speed[0]:9,.0f} steps/s   {where}")
        if options.serving:
            ratio = speed[1] / speed[0]
            print(f"{'':15} {speed[1]:9,.0f} steps/s   {ratio:.2f} of it, {options.serving}")


if __name__ == "__main__":
    main()
