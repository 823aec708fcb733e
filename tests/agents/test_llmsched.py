"""LLMSched against Algorithm 1 written out in loops, and its pieces by hand."""

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.llmsched import overlapping_sets
from llmsched_gym.env.features import JOB, STAGE
from support.observations import Observation, observation, random_observation

INTERVALS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 6), st.booleans()), min_size=1, max_size=12
)


def closure(intervals: list[tuple[float, float]]) -> list[set[int]]:
    """The naive way: join sets while any two of them hold intervals that overlap."""
    sets = [{number} for number in range(len(intervals))]
    while True:
        joined = None
        for a in range(len(sets)):
            for b in range(a):
                if any(
                    intervals[i][0] <= intervals[j][1] and intervals[j][0] <= intervals[i][1]
                    for i in sets[a]
                    for j in sets[b]
                ):
                    joined = (a, b)
        if joined is None:
            return sorted(sets, key=lambda one: min(intervals[number][0] for number in one))
        sets[joined[1]] |= sets.pop(joined[0])


@given(INTERVALS)
def test_sets_are_the_transitive_closure_of_overlap(rows: list[tuple[int, int, bool]]) -> None:
    low = np.array([row[0] for row in rows], np.float32)
    high = np.array([row[0] + row[1] for row in rows], np.float32)
    present = np.array([row[2] for row in rows])
    sets = overlapping_sets(low, high, present)
    numbers = np.flatnonzero(present)
    expected = closure([(low[number], high[number]) for number in numbers])
    for number, members in enumerate(expected):
        assert set(numbers[sets[numbers] == number]) == {numbers[member] for member in members}
    absent = sets[~present]
    assert len(set(absent.tolist())) == len(absent)
    assert (absent >= len(expected)).all()


def test_sets_by_hand() -> None:
    low = np.array([9.0, 0.0, 2.0, 5.0, 7.0, 20.0])
    high = np.array([9.5, 2.0, 4.0, 8.0, 9.0, 21.0])
    present = np.ones(6, bool)
    # 0-2-4 touch at 2; 5-8, 7-9 and 9-9.5 hang together; 20-21 is alone.
    assert overlapping_sets(low, high, present).tolist() == [1, 0, 0, 1, 1, 2]
    both = overlapping_sets(np.stack([low, low]), np.stack([high, low]), np.stack([present] * 2))
    assert both.tolist() == [[1, 0, 0, 1, 1, 2], [4, 0, 1, 2, 3, 5]]


def by_hand(
    seen: Observation, explore: bool, fraction: Fraction, price: float, contenders: bool
) -> int:
    """Algorithm 1 in loops."""
    stages, jobs = seen["stages"], seen["jobs"]
    legal = [int(row) for row in np.flatnonzero(seen["action_mask"][:-1])]
    if not legal:
        return len(seen["action_mask"]) - 1
    demands = {row: float(jobs[seen["stage_job"][row], JOB["demand_s"]]) for row in legal}
    if explore:
        present = int(seen["job_mask"].sum())
        intervals = [
            (jobs[j, JOB["demand_low_s"]], jobs[j, JOB["demand_high_s"]]) for j in range(present)
        ]
        for members in closure(intervals):
            best = -1
            for row in legal:
                reduction = stages[row, STAGE["uncertainty_reduction"]]
                started = int(stages[row, STAGE["running_tasks"]])
                started += int(stages[row, STAGE["completed_tasks"]])
                total = started + int(stages[row, STAGE["waiting_tasks"]])
                if (
                    seen["stage_job"][row] in members
                    and reduction > 0
                    and reduction > price * stages[row, STAGE["demand_s"]]
                    and started < max(Fraction(1), fraction * total)
                    and (
                        not contenders
                        or intervals[int(seen["stage_job"][row])][0] < min(demands.values())
                    )
                    and (best < 0 or reduction > stages[best, STAGE["uncertainty_reduction"]])
                ):
                    best = row
            if best >= 0:
                return best
    return min(legal, key=lambda row: (demands[row], row))


@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from(["0", "0.3", "0.5", "1"]),
    st.sampled_from([0, 0.5, 2]),
    st.booleans(),
)
def test_it_is_algorithm_1(
    seed: int, explore: bool, fraction: str, price: float, contenders: bool
) -> None:
    rng = np.random.default_rng(seed)
    seen = random_observation(rng, jobs=int(rng.integers(1, 8)), stages=int(rng.integers(1, 20)))
    policy = make_policy(
        "llmsched_priced",
        epsilon=int(explore),
        explore_fraction=float(fraction),
        price=price,
        contenders=contenders,
    )
    assert policy.act(seen) == by_hand(seen, explore, Fraction(fraction), price, contenders)
    published = make_policy("llmsched", epsilon=int(explore), explore_fraction=float(fraction))
    assert published.act(seen) == by_hand(seen, explore, Fraction(fraction), 0, False)


