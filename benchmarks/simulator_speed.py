"""Decisions/s of the bare simulator, first come first served, on one core.

    python benchmarks/simulator_speed.py [--jobs 300] [--naive-jobs 20]

Then the same on a few jobs, where the naive simulator of the tests can follow: how many times
faster the closed form is, in the same run, with the same completion times.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numba
import numpy as np

from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.cluster.simulator import DECIDE, can_run, start, step
from llmsched_gym.cluster.state import ClusterState, new_state
from llmsched_gym.workload.mixes import Workload, arrival_rate, make_workload

sys.path.append(str(Path(__file__).parent.parent / "tests" / "cluster"))
from support.naive import NaiveCluster


@numba.njit(_nrt=False)  # type: ignore[call-overload]  # like the kernels it calls
def first_come_first_served(state: ClusterState) -> int:
    """Always run the first stage that can run; returns the number of decisions."""
    clock, decisions, status = state.clock[0], 0, start(state)
    while status == DECIDE:
        first = len(state.stages)
        for slot in range(clock["ready"]):
            stage = state.ready[slot]
            if stage < first and can_run(state, stage):
                first = stage
        status = step(state, first)
        decisions += 1
    return decisions


def draw(workload: Workload, cluster: Cluster, num_jobs: int, load: float) -> ClusterState:
    """An episode at an offered load of the LLM slots."""
    bank, rng = workload.bank, np.random.default_rng(0)
    slot_s = cluster.latency.slot_seconds(bank.prompt_tokens, bank.output_tokens, cluster.max_batch)
    mean = slot_s[bank.prompt_tokens > 0].sum() / len(bank)
    jobs, arrival_s = workload.draw(rng, num_jobs, arrival_rate(load, cluster.llm_slots, mean))
    return new_state(bank, jobs, arrival_s, cluster, np.full(len(bank.stage_kind), -1))


def rate(workload: Workload, cluster: Cluster, num_jobs: int, load: float) -> float:
    """Decisions/s, the best of seven runs: what the machine does undisturbed."""
    best = np.inf
    for _ in range(7):
        state = draw(workload, cluster, num_jobs, load)
        begin = time.perf_counter()
        decisions = first_come_first_served(state)
        best = min(best, (time.perf_counter() - begin) / decisions)
    return float(1 / best)


def naive_rate(workload: Workload, cluster: Cluster, num_jobs: int, load: float) -> float:
    """Decisions/s of the naive simulator on the same episode, with the same outcome."""
    bank, state = workload.bank, draw(workload, cluster, num_jobs, load)
    naive = NaiveCluster(
        [bank.job(index) for index in state.jobs["bank_job"]],
        state.jobs["arrival"].tolist(),
        dict(zip(bank.applications, bank.output_limit.tolist(), strict=True)),
        cluster.latency,
        cluster.engines,
        cluster.max_batch,
        cluster.regular_executors,
    )
    begin, decisions, status = time.perf_counter(), 0, naive.start()
    while status == DECIDE:
        status = naive.step(min(naive.legal()))
        decisions += 1
    seconds = time.perf_counter() - begin
    assert first_come_first_served(state) == decisions
    assert state.jobs["completion"].tolist() == naive.completion
    return decisions / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--naive-jobs", type=int, default=20)
    parser.add_argument("--workload", default="mixed")
    options = parser.parse_args()
    workload, cluster = make_workload(options.workload), load_cluster("a100_llama2_7b")

    state = draw(workload, cluster, options.jobs, 1.3)
    begin = time.perf_counter()
    start(state)
    step(state, int(state.ready[0]))
    can_run(state, 0)
    print(f"kernels loaded or compiled in {time.perf_counter() - begin:.2f} s")
    first_come_first_served(draw(workload, cluster, 1, 1.3))  # compile

    for load in (0.9, 1.3, 2.0):
        found = rate(workload, cluster, options.jobs, load)
        print(f"{cluster.name}, load {load}: {found:,.0f} decisions/s")
    for executors in (16, 1000):
        large = load_cluster(cluster, engines=16, max_batch=64, regular_executors=executors)
        found = rate(workload, large, options.jobs, 1.3)
        print(f"16 engines x 64 slots, {executors} regular executors: {found:,.0f} decisions/s")

    fast = rate(workload, cluster, options.naive_jobs, 1.3)
    slow = naive_rate(workload, cluster, options.naive_jobs, 1.3)
    print(
        f"{options.naive_jobs} jobs: {fast:,.0f} decisions/s, naive {slow:,.0f}: "
        f"{fast / slow:,.0f} times faster"
    )


if __name__ == "__main__":
    main()
