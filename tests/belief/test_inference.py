"""The compiled posterior against the whole joint distribution, on random small networks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from enumeration import Expected
from hypothesis import given, settings
from hypothesis import strategies as st
from moments import Believer, Moment, believe

from llmsched_gym.belief.inference import BAYES, NONE, ORACLE, PRIOR
from llmsched_gym.belief.networks import Beliefs
from llmsched_gym.belief.profile import (
    BeliefProfile,
    BeliefSettings,
    Bins,
    Network,
    TaskDemand,
    load_or_fit,
)
from llmsched_gym.cluster.state import EVIDENCE, PROGRESS
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.template import Template

LARGEST_JOINT = 60_000
SEEDS = st.integers(0, 2**32 - 1)


# --- Random networks --------------------------------------------------------------------------


def random_bins(rng: np.random.Generator, tasks: np.ndarray, most: int) -> Bins:
    per_task = rng.lognormal(0.0, 1.0, len(tasks))
    if rng.random() < 0.2:
        per_task[:] = per_task[0]  # demand then depends on the number of tasks alone
    return Bins.fit(per_task * tasks, tasks, int(rng.integers(1, most + 1)))


def random_table(
    rng: np.random.Generator, shape: tuple[int, ...], own_fanout: int | None
) -> np.ndarray:
    """Rows that sum to 1, some entries 0; absent if and only if the stage's own fan-out is."""
    table = rng.dirichlet(np.full(shape[-1], 0.7), size=shape[:-1])
    zero = (rng.random(shape) < 0.1) & (table < table.max(axis=-1, keepdims=True))
    table[zero] = 0.0
    if own_fanout is not None:
        rows = np.moveaxis(table, own_fanout, 0)
        rows[0], rows[0, ..., 0] = 0.0, 1.0
        rows[1:, ..., 0] = 0.0
        rows[1:][rows[1:].sum(axis=-1) == 0] = np.eye(shape[-1])[-1]
    return np.ascontiguousarray(table / table.sum(axis=-1, keepdims=True))


def random_network(rng: np.random.Generator, stages: int) -> Network:
    demand, fanout, demand_bins, fanout_bins = [], [], [], []
    states: list[int] = []
    parents: list[tuple[int, ...]] = []
    tables: list[np.ndarray] = []

    def add(count: int, required: tuple[int, ...] = ()) -> int:
        others = [v for v in range(len(states)) if v not in required]
        free = int(rng.integers(0, 3 - len(required)))
        more = rng.permutation(others)[:free].tolist()
        row = tuple(sorted({*required, *map(int, more)}))
        own = row.index(required[0]) if required else None
        parents.append(row)
        tables.append(random_table(rng, (*(states[v] for v in row), count), own))
        states.append(count)
        return len(states) - 1

    for _ in range(stages):
        tasks = rng.integers(1, 5, 40).astype(np.float64)
        if rng.random() < 0.3:
            tasks[:] = tasks[0]
        counts = Bins.fit(tasks, tasks, int(rng.integers(1, 4)))
        varies = rng.random() < 0.5
        bins = random_bins(rng, tasks, 3)
        fanout.append(add(len(counts)) if varies else -1)
        demand.append(add(len(bins), (fanout[-1],) if varies else ()))
        demand_bins.append(bins)
        fanout_bins.append(counts)
    return Network(
        np.array(demand),
        np.array(fanout),
        tuple(demand_bins),
        tuple(fanout_bins),
        tuple(parents),
        tuple(tables),
    )


def random_template(rng: np.random.Generator, application: str, stages: int) -> Template:
    revealers = [
        frozenset(r for r in range(c) if rng.random() < 0.4) if rng.random() < 0.6 else frozenset()
        for c in range(stages)
    ]
    return Template(
        application=application,
        stages=tuple(f"{application}{c}#1" for c in range(stages)),
        kinds=tuple(Kind(int(kind)) for kind in rng.integers(0, 2, stages)),
        revealers=tuple(revealers),
        at_arrival=tuple(not row or bool(rng.random() < 0.3) for row in revealers),
        awaits=(frozenset[int](),) * stages,
    )


def random_profile(rng: np.random.Generator, applications: str = "a") -> BeliefProfile:
    networks, templates, tasks = {}, {}, {}
    for name in applications:
        stages = int(rng.integers(2, 6))
        network = random_network(rng, stages)
        while np.prod(network.states) > LARGEST_JOINT:
            network = random_network(rng, stages)
        networks[name] = network
        templates[name] = random_template(rng, name, stages)
    for name in ("", *applications):
        tasks[name] = TaskDemand(*rng.random((5, 2)))
    low = float(rng.choice([0.05, 0.0, 0.3]))
    chosen = BeliefSettings(
        reachable=int(rng.integers(0, 5)),
        structural=bool(rng.random() < 0.7),
        low=low,
        high=float(rng.choice([0.95, 0.9, max(low, 0.1)])),
    )
    return BeliefProfile(chosen, templates, networks, tasks, ())


# --- Random jobs ------------------------------------------------------------------------------


