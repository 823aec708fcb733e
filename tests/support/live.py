"""Jobs of a second or two for servers that run in real time, and how they are played."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.testbed.environment import TestbedEnv
from llmsched_gym.testbed.events import ARRIVE, COMPLETE
from llmsched_gym.testbed.fake import FakeServer
from llmsched_gym.testbed.faults import Fault
from llmsched_gym.testbed.log import EventLog, task_table
from llmsched_gym.testbed.replay import Replay
from llmsched_gym.testbed.servers import Servers
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import Workload

# Long iterations: what a busy machine adds is small beside them.
EXCLUSIVE = LatencyProfile("exclusive", 20, 0.4, 0.001, 22, 18, 0.3, 0, 4000, joins="late")
MIXED = replace(EXCLUSIVE, name="mixed", prefill="mixed", token_budget=64)
FAST = LatencyProfile("fast", 2.0, 0.1, 0.0, 2.0, 1.0, 0.01, 0.0, 4000)


def workload(seed: int = 0, jobs: int = 12) -> Workload:
    """Two applications: a plan that reveals some calls, and a short chain with a tool."""
    rng = np.random.default_rng(seed)
    bank, past = (JobBank.from_jobs([_job(rng, n) for n in range(jobs)]) for _ in range(2))
    return Workload("small", bank, past, Poisson())


def _job(rng: np.random.Generator, number: int) -> Job:
    if number % 2:
        stages = (
            Stage("ask", Kind.LLM, (), (_llm(rng, 3, 8),)),
            Stage("tool", Kind.REGULAR, (0,), (RegularTask(float(rng.uniform(0, 0.1))),)),
            Stage("answer", Kind.LLM, (1,), (_llm(rng, 2, 6),)),
        )
        return Job("chain", f"chain-{number}", stages)
    calls = tuple(_llm(rng, 4, 20) for _ in range(int(rng.integers(1, 6))))
    stages = (
        Stage("plan", Kind.LLM, (), (_llm(rng, 3, 10),)),
        Stage("call", Kind.LLM, (0,), calls, revealed_by=0),
        Stage("join", Kind.LLM, (1,), (_llm(rng, 2, 8),)),
    )
    return Job("plan", f"plan-{number}", stages)


def _llm(rng: np.random.Generator, least: int, most: int) -> LLMTask:
    return LLMTask(int(rng.integers(5, 40)), int(rng.integers(least, most + 1)))


def cluster(profile: LatencyProfile, engines: int = 1, slots: int = 4) -> Cluster:
    return Cluster("fake", profile, engines, slots, regular_executors=3)


@contextmanager
def near(profile: LatencyProfile, slots: int, *faults: Fault) -> Iterator[FakeServer]:
    """A fake server in a thread: it begins at once, and can be looked into."""
    server = FakeServer(profile, slots, faults=faults)
    begun, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server:
            begun.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert begun.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@contextmanager
def on(servers: Servers, profile: LatencyProfile = FAST, **options: Any) -> Iterator[TestbedEnv]:
    given: dict[str, Any] = {"num_jobs": 8, "belief": "none", "workload": workload()}
    given |= {"arrival_rate": 20.0, "cluster": cluster(profile)} | options
    env = TestbedEnv(servers, **given)
    try:
        yield env
    finally:
        env.close()


def play(env: LLMSchedEnv, policy: str = "fcfs", seed: int = 0) -> list[Any]:
    """Play an episode to its end; everything that was seen of it."""
    agent = make_policy(policy)
    agent.reset(seed)
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [(observation, info)]
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        seen.append((observation, reward, terminated, truncated, info))
        over = terminated or truncated
    return seen


def replayed(env: LLMSchedEnv, log: EventLog, policy: str, seed: int, **options: Any) -> list[Any]:
    """What is seen of an episode when its log is replayed."""
    given: dict[str, Any] = {"workload": env.workload, "cluster": env.cluster}
    given |= {"num_jobs": env.num_jobs, "belief": env.belief, "arrival_rate": env.rate} | options
    again = LLMSchedEnv(driver=Replay(log), **given)
    return play(again, policy, seed)


def check_episode(env: LLMSchedEnv, log: EventLog) -> None:
    """Every task once, after what it waits for, never more on a server than it has slots."""
    state, table, jobs = env.state, task_table(env.state, log.requests), env.job_table()
    tasks, stages = state.tasks, state.stages
    done = [row.what for row in log.rows if row.kind == COMPLETE]
    assert sorted(done) == list(range(len(tasks)))
    assert [row.what for row in log.rows if row.kind == ARRIVE] == list(range(len(state.jobs)))
    assert (np.diff([row.tick for row in log.rows]) >= 0).all()
    served = [request.task for request in log.requests if not request.failed]
    llm = table["kind"] == "llm"
    assert sorted(served) == np.flatnonzero(llm).tolist()
    np.testing.assert_array_equal(table["prompt_tokens"][llm], tasks["prompt_tokens"][llm])
    np.testing.assert_array_equal(table["output_tokens"][llm], tasks["output_tokens"][llm])
    assert (tasks["end"] >= tasks["start"]).all()
    assert (table["sent_s"][llm] >= tasks["start"][llm] / TICKS_PER_SECOND - 1e-9).all()
    for s in range(len(stages)):
        first = stages["first_task"][s]
        own = slice(first, first + stages["num_tasks"][s])
        for parent in state.parents[state.parents_of[s] : state.parents_of[s + 1]]:
            at = stages["first_task"][parent]
            before = tasks["end"][at : at + stages["num_tasks"][parent]]
            assert before.max() <= tasks["start"][own].min()
        assert table["queued_s"][first] <= tasks["start"][own].min() / TICKS_PER_SECOND
    for engine in range(len(log.urls)):
        mine = [request for request in log.requests if request.engine == engine]
        for one in mine:
            at_once = [o for o in mine if o.sent_s <= one.sent_s < o.end_s or o is one]
            assert len(at_once) <= log.slots
    np.testing.assert_allclose(jobs["jct_s"], jobs["completion_s"] - jobs["arrival_s"])
    last = np.maximum.reduceat(tasks["end"], stages["first_task"][state.jobs["first_stage"]])
    np.testing.assert_array_equal(state.jobs["completion"], last)
    assert not state.engines["running"].any()
    assert not state.engines["reserved"].any()
    assert state.clock["regular_free"][0] == len(state.executors)
