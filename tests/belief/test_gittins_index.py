"""The Gittins index of what remains of a job, against enumeration of what that may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.networks import BAYES, DECAY, GRID, LEVELS, NONE, ORACLE, PRIOR
from llmsched_gym.belief.profile import BeliefProfile, Bins
from llmsched_gym.cluster.state import EVIDENCE, PROGRESS
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.features import CLUSTER, JOB
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.job import Job, Kind
from llmsched_gym.workload.mixes import make_workload
from support.enumeration import Expected
from support.moments import Believer, Moment, believe, independent, moment, revised, stage, steps
from support.random_cases import history, random_case, random_job, random_moment, random_profile

FloatArray = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
BEYOND = 1 / 17  # the most that may lie more than four standard deviations above the mean


@dataclass(frozen=True)
class Demand:
    """What may remain: distinct values in ascending order, and their probabilities."""

    x: FloatArray
    p: FloatArray

    @classmethod
    def of(cls, x: FloatArray, p: FloatArray) -> Demand:
        rounded, which = np.unique(np.round(x, 12), return_inverse=True)
        total = np.zeros(len(rounded))
        np.add.at(total, which, p)
        return cls(rounded[total > 0].astype(float), total[total > 0] / total.sum())

    @property
    def mean(self) -> float:
        return float(self.x @ self.p)

    @property
    def std(self) -> float:
        return float(np.sqrt((self.x - self.mean) ** 2 @ self.p))

    def ratios(self, more: float = 0.0) -> FloatArray:
        """(E[min(X, D)] + more) / P(X <= D) for each value D."""
        served = np.minimum(self.x, self.x[:, None]) @ self.p
        return np.asarray((served + more) / np.cumsum(self.p))

    @property
    def index(self) -> float:
        return float(self.ratios().min())


def remaining(expected: Expected) -> Demand:
    """By enumeration of the joint, or without evidence of all stages independently."""
    left = [c for c in range(expected.count) if expected.left(c) > 0.0]
    of_task = expected.profile.tasks[expected.moment.job.application]
    certain = 0.0
    for number in expected.strangers:  # as so many average tasks
        some = expected.moment.job.stages[number]
        certain += (len(some.tasks) - expected.moment.completed[number]) * of_task.mean[some.kind]
    if expected.bayes:
        p = expected.joint.p
        total = np.full(p.shape, certain)
        for c in left:
            total = total + expected.left(c) * expected.values(c)
        return Demand.of(total.ravel(), p.ravel())
    demand = Demand(np.array([certain]), np.ones(1))
    for c in left:
        x, p = alone(expected, c)
        demand = Demand.of(np.add.outer(demand.x, x).ravel(), np.outer(demand.p, p).ravel())
    return demand


def alone(expected: Expected, c: int) -> tuple[FloatArray, FloatArray]:
    """What may remain of a stage, without evidence."""
    demand, fanout = int(expected.network.demand[c]), expected.fanout_asked(c)
    whole = expected.of_stage(c)
    joint = whole.of(demand)[None] if fanout < 0 else whole.of(fanout, demand)
    p = joint.sum(axis=0)
    means = np.divide((joint * expected.cells(c)).sum(axis=0), p, out=np.zeros(len(p)), where=p > 0)
    return expected.left(c) * means, p


def textbook(x: FloatArray, p: FloatArray) -> float:
    """The definition, slowly, for any budget."""
    budgets = np.linspace(0, x.max(), 5001)
    ratios = []
    for budget in [*x, *budgets]:
        over = p[x <= budget].sum()
        if over > 0:
            ratios.append(np.minimum(x, budget) @ p / over)
    return float(min(ratios))


# --- Values on the grid -----------------------------------------------------------------------


def on_grid(rng: np.random.Generator) -> tuple[BeliefProfile, Moment]:
    """Demands are multiples of 4, all steps divide 1, and all stages have 1, 2 or 4 tasks."""
    while True:
        profile = random_profile(rng)
        network = profile.networks["a"]
        long = rng.integers(0, len(network.demand))
        bins = [whole(rng, len(row), c == long) for c, row in enumerate(network.demand_bins)]
        bins[-1].most[-1] += GRID - 1 - sum(row.most[-1] for row in bins)
        profile = replace(profile, networks={"a": replace(network, demand_bins=tuple(bins))})
        job = random_job(rng, profile.templates["a"])
        stages = tuple(
            replace(some, tasks=some.tasks[: 2 ** (len(some.tasks).bit_length() - 1)])
            for some in job.stages
        )
        now = random_moment(rng, Job("a", "job", stages), rng.random())
        if Expected(profile, now).joint.possible:
            return profile, now


def whole(rng: np.random.Generator, states: int, long: bool) -> Bins:
    """Seconds whatever the number of tasks: at most 12, of a long stage 76."""
    value = np.array([0.0, *np.sort(rng.permutation(3)[: states - 1] + 1) * 4.0])
    if long:
        value[-1] = 76.0
    return Bins(value, value, value.copy(), np.zeros(states), np.zeros(states))


def compare(profile: BeliefProfile, now: Moment, mode: int) -> bool:
    """Whether everything that may remain is surely on the grid, so that the index is exact.

    Otherwise it is almost so, unless the best budget is beyond the grid.
    """
    demand = remaining(Expected(profile, now, bayes=mode == BAYES))
    believed = believe(profile, now, mode).jobs["gittins_s"][0]
    end = demand.mean + 4 * demand.std
    best = demand.x[demand.ratios().argmin()]
    if demand.x[-1] <= end:
        assert believed == pytest.approx(demand.index, rel=1e-9, abs=1e-9)
    elif best == demand.x[-1] or best <= end:
        assert believed == pytest.approx(demand.index, rel=DECAY)
    else:
        assert demand.index * (1 - DECAY) <= believed <= demand.index / (1 - BEYOND)
    return bool(demand.x[-1] <= end)


@pytest.mark.parametrize("mode", [BAYES, PRIOR])
@settings(max_examples=60)
@given(SEEDS)
def test_it_is_exact_on_the_grid(mode: int, seed: int) -> None:
    compare(*on_grid(np.random.default_rng(seed)), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [BAYES, PRIOR])
def test_it_is_exact_on_the_grid_in_many_more(mode: int) -> None:
    exact = [compare(*on_grid(np.random.default_rng([seed, 3])), mode) for seed in range(700)]
    assert np.mean(exact) > 0.7


def test_the_cases_on_the_grid_say_something() -> None:
    """Many have an index below the mean, stages that are partly complete, all levels of step."""
    less = left = 0
    widths = set()
    for seed in range(100):
        profile, now = on_grid(np.random.default_rng(seed))
        expected = Expected(profile, now)
        demand = remaining(expected)
        less += demand.index < 0.99 * demand.mean
        left += any(0 < expected.left(c) < 1 for c in range(expected.count))
        rest = demand.mean - demand.x[0] + 4 * demand.std
        widths.add(int(np.ceil(np.log2(max(rest, 1) / (GRID - 1)))))
    assert less > 20
    assert left > 10
    assert len(widths) >= 4


# --- Values beside it -------------------------------------------------------------------------


def bounds(demand: Demand, stages: int, step: float) -> tuple[float, float]:
    """Where the index must be if the value of each stage may be off by a step.

    Then X is off by so many steps at most. A budget D is taken on the grid, less than a step away.
    """
    off = stages * step
    lower = max(demand.x[0], float(demand.ratios(-off).min()))
    upper = min(demand.mean, float(demand.ratios(off + step).min()))
    return lower, upper / (1 - BEYOND)


@pytest.mark.parametrize("mode", [BAYES, PRIOR])
@settings(max_examples=60)
@given(SEEDS)
def test_it_is_right_to_the_resolution_of_the_grid(mode: int, seed: int) -> None:
    profile, now = random_case(np.random.default_rng(seed))
    expected = Expected(profile, now, bayes=mode == BAYES)
    demand = remaining(expected)
    row = believe(profile, now, mode).jobs[0]
    variance = row["variance_llm"] + 2 * row["covariance"] + row["variance_regular"]
    reach = demand.mean - demand.x[0] + 4 * np.sqrt(max(variance, 0.0))
    most = sum(bins.most[-1] for bins in expected.network.demand_bins)
    step = max(2 * reach, most / 2 ** (LEVELS - 1)) / (GRID - 1)
    stages = sum(expected.left(c) > 0 for c in range(expected.count))
    lower, upper = bounds(demand, stages, step)
    assert lower * (1 - 1e-9) - 1e-9 <= row["gittins_s"] <= upper * (1 + 1e-9) + 1e-9


def test_it_is_much_better_than_that_on_average() -> None:
    errors = []
    for seed in range(200):
        profile, now = random_case(np.random.default_rng([seed, 5]))
        demand = remaining(Expected(profile, now))
        if demand.mean > 0:
            errors.append(believe(profile, now).jobs["gittins_s"][0] / demand.index - 1)
    assert np.mean(np.abs(errors)) < 0.01
    assert np.percentile(np.abs(errors), 95) < 0.05


@pytest.mark.parametrize("mode", [BAYES, PRIOR])
@settings(max_examples=60)
@given(SEEDS)
def test_it_is_positive_and_at_most_the_mean(mode: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    profile = random_profile(rng)
    moments = history(rng, Expected(*random_case(rng)).moment.job)
    believer = Believer(profile, [moments[0]], mode)
    for before, now in pairwise([moments[0], *moments]):
        believer.show(0, now, PROGRESS if before is not now else EVIDENCE)
        row = believer.update().jobs[0]
        mean = row["llm_s"] + row["regular_s"]
        assert row["gittins_s"] <= mean
        assert (row["gittins_s"] > 0) == (mean > 0)


# --- Networks of applications -----------------------------------------------------------------


@dataclass(frozen=True)
class Timed(Moment):
    """A job in a cluster where its stages take so many seconds."""

    seconds: tuple[float, ...] = ()

    def demand_s(self, stage: int) -> float:
        return self.seconds[stage]


def sampled(expected: Expected, rng: np.random.Generator, count: int) -> tuple[Demand, float]:
    """What remains, by likelihood weighting; and the effective number of samples."""
    network, allowed = expected.network, expected.allowed
    states = np.zeros((len(network.tables), count), np.int64)
    weight = np.ones(count)
    for v, (parents, table) in enumerate(zip(network.parents, network.tables, strict=True)):
        rows = table[tuple(states[parent] for parent in parents)]
        rows = np.broadcast_to(rows, (count, table.shape[-1])).copy()
        if v in allowed:
            rows[:, [x for x in range(table.shape[-1]) if x not in allowed[v]]] = 0.0
        total = rows.sum(axis=1)
        weight *= total
        rows[total == 0, 0] = 1.0
        u = rng.random(count) * np.where(total > 0, total, 1.0)
        below = (np.cumsum(rows, axis=1) <= u[:, None]).sum(axis=1)
        states[v] = np.minimum(below, table.shape[-1] - 1)
    x = np.zeros(count)
    for c in range(expected.count):
        cells, f = expected.cells(c), network.fanout[c]
        row = states[f] if len(cells) > 1 else np.zeros(count, np.int64)
        x += expected.left(c) * cells[row, states[network.demand[c]]]
    return Demand.of(x, weight), weight.sum() ** 2 / (weight**2).sum()


@pytest.mark.slow
def test_fitted_networks_agree_with_samples() -> None:
    workload = make_workload("mixed")
    env = LLMSchedEnv(workload, num_jobs=1)
    profile = load_or_fit(workload.past, env.cluster.latency)
    rng = np.random.default_rng(0)
    compared = 0
    for number in rng.choice(len(workload.bank), 60, replace=False).tolist():
        job = workload.bank.job(number)
        moments = history(rng, job)
        now = moments[int(rng.integers(0, max(1, len(moments) - 1)))]
        now = replace(now, names=job.canonical_names())
        believer = Believer(profile, [now], BAYES, env.cluster)
        believer.show(0, now)
        row = believer.update().jobs[0]
        seconds = tuple((believer.state.stages["demand"] / TICKS_PER_SECOND).tolist())
        timed = Timed(job, now.completed, now.names, seconds)
        demand, effective = sampled(Expected(profile, timed), rng, 20_000)
        if effective < 3_000 or row["clamped"] or row["skipped"]:
            continue
        assert row["gittins_s"] == pytest.approx(demand.index, rel=0.05), job.application
        compared += 1
    assert compared > 30


# --- By hand ----------------------------------------------------------------------------------


def index(profile: BeliefProfile, now: Moment, mode: int = BAYES) -> float:
    return float(believe(profile, now, mode).jobs["gittins_s"][0])


@settings(max_examples=50)
@given(SEEDS)
def test_one_stage_is_the_textbook_index(seed: int) -> None:
    """A stage that takes whole seconds, with any probabilities; 127 seconds at most."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.choice(np.arange(1, GRID - 1), 6, replace=False)).astype(float)
    x[-1] = GRID - 1
    p = rng.dirichlet(np.full(6, 0.5))
    profile = revised(independent([steps(*x)]), {0: ((), [0.0, *p])})
    demand = Demand(x, p)
    assert textbook(x, p) == pytest.approx(demand.index)
    if x[demand.ratios().argmin()] <= demand.mean + 4 * demand.std:
        assert index(profile, moment(stage("a"))) == pytest.approx(demand.index, rel=1e-9)


