"""Play episodes, in this process or in several, with the same results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from agents import Policy
from llmsched_gym.cluster.state import NO_LIMIT, TICKS_PER_SECOND
from llmsched_gym.env.scheduling import InvalidAction, LLMSchedEnv
from llmsched_gym.results import Episode

T = TypeVar("T")


class InputError(Exception):
    """What the user gave cannot be evaluated: one line that says why."""


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is at the bottom of an error, as when numba was compiling."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def cores() -> int:
    """How many processes can run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- one episode ----------------------------------------------------------------------------------


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
    """
    env_seed, policy_seed = episode_seeds(seed, number)
    policy.reset(policy_seed)
    try:
        decisions, decision_us = _play(env, policy, env_seed)
    except InvalidAction as error:
        raise InputError(f"policy {label}: episode {number}: {error}") from error
    jobs = env.job_table()
    if np.isnan(jobs["completion_s"]).any():
        raise InputError(
            f"policy {label}: episode {number}: its jobs take longer than the simulator can "
            f"count, {NO_LIMIT / TICKS_PER_SECOND:g} s"
        )
    makespan_s = float(jobs["completion_s"].max())
    return Episode(label, number, jobs, makespan_s, decisions, decision_us)


def _play(env: LLMSchedEnv, policy: Policy, seed: int) -> tuple[int, float]:
    """The number of decisions, and the mean wall-clock microseconds of one."""
    try:
        observation, _ = env.reset(seed=seed)
    except ValueError as error:  # arrivals that span more time than the simulator can count
        raise InputError(one_line(error)) from error
    decisions, nanoseconds, over = 0, 0, False
    while not over:
        begin = time.perf_counter_ns()
        action = policy.act(observation)
        nanoseconds += time.perf_counter_ns() - begin
        decisions += 1
        observation, _, terminated, truncated, _ = env.step(int(action))
        over = terminated or truncated
    return decisions, nanoseconds / decisions / 1000


# --- many, in several processes -------------------------------------------------------------------


def map_processes(
    function: Callable[..., T],
    context: Any,
    items: Sequence[Any],
    processes: int,
    done: Callable[[int], None],
) -> list[T]:
    """``[function(context, item) for item in items]``, begun in this order.

    Each process is sent the context once. Processes end when this one does, however it ends.

    Parameters
    ----------
    function
        At the top level of a module.
    processes
        With 1 all is done in this process.
    done
        Called with the index of an item, after it.
    """
    processes = min(processes, len(items))
    if processes <= 1:
        results = []
        for index, item in enumerate(items):
            results.append(function(context, item))
            done(index)
        return results
    with ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start_worker, (function, context)
    ) as pool:
        try:
            with _interrupts_postponed():
                futures = {pool.submit(_work, item): index for index, item in enumerate(items)}
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BaseException:  # an interrupt, too: episodes that do not count are not awaited
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
    return [future.result() for future in futures]


@contextmanager
def _interrupts_postponed() -> Iterator[None]:
    """Ctrl-C takes effect afterwards, and never in processes that are started meanwhile."""
    interrupts: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    if sys.platform != "win32":
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    try:
        yield
    finally:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt


_function: Callable[..., Any]  # of this worker process
_context: Any


def _start_worker(function: Callable[..., Any], context: Any) -> None:
    global _function, _context
    _function, _context = function, context
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed process cannot tell its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    return _function(_context, item)
