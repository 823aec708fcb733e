from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import NaiveCluster, lone_task_ticks
from strategies import banks

from llmsched_gym.cluster import simulator
from llmsched_gym.cluster.latency import Cluster, LatencyProfile, load_cluster
from llmsched_gym.cluster.simulator import DECIDE, FINISHED, TRUNCATED
from llmsched_gym.cluster.state import NO_CHANGE, TICKS_PER_SECOND, ClusterState, new_state
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage, Task

ROUND_MS = (125.0, 250.0)  # iterations that end together with arrivals and tools


@dataclass(frozen=True)
class Episode:
    """What happens, and a policy: run a random stage, or wait with a given probability."""

    bank: JobBank
    indices: tuple[int, ...]
    arrival_s: tuple[float, ...]
    cluster: Cluster
    time_limit_s: float | None = None
    waiting: float = 0.0
    seed: int = 0

    def state(self) -> ClusterState:
        canonical = np.full(len(self.bank.stage_kind), -1)
        return new_state(
            self.bank, self.indices, self.arrival_s, self.cluster, canonical, self.time_limit_s
        )

    def naive(self) -> NaiveCluster:
        limits = dict(zip(self.bank.applications, map(int, self.bank.output_limit), strict=True))
        limit = self.time_limit_s
        return NaiveCluster(
            [self.bank.job(index) for index in self.indices],
            [round(time * TICKS_PER_SECOND) for time in self.arrival_s],
            limits,
            self.cluster.latency,
            self.cluster.engines,
            self.cluster.max_batch,
            self.cluster.regular_executors,
            None if limit is None else round(limit * TICKS_PER_SECOND),
        )

    def where(self) -> list[tuple[int, int]]:
        """(job, stage) of each row of the table of stages."""
        sizes = [len(self.bank.job(index).stages) for index in self.indices]
        return [(j, s) for j, size in enumerate(sizes) for s in range(size)]


@st.composite
def latencies(draw: st.DrawFn, capacity: int) -> LatencyProfile:
    if draw(st.booleans()):  # iterations coincide with the multiples of 1/8 s below
        times = st.sampled_from(ROUND_MS)
        a, p0 = draw(times), draw(times)
        c, d, e, f = (draw(st.sampled_from([0.0, x])) for x in (125.0, 12.5, 125.0, 31.25))
        return LatencyProfile("round", a, c, d, p0, e, f, 0.0, capacity)
    ms = st.floats(0.0, 50.0, allow_subnormal=False)
    a, p0 = draw(st.floats(0.01, 50.0)), draw(st.floats(0.01, 50.0))
    c, d, e, f, g = (draw(ms) / scale for scale in (1, 100, 1, 10, 1000))
    return LatencyProfile("odd", a, c, d, p0, e, f, g, capacity)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    bank = draw(banks(max_size=4, max_stages=6, max_tasks=3, max_tokens=draw(st.integers(1, 25))))
    count = draw(st.integers(1, 6))
    indices = draw(st.lists(st.integers(0, len(bank) - 1), min_size=count, max_size=count))
    eighths = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    arrival_s = np.sort(eighths) / 8 * draw(st.sampled_from([0.0, 1.0, 0.37]))
    need = int(bank.prompt_tokens.max() + bank.output_limit.max())
    capacity = draw(st.integers(need, 3 * need) | st.just(10**6))
    cluster = Cluster(
        "drawn",
        draw(latencies(max(capacity, 2))),
        engines=draw(st.integers(1, 3)),
        max_batch=draw(st.integers(1, 4)),
        regular_executors=draw(st.integers(1, 3)),
    )
    return Episode(
        bank,
        tuple(indices),
        tuple(arrival_s.tolist()),
        cluster,
        time_limit_s=draw(st.none() | st.integers(1, 80).map(lambda n: n / 8)),
        waiting=draw(st.sampled_from([0.0, 0.1, 0.6])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


class Lockstep:
    """The simulator and the naive one, asked to do the same, and compared at each decision."""

    def __init__(self, episode: Episode) -> None:
        self.where = episode.where()
        self.state, self.naive = episode.state(), episode.naive()
        self.status = simulator.start(self.state)
        assert self.naive.start() == self.status
        self.compare()

    def legal(self) -> list[int]:
        return [s for s in range(len(self.where)) if simulator.can_run(self.state, s)]

    def step(self, stage: int) -> None:
        before = self.state.clock["now"][0]
        self.status = simulator.step(self.state, stage)
        assert self.naive.step(None if stage < 0 else self.where[stage]) == self.status
        assert self.state.clock["now"][0] >= before
        self.compare()

    def compare(self) -> None:
        state, naive, clock = self.state, self.naive, self.state.clock[0]
        assert clock["now"] == naive.now
        assert {self.where[s] for s in self.legal()} == naive.legal()
        assert simulator.can_wait(state) == naive.can_wait()
        assert simulator.slowdown(state) == pytest.approx(naive.slowdown(), rel=1e-9)
        assert clock["job_seconds"] == pytest.approx(naive.job_ticks / TICKS_PER_SECOND, rel=1e-9)
        assert state.active[: clock["active"]].tolist() == naive.in_system()
        visible = {self.where[s] for s in np.flatnonzero(state.stages["visible"])}
        assert visible == {(j, s) for j, s in self.where if naive.visible(j, s)}
        changed = state.changed[: clock["changed"]]
        assert set(zip(changed, state.jobs["changed"][changed], strict=True)) == set(
            naive.changes.items()
        )
        state.jobs["changed"] = NO_CHANGE
        clock["changed"] = 0
        naive.changes.clear()

    def compare_outcome(self) -> None:
        """Every task's start, end and executor, every job's completion and slot time."""
        rows = [run for where in self.where for run in self.naive.runs[where]]
        for field in ("start", "end", "executor"):
            expected = [getattr(run, field) for run in rows]
            found = self.state.tasks[field]
            assert found.tolist() == [-1 if x is None else x for x in expected]
        completion = [-1 if x is None else x for x in self.naive.completion]
        assert self.state.jobs["completion"].tolist() == completion
        jobs, now = self.state.jobs, self.naive.now
        attained = jobs["attained"] + jobs["running_tasks"] * (now - jobs["attained_until"])
        assert attained.tolist() == [self.naive.slot_ticks(j) for j in range(len(jobs))]


def check_agreement(episode: Episode) -> None:
    both = Lockstep(episode)
    dice = random.Random(episode.seed)
    while both.status == DECIDE:
        legal = both.legal()
        assert legal
        wait = simulator.can_wait(both.state) and dice.random() < episode.waiting
        both.step(-1 if wait else dice.choice(legal))
    both.compare_outcome()


@given(episodes())
@settings(max_examples=200, derandomize=True, deadline=None)
def test_agrees_with_the_naive_simulator(episode: Episode) -> None:
    check_agreement(episode)


@pytest.mark.slow
@given(episodes())
@settings(max_examples=3000, deadline=None)
def test_agrees_with_the_naive_simulator_on_many_episodes(episode: Episode) -> None:
    check_agreement(episode)
