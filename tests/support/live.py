"""Jobs of a second or two for servers that run in real time, and how they are played."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.testbed.environment import TestbedEnv
from llmsched_gym.testbed.fake import fake_server
from llmsched_gym.testbed.faults import Fault
from llmsched_gym.testbed.servers import Servers
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import Workload

# Iterations of 10 ms and more: what a busy machine adds is small beside them.
EXCLUSIVE = LatencyProfile("fake", 10.0, 0.4, 0.001, 12.0, 8.0, 0.3, 0.0, 4000)
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
def faked(
    profile: LatencyProfile, engines: int = 1, slots: int = 4, *faults: Fault, **options: Any
) -> Iterator[TestbedEnv]:
    """An environment whose servers are fakes in other processes; the first one has the faults."""
    with ExitStack() as stack:
        urls = tuple(
            stack.enter_context(fake_server(profile, slots, faults=() if e else faults))
            for e in range(engines)
        )
        known = {"timeout_s", "retries", "tools", "clock", "model"}
        servers = Servers(urls, slots, **{k: v for k, v in options.items() if k in known})
        given = {"num_jobs": 8, "belief": "none", "workload": workload(), "arrival_rate": 8.0}
        given |= {k: v for k, v in options.items() if k not in known}
        env = TestbedEnv(servers, cluster=cluster(profile), **given)
        try:
            yield env
        finally:
            env.close()


def play(env: LLMSchedEnv, policy: str = "fcfs", seed: int = 0) -> list[Any]:
    """Play an episode to its end; everything that was seen of it."""
    agent = make_policy(policy)
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [(observation, info)]
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        seen.append((observation, reward, terminated, truncated, info))
        over = terminated or truncated
    return seen