JOBS: list[dict[str, Any]] = [
    {"demand_s": 50, "demand_low_s": 40, "demand_high_s": 60},
    {"demand_s": 30, "demand_low_s": 20, "demand_high_s": 45},
    {"demand_s": 5, "demand_low_s": 4, "demand_high_s": 6},
]


def stage(job: int, reduction: float, waiting: int = 4, **more: float) -> dict[str, Any]:
    return {"job": job, "waiting_tasks": waiting, "uncertainty_reduction": reduction, **more}


def explorer(fraction: float = 0.3, **options: Any) -> Any:
    return make_policy("llmsched", **{"epsilon": 1, "explore_fraction": fraction} | options)


def priced(**options: Any) -> Any:
    return make_policy("llmsched_priced", **{"epsilon": 1, "contenders": False} | options)


def test_it_explores_the_most_telling_stage_of_the_first_set_that_has_one() -> None:
    # Job 2 is in the first set and tells nothing; jobs 0 and 1 overlap and are the second.
    stages = [stage(0, 7), stage(0, 9), stage(1, 8), stage(2, 0)]
    assert explorer().act(observation(JOBS, stages)) == 1
    stages[3] = stage(2, 0.1)
    assert explorer().act(observation(JOBS, stages)) == 3, "the first set has one now"
    stages[3] = stage(2, 0.1, legal=0)
    assert explorer().act(observation(JOBS, stages)) == 1, "but it cannot run"


def test_it_explores_what_is_worth_its_price() -> None:
    stages = [stage(0, 9, demand_s=5), stage(1, 8, demand_s=3), stage(2, 0)]
    assert priced().act(observation(JOBS, stages)) == 1, "8 is above 2 x 3, 9 not above 2 x 5"
    assert priced(price=0).act(observation(JOBS, stages)) == 0
    assert explorer().act(observation(JOBS, stages)) == 0, "as published"
    stages[1] = stage(1, 8, demand_s=4)
    assert priced().act(observation(JOBS, stages)) == 2, "neither: exploit"


def test_it_explores_jobs_that_may_turn_out_shorter_than_the_next() -> None:
    # SRTF would serve job 1 (30 s). Job 0 needs at least 40 s, whatever its stage tells.
    stages = [stage(0, 9), stage(1, 1)]
    assert priced(contenders=True).act(observation(JOBS, stages)) == 1
    assert explorer().act(observation(JOBS, stages)) == 0, "as published"
    wide = [JOBS[0] | {"demand_low_s": 29}, *JOBS[1:]]
    assert priced(contenders=True).act(observation(wide, stages)) == 0
    # Job 2 (5 s) has nothing to run now, and is not who would be served.
    assert priced(contenders=True).act(observation(wide, [*stages, stage(2, 0, legal=0)])) == 0


def test_it_exploits_where_nothing_is_left_to_explore() -> None:
    assert explorer().act(observation(JOBS, [stage(0, 0), stage(1, 0), stage(2, 0)])) == 2


def test_it_never_explores_without_epsilon() -> None:
    policy = make_policy("llmsched", epsilon=0)
    policy.reset(0)
    seen = observation(JOBS, [stage(0, 9), stage(1, 8), stage(2, 0)])
    assert {policy.act(seen) for _ in range(200)} == {2}


def test_epsilon_is_the_share_of_explorations() -> None:
    policy = explorer(epsilon=0.2)
    policy.reset(0)
    seen = observation(JOBS, [stage(0, 9), stage(2, 0)])
    chosen = Counter(policy.act(seen) for _ in range(2000))
    assert chosen[0] + chosen[1] == 2000
    assert abs(chosen[0] / 2000 - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)


@pytest.mark.parametrize(
    ("fraction", "tasks", "explored"),
    [
        (0.3, 1, 1),  # at least one
        (0.3, 3, 1),
        (0.3, 4, 2),  # until 1.2 tasks have been started
        (0.3, 10, 3),  # not 4, however 0.3 rounds
        (0.7, 10, 7),
        (0.0, 5, 1),
        (1.0, 5, 5),
    ],
)
def test_only_a_fraction_of_the_tasks_is_explored(
    fraction: float, tasks: int, explored: int
) -> None:
    policy, started = explorer(fraction), 0
    while started < tasks:
        done = started // 2  # completed ones count as well as running ones
        row = stage(0, 9, tasks - started, running_tasks=started - done, completed_tasks=done)
        if policy.act(observation(JOBS, [row, stage(2, 0)])) != 0:
            break
        started += 1
    assert started == explored


