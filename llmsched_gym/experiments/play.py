"""Play the episodes of a cell."""

from __future__ import annotations

import platform
from functools import cache, lru_cache
from typing import Any

from llmsched_gym.agents.base import make_policy
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.bound import LowerBound
from llmsched_gym.cluster.limits import fitted
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, one_line
from llmsched_gym.evaluation.belief_quality import belief_rows
from llmsched_gym.evaluation.episodes import episode_seeds, play
from llmsched_gym.experiments.cells import EVALUATED, QUALITY, Bench, Cell, Place, save
from llmsched_gym.experiments.sources import fingerprint


@lru_cache(maxsize=16)
def environment(
    bench: Bench, place: Place, belief: str, settings: BeliefSettings, num_jobs: int
) -> LLMSchedEnv:
    """Where policies play; it is made once a process."""
    try:
        return LLMSchedEnv(
            bench.workloads[place.workload],
            bench.cluster_at(place),
            num_jobs=num_jobs,
            load=place.load,
            belief=belief,
            belief_settings=settings,
            strict=True,
        )
    except ValueError as error:
        raise InputError(f"{place.workload}: {one_line(error)}") from error


@lru_cache(maxsize=16)
def _lower_bound(env: LLMSchedEnv) -> LowerBound:
    return LowerBound(env.bank, env.cluster)


@lru_cache(maxsize=64)
def _known_bounds(bench: Bench, place: Place, num_jobs: int) -> dict[int, float]:
    """By number of the episode, to be filled: a bound is the same for all policies."""
    return {}


@lru_cache(maxsize=64)
def _empty_cluster(bench: Bench, place: Place) -> EmptyCluster:
    cluster = bench.cluster_at(place)
    return EmptyCluster(fitted(bench.workloads[place.workload], cluster).bank, cluster)


def play_cell(bench: Bench, cell: Cell) -> None:
    """Play the episodes of a cell and keep them in its file."""
    save(bench, cell, content_of(bench, cell))


def content_of(bench: Bench, cell: Cell) -> list[Any]:
    """Play the episodes of a cell: what its file holds."""
    numbers = range(cell.first, cell.last + 1)
    judged = cell.variant.policy == QUALITY
    return [_judge(bench, cell, n) if judged else _play(bench, cell, n) for n in numbers]


@cache
def code_of(policy: str) -> str:
    """The fingerprint of what plays cells of a policy, in this process."""
    return fingerprint({EVALUATED if policy == QUALITY else policy})


def content_elsewhere(bench: Bench, given: tuple[Cell, str]) -> list[Any]:
    """The same on another machine, whose code is that of this one if its fingerprint is as given.

    Raises
    ------
    InputError
        if it is not.
    """
    cell, code = given
    if code_of(cell.variant.policy) != code:
        raise InputError(f"{platform.node()}: there is other code than here, or other libraries")
    return content_of(bench, cell)


def _play(bench: Bench, cell: Cell, number: int) -> dict[str, Any]:
    variant, place = cell.variant, cell.place
    env = environment(bench, place, variant.belief, variant.settings, cell.num_jobs)
    policy = make_policy(variant.policy, **dict(variant.options))
    episode = play(env, policy, variant.policy, bench.seed, number)
    jobs = env.state.jobs
    alone = _empty_cluster(bench, place).alone_s(jobs["bank_job"])
    bounds = _known_bounds(bench, place, cell.num_jobs)
    if number not in bounds:
        lower = _lower_bound(env)
        bounds[number] = lower.mean_jct_s(jobs["bank_job"], episode.jobs["arrival_s"])
    return {
        "number": number,
        "makespan_s": episode.makespan_s,
        "bound_s": bounds[number],
        "decision_us": episode.decision_us,
        "applications": env.bank.applications,
        "application": jobs["application"].tolist(),
        "arrival_s": episode.jobs["arrival_s"].tolist(),
        "jct_s": episode.jobs["jct_s"].tolist(),
        "alone_s": alone.tolist(),
    }


def _judge(bench: Bench, cell: Cell, number: int) -> list[dict[str, Any]]:
    """The rows of ``belief.csv`` of an episode that LLMSched serves."""
    bayes, prior, oracle = (
        environment(bench, cell.place, belief, cell.variant.settings, cell.num_jobs)
        for belief in ("bayes", "prior", "oracle")
    )
    env_seed, policy_seed = episode_seeds(bench.seed, number)
    policy = make_policy(EVALUATED)
    policy.reset(policy_seed)
    return belief_rows({"bayes": bayes, "prior": prior}, oracle, policy, env_seed, number)
