"""Posteriors, intervals and uncertainty reductions that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmsched_gym.belief.networks import BAYES, ORACLE, PRIOR, Beliefs
from llmsched_gym.belief.profile import BeliefProfile, Bins, TaskDemand
from llmsched_gym.cluster.state import PROGRESS
from llmsched_gym.workload.job import Kind, LLMTask
from support.moments import (
    Believer,
    believe,
    independent,
    moment,
    revised,
    stage,
    steps,
    with_prompt,
)

ABSENT_OR_1 = steps(1.0)
COPY = np.eye(2)


def rows(profile: BeliefProfile, *stages: tuple[str, int], mode: int = BAYES) -> np.ndarray:
    """Beliefs about the stages of a job of regular stages in a row; tasks that are complete."""
    job = moment(*(stage(name) for name, _ in stages), completed=[done for _, done in stages])
    return believe(profile, job, mode).stages[0]


@pytest.fixture
def chain() -> BeliefProfile:
    """A -> B -> C, absent or one second; a reveals b and c, the running d reveals b, too."""
    profile = independent([ABSENT_OR_1, ABSENT_OR_1, ABSENT_OR_1, steps(1.0, 3.0)], low=0.0)
    return revised(
        profile,
        tables={
            0: ((), [0.4, 0.6]),
            1: ((0,), [[0.8, 0.2], [0.1, 0.9]]),
            2: ((1,), [[0.9, 0.1], [0.3, 0.7]]),
        },
        revealers={1: {3}, 2: {3}},
        kinds={1: Kind.LLM},
    )


def test_chain(chain: BeliefProfile) -> None:
    job = moment(stage("a"), stage("d"), completed=[1, 0])
    beliefs = believe(chain, job)
    b, c = beliefs.stages[0, 1], beliefs.stages[0, 2]
    assert b["presence"] == pytest.approx(0.9)
    assert c["presence"] == pytest.approx(0.64)
    # B takes LLM time and C regular time, so their joint presence shows in the covariance.
    assert beliefs.jobs["covariance"][0] == pytest.approx(0.63 - 0.9 * 0.64)
    assert beliefs.jobs["llm_s"][0] == pytest.approx(0.9)
    assert beliefs.jobs["variance_llm"][0] == pytest.approx(0.9 * 0.1)


def test_absence_is_evidence(chain: BeliefProfile) -> None:
    job = moment(stage("a"), stage("d"), completed=[1, 0])
    known_at_arrival = revised(chain, revealers={2: set()})
    believed = believe(known_at_arrival, job).stages[0]
    assert believed["presence"][2] == 0.0  # it would have been visible
    assert believed["presence"][1] == pytest.approx(0.75)


def test_unlikely_until_a_revealer_ends(chain: BeliefProfile) -> None:
    revealing = revised(chain, revealers={1: {0, 3}, 2: {0, 3}})
    believed = rows(revealing, ("a", 1), ("d", 1))
    assert believed["presence"].tolist() == [1, 0, 0, 1]
    assert not believed["demand_s"].any()


def test_prior_does_not_learn(chain: BeliefProfile) -> None:
    p_b = 0.6 * 0.9 + 0.4 * 0.2
    believed = rows(chain, ("a", 1), ("d", 0), mode=PRIOR)
    assert believed["presence"] == pytest.approx([1, p_b, p_b * 0.7 + (1 - p_b) * 0.1, 1])


def test_present_given_a_ready_stage() -> None:
    """A is present half of the time and B if and only if A is: once A is ready, E[B] = 100."""
    profile = independent([ABSENT_OR_1, steps(100.0)])
    profile = revised(profile, tables={1: ((0,), COPY)}, revealers={1: {0}})
    believed = rows(profile, ("a", 0))
    assert believed["demand_s"].tolist() == [1.0, 100.0]
    assert rows(profile, ("a", 0), mode=PRIOR)["demand_s"].tolist() == [1.0, 50.0]
    assert believe(profile, moment(stage("a"))).jobs["prior_regular_s"][0] == 50.5


def test_interval_of_a_stage_that_may_be_absent() -> None:
    profile = revised(independent([ABSENT_OR_1, steps(100.0)]), revealers={1: {0}})
    beliefs = believe(profile, moment(stage("a")))
    assert beliefs.stages[0, 1][["low_s", "high_s"]].tolist() == (0.0, 100.0)
    assert beliefs.stages[0, 1]["entropy_bits"] == 1.0
    job = beliefs.jobs[0]
    assert (job["low_regular_s"], job["high_regular_s"]) == (1.0, 101.0)
    assert job["regular_s"] == 51.0
    assert job["variance_regular"] == pytest.approx(2500.0)


def test_quantiles_inside_bins() -> None:
    """Bins 0..4 and 4..8 with means in the middle: uniform on 0 to 8."""
    even = Bins(
        least=np.array([0.0, 0, 4]),
        mean=np.array([0.0, 2, 6]),
        most=np.array([0.0, 4, 8]),
        tasks=np.array([0.0, 1, 1]),
        variance=np.array([0.0, 4 / 3, 4 / 3]),
    )
    for low, high in ((0.05, 0.95), (0.0, 1.0), (0.25, 0.5)):
        believed = rows(independent([even], low=low, high=high), ("a", 0))
        assert believed["low_s"][0] == pytest.approx(8 * low)
        assert believed["high_s"][0] == pytest.approx(8 * high)
    skewed = replace(even, mean=np.array([0.0, 1, 6]))  # 4 u ** 3 has the mean 1
    believed = rows(independent([skewed], low=0.25), ("a", 0))
    assert believed["low_s"][0] == pytest.approx(4 * 0.5**3)


# --- Prompts --------------------------------------------------------------------------------------


def prompted(tells: int) -> BeliefProfile:
    """A call "a" and a tool "b", each 1 or 101 s; a long prompt of "a" tells that one is long."""
    profile = independent([steps(1.0, 101.0), steps(1.0, 101.0)])
    profile = revised(profile, kinds={0: Kind.LLM})
    return with_prompt(profile, [10.0, 90.0], tells, [[1, 0, 0], [0, 0.75, 0.25], [0, 0, 1]])


@pytest.mark.parametrize(
    ("prompt", "mean_s", "clamped"),
    [(10, 26.0, 0), (40, 26.0, 0), (60, 101.0, 0), (90, 101.0, 0), (5, 26.0, 1), (95, 101.0, 1)],
)
def test_the_prompt_of_a_ready_stage_tells_its_demand(
    prompt: int, mean_s: float, clamped: int
) -> None:
    job = moment(stage("a", kind=Kind.LLM, prompt=prompt), stage("b", 0))
    beliefs = believe(prompted(0), job)
    assert beliefs.stages["demand_s"][0].tolist() == pytest.approx([mean_s, 51.0])
    assert beliefs.stages["presence"][0].tolist() == [1.0, 1.0]
    row = beliefs.jobs[0]
    assert (row["llm_s"], row["regular_s"]) == pytest.approx((mean_s, 51.0))
    assert row["clamped"] == clamped
    spread = 0.75 * 0.25 * 100**2 if mean_s < 101 else 0.0
    assert row["variance_llm"] == pytest.approx(spread)


def test_it_tells_of_what_comes_later_and_of_several_tasks_their_mean() -> None:
    tasks = stage("a", kind=Kind.LLM, prompt=90, seconds=[1.0, 1.0])
    believed = believe(prompted(1), moment(tasks, stage("b", 0))).stages[0]
    assert believed["demand_s"].tolist() == [51.0, 101.0]
    short = replace(tasks, tasks=(*tasks.tasks, *[LLMTask(1, 50)] * 3))
    for done in (0, 3, 5):  # a mean of 36.6 tokens, known once the stage is ready and ever after
        job = moment(short, stage("b", 0), completed=[done])
        assert believe(prompted(1), job).stages[0]["demand_s"][1] == pytest.approx(26.0)


@pytest.mark.parametrize("prompt", [10, 90])
def test_the_prompt_of_a_stage_that_waits_is_not_known(prompt: int) -> None:
    """Here b comes first. That a will have a prompt is known: 26 s or 101 s, equally likely."""
    job = moment(stage("b"), stage("a", 0, kind=Kind.LLM, prompt=prompt))
    believed = believe(prompted(0), job).stages[0]
    assert believed["demand_s"].tolist() == pytest.approx([(26 + 101) / 2, 51.0])
    absent = believe(prompted(1), moment(stage("b"))).stages[0]
    assert absent["demand_s"][0] == 0.0  # and so is its prompt, which "b" never was without
    ready = moment(stage("a", kind=Kind.LLM, prompt=prompt), stage("b", 0))
    prior = believe(prompted(0), ready, PRIOR).stages[0]  # without evidence it is not used, either
    assert prior["demand_s"].tolist() == pytest.approx([(26 + 101) / 2, 51.0])


# --- Uncertainty reduction --------------------------------------------------------------------


def reduction(profile: BeliefProfile, **settings: float) -> float:
    """R of the ready stage a; the others are present and wait for it."""
    profile = replace(
        profile,
        settings=replace(profile.settings, structural=False, **settings),  # type: ignore[arg-type]
    )
    names = [name.removesuffix("#1") for name in profile.templates["app"].stages]
    waiting = [stage(name, 0) for name in names[1:]]
    return float(believe(profile, moment(stage("a"), *waiting)).stages["reduction"][0, 0])


def follows(source: int) -> tuple[tuple[int, ...], np.ndarray]:
    """A stage that takes long if and only if another one does; never absent."""
    return (source,), np.array([[1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [0, 0, 1]])


@pytest.fixture
def three() -> BeliefProfile:
    """Three stages that take 1 or 101 seconds."""
    return independent([steps(1.0, 101.0)] * 3)


def test_a_copy_tells_one_bit(three: BeliefProfile) -> None:
    assert reduction(revised(three, {1: follows(0)})) == pytest.approx(1.0 * 100)


def test_an_independent_stage_tells_nothing(three: BeliefProfile) -> None:
    assert reduction(three) == 0.0
    edge_without_meaning = revised(three, {1: ((0,), np.full((3, 3), 1 / 3))})
    assert reduction(edge_without_meaning) == pytest.approx(0.0, abs=1e-9)


def test_information_is_joint(three: BeliefProfile) -> None:
    """X = Y = Z: one bit about both (the sum over pairs would be two)."""
    for second in (0, 1):
        copies = revised(three, {1: follows(0), 2: follows(second)})
        assert reduction(copies) == pytest.approx(1.0 * (100 + 100))
        assert reduction(copies, reachable=1) == pytest.approx(1.0 * 100)
        assert reduction(copies, reachable=0) == 0.0


def test_two_may_tell_what_neither_does_alone(three: BeliefProfile) -> None:
    """Z is X exclusive-or Y: X is independent of each, and one bit is told about the two."""
    both = np.full((3, 3, 3), 1 / 3)
    for x in (1, 2):
        for y in (1, 2):
            both[x, y] = np.eye(3)[1 + (x == y)]
    exclusive = revised(three, {2: ((0, 1), both)})
    assert reduction(exclusive) == pytest.approx(0.0, abs=1e-9)  # y is not reachable from x
    reached = revised(exclusive, {1: ((0,), np.full((3, 3), 1 / 3))})
    assert reduction(reached) == pytest.approx(1.0 * 200)


def test_the_nearest_are_looked_at_first() -> None:
    """a -> b -> c and a -> d: with two, c is left out, whatever its range."""
    ranges = [steps(1.0, 2.0), steps(1.0, 11.0), steps(1.0, 101.0), steps(1.0, 1001.0)]
    profile = revised(independent(ranges), {1: follows(0), 2: follows(1), 3: follows(0)})
    expected = {0: 0.0, 1: 10.0, 2: 1010.0, 3: 1110.0, 4: 1110.0}
    for count, value in expected.items():
        assert reduction(profile, reachable=count) == pytest.approx(value)


def test_a_fan_out_is_no_step_of_its_own() -> None:
    """a -> fan-out of b -> b is as near as a -> c; of equally near stages the first counts."""
    copy = follows(0)[1]
    profile = independent([steps(1.0, 2.0), steps(1.0, 11.0), steps(1.0, 1001.0)])
    profile = revised(profile, revealers={1: {0}})
    network = replace(
        profile.networks["app"],
        demand=np.array([0, 2, 3]),
        fanout=np.array([-1, 1, -1]),
        fanout_bins=(steps(1.0), steps(1.0, 2.0), steps(1.0)),
        parents=((), (0,), (1,), (0,)),
        tables=(np.array([0, 0.5, 0.5]), copy, np.eye(3), copy),
    )
    settings = replace(profile.settings, reachable=1, structural=False)
    profile = replace(profile, networks={"app": network}, settings=settings)
    job = moment(stage("a"), stage("c", 0))
    assert believe(profile, job).stages["reduction"][0, 0] == pytest.approx(1.0 * 10)


def test_complete_stages_do_not_count(three: BeliefProfile) -> None:
    profile = revised(three, {1: follows(0), 2: follows(0)})
    assert rows(profile, ("a", 0), ("b", 0), ("c", 0))["reduction"][0] == pytest.approx(200)
    # What b took tells all about a; what is left to learn about c is nothing.
    assert rows(profile, ("a", 0), ("b", 1), ("c", 0))["reduction"][0] == pytest.approx(0, abs=1e-9)


def test_only_ready_stages_have_one(three: BeliefProfile) -> None:
    profile = revised(three, {1: follows(0), 2: follows(1)})
    waiting = moment(stage("a"), stage("b", 0), stage("c", 1))
    assert believe(profile, waiting).stages["reduction"][0].tolist() == pytest.approx([200, 0, 0])


def test_structure() -> None:
    """b is there half of the time, c takes 1 to 3 tasks or is absent, each equally likely."""
    profile = revised(
        independent([ABSENT_OR_1, steps(8.0), steps(4.0)]), revealers={1: {0}, 2: {0}}
    )
    network = profile.networks["app"]
    parents, tables = list(network.parents), list(network.tables)
    parents[2:], tables[2:] = [(), (2,)], [np.full(4, 0.25), np.eye(2)[[0, 1, 1, 1]]]
    network = replace(
        network,
        demand=np.array([0, 1, 3]),
        fanout=np.array([-1, -1, 2]),
        fanout_bins=(steps(1.0), steps(1.0), Bins.fit(np.arange(1.0, 4), np.arange(1.0, 4), 8)),
        parents=tuple(parents),
        tables=tuple(tables),
    )
    profile = replace(profile, networks={"app": network})
    job = moment(stage("a"))
    assert believe(profile, job).stages["reduction"][0, 0] == pytest.approx(1 * 8 + 2 * 4)
    plain = replace(profile, settings=replace(profile.settings, structural=False))
    assert believe(plain, job).stages["reduction"][0, 0] == 0.0


# --- Jobs unlike the past ---------------------------------------------------------------------


def test_stages_without_a_past_are_counted() -> None:
    """They are so many average tasks: 1 s each, 0 to 2 s."""
    profile = independent([steps(5.0)])
    job = moment(stage("new", seconds=[9.0, 9.0, 9.0]), stage("a"), completed=[1])
    row = believe(profile, job).jobs[0]
    assert row["skipped"] == 1
    assert row["regular_s"] == 2 * 1.0 + 5.0
    assert (row["low_regular_s"], row["high_regular_s"]) == (5.0, 9.0)
    assert row["variance_regular"] == 2 * 1.0


def test_a_stage_of_another_kind_is_no_evidence() -> None:
    profile = revised(independent([ABSENT_OR_1, steps(10.0)]), {1: ((0,), COPY)}, {1: {0}})
    job = moment(stage("a", kind=Kind.LLM))
    beliefs = believe(profile, job)
    assert beliefs.jobs["skipped"][0] == 1
    assert beliefs.stages["presence"][0].tolist() == [1.0, 0.5]
    row = beliefs.jobs[0]
    assert (row["llm_s"], row["variance_llm"]) == (1.0, 1.0)  # an average task
    assert row["regular_s"] == 5.0
    assert row["variance_regular"] == pytest.approx(25.0)  # of b alone
    assert row["covariance"] == pytest.approx(0.0)


@pytest.mark.parametrize(("seconds", "clamped"), [(0.5, 1), (1.0, 0), (2.0, 0), (3.0, 0), (9.0, 1)])
def test_values_beyond_the_past_are_clamped(seconds: float, clamped: int) -> None:
    bins = steps(1.0, 3.0)
    profile = revised(independent([bins, steps(10.0, 20.0)]), {1: follows(0)})
    job = moment(stage("a", seconds=[seconds]), stage("b"), completed=[1])
    beliefs = believe(profile, job)
    assert beliefs.jobs["clamped"][0] == clamped
    assert beliefs.stages["demand_s"][0, 1] == (10.0 if seconds <= 2 else 20.0)


def test_impossible_evidence_teaches_nothing() -> None:
    """b should be absent if a is; it is there all the same, and judged by its bins."""
    never = [[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]]
    profile = revised(independent([ABSENT_OR_1, steps(10.0, 20.0)]), {1: ((0,), never)})
    beliefs = believe(profile, moment(stage("b")))
    assert beliefs.stages["demand_s"][0].tolist() == [0.0, 15.0]
    assert beliefs.jobs["regular_s"][0] == 15.0
    for table in (beliefs.stages, beliefs.jobs):
        assert all(np.isfinite(table[field]).all() for field in table.dtype.fields or ())


def test_an_application_without_past_is_judged_by_its_tasks() -> None:
    profile = independent([steps(5.0)])
    assert profile.missing(["app", "other"]) == (
        "other: no past jobs; demand by kind of stage over all applications",
    )
    everywhere = TaskDemand(
        mean=np.array([2.0, 3.0]),
        variance=np.array([0.5, 0.25]),
        low=np.array([1.0, 2.0]),
        high=np.array([4.0, 8.0]),
        per_job=np.array([6.0, 7.0]),
    )
    profile = replace(profile, tasks={**profile.tasks, "": everywhere})
    llm = stage("a", seconds=[0.2, 0.2], kind=Kind.LLM)
    other = moment(llm, stage("b", 0), completed=[1], application="other")
    known = moment(stage("a"))
    for mode in (PRIOR, BAYES):
        believer = Believer(profile, [known, other], mode)
        believer.show(1, other)
        believer.show(0, known)
        row = believer.update().jobs[1]
        assert (row["llm_s"], row["regular_s"], row["skipped"]) == (2.0, 3.0, 2)
        assert (row["prior_llm_s"], row["prior_regular_s"]) == (6.0, 7.0)
        assert (row["low_llm_s"], row["high_regular_s"]) == (1.0, 8.0)
        assert (row["variance_llm"], row["variance_regular"]) == (0.5, 0.25)
        assert believer.beliefs.jobs["regular_s"][0] == 5.0


# --- Progress and truth -----------------------------------------------------------------------


def test_the_share_of_tasks_that_is_complete() -> None:
    profile = independent([steps(8.0, 12.0)])
    job = moment(stage("a", seconds=[1.0] * 4))
    believer = Believer(profile, [job])
    believer.show(0, job)
    assert believer.update().jobs["regular_s"][0] == 10.0
    believer.show(0, replace(job, completed=(3,)), PROGRESS)
    beliefs = believer.update()
    assert beliefs.jobs["regular_s"][0] == 2.5
    assert beliefs.jobs["variance_regular"][0] == pytest.approx(4.0 / 16)
    assert beliefs.stages["demand_s"][0, 0] == 10.0


def test_demand_that_is_in_one_bin_still_varies() -> None:
    one_bin = Bins.fit(np.array([2.0, 4.0, 6.0]), np.ones(3), 1)
    job = moment(stage("a", seconds=[1.0, 1.0]), completed=[1])
    row = believe(independent([one_bin]), job).jobs[0]
    assert row["regular_s"] == pytest.approx(4.0 / 2)
    assert row["variance_regular"] == pytest.approx(8 / 3 / 4)


def test_demand_follows_the_number_of_tasks() -> None:
    """Inside a bin demand is proportional to the number of tasks, as far as the bin reaches."""
    bins = Bins.fit(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4]), 1)
    assert bins.given(np.array([2.0]))[0].tolist() == [0.0, 2.0]
    assert bins.given(np.array([9.0]))[0].tolist() == [0.0, 4.0]
    assert bins.variance.tolist() == [0.0, 0.0]


def hidden_and_done() -> Beliefs:
    """The oracle about a job: a complete, one of two tasks of b complete, c hidden."""
    profile = independent([ABSENT_OR_1, steps(100.0), steps(100.0)])
    job = moment(
        stage("a"),
        stage("b", seconds=[2.0, 3.0]),
        stage("c", 1, seconds=[0.2, 0.4], by=1, kind=Kind.LLM),
        completed=[1, 1],
    )
    believer = Believer(profile, [job], ORACLE)
    believer.show(0, job)
    believer.state.tasks["end"][:2] = 0
    return believer.update()


def test_oracle() -> None:
    beliefs = hidden_and_done()
    row = beliefs.jobs[0]
    assert row["prior_regular_s"] == pytest.approx(6.0)
    assert row["prior_llm_s"] == pytest.approx(0.6)
    for part in ("", "low_", "high_"):
        assert row[f"{part}regular_s"] == pytest.approx(3.0)
        assert row[f"{part}llm_s"] == pytest.approx(0.6)
    assert not any(row[field] for field in ("variance_llm", "covariance", "variance_regular"))
    assert beliefs.stages["presence"][0].tolist() == [1, 1, 1]
    assert beliefs.stages["demand_s"][0] == pytest.approx([0, 5.0, 0.6])
    assert not beliefs.stages["entropy_bits"].any()
    assert not beliefs.stages["reduction"].any()
