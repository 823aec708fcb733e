"""Checks for what you write: a policy, a workload, an environment with your options.

    from llmsched_gym.testing import check_policy

    def test_my_policy():
        check_policy(Youngest())

Each plays a few short episodes and raises AssertionError, in one line, where something is not as
all that comes with the gym is, and as results rely on.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env

from llmsched_gym.agents.base import Observation, Policy
from llmsched_gym.cluster.limits import fitted
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.actions import InvalidAction
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.mixes import Workload

MOST_STEPS = 100_000  # of an episode of a check


def check_policy(policy: Policy, env: LLMSchedEnv | None = None, seed: int = 0) -> None:
    """Check that a policy plays as the comparison of policies needs it to.

    Its actions are legal and of a type that environments take; the same seed gives the same
    actions, in a copy, after pickling and after another episode; it changes no observation, and
    draws from ``self.rng`` alone; it reads no costly column but those that its class says it
    ``reads``; and of a batch of observations it makes what it makes of each.

    Parameters
    ----------
    policy : an object, not a class.
    env : what to play, default 8 jobs of all applications on a small cluster, belief="bayes".
    seed : of the episodes.

    Raises
    ------
    AssertionError
        if something is not so.
    """
    _require(isinstance(policy, Policy), f"policy: {policy!r} is no Policy; is it a class?")
    env = _environment() if env is None else env
    env = copy.deepcopy(env)
    env.strict = True
    before = copy.deepcopy(policy)
    actions, observations = _play(env, policy, seed)
    _same(actions, _play(env, policy, seed)[0], "the same seed after an episode: reset() is to")
    if policy.reads is not None:
        without = _play(env, policy, seed, policy.reads)[0]
        _same(actions, without, f"reads = {policy.reads!r} alone: no other column is to")
    _same(actions, _play(env, before, seed)[0], "a copy with the same seed: only self.rng is to")
    try:
        pickled: Policy = pickle.loads(pickle.dumps(before))
    except Exception as error:
        raise AssertionError(
            f"policy: it cannot be pickled for other processes: {error}"
        ) from error
    _same(actions, _play(env, pickled, seed)[0], "a pickled one: all it needs is to")
    _check_batch(policy, observations, seed)


def _play(
    env: LLMSchedEnv, policy: Policy, seed: int, columns: Collection[str] | None = None
) -> tuple[list[int], list[Observation]]:
    """The actions of an episode, and what they were decided on."""
    observation, _ = env.reset(seed=seed, options={"columns": columns})
    policy.reset(seed)
    actions: list[int] = []
    observations: list[Observation] = []
    over = False
    while not over:
        _require(len(actions) < MOST_STEPS, f"policy: an episode takes it over {MOST_STEPS} steps")
        observations.append({name: array.copy() for name, array in observation.items()})
        drawn = _global_state()
        action = policy.act(observation)
        where = f"policy: decision {len(actions)}"
        _require(
            _equal(drawn, _global_state()),
            f"{where}: it drew from numpy's global generator, not from self.rng",
        )
        for name, array in observations[-1].items():
            _require(np.array_equal(array, observation[name]), f"{where}: it changed {name!r}")
        try:
            observation, _, terminated, truncated, _ = env.step(action)  # type: ignore[arg-type]
        except InvalidAction as error:
            raise AssertionError(f"{where}: {error}") from None
        actions.append(int(np.asarray(action).item()))
        over = terminated or truncated
    return actions, observations


def _global_state() -> Any:
    return np.random.get_state(legacy=False)  # noqa: NPY002 (it is to stay as it is)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return all(_equal(one[name], other[name]) for name in one)
    return np.array_equal(one, other)


def _same(actions: list[int], others: list[int], what: str) -> None:
    pairs = enumerate(zip(actions, others, strict=False))
    first = next((number for number, pair in pairs if len(set(pair)) > 1), None)
    _require(
        first is None and len(actions) == len(others),
        f"policy: decision {first} differs with {what} determine what it does",
    )


def _check_batch(policy: Policy, observations: list[Observation], seed: int) -> None:
    """A batch is what vectorised environments give; who draws may draw otherwise there."""
    batch = observations[:: max(1, len(observations) // 8)]
    policy.reset(seed)
    alone = [int(np.asarray(policy.act(one)).item()) for one in batch]
    policy.reset(seed + 1)
    if alone != [int(np.asarray(policy.act(one)).item()) for one in batch]:
        return
    stacked = {name: np.stack([one[name] for one in batch]) for name in batch[0]}
    try:
        together = np.asarray(policy.act(stacked))
    except Exception as error:
        raise AssertionError(f"policy: a batch of {len(batch)} observations: {error!r}") from error
    _require(
        together.tolist() == alone,
        f"policy: of a batch of observations it makes {together.tolist()}, one by one {alone}",
    )


def check_workload(workload: Workload, num_jobs: int = 20, seed: int = 0) -> None:
    """Check that a workload can be played, and that its seed determines it.

    Its jobs fit the default cluster, none of them is a past job too, the same generator draws the
    same jobs at ascending times, whatever the rate, and it can be pickled.

    Raises
    ------
    AssertionError
        if something is not so.
    """
    try:
        fitted(workload, load_cluster("a100_llama2_7b"))
    except ValueError as error:
        raise AssertionError(f"workload: {error}") from error
    past, bank = ({one.job(i) for i in range(len(one))} for one in (workload.past, workload.bank))
    both = {job.job_id for job in past & bank}
    _require(not both, f"workload: past jobs are evaluated too, e.g. {min(both, default='')!r}")
    picked, arrival_s = _drawn(workload, num_jobs, 1.0, seed)
    _require(
        len(picked) == len(arrival_s) == num_jobs,
        f"workload: of {num_jobs} jobs it draws {len(picked)}, at {len(arrival_s)} times",
    )
    known = picked.min() >= 0 and picked.max() < len(workload.bank)
    _require(known, "workload: it draws a job that its bank does not have")
    ascending = arrival_s[0] >= 0 and (np.diff(arrival_s) >= 0).all()
    _require(ascending, "workload: arrivals are not ascending from 0")
    for what, one, rate in (
        ("drawn again", workload, 1.0),
        ("pickled", pickle.loads(pickle.dumps(workload)), 1.0),
        ("at another rate", workload, 2.0),
    ):
        again, again_s = _drawn(one, num_jobs, rate, seed)
        _require((again == picked).all(), f"workload: {what}, the same seed gives other jobs")
        same = rate != 1.0 or (again_s == arrival_s).all()
        _require(same, f"workload: {what}, the same seed gives other times")


def _drawn(workload: Workload, num_jobs: int, rate: float, seed: int) -> tuple[Any, Any]:
    return workload.draw(np.random.default_rng(seed), num_jobs, rate)


def check_environment(env: LLMSchedEnv, seed: int = 0) -> None:
    """Check that an environment keeps the contract of Gymnasium and ours.

    Gymnasium's own checker says nothing, every observation lies in its space, at least one action
    is legal at any time, seed and actions determine everything, also in a copy made in mid-episode,
    and every job completes once its tasks have.

    Parameters
    ----------
    env : unwrapped, without a time limit.

    Raises
    ------
    AssertionError
        if something is not so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            check_env(env, skip_render_check=env.render_mode is None)
        except Exception as error:
            raise AssertionError(f"environment: {error}") from error
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    twin: LLMSchedEnv | None = None
    for step in range(MOST_STEPS):
        where = f"environment: step {step}"
        _require(env.observation_space.contains(observation), f"{where}: not in its space")
        mask = observation["action_mask"]
        _require(mask.any(), f"{where}: no action is legal")
        _require((env.action_masks() == (mask == 1)).all(), f"{where}: two masks differ")
        twin = copy.deepcopy(env) if step == 5 else twin
        action = int(rng.choice(mask.nonzero()[0]))
        outcome = env.step(action)
        if twin is not None:
            _check_alike(outcome, twin.step(action), where)
        observation, _, terminated, truncated, _ = outcome
        if terminated or truncated:
            break
    ended = terminated or env.scenario.time_limit is not None
    _require(ended, f"environment: {MOST_STEPS} random steps do not end an episode")
    left = np.isnan(env.job_table()["completion_s"])
    _require(truncated or not left.any(), "environment: it ends before all jobs have completed")


def _check_alike(one: Any, other: Any, where: str) -> None:
    for name, array in one[0].items():
        _require(np.array_equal(array, other[0][name]), f"{where}: {name!r} differs in a copy")
    _require(one[1:4] == other[1:4], f"{where}: the reward or the end differs in a copy")


def _environment() -> LLMSchedEnv:
    """A small cluster where most decisions leave a choice."""
    cluster = load_cluster("a100_llama2_7b", engines=1, max_batch=2, regular_executors=3)
    return LLMSchedEnv(cluster=cluster, num_jobs=8, load=3.0, belief="bayes", max_stages=128)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)