def test_mostly_short() -> None:
    """1 s with probability 0.8, else 100 s: a budget of 1 s costs 1 s and works in 0.8 of all."""
    profile = revised(independent([steps(1.0, 100.0)]), {0: ((), [0, 0.8, 0.2])})
    for mode in (BAYES, PRIOR):
        assert index(profile, moment(stage("a")), mode) == pytest.approx(1 / 0.8)


def test_hardly_ever_short() -> None:
    """50 s with probability 0.1, else 60 s: 500 s each if we gave up, so the mean."""
    profile = revised(independent([steps(50.0, 60.0)]), {0: ((), [0, 0.1, 0.9])})
    assert index(profile, moment(stage("a"))) == pytest.approx(59.0)


def plan(p: float = 0.5) -> BeliefProfile:
    """A plan of 2 s that reveals 100 s of work with some probability."""
    profile = independent([steps(2.0), steps(100.0)])
    return revised(
        profile, {0: ((), [0, 1]), 1: ((), [1 - p, p])}, revealers={1: {0}}, kinds={0: Kind.LLM}
    )


def test_it_grows_when_a_job_turns_out_long() -> None:
    """2 s bring one of two jobs to its end; if there is work, 100 s remain; else nothing."""
    before = moment(stage("a", kind=Kind.LLM))
    long = moment(stage("a", kind=Kind.LLM), stage("b", 0, by=0), completed=[1, 0])
    assert index(plan(), before) == pytest.approx(2 / 0.5)
    assert index(plan(), before, PRIOR) == pytest.approx(2 / 0.5)
    assert index(plan(), long) == 100.0
    assert index(plan(), replace(before, completed=(1,))) == 0.0


