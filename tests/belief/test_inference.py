"""The compiled posterior against the whole joint distribution, on random small networks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.networks import BAYES, NONE, ORACLE, PRIOR, Beliefs
from llmsched_gym.belief.work import work_rates
from llmsched_gym.cluster.state import EVIDENCE, PROGRESS
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.env.scheduling import LLMSchedEnv
from support.enumeration import Expected
from support.moments import Believer, Moment, believe
from support.random_cases import history, random_case, random_job, random_profile

SEEDS = st.integers(0, 2**32 - 1)


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
        told = expected.allowed.keys() & {*network.prompt.tolist()}
        seen |= {f"prompt, {'known' if len(expected.allowed[v]) == 1 else 'hidden'}" for v in told}
    assert seen == {
        *("present, many", "present, one", "undetermined, many", "undetermined, one"),
        *("left", "covariance", "skipped", "clamped", "prompt, known", "prompt, hidden"),
        *(f"reduction, structural {switch}" for switch in (True, False)),
        *(f"reduction, {count} reachable" for count in range(5)),
    }


# --- Updates ----------------------------------------------------------------------------------


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
    rates = work_rates(profile, env.workload.past, env.cluster)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    compared = 0
    for decision in range(600):
        legal = np.flatnonzero(observation["action_mask"])
        observation, _, done, _, _ = env.step(int(rng.choice(legal)))
        assert not done
        if decision % 20:
            continue
        state, (believed_stages, believed_jobs) = env.state, env.beliefs()
        for number in map(int, state.active[: state.clock["active"][0]]):
            row = state.jobs[number]
            first, last = row["first_stage"], row["first_stage"] + row["num_stages"]
            job = env.bank.job(int(row["bank_job"]))
            completed = tuple(state.stages["completed_tasks"][first:last].tolist())
            moment = Moment(job, completed, job.canonical_names())
            believer = Believer(profile, [moment], BELIEFS[belief], env.cluster, rates)
            believer.show(0, moment)
            tasks = slice(state.stages["first_task"][first], None)
            ends = state.tasks["end"][tasks][: len(believer.state.tasks)]
            believer.state.tasks["end"] = np.where(ends < 0, ends, 0)
            alone, width = believer.update(), believer.beliefs.stages.shape[1]
            assert alone.jobs[0] == believed_jobs[number]
            np.testing.assert_array_equal(alone.stages[0], believed_stages[number, :width])
            compared += 1
    assert compared > 100
