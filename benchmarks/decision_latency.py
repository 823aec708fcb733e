"""Microseconds of one whole decision of LLMSched, by the number of jobs, beside pgmpy's.

    python benchmarks/decision_latency.py [--jobs 1 5 10 20 50 100 200 500] [--states 300]
        [--repeats 3] [--epsilon 0.2] [--pgmpy-states 3] [--pgmpy-jobs 20]

Episodes of the mix run at high load under LLMSched itself. Whenever about that many jobs (within
5 %) are in the system and a stage of one of them has just completed, the parts of the decision that
follows are timed on the spot, all of them calls from Python:

- belief: the update of the beliefs about the jobs that changed, nearly always one;
- observation: writing the whole observation, beliefs included or not;
- act: ``policy.act(observation)``, exploration on; once more with epsilon 1, exploring each time;
- decision: belief, observation and act together.

A time is the best of ``--repeats``, so that p99 is over states rather than over what else runs on
the machine; with ``--repeats 1`` it is both. pgmpy is asked by variable elimination for the demand
of each stage of the changed job that is not complete, given the same evidence, in some of these
states; and for ``--pgmpy-jobs`` of the jobs in the system, scaled up to all: a scheduler that keeps
no beliefs would ask for all of them at each decision. Making its models is not counted, nor R,
which it would need more queries for.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from belief_speed import pgmpy_us
from numpy.typing import NDArray

from llmsched_gym.agents.base import make_policy
from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.simulator import DECIDE
from llmsched_gym.cluster.state import EVIDENCE
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import Workload, make_workload

MEDIAN_US, P99_US = 100, 1000  # what a decision may take, at
BAR_JOBS = 50


class Decision(NamedTuple):
    """Microseconds of the parts of a decision."""

    belief: float
    observation: float
    act: float
    explore: float

    @property
    def whole(self) -> float:
        return self.belief + self.observation + self.act


class Asked(NamedTuple):
    """Microseconds of pgmpy in one state, and ours for the same."""

    changed: float
    belief: float
    all_jobs: float
    whole: float


def best_us(
    repeats: int, function: Callable[[], Any], prepare: Callable[[], None] = lambda: None
) -> float:
    """The least time of some calls, microseconds; ``prepare`` goes before each, untimed."""
    best = np.inf
    for _ in range(repeats):
        prepare()
        begin = time.perf_counter_ns()
        function()
        best = min(best, time.perf_counter_ns() - begin)
    return float(best) / 1000


class TimedEnv(LLMSchedEnv):
    """Times what it does after an action, where about ``jobs`` jobs are in the system."""

    jobs, repeats = 1, 1
    learned: NDArray[np.int64]  # the jobs of which a stage has just completed
    belief_us = observation_us = 0.0

    def _observe(self) -> dict[str, NDArray[Any]]:
        state = self.state
        changed = state.changed[: state.clock["changed"][0]].copy()
        kinds = state.jobs["changed"][changed].copy()
        self.learned = changed[
            (kinds == EVIDENCE)
            & (state.jobs["unfinished_stages"][changed] < state.jobs["num_stages"][changed])
            & (state.jobs["unfinished_stages"][changed] > 0)
        ]
        if self.timed():
            self.belief_us = best_us(self.repeats, lambda: self._view.believe(state))
            self.observation_us = best_us(
                self.repeats,
                lambda: self._view.show(state, self._status == DECIDE),
                lambda: self.change(changed, kinds),
            )
            self.change(changed, kinds)
        return super()._observe()

    def change(self, jobs: NDArray[np.int64], kinds: NDArray[np.int64]) -> None:
        """List some jobs as changed again."""
        self.state.changed[: len(jobs)] = jobs
        self.state.jobs["changed"][jobs], self.state.clock["changed"] = kinds, len(jobs)

    def timed(self) -> bool:
        """Whether this is a state that counts."""
        count = int(self.state.clock["active"][0])
        return len(self.learned) > 0 and abs(count - self.jobs) <= self.jobs // 20


class Bench:
    """The decisions of LLMSched with about ``jobs`` jobs in the system."""

    def __init__(self, workload: Workload, jobs: int, repeats: int, epsilon: float) -> None:
        self.env = TimedEnv(workload, num_jobs=max(50, 3 * jobs), load=max(1.0, jobs / 5))
        self.env.jobs, self.env.repeats = jobs, repeats
        self.policy = make_policy("llmsched", epsilon=epsilon)
        self.explorer = make_policy("llmsched", epsilon=1)
        self.profile = load_or_fit(workload.past, self.env.cluster.latency, BeliefSettings())

    def run(
        self, states: int, pgmpy_states: int, pgmpy_jobs: int
    ) -> tuple[list[Decision], list[Asked]]:
        """Time the decisions in so many states, and pgmpy in some of them."""
        decisions: list[Decision] = []
        asked: list[Asked] = []
        seed = 0
        while len(decisions) < states:
            observation, _ = self.env.reset(seed=seed)
            self.policy.reset(seed)
            over, seed = False, seed + 1
            while not over and len(decisions) < states:
                if self.env.timed() and observation["action_mask"][:-1].any():
                    decisions.append(self.time(observation, len(decisions)))
                    if len(decisions) * pgmpy_states >= states * (len(asked) + 1):
                        asked += self.ask(decisions[-1], pgmpy_jobs)
                action = self.policy.act(observation)
                observation, _, over, _, _ = self.env.step(int(action))
        return decisions, asked

    def time(self, observation: dict[str, NDArray[Any]], seed: int) -> Decision:
        """Time the answer to an observation; all repeats draw the same number."""
        env = self.env
        act = best_us(
            env.repeats, lambda: self.policy.act(observation), lambda: self.policy.reset(seed)
        )
        explore = best_us(env.repeats, lambda: self.explorer.act(observation))
        return Decision(env.belief_us, env.observation_us, act, explore)

    def ask(self, decision: Decision, pgmpy_jobs: int) -> list[Asked]:
        """Time pgmpy for the changed job and for all, if one changed and it has questions left."""
        env, state = self.env, self.env.state
        changed = self.ask_about(int(env.learned[0])) if len(env.learned) == 1 else 0.0
        if changed == 0.0:
            return []
        active = state.active[: state.clock["active"][0]]
        rng = np.random.default_rng(0)
        some = rng.choice(active, min(pgmpy_jobs, len(active)), replace=False)
        mean = float(np.mean([self.ask_about(int(job)) for job in some]))
        return [Asked(changed, decision.belief, mean * len(active), decision.whole)]

    def ask_about(self, job: int) -> float:
        """Microseconds of pgmpy for one job, which is given its evidence by updating its belief."""
        env, state = self.env, self.env.state
        state.changed[0], state.jobs["changed"][job], state.clock["changed"] = job, EVIDENCE, 1
        env._view.believe(state)
        state.jobs["changed"][job], state.clock["changed"] = 0, 0
        name = env.bank.applications[state.jobs["application"][job]]
        assert env._view.scratch is not None
        return pgmpy_us(self.profile.networks[name], env._view.scratch)


def machine() -> str:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    busy = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "pgmpy"))
    return f"{cpu}, {os.cpu_count()} cores{busy}; Python {platform.python_version()}, {versions}"


def report(jobs: int, decisions: list[Decision], asked: list[Asked]) -> None:
    """Print one line."""
    times = np.array([(*one, one.whole) for one in decisions])
    line = f"{jobs:5}" + "".join(
        f"{median:9.1f} {p99:6.0f}" for median, p99 in np.percentile(times, (50, 99), axis=0).T
    )
    if asked:
        changed, belief, all_jobs, whole = np.array(asked).sum(axis=0)
        line += f"{changed / len(asked):11,.0f} {changed / belief:6,.0f}"
        line += f"{all_jobs / len(asked) / 1000:11,.0f} {all_jobs / whole:7,.0f}"
    print(line, flush=True)
    if jobs == BAR_JOBS:
        median, p99 = np.percentile(times[:, -1], (50, 99))
        verdict = "met" if median < MEDIAN_US and p99 < P99_US else "missed"
        print(f"      the bars at {jobs} jobs, {MEDIAN_US} and {P99_US} us: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--jobs", type=int, nargs="+", default=[1, 5, 10, 20, 50, 100, 200, 500], metavar="N"
    )
    parser.add_argument("--states", type=int, default=300, help="timed, for each number of jobs")
    parser.add_argument("--repeats", type=int, default=3, help="of each time, the best counts")
    parser.add_argument("--epsilon", type=float, default=0.2, help="of LLMSched")
    parser.add_argument("--pgmpy-states", type=int, default=3, help="of these, by pgmpy, too")
    parser.add_argument("--pgmpy-jobs", type=int, default=20, help="sampled in such a state")
    parser.add_argument("--workload", default="mixed")
    options = parser.parse_args()
    workload = make_workload(options.workload)
    print(machine())
    print("microseconds, median and p99; pgmpy: mean, and how many times as long as ours")
    heads = ("belief", "observation", "act", "exploring act", "whole decision")
    print(
        "jobs " + "".join(f"{head:>16}" for head in heads),
        f"{'pgmpy, job us':>17} {'all jobs ms':>18}",
    )
    Bench(workload, 5, 1, options.epsilon).run(50, 1, 1)  # compile and warm up
    for jobs in options.jobs:
        bench = Bench(workload, jobs, options.repeats, options.epsilon)
        report(jobs, *bench.run(options.states, options.pgmpy_states, options.pgmpy_jobs))


if __name__ == "__main__":
    main()