def test_a_certain_remainder_is_its_own_index() -> None:
    profile = revised(independent([steps(4.0), steps(7.0)]), {0: ((), [0, 1]), 1: ((), [0, 1])})
    profile = revised(profile, kinds={0: Kind.LLM})
    job = moment(stage("a", seconds=[1.0] * 4, kind=Kind.LLM), stage("b"), completed=[3])
    for mode in (BAYES, PRIOR):
        assert index(profile, job, mode) == 4.0 / 4 + 7.0


def test_what_no_past_job_had_counts_with_its_mean() -> None:
    """Two strange tasks of 1 s are in the way of the plan's end, whatever the budget."""
    job = moment(stage("a", kind=Kind.LLM), stage("new", seconds=[9.0, 9.0]))
    assert index(plan(), job) == pytest.approx((2 + 2) / 0.5)
    assert index(plan(0.01), job) == pytest.approx(4 / 0.99)
    assert index(plan(0.99), job) == pytest.approx(4 + 99)


def test_the_truth_is_its_own_index() -> None:
    job = moment(stage("a", kind=Kind.LLM), stage("b", 0, by=0, seconds=[30.0]))
    assert index(plan(), job, ORACLE) == pytest.approx(1.0 + 30.0)
    assert index(plan(), job, NONE) == 0.0