def random_stage(
    rng: np.random.Generator, name: str, kind: Kind, parents: set[int], by: int | None
) -> Stage:
    count = int(rng.integers(1, 6))
    tasks: tuple[LLMTask | RegularTask, ...]
    if kind == Kind.LLM:
        tasks = tuple(LLMTask(1, int(rng.integers(1, 150))) for _ in range(count))
    else:
        tasks = tuple(RegularTask(float(rng.lognormal(0, 1))) for _ in range(count))
    return Stage(name, kind, tuple(sorted(parents)), tasks, by)


def random_job(rng: np.random.Generator, template: Template) -> Job:
    """Stages of the template, most with the kinds and revealers it knows; some that it does not."""
    place: dict[int, int] = {}
    stages: list[Stage] = []
    for c, (name, kind) in enumerate(zip(template.stages, template.kinds, strict=True)):
        if rng.random() < 0.2 and not (c == len(template.stages) - 1 and not stages):
            continue
        revealers = [place[r] for r in template.revealers[c] if r in place]
        by = None
        if revealers and rng.random() < 0.8:
            by = int(rng.choice(revealers))
        parents = {p for p in range(len(stages)) if rng.random() < 0.3}
        if by is not None:
            parents.add(by)
        other = Kind(1 - kind) if rng.random() < 0.05 else kind
        place[c] = len(stages)
        stages.append(random_stage(rng, name.removesuffix("#1"), other, parents, by))
    if rng.random() < 0.2:
        kind = Kind(int(rng.integers(0, 2)))
        stages.append(random_stage(rng, "stranger", kind, set(), None))
    return Job(template.application, "job", tuple(stages))


def random_moment(rng: np.random.Generator, job: Job, eagerness: float) -> Moment:
    """Some stages complete, none before its parents; some tasks of those that could run."""
    completed: list[int] = []
    for stage in job.stages:
        count = len(stage.tasks)
        ready = all(completed[p] == len(job.stages[p].tasks) for p in stage.parents)
        done = count if rng.random() < eagerness else int(rng.integers(0, count))
        completed.append(done if ready else 0)
    return Moment(job, tuple(completed))


def random_case(rng: np.random.Generator) -> tuple[BeliefProfile, Moment]:
    """A network and evidence that is possible in it."""
    while True:
        profile = random_profile(rng)
        job = random_job(rng, profile.templates["a"])
        moment = random_moment(rng, job, rng.random())
        if Expected(profile, moment).joint.possible:
            return profile, moment


# --- Comparison -------------------------------------------------------------------------------


def compare(beliefs: Beliefs, expected: Expected, job: int = 0) -> None:
    for c in range(expected.count):
        believed = beliefs.stages[job, c]
        for field, value in expected.stage(c).items():
            assert believed[field] == pytest.approx(value, rel=1e-9, abs=1e-9), (c, field)
        assert believed["reduction"] == pytest.approx(expected.reduction(c), abs=1e-8), c
    compare_job(beliefs, expected, job)
    if expected.bayes:
        assert beliefs.jobs["clamped"][job] == expected.clamped()


def compare_job(beliefs: Beliefs, expected: Expected, job: int = 0) -> None:
    for field, value in expected.job().items():
        assert beliefs.jobs[field][job] == pytest.approx(value, rel=1e-9, abs=1e-8), field


@settings(max_examples=60)
@given(SEEDS)
def test_posterior_is_exact(seed: int) -> None:
    profile, moment = random_case(np.random.default_rng(seed))
    compare(believe(profile, moment, BAYES), Expected(profile, moment))


@settings(max_examples=40)
@given(SEEDS)
def test_prior_is_exact(seed: int) -> None:
    profile, moment = random_case(np.random.default_rng(seed))
    compare(believe(profile, moment, PRIOR), Expected(profile, moment, bayes=False))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [BAYES, PRIOR])
def test_many_more(mode: int) -> None:
    for seed in range(700):
        rng = np.random.default_rng([seed, 7])
        profile, moment = random_case(rng)
        compare(believe(profile, moment, mode), Expected(profile, moment, bayes=mode == BAYES))


def test_the_cases_say_something() -> None:
    """The random cases reach what they are meant to test."""
    seen: set[str] = set()
    for seed in range(100):
        profile, moment = random_case(np.random.default_rng(seed))
        expected = Expected(profile, moment)
        network = expected.network
        for c in expected.present | expected.undetermined:
            state = "present" if c in expected.present else "undetermined"
            seen.add(f"{state}, {'many' if network.fanout[c] >= 0 else 'one'}")
            if 0 < expected.left(c) < 1:
                seen.add("left")
            if expected.reduction(c) > 0:
                seen.add(f"reduction, structural {profile.settings.structural}")
                seen.add(f"reduction, {profile.settings.reachable} reachable")
        job = expected.job()
        seen |= {name for name in ("covariance", "skipped") if job[name]}
        seen |= {"clamped"} if expected.clamped() else set()
    assert seen == {
        *("present, many", "present, one", "undetermined, many", "undetermined, one"),
        *("left", "covariance", "skipped", "clamped"),
        *(f"reduction, structural {switch}" for switch in (True, False)),
        *(f"reduction, {count} reachable" for count in range(5)),
    }


