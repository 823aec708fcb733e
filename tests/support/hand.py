"""Short ways to say jobs, engines and what happened, for cases worked out by hand in ms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmsched_gym.cluster import simulator
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.simulator import DECIDE, FINISHED
from llmsched_gym.cluster.state import ClusterState, new_state
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, RegularTask, Stage, Task

TEN = LatencyProfile("ten", a=10.0, c=2.0, d=0.0, p0=30.0, e=10.0, f=0.1, g=0.0,
                     kv_capacity_tokens=1000)  # fmt: skip


def call(*tasks: Task, parents: Sequence[int] = (), name: str = "call") -> Stage:
    return Stage(name, Kind.LLM, tuple(parents), tasks)


def tool(*seconds: float, parents: Sequence[int] = ()) -> Stage:
    return Stage("tool", Kind.REGULAR, tuple(parents), tuple(map(RegularTask, seconds)))


def job(*stages: Stage, application: str = "app") -> Job:
    return Job(application, "job", stages)


def begin(jobs: Sequence[Job], arrival_ms: Sequence[float], cluster: Cluster) -> ClusterState:
    bank = JobBank.from_jobs(jobs)
    canonical = np.full(len(bank.stage_kind), -1)
    arrival_s = [ms / 1000 for ms in arrival_ms]
    state = new_state(bank, range(len(jobs)), arrival_s, cluster, canonical)
    assert simulator.start(state) == DECIDE
    return state


def finish(state: ClusterState) -> ClusterState:
    """Always run the first stage that can run."""
    status = DECIDE
    while status == DECIDE:
        status = simulator.step(state, runnable(state)[0])
    assert status == FINISHED
    return state


def play(jobs: Sequence[Job], arrival_ms: Sequence[float], cluster: Cluster) -> ClusterState:
    return finish(begin(jobs, arrival_ms, cluster))


def runnable(state: ClusterState) -> list[int]:
    return [s for s in range(len(state.stages)) if simulator.can_run(state, s)]


def ms(ticks: np.typing.NDArray[np.int64]) -> list[float]:
    return (ticks / 1e9).tolist()


def one_engine(latency: LatencyProfile = TEN, **sizes: int) -> Cluster:
    return replace(Cluster("hand", latency, engines=1, max_batch=4), **sizes)  # type: ignore[arg-type]