def test_dependent_stages() -> None:
    """Both stages take 1 s or both take 9 s: 2 s suffice for every second job."""
    profile = revised(
        independent([steps(1.0, 9.0)] * 2),
        {0: ((), [0, 0.5, 0.5]), 1: ((0,), [[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]])},
    )
    job = moment(stage("a"), stage("b"))
    assert index(profile, job) == pytest.approx(2 / 0.5)
    # Taken as independent: 2 s for every fourth, 10 s for three of four (8 / (3 / 4)), or the mean.
    assert index(profile, job, PRIOR) == pytest.approx(2 / 0.25)


@pytest.mark.parametrize("mode", [BAYES, PRIOR])
@pytest.mark.parametrize("scale", [1e3, 1.0, 2e-4, 1e-6, 1e-12])
def test_what_is_little_beside_a_whole_job_has_a_grid_of_its_own(mode: int, scale: float) -> None:
    """Of a job of an hour two stages are left, which take milliseconds, say."""
    x, p = np.array([1.0, 3.3, 7.9]) * scale, np.array([0.5, 0.3, 0.2])
    profile = independent([steps(3600.0), steps(*x), steps(*x)])
    profile = revised(profile, {0: ((), [0, 1]), **{c: ((), [0, *p]) for c in (1, 2)}})
    job = moment(stage("a", seconds=[3600.0]), stage("b"), stage("c"), completed=[1, 0, 0])
    demand = Demand.of(np.add.outer(x, x).ravel() / scale, np.outer(p, p).ravel())
    assert index(profile, job, mode) == pytest.approx(demand.index * scale, rel=0.03)


