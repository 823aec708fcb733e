"""Microseconds of one posterior update, per application, beside pgmpy's for the same posterior.

    python benchmarks/belief_speed.py [--traces PATH] [--no-prompts] [--updates 1000]
        [--pgmpy-updates 5]

Jobs run first come first served. Whenever a stage of an unfinished job completes, the belief about
that job is updated some times over in a compiled loop (no call from Python counts, the job's tables
are in the caches), and once more as if mere progress had been made:

- evidence: the posterior of every stage, R of the ready ones, and the job's sums;
- progress: the job's sums alone;
- in turn: the mean with evidence when all jobs in the system are updated one after another, so that
  each finds the caches full of the others.

pgmpy is asked one query for the demand of each unfinished or undetermined stage of some of these
jobs, given the same evidence; making its model and its inference object is not counted, nor is R,
which it would need more queries for.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numba
import numpy as np

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.inference import compile_profile, update
from llmsched_gym.belief.networks import (
    BAYES,
    GITTINS,
    PRESENT,
    REDUCTION,
    Beliefs,
    Networks,
    Scratch,
    new_beliefs,
)
from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings, Network
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.cluster.simulator import DECIDE, can_run, start, step
from llmsched_gym.cluster.state import EVIDENCE, PROGRESS, ClusterState, new_state
from llmsched_gym.workload.mixes import Workload, make_workload
from llmsched_gym.workload.template import TemplateTable, canonical_stages, template_table

CLUSTER = "a100_llama2_7b"
REPEATS, RUNS = 10, 3  # the mean of 10, the best of 3
JOBS = 100  # in an episode
SEED = 0


class Times(NamedTuple):
    """Microseconds of updates; pgmpy's and ours for the same jobs."""

    evidence: list[float]
    progress: list[float]
    in_turn: list[float]
    pgmpy: list[float]
    beside: list[float]


@numba.njit()  # type: ignore[call-overload]
def repeat(
    state: ClusterState,
    templates: TemplateTable,
    networks: Networks,
    beliefs: Beliefs,
    times: int,
) -> None:
    for _ in range(times):
        update(state, templates, networks, beliefs, BAYES, GITTINS | REDUCTION)


class Bench:
    """Episodes of one application, and the beliefs about its jobs."""

    def __init__(self, workload: Workload, profile: BeliefProfile, application: str) -> None:
        bank = workload.bank
        self.bank = bank
        self.mine = np.flatnonzero(bank.job_application == bank.applications.index(application))
        self.network = profile.networks[application]
        self.templates = template_table(bank.applications, profile.templates)
        self.canonical = canonical_stages(bank, profile.templates)
        self.networks = compile_profile(profile, bank.applications)
        self.beliefs = new_beliefs(JOBS, self.networks)
        self.rng = np.random.default_rng(SEED)

    def episode(self) -> ClusterState:
        """Random jobs that arrive together, at the first decision."""
        picked = self.rng.choice(self.mine, JOBS)
        cluster = load_cluster(CLUSTER)
        state = new_state(self.bank, picked, np.zeros(JOBS), cluster, self.canonical)
        start(state)
        return state

    def run(self, updates: int, pgmpy_updates: int) -> Times:
        """Time so many updates, after a warm-up; every few of them pgmpy is asked, too."""
        times = Times([], [], [], [], [])
        self.time(state := self.episode(), [0], EVIDENCE)
        pgmpy_us(self.network, self.beliefs.scratch)
        every = updates / pgmpy_updates if pgmpy_updates else np.inf
        while len(times.evidence) < updates:
            for job in completed_a_stage(state):
                times.evidence.append(self.time(state, [job], EVIDENCE))
                if len(times.evidence) >= every * (len(times.pgmpy) + 1):
                    microseconds = pgmpy_us(self.network, self.beliefs.scratch)
                    if microseconds > 0.0:
                        times.pgmpy.append(microseconds)
                        times.beside.append(times.evidence[-1])
                times.progress.append(self.time(state, [job], PROGRESS))
            if len(times.evidence) > len(times.in_turn) * 50:
                active = state.active[: state.clock["active"][0]].tolist()
                times.in_turn.append(self.time(state, active, EVIDENCE))
            if next_decision(state) != DECIDE:
                state = self.episode()
        return times

    def time(self, state: ClusterState, jobs: list[int], change: int) -> float:
        """Mean microseconds of an update of each of some jobs."""
        state.jobs["changed"][jobs] = change
        state.changed[: len(jobs)] = jobs
        state.clock["changed"] = len(jobs)
        arguments = state, self.templates, self.networks, self.beliefs
        best = np.inf
        for _ in range(RUNS):
            begin = time.perf_counter()
            repeat(*arguments, 0)
            between = time.perf_counter()
            repeat(*arguments, REPEATS)
            best = min(best, time.perf_counter() - between - (between - begin))
        state.jobs["changed"], state.clock["changed"] = 0, 0
        return 1e6 * float(best) / (REPEATS * len(jobs))


