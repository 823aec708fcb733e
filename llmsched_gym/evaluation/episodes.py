"""Play one episode with one policy; what happened in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import Policy
from llmsched_gym.cluster.ticks import NO_LIMIT, TICKS_PER_SECOND
from llmsched_gym.env.actions import InvalidAction
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, one_line, printable, raised

if TYPE_CHECKING:
    from llmsched_gym.testbed.log import EventLog


@dataclass(frozen=True)
class Episode:
    """What happened in one episode of one policy.

    Attributes
    ----------
    policy, number : the label of the policy and the number of the episode.
    jobs : per job ``application``, ``arrival_s``, ``completion_s``, ``jct_s`` and ``bank_job``, its
        number in the bank of the workload, as arrays.
    makespan_s : from the start of the episode to its last completion.
    decisions : how often the policy was asked.
    decision_us : wall-clock time of an answer in microseconds, mean.
    tasks, log : of an episode on servers, the table and the log of a ``TestbedEnv``; else None.
    bound_s : a mean JCT that no policy is below, seconds; None: unknown, as on servers.
    """

    policy: str
    number: int
    jobs: dict[str, NDArray[Any]]
    makespan_s: float
    decisions: int
    decision_us: float
    tasks: dict[str, NDArray[Any]] | None = None
    log: EventLog | None = None
    bound_s: float | None = None


def episode_seeds(seed: int, number: int) -> tuple[int, int]:
    """The seeds of the environment and of the policy in an episode, the same for every policy."""
    environment, policy = np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
    return int(environment), int(policy)


def play(env: LLMSchedEnv, policy: Policy, label: str, seed: int, number: int) -> Episode:
    """Play episode ``number`` with a policy that is new or has no memory.

    Raises
    ------
    InputError
        for an illegal action, and for jobs that take longer than the simulator can count.
    PolicyError
        for whatever the policy raises, be it to end the process.
    """
    env_seed, policy_seed = episode_seeds(seed, number)
    who = f"policy {label}: episode {number}"
    with _told(f"{who}: reset"):
        policy.reset(policy_seed)
    decisions, decision_us = _play(env, policy, who, env_seed)
    jobs = env.job_table() | {"bank_job": env.state.jobs["bank_job"].copy()}
    if np.isnan(jobs["completion_s"]).any():
        raise InputError(
            f"{who}: its jobs take longer than the simulator can "
            f"count, {NO_LIMIT / TICKS_PER_SECOND:g} s"
        )
    makespan_s = float(jobs["completion_s"].max())
    return Episode(label, number, jobs, makespan_s, decisions, decision_us)


def _play(env: LLMSchedEnv, policy: Policy, who: str, seed: int) -> tuple[int, float]:
    """The number of decisions, and the mean wall-clock microseconds of one."""
    try:
        observation, _ = env.reset(seed=seed, options={"columns": policy.reads})
    except ValueError as error:  # arrivals that span more time than the simulator can count
        slow = f"at {env.rate:g} jobs/s, which the load or arrival_rate asks for"
        raise InputError(f"{one_line(error)} ({slow})") from error
    decisions, nanoseconds, over = 0, 0, False
    while not over:
        begin = time.perf_counter_ns()
        try:
            action = policy.act(observation)
        except BaseException as error:
            raise raised(f"{who}: decision {decisions}", error) from error
        nanoseconds += time.perf_counter_ns() - begin
        try:
            observation, _, terminated, truncated, _ = env.step(action)  # type: ignore[arg-type]
        except InvalidAction as error:
            raise InputError(printable(f"{who}: decision {decisions}: {error}")) from error
        except (IndexError, TypeError, ValueError) as error:
            what = f"{who}: decision {decisions}: {action!r} is no action: {one_line(error)}"
            raise InputError(printable(what)) from error
        decisions += 1
        over = terminated or truncated
    return decisions, nanoseconds / decisions / 1000


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What a policy raises inside becomes an error that says where."""
    try:
        yield
    except BaseException as error:
        raise raised(where, error, frames=2) from error