def test_jobs_with_nothing_to_run_still_join_sets() -> None:
    jobs: list[dict[str, Any]] = [
        {"demand_low_s": 0, "demand_high_s": 10},
        {"demand_low_s": 8, "demand_high_s": 20},
        {"demand_low_s": 15, "demand_high_s": 30},
    ]
    assert explorer().act(observation(jobs, [stage(0, 1), stage(2, 5)])) == 1
    jobs[1] = {"demand_low_s": 40, "demand_high_s": 50}
    assert explorer().act(observation(jobs, [stage(0, 1), stage(2, 5)])) == 0


# --- why ------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0.5, 1]),
    st.sampled_from([0, 0.5, 2]),
    st.booleans(),
)
def test_an_explanation_is_of_what_it_does_next(
    seed: int, epsilon: float, price: float, contenders: bool
) -> None:
    rng = np.random.default_rng(seed)
    options = {"epsilon": epsilon, "price": price, "contenders": contenders}
    asked, unasked = (make_policy("llmsched_priced", **options) for _ in range(2))
    asked.reset(seed)
    unasked.reset(seed)
    draws = np.random.default_rng(seed)
    for _ in range(6):
        seen = random_observation(rng, jobs=int(rng.integers(1, 8)), stages=12)
        why: Any = asked.explain(seen)  # type: ignore[attr-defined]
        assert asked.explain(seen) == why  # type: ignore[attr-defined]
        assert why.action == asked.act(seen) == unasked.act(seen)
        assert str(why).splitlines()[0].startswith("waits" if why.draw is None else "runs stage")
        if why.draw is None:
            assert why.action == len(seen["action_mask"]) - 1
            assert (why.stage, why.job, why.explored) == (None, None, False)
            continue
        assert why.draw == draws.random()
        explore = why.draw < epsilon
        exploits = by_hand(seen, False, Fraction("0.3"), price, contenders)
        assert why.action == by_hand(seen, explore, Fraction("0.3"), price, contenders)
        assert why.explored == (explore and bool(why.candidates))
        assert why.explored or why.action == exploits
        present = np.flatnonzero(seen["job_mask"]).tolist()
        rows = seen["jobs"][present][:, [JOB["demand_low_s"], JOB["demand_high_s"]]]
        expected = [tuple(sorted(one)) for one in closure(list(map(tuple, rows.tolist())))]
        assert list(why.sets) == expected
        if why.explored:
            assert why.stage in why.candidates
            assert why.reduction == seen["stages"][why.stage, STAGE["uncertainty_reduction"]]
            assert why.reduction > why.price_s
            assert f"R = {why.reduction:.3g} bit s" in str(why)


def test_an_explanation_by_hand() -> None:
    stages = [stage(0, 7), stage(0, 9, demand_s=2), stage(1, 8), stage(2, 0)]
    why = priced(price=2.0).explain(observation(JOBS, stages))
    assert (why.stage, why.job, why.explored) == (1, 0, True)
    assert why.sets == ((2,), (0, 1))
    assert why.candidates == (0, 1, 2)
    text = str(why).replace(f"{why.draw:.3f}", "DRAW")
    assert text == (
        "runs stage 1 of job 0, which still needs 50.0 s, 40.0 to 60.0 s\n"
        "drew DRAW, below epsilon = 1: explores\n"
        "set 2 of 2 is the first with something to explore: jobs 0, 1\n"
        "R = 9 bit s is the largest there, worth its price of 4 bit s"
    )
    free = str(explorer().explain(observation(JOBS, stages)))
    assert free.endswith("R = 9 bit s is the largest there"), "no price as published"
    why = explorer(epsilon=0).explain(observation(JOBS, stages))
    assert (why.stage, why.explored) == (3, False)
    assert str(why).endswith("not below epsilon = 0: exploits, the job that needs least goes first")
    why = explorer().explain(observation(JOBS, [stage(2, 0)]))
    assert "below epsilon = 1: nothing to explore, exploits" in str(why)
    why = explorer().explain(observation(JOBS, [stage(2, 0, legal=0)]))
    assert str(why) == "waits: no stage can run"
