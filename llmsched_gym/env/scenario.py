"""Scenario: what environments with the same options share, single or many at once."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gymnasium import spaces

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.inference import compile_profile
from llmsched_gym.belief.networks import BAYES, BELIEF_JOB, BELIEF_STAGE, NONE, ORACLE, PRIOR, Table
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.limits import fitted
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.cluster.state import ClusterState, new_state
from llmsched_gym.env.features import observation_space
from llmsched_gym.env.reward import REWARDS
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload, arrival_rate, make_workload
from llmsched_gym.workload.template import (
    canonical_stages,
    fit_templates,
    observation_bounds,
    template_table,
)

BELIEFS = {"none": NONE, "prior": PRIOR, "bayes": BAYES, "oracle": ORACLE}


class Scenario:
    """Jobs, cluster, belief, reward and spaces, from the options of :class:`LLMSchedEnv`.

    Attributes
    ----------
    workload, cluster, num_jobs, time_limit, max_jobs, max_stages : the options, resolved.
    rate : jobs per second.
    belief, mode : the name of the belief, and its number in ``belief.inference``.
    reward : a function of ``env.reward.Step``.
    templates, canonical : the stages of the bank's jobs as past jobs showed them.
    networks : the compiled belief, None with ``belief="none"``.
    notes : what its user should be told.
    max_edges : rows of ``edges`` in an observation.
    rows_of_a_job, edges_of_a_job : the most that one job can show.
    observation_space, action_space : of a single environment.
    """

    def __init__(
        self,
        *,
        workload: str | os.PathLike[str] | Workload = "mixed",
        cluster: str | os.PathLike[str] | Cluster = "a100_llama2_7b",
        num_jobs: int = 100,
        load: float = 1.3,
        arrival_rate: float | None = None,
        belief: str = "bayes",
        belief_settings: BeliefSettings | None = None,
        reward: str = "jct",
        max_jobs: int | None = None,
        max_stages: int | None = None,
        time_limit: float | None = None,
    ) -> None:
        _check_options(num_jobs, belief, reward, max_jobs, arrival_rate, time_limit)
        self.cluster = load_cluster(cluster)
        if not isinstance(workload, Workload):
            workload = make_workload(workload)
        self.workload = fitted(workload, self.cluster)
        self.num_jobs = num_jobs
        self.time_limit = time_limit
        self.belief, self.mode = belief, BELIEFS[belief]
        self.reward = REWARDS[reward]
        self.rate = self._rate(load) if arrival_rate is None else arrival_rate
        self._set_up_belief(belief_settings or BeliefSettings())
        self._set_up_spaces(max_jobs, max_stages)

    @property
    def bank(self) -> JobBank:
        """The jobs that episodes draw from."""
        return self.workload.bank

    def draw(self, rng: np.random.Generator, time_limit: float | None) -> ClusterState:
        """A new episode, before its first arrival."""
        picked, arrival_s = self.workload.draw(rng, self.num_jobs, self.rate)
        limit = self.time_limit if time_limit is None else time_limit
        return new_state(self.bank, picked, arrival_s, self.cluster, self.canonical, limit)

    def new_beliefs(self, *clusters: int) -> tuple[Table, Table]:
        """Nothing is believed yet: BELIEF_STAGE [..., jobs, stages], BELIEF_JOB [..., jobs]."""
        widest = int(np.diff(self.templates.first).max(initial=1))
        return (
            np.zeros((*clusters, self.num_jobs, widest), BELIEF_STAGE),
            np.zeros((*clusters, self.num_jobs), BELIEF_JOB),
        )

    def _rate(self, load: float) -> float:
        llm = self.bank.output_tokens > 0
        seconds = self.cluster.latency.slot_seconds(
            self.bank.prompt_tokens[llm], self.bank.output_tokens[llm], self.cluster.max_batch
        )
        return arrival_rate(load, self.cluster.llm_slots, float(seconds.sum()) / len(self.bank))

    def _set_up_belief(self, settings: BeliefSettings) -> None:
        past = self.workload.past
        profile = None
        if self.belief != "none":
            profile = load_or_fit(past, self.cluster.latency, settings)
        templates = fit_templates(past) if profile is None else profile.templates
        self.notes: tuple[str, ...] = () if profile is None else profile.notes
        self.templates = template_table(self.bank.applications, templates)
        self.canonical = canonical_stages(self.bank, templates)
        self.networks = (
            None if profile is None else compile_profile(profile, self.bank.applications)
        )

    def _set_up_spaces(self, max_jobs: int | None, max_stages: int | None) -> None:
        rows, edges = observation_bounds(self.bank, self.templates, self.canonical)
        self.rows_of_a_job, self.edges_of_a_job = rows, max(1, edges)
        self.max_jobs = self.num_jobs if max_jobs is None else max_jobs
        self.max_stages = self.max_jobs * rows if max_stages is None else max_stages
        if self.max_stages < rows:
            raise ValueError(
                f"max_stages: {self.max_stages} cannot hold a single job, which needs up to {rows}"
            )
        self.max_edges = self.edges_of_a_job * min(self.max_jobs, max(1, self.max_stages // 2))
        self.observation_space: spaces.Space[Any] = observation_space(
            self.max_stages, self.max_edges, self.max_jobs
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(self.max_stages + 1)


def _check_options(
    num_jobs: int,
    belief: str,
    reward: str,
    max_jobs: int | None,
    arrival_rate: float | None,
    time_limit: float | None,
) -> None:
    if num_jobs < 1:
        raise ValueError(f"num_jobs: {num_jobs} is below 1")
    if max_jobs is not None and max_jobs < 1:
        raise ValueError(f"max_jobs: {max_jobs} is below 1")
    if belief not in BELIEFS:
        raise ValueError(f"belief: unknown {belief!r}, choose from {', '.join(BELIEFS)}")
    if reward not in REWARDS:
        raise ValueError(f"reward: unknown {reward!r}, choose from {', '.join(REWARDS)}")
    if arrival_rate is not None and not (np.isfinite(arrival_rate) and arrival_rate > 0):
        raise ValueError(f"arrival_rate: {arrival_rate} is not a positive rate in jobs/s")
    _check_time_limit(time_limit)


def _check_time_limit(time_limit: float | None) -> None:
    if time_limit is not None and not (np.isfinite(time_limit) and time_limit > 0):
        raise ValueError(f"time_limit: {time_limit} is not a positive time in seconds")


def episode_options(options: dict[str, Any] | None) -> float | None:
    """The time limit in the options of a reset, seconds, or None.

    Raises
    ------
    ValueError
        for any other option, and a limit that is not a positive time.
    """
    options = options or {}
    unknown = sorted(set(options) - {"time_limit"})
    if unknown:
        raise ValueError(f"options: unknown {unknown[0]!r}, a reset takes time_limit")
    limit = options.get("time_limit")
    _check_time_limit(limit)
    return limit