@pytest.mark.parametrize("mode", [BAYES, PRIOR])
def test_rounding_makes_it_no_less_than_nothing(mode: int) -> None:
    """Every stage may take no time; their means do not add up the same in every order."""
    profile = independent([steps(0.0, 0.2), steps(0.0, 0.2), steps(0.0, 0.8)])
    profile = revised(
        profile, {c: ((), [0, 0.5, 0.5]) for c in range(3)}, kinds={0: Kind.LLM, 2: Kind.LLM}
    )
    job = moment(stage("a", kind=Kind.LLM), stage("b"), stage("c", kind=Kind.LLM))
    assert index(profile, job, mode) == 0.0


def test_all_budgets_are_tried() -> None:
    """Three rounds of 1, 4 and 10 s, each the last with probability 0.1, 0.8, 1."""
    profile = independent([steps(1.0), steps(4.0), steps(10.0)])
    profile = revised(
        profile,
        {0: ((), [0, 1]), 1: ((), [0.1, 0.9]), 2: ((1,), [[1, 0], [0.8, 0.2]])},
        revealers={1: {0}, 2: {1}},
    )
    x, p = np.array([1.0, 5, 15]), np.array([0.1, 0.72, 0.18])
    expected = (0.1 * 1 + 0.9 * 5) / 0.82
    assert textbook(x, p) == pytest.approx(expected)
    assert index(profile, moment(stage("a"))) == pytest.approx(expected, rel=0.02)


# --- In the environment -----------------------------------------------------------------------


@pytest.mark.parametrize("belief", ["none", "prior", "bayes", "oracle"])
def test_the_observation_scales_it_like_the_mean(belief: str) -> None:
    env = LLMSchedEnv("chain_like", num_jobs=30, load=3.0, belief=belief)
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    slow = below = 0
    for _ in range(300):
        shown = observation["jobs"][observation["job_mask"] == 1]
        jobs = env.state.active[: len(shown)]
        row = env.beliefs()[1][jobs]
        alone, now = row["llm_s"] + row["regular_s"], shown[:, JOB["demand_s"]]
        scale = np.divide(now, alone, out=np.zeros(len(now)), where=alone > 0)
        index = shown[:, JOB["gittins_s"]]
        assert index == pytest.approx(row["gittins_s"] * scale, rel=1e-5)
        if belief == "oracle":
            assert index == pytest.approx(now, rel=1e-5)
        below += (index < 0.99 * now).any()
        slow += observation["cluster"][CLUSTER["batch_slowdown"]] > 1
        legal = np.flatnonzero(observation["action_mask"])
        observation, *_ = env.step(int(rng.choice(legal)))
    assert slow > 100
    assert belief != "bayes" or below