def completed_a_stage(state: ClusterState) -> list[int]:
    """Unfinished jobs of which a stage has completed since the last decision."""
    changed = state.changed[: state.clock["changed"][0]]
    evidence = state.jobs["changed"][changed] == EVIDENCE
    some_done = state.jobs["unfinished_stages"][changed] < state.jobs["num_stages"][changed]
    unfinished = state.jobs["unfinished_stages"][changed] > 0
    return [int(job) for job in changed[evidence & some_done & unfinished]]


def next_decision(state: ClusterState) -> int:
    """Forget what changed, and run the first stage that can run."""
    state.jobs["changed"], state.clock["changed"] = 0, 0
    ready = np.sort(state.ready[: state.clock["ready"][0]])
    return int(step(state, next(int(stage) for stage in ready if can_run(state, stage))))


def pgmpy_us(network: Network, scratch: Scratch) -> float:
    """Microseconds of pgmpy's queries for the job that was updated last, 0 without any."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination

    model, evidence = network.to_pgmpy(), {}
    for v, states in enumerate(network.states):
        low, high = scratch.variables["low"][v], scratch.variables["high"][v]
        if low == high:
            evidence[v] = int(low)
        elif low > 0 or high < states - 1:  # a child that is 0 if v is in its interval
            allowed = (np.arange(states) >= low) & (np.arange(states) <= high)
            child = len(network.states) + v
            table = np.array([allowed, ~allowed], np.float64)
            model.add_edge(v, child)
            model.add_cpds(TabularCPD(child, 2, table, [v], [states]))
            evidence[child] = 0
    uncertain = scratch.stages["status"][: len(network.demand)] <= PRESENT
    asked = [int(v) for v in network.demand[uncertain] if int(v) not in evidence]
    if not asked:
        return 0.0
    inference = VariableElimination(model)
    begin = time.perf_counter()
    answers = [inference.query([v], evidence=evidence, show_progress=False) for v in asked]
    microseconds = 1e6 * (time.perf_counter() - begin)
    for v, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(
            scratch.marginal[v, : network.states[v]], answer.values, atol=1e-9
        )
    return microseconds


def report(workload: Workload, prompts: bool, updates: int, pgmpy_updates: int) -> None:
    """Print one line per application."""
    settings = BeliefSettings(prompts=prompts)
    profile = load_or_fit(workload.past, load_cluster(CLUSTER).latency, settings)
    print(
        f"{workload.name:25} {'':16} {'evidence':>23} {'in turn':>8} {'progress':>23} {'pgmpy':>8}"
    )
    heads = [
        "variables",
        "rows",
        *["p50", "p90", "p99"],
        "mean",
        *["p50", "p90", "p99"],
        "p50",
        "ratio",
    ]
    widths = [9, 6, 7, 7, 7, 8, 7, 7, 7, 8, 7]
    print(" " * 25, *(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for name in workload.bank.applications:
        bench = Bench(workload, profile, name)
        times = bench.run(updates, pgmpy_updates)
        rows = np.diff(bench.networks.applications["rows"])
        columns = [
            f"{len(bench.network.tables)}",
            f"{rows[workload.bank.applications.index(name)]}",
            *(f"{us:.1f}" for us in np.percentile(times.evidence, (50, 90, 99))),
            f"{np.mean(times.in_turn):.1f}",
            *(f"{us:.1f}" for us in np.percentile(times.progress, (50, 90, 99))),
        ]
        if times.pgmpy:
            ratio = sum(times.pgmpy) / sum(times.beside)
            columns += [f"{np.median(times.pgmpy):,.0f}", f"{ratio:,.0f}"]
        rest = zip(columns, widths, strict=False)
        print(f"{name:25}", *(f"{column:>{width}}" for column, width in rest), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=1000, help="of each application")
    parser.add_argument("--pgmpy-updates", type=int, default=5, help="of these, by pgmpy, too")
    parser.add_argument(
        "--prompts", action=argparse.BooleanOptionalAction, default=True, help="as evidence"
    )
    parser.add_argument("--traces", metavar="PATH", help="a JSON lines file or a folder of them")
    options = parser.parse_args()
    workloads = [make_workload("mixed")]
    if options.traces is not None:
        workloads.append(make_workload("traces", path=options.traces))
    for workload in workloads:
        report(workload, options.prompts, options.updates, options.pgmpy_updates)


if __name__ == "__main__":
    main()
