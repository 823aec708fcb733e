"""Play the episodes of a cell."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from llmsched_gym.agents.base import make_policy
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.limits import fitted
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, one_line
from llmsched_gym.evaluation.belief_quality import belief_rows
from llmsched_gym.evaluation.episodes import episode_seeds, play
from llmsched_gym.experiments.cells import EVALUATED, QUALITY, Bench, Cell, Place, save


@lru_cache(maxsize=16)
def environment(
    bench: Bench, place: Place, belief: str, settings: BeliefSettings, num_jobs: int
) -> LLMSchedEnv:
    """Where policies play; it is made once a process."""
    try:
        return LLMSchedEnv(
            bench.workloads[place.workload],
            replace(bench.cluster, engines=place.engines),
            num_jobs=num_jobs,
            load=place.load,
            belief=belief,
            belief_settings=settings,
            strict=True,
        )
    except ValueError as error:
        raise InputError(f"{place.workload}: {one_line(error)}") from error


@lru_cache(maxsize=64)
def _empty_cluster(bench: Bench, workload: str, engines: int) -> EmptyCluster:
    cluster = replace(bench.cluster, engines=engines)
    return EmptyCluster(fitted(bench.workloads[workload], cluster).bank, cluster)


def play_cell(bench: Bench, cell: Cell) -> None:
    """Play the episodes of a cell and keep them in its file."""
    numbers = range(cell.first, cell.last + 1)
    judged = cell.variant.policy == QUALITY
    content = [_judge(bench, cell, n) if judged else _play(bench, cell, n) for n in numbers]
    save(bench, cell, content)


def _play(bench: Bench, cell: Cell, number: int) -> dict[str, Any]:
    variant, place = cell.variant, cell.place
    env = environment(bench, place, variant.belief, variant.settings, cell.num_jobs)
    policy = make_policy(variant.policy, **dict(variant.options))
    episode = play(env, policy, variant.policy, bench.seed, number)
    jobs = env.state.jobs
    alone = _empty_cluster(bench, place.workload, place.engines).alone_s(jobs["bank_job"])
    return {
        "number": number,
        "makespan_s": episode.makespan_s,
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