# --- Updates ----------------------------------------------------------------------------------


def history(rng: np.random.Generator, job: Job) -> list[Moment]:
    """Moments of a job from arrival to completion, task by task."""
    moments = [Moment(job, (0,) * len(job.stages))]
    while True:
        now = moments[-1]
        running = [s for s in range(len(job.stages)) if now.is_ready(s) and not now.is_complete(s)]
        if not running:
            return moments
        chosen = int(rng.choice(running))
        completed = list(now.completed)
        completed[chosen] += 1
        moments.append(replace(now, completed=tuple(completed)))


def change(before: Moment, after: Moment) -> int:
    """What the simulator reports between two moments: a complete stage is evidence."""
    stages = range(len(after.job.stages))
    finished = any(after.is_complete(s) and not before.is_complete(s) for s in stages)
    return EVIDENCE if finished else PROGRESS


@settings(max_examples=25)
@given(SEEDS)
def test_progress_moves_the_sums_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    profile = random_profile(rng)
    moments = history(rng, random_job(rng, profile.templates["a"]))
    believer = Believer(profile, [moments[0]])
    believer.show(0, moments[0])
    stages = believer.update().stages.copy()
    for before, after in pairwise(moments):
        if not Expected(profile, before).joint.possible:
            return
        believer.show(0, after, change(before, after))
        beliefs = believer.update()
        if change(before, after) == PROGRESS:
            np.testing.assert_array_equal(beliefs.stages, stages)
        if Expected(profile, after).joint.possible:
            compare_job(beliefs, Expected(profile, after))
        stages = beliefs.stages.copy()


@pytest.mark.parametrize("mode", [PRIOR, BAYES, ORACLE])
@settings(max_examples=20)
@given(SEEDS)
def test_order_and_neighbours_do_not_matter(mode: int, seed: int) -> None:
    """Jobs of three applications run side by side; each is believed what it would be alone."""
    rng = np.random.default_rng(seed)
    profile = random_profile(rng, "abc")
    names = rng.permutation(list("abcabc"))
    histories = [history(rng, random_job(rng, profile.templates[name])) for name in names]
    together = Believer(profile, [moments[0] for moments in histories], mode)
    at = [0] * len(histories)
    for job in rng.permutation(len(histories)):
        together.show(job, histories[job][0])
    together.update()
    for _ in range(25):
        for job in rng.permutation(len(histories))[: rng.integers(1, 4)]:
            last = len(histories[job]) - 1
            step = min(last, at[job] + int(rng.integers(1, 4)))
            changes = [change(*histories[job][k : k + 2]) for k in range(at[job], step)]
            if changes:
                together.show(job, histories[job][step], max(changes))
                at[job] = step
        together.update()
    for job, moments in enumerate(histories):
        alone = believe(profile, moments[at[job]], mode)
        width = alone.stages.shape[1]
        assert alone.jobs[0] == together.beliefs.jobs[job]
        np.testing.assert_array_equal(alone.stages[0], together.beliefs.stages[job, :width])


@settings(max_examples=20)
@given(SEEDS)
def test_believing_nothing_writes_nothing(seed: int) -> None:
    profile, moment = random_case(np.random.default_rng(seed))
    beliefs = believe(profile, moment, NONE)
    assert not beliefs.stages.view(np.uint8).any()
    assert not beliefs.jobs.view(np.uint8).any()


@pytest.mark.slow
@pytest.mark.parametrize("belief", ["prior", "bayes", "oracle"])
def test_an_environment_believes_the_same(belief: str) -> None:
    """Jobs that were run by the simulator, stopped now and then."""
    env = LLMSchedEnv("mixed", num_jobs=30, load=2.0, belief=belief)
    profile = load_or_fit(env.workload.past, env.cluster.latency)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    compared = 0
    for decision in range(600):
        legal = np.flatnonzero(observation["action_mask"])
        observation, _, done, _, _ = env.step(int(rng.choice(legal)))
        assert not done
        if decision % 20:
            continue
        state = env.state
        for number in map(int, state.active[: state.clock["active"][0]]):
            row = state.jobs[number]
            first, last = row["first_stage"], row["first_stage"] + row["num_stages"]
            job = env.bank.job(int(row["bank_job"]))
            completed = tuple(state.stages["completed_tasks"][first:last].tolist())
            moment = Moment(job, completed, job.canonical_names())
            believer = Believer(profile, [moment], BELIEFS[belief], env.cluster)
            believer.show(0, moment)
            tasks = slice(state.stages["first_task"][first], None)
            ends = state.tasks["end"][tasks][: len(believer.state.tasks)]
            believer.state.tasks["end"] = np.where(ends < 0, ends, 0)
            alone, width = believer.update(), believer.beliefs.stages.shape[1]
            assert alone.jobs[0] == env._job_beliefs[number]
            np.testing.assert_array_equal(alone.stages[0], env._stage_beliefs[number, :width])
            compared += 1
    assert compared > 100
