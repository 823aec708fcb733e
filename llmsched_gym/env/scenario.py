"""Scenario: what environments with the same options share, single or many at once."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.inference import compile_profile
from llmsched_gym.belief.networks import (
    BAYES,
    BELIEF_JOB,
    BELIEF_STAGE,
    GITTINS,
    NONE,
    ORACLE,
    PRIOR,
    REDUCTION,
    Table,
)
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.belief.work import work_rates
from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.cluster.alone import EmptyCluster
from llmsched_gym.cluster.limits import fitted
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.cluster.state import ClusterState, new_state
from llmsched_gym.cluster.ticks import LAST_ARRIVAL_S, TICKS_PER_SECOND
from llmsched_gym.env.features import COSTLY, observation_space
from llmsched_gym.env.reward import Custom, Jobs, Reward, Step, reward_of
from llmsched_gym.errors import nearest
from llmsched_gym.workload.arrivals import InterruptedPoisson, Poisson, Recorded
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload, arrival_rate, make_workload
from llmsched_gym.workload.template import (
    canonical_stages,
    fit_templates,
    observation_bounds,
    template_table,
)

MOST_ROWS = 10_000_000  # of a table of an observation: half a gigabyte
# Those whose expected last arrival is known to be the number of jobs over the rate, or nearly.
SPANS_KNOWN = (Poisson, InterruptedPoisson, Recorded)
REWARDED = "now", "job_seconds", "finished"  # of CLOCK: what rewards are made of
Clocks = Sequence[Any]  # these three
WANTED = dict(zip(COSTLY, (GITTINS, REDUCTION), strict=True))
BELIEFS = {"none": NONE, "prior": PRIOR, "bayes": BAYES, "oracle": ORACLE}


class Scenario:
    """Jobs, cluster, belief, reward and spaces, from the options of :class:`LLMSchedEnv`.

    Attributes
    ----------
    workload, cluster, num_jobs, time_limit, max_jobs, max_stages : the options, resolved.
    rate : jobs per second.
    belief, mode : the name of the belief, and its number in ``belief.inference``.
    wanted : the costly columns that are wanted, as ``belief.inference`` takes them.
    reward : a function of ``env.reward.Step``.
    empty : how long the jobs of the bank take alone, for rewards.
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
        columns: Sequence[str] | None = None,
        reward: str | Reward = "jct",
        max_jobs: int | None = None,
        max_stages: int | None = None,
        time_limit: float | None = None,
    ) -> None:
        _check_options(locals())
        self.cluster = load_cluster(cluster)
        if not isinstance(workload, Workload):
            workload = make_workload(workload)
        self.workload = fitted(workload, self.cluster)
        self.num_jobs = int(num_jobs)
        self.time_limit = None if time_limit is None else float(time_limit)
        self.belief, self.mode = belief, BELIEFS[belief]
        self.wanted = wanted_of(columns)
        self.reward = reward_of(reward)
        self._offered = f"load: {load}" if arrival_rate is None else f"arrival_rate: {arrival_rate}"
        self.rate = self._rate(float(load)) if arrival_rate is None else float(arrival_rate)
        if isinstance(self.workload.arrivals, SPANS_KNOWN):
            self._check_span(self.num_jobs / self.rate)
        self.empty = EmptyCluster(self.bank, self.cluster)
        self._set_up_belief(belief_settings or BeliefSettings())
        self._set_up_spaces(max_jobs, max_stages)

    @property
    def bank(self) -> JobBank:
        """The jobs that episodes draw from."""
        return self.workload.bank

    def draw(self, rng: np.random.Generator, time_limit: float | None) -> ClusterState:
        """A new episode, before its first arrival.

        Raises
        ------
        ValueError
            for arrivals beyond the clock of the simulator.
        """
        picked, arrival_s = self.workload.draw(rng, self.num_jobs, self.rate)
        self._check_span(arrival_s[-1])
        limit = self.time_limit if time_limit is None else time_limit
        return new_state(self.bank, picked, arrival_s, self.cluster, self.canonical, limit)

    def rewards(self, before: Clocks, after: Clocks, jobs: Table, whose: Any) -> Any:
        """What the time between two decisions is worth in each of N clusters: float64 [N].

        Parameters
        ----------
        before, after : [N] each, ``now``, ``job_seconds`` and ``finished`` of the clocks.
        jobs : JOB [N, jobs], at its end.
        whose : bool [N], the clusters asked for; others get 0.

        Notes
        -----
        A reward of one's own is called for each cluster, for it takes numbers.
        """
        if not isinstance(self.reward, Custom):
            return np.where(whose, self.reward(self._step(before, after, jobs)), 0.0)
        rewards = np.zeros(len(whose))
        one, other = (
            list(zip(*(c.tolist() for c in clocks), strict=True)) for clocks in (before, after)
        )
        for number in np.flatnonzero(whose).tolist():
            rewards[number] = self.reward_of_one(one[number], other[number], jobs[number])
        return rewards

    def reward_of_one(self, before: Clocks, after: Clocks, jobs: Table) -> float:
        """:meth:`rewards` of one cluster, with clocks of Python's numbers and JOB [jobs]."""
        return float(self.reward(self._step(before, after, jobs)))

    def _step(self, before: Clocks, after: Clocks, jobs: Table) -> Step:
        ticks, job_seconds, completed = map(operator.sub, after, before)
        return Step(
            elapsed_s=_seconds(ticks),
            job_seconds=job_seconds,
            completed_jobs=completed,
            begin_s=_seconds(before[0]),
            end_s=_seconds(after[0]),
            jobs=Jobs(jobs, self.bank.applications, self.empty),
        )

    def new_beliefs(self, *clusters: int) -> tuple[Table, Table]:
        """Nothing is believed yet: BELIEF_STAGE [..., jobs, stages], BELIEF_JOB [..., jobs]."""
        widest = int(np.diff(self.templates.first).max(initial=1))
        return (
            np.zeros((*clusters, self.num_jobs, widest), BELIEF_STAGE),
            np.zeros((*clusters, self.num_jobs), BELIEF_JOB),
        )

    def _check_span(self, last_s: float) -> None:
        if last_s > LAST_ARRIVAL_S:
            raise ValueError(
                f"{self._offered} is too small, arrival_s: the last of {self.num_jobs} jobs would "
                f"come after {last_s:g} s, the clock of the simulator allows {LAST_ARRIVAL_S:g} s"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Scenario:
        """Nothing in it ever changes, so copies of environments share it."""
        return self

    def _rate(self, load: float) -> float:
        llm = self.bank.output_tokens > 0
        seconds = self.cluster.latency.slot_seconds(
            self.bank.prompt_tokens[llm], self.bank.output_tokens[llm], self.cluster.max_batch
        )
        rate = arrival_rate(load, self.cluster.llm_slots, float(seconds.sum()) / len(self.bank))
        if not is_positive(rate):
            raise ValueError(f"load: {load} makes {rate} jobs/s")
        return rate

    def _set_up_belief(self, settings: BeliefSettings) -> None:
        past = self.workload.past
        profile = None
        if self.belief != "none":
            profile = load_or_fit(past, self.cluster.latency, settings)
        templates = fit_templates(past) if profile is None else profile.templates
        self.notes: tuple[str, ...] = () if profile is None else profile.notes
        self.templates = template_table(self.bank.applications, templates)
        self.canonical = canonical_stages(self.bank, templates)
        self.networks = None
        if profile is not None:
            rates = work_rates(profile, past, self.cluster)
            self.networks = compile_profile(profile, self.bank.applications, rates)

    def _set_up_spaces(self, max_jobs: int | None, max_stages: int | None) -> None:
        rows, edges = observation_bounds(self.bank, self.templates, self.canonical)
        self.rows_of_a_job, self.edges_of_a_job = rows, max(1, edges)
        self.max_jobs = self.num_jobs if max_jobs is None else int(max_jobs)
        self.max_stages = self.max_jobs * rows if max_stages is None else int(max_stages)
        if self.max_stages > MOST_ROWS:
            raise ValueError(
                f"max_stages: {self.max_jobs:,} jobs of up to {rows} rows need {self.max_stages:,}"
                f", at most {MOST_ROWS:,} are possible: choose fewer, or a smaller max_jobs"
            )
        if self.max_stages < rows:
            raise ValueError(
                f"max_stages: {self.max_stages} cannot hold a single job, which needs up to {rows}"
            )
        self.max_edges = self.edges_of_a_job * min(self.max_jobs, max(1, self.max_stages // 2))
        self.observation_space: spaces.Space[Any] = observation_space(
            self.max_stages, self.max_edges, self.max_jobs
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(self.max_stages + 1)


def _seconds(ticks: Any) -> Any:
    """Of a number as of an array, to the last digit."""
    return ticks * 1.0 / TICKS_PER_SECOND


def check_count(name: str, value: Any, most: int = MOST_ROWS) -> None:
    """ValueError, naming the option, unless it is a whole number from 1 to ``most``."""
    if not is_whole(value, 1, most):
        raise ValueError(f"{name}: {value!r} is not a whole number from 1 to {most:,}")


def check_flag(name: str, value: Any) -> None:
    """ValueError, naming the option, unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: {value!r} is neither True nor False")


def _check_options(options: Mapping[str, Any]) -> None:
    belief = options["belief"]
    if not isinstance(belief, str) or belief not in BELIEFS:
        raise ValueError(f"belief: unknown {belief!r}, choose from {', '.join(BELIEFS)}")
    check_count("num_jobs", options["num_jobs"])
    for name in ("max_jobs", "max_stages"):
        if options[name] is not None:
            check_count(name, options[name])
    rate = options["arrival_rate"]
    if rate is None and not is_positive(options["load"]):
        raise ValueError(f"load: {options['load']!r} is not a positive number")
    if rate is not None and not is_positive(rate):
        raise ValueError(f"arrival_rate: {rate!r} is not a positive rate in jobs/s")
    _check_time_limit(options["time_limit"])
    settings = options["belief_settings"]
    if not isinstance(settings, BeliefSettings | None):
        raise ValueError(f"belief_settings: {settings!r} is no BeliefSettings")


def _check_time_limit(time_limit: Any) -> None:
    if time_limit is not None and not is_positive(time_limit):
        raise ValueError(f"time_limit: {time_limit!r} is not a positive time in seconds")


def wanted_of(columns: Any) -> int:
    """Those of ``COSTLY`` that are wanted, as ``belief.inference`` takes them; None is all.

    Raises
    ------
    ValueError
        for anything but None and a sequence of such names.
    """
    if columns is None:
        return sum(WANTED.values())
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise ValueError(f"columns: {columns!r} is no list of names, such as {list(COSTLY)}")
    wanted = 0
    for name in columns:
        if not isinstance(name, str) or name not in WANTED:
            hint = nearest(str(name), COSTLY)
            raise ValueError(f"columns: unknown {name!r}{hint}, choose from {', '.join(COSTLY)}")
        wanted |= WANTED[name]
    return wanted


def episode_options(options: Any, *others: str) -> float | None:
    """The time limit in the options of a reset, seconds, or None.

    Raises
    ------
    ValueError
        for an option that is none of the others, and a limit that is not a positive time.
    """
    if not isinstance(options, Mapping | None):
        raise ValueError(f"options: {options!r} is no dictionary")
    options = options or {}
    for name in options:
        if name not in ("time_limit", *others):
            valid = ", ".join(("time_limit", *others))
            raise ValueError(f"options: unknown {name!r}, a reset takes {valid}")
    limit = options.get("time_limit")
    _check_time_limit(limit)
    return None if limit is None else float(limit)


def seed_of(seed: Any) -> int | None:
    """The seed of an episode, or None.

    Raises
    ------
    ValueError
        for anything but None and a whole number of at least 0.
    """
    if seed is not None and not is_whole(seed, 0):
        raise ValueError(f"seed: {seed!r} is not a whole number of at least 0")
    return None if seed is None else int(seed)
