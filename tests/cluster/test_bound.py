"""The lower bound: no schedule of any jobs on any cluster has a lower mean JCT."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster import simulator
from llmsched_gym.cluster.bound import LowerBound
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.simulator import DECIDE, FINISHED
from llmsched_gym.cluster.state import ClusterState, copy_running, new_state
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, LLMTask
from support.hand import call, job, one_engine, runnable, tool
from support.strategies import banks

TRAITS = [(p, j) for p in ("exclusive", "mixed") for j in ("at_boundary", "late")]


def of(jobs: Sequence[Job], arrival_ms: Sequence[float], cluster: Cluster) -> float:
    """The bound in ms, of jobs that arrive in this order."""
    lower = LowerBound(JobBank.from_jobs(jobs), cluster)
    return 1000 * lower.mean_jct_s(range(len(jobs)), [ms / 1000 for ms in arrival_ms])


def mean_jct_s(state: ClusterState) -> float:
    jobs = state.jobs
    return float(((jobs["completion"] - jobs["arrival"]) / 10**12).mean())


# --- Worked out by hand, in ms --------------------------------------------------------------------


def test_a_lone_job_takes_its_critical_path() -> None:
    # 30 of prefill and 3 iterations of 12, then the longer of two tools, then 30 and none
    chain = job(
        call(LLMTask(5, 4)),
        tool(0.02, parents=(0,)),
        tool(0.05, parents=(0,)),
        call(LLMTask(5, 1), parents=(1, 2)),
    )
    assert of([chain], [7], one_engine()) == pytest.approx(66 + 50 + 30)


def test_tools_wait_for_each_other_by_shortest_remaining_time() -> None:
    # One executor: 0-10 of the long one, 10-30 the short one, 30-120 the rest: 20 and 120.
    jobs, cluster = [job(tool(0.1)), job(tool(0.02))], one_engine(regular_executors=1)
    assert of(jobs, [0, 10], cluster) == pytest.approx((120 + 20) / 2)
    # Two that are twice as fast together: in 5 ms 10 are done, ..., but none is done before 100.
    assert of(jobs, [0, 10], replace(cluster, regular_executors=2)) == pytest.approx((100 + 20) / 2)


def test_calls_wait_for_each_other_if_an_engine_has_one_slot() -> None:
    # Prefills of 30 are all there is: 30, 60 and 90, whatever the order.
    jobs = [job(call(LLMTask(1, 1)))] * 3
    assert of(jobs, [0, 0, 0], one_engine(max_batch=1)) == pytest.approx(60)


def test_what_comes_after_the_queue_counts_too() -> None:
    # Three prefills one after the other, then 500 of a tool that each job has to itself.
    jobs = [job(call(LLMTask(1, 1)), tool(0.5, parents=(0,)))] * 3
    cluster = one_engine(max_batch=1, regular_executors=9)
    assert of(jobs, [0, 0, 0], cluster) == pytest.approx(560)


def test_a_full_engine_shares_its_iterations() -> None:
    # Four sequences of 1 + 100 tokens: a prefill of 10 + 4 * 0.1 <= 30 is not shared by more, and
    # then 100 iterations of 10 + 4 * 2: a share is 10 / 4 + 2. The mean time of the work of four
    # jobs that take turns is below the 66 that they take alone only if there are few of them.
    jobs = [job(call(LLMTask(1, 101)))] * 40
    share = 30 / 4 + 100 * (10 / 4 + 2)
    whole = 30 + 100 * 12
    found = of(jobs, [0] * 40, one_engine())
    assert share * 40 / 2 < found < share * 40 / 2 + whole


def test_jobs_without_work_for_a_machine_count_with_their_path() -> None:
    jobs = [job(call(LLMTask(1, 1)))] * 3 + [job(tool(0.08))]
    assert of(jobs, [0] * 4, one_engine(max_batch=1)) == pytest.approx((30 + 60 + 90 + 80) / 4)


def test_tools_of_no_time_are_no_work() -> None:
    assert of([job(tool(0.0))], [3], one_engine()) == 0


def test_a_mixed_prefill_may_be_cheaper_beside_others_than_alone() -> None:
    # 25 tokens, alone 20 + 5 of them: 20 + 10 ms. Beside 7 sequences 13 + 12: 25 ms.
    latency = LatencyProfile("m", 1.0, 0.0, 0.0, 10.0, 0.0, 1.0, 0.0, 10**6, "mixed", 20)
    found = of([job(call(LLMTask(25, 1)))], [0], one_engine(latency, max_batch=8))
    assert found == pytest.approx(25)


def test_decoding_beside_prompts_may_be_cheaper_than_alone() -> None:
    latency = LatencyProfile("m", 50.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 10**6, "mixed", 20)
    found = of([job(call(LLMTask(1, 11)))], [0], one_engine(latency, max_batch=2))
    assert found == pytest.approx(110)  # and not 510


# --- All schedules of a few jobs ------------------------------------------------------------------


def best_s(state: ClusterState) -> float:
    """The lowest mean JCT of all schedules from here on, those that wait included."""
    choices = runnable(state)
    if simulator.can_wait(state):
        choices.append(-1)
    found = np.inf
    for choice in choices:
        after = copy_running(state)
        status = simulator.step(after, choice)
        found = min(found, best_s(after) if status == DECIDE else mean_jct_s(after))
    return float(found)


@pytest.mark.parametrize("traits", TRAITS)
@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_schedules_is_not_below_the_bound(
    traits: tuple[str, str], seed: int
) -> None:
    dice = random.Random(seed)
    batch = dice.choice([1, 2])
    latency = LatencyProfile(
        name="tiny",
        a=dice.uniform(1, 20),
        c=dice.choice([0, 2]),
        d=dice.choice([0, 0.1]),
        p0=dice.uniform(1, 40),
        e=dice.choice([0, 5, 50]),
        f=dice.choice([0, 1]),
        g=0.0,
        kv_capacity_tokens=10**6,
        prefill=traits[0],
        token_budget=batch + dice.choice([1, 8]) if traits[0] == "mixed" else None,
        joins=traits[1],
    )
    cluster = Cluster("tiny", latency, dice.choice([1, 2]), batch, 1)

    def task() -> LLMTask:
        return LLMTask(dice.randint(1, 30), dice.randint(1, 6))

    jobs = [
        dice.choice(
            [
                job(call(task(), *([task()] if number == 0 else []))),
                job(call(task()), tool(dice.uniform(0, 0.1), parents=(0,))),
                job(tool(dice.uniform(0, 0.1))),
            ]
        )
        for number in range(3)
    ]
    bank = JobBank.from_jobs(jobs)
    arrival_s = sorted(dice.choice([0.0, dice.uniform(0, 0.1)]) for _ in jobs)
    state = new_state(bank, range(3), arrival_s, cluster, np.full(len(bank.stage_kind), -1))
    assert simulator.start(state) == DECIDE
    best, lower = best_s(state), LowerBound(bank, cluster).mean_jct_s(range(3), arrival_s)
    assert best / 3 < lower <= best


# --- Any jobs, any cluster, any choices -----------------------------------------------------------


@st.composite
def clusters(draw: st.DrawFn, capacity: int) -> Cluster:
    """Coefficients of any proportion, zero among them; budgets from the smallest there is."""
    a, p0 = draw(st.floats(0.01, 50.0)), draw(st.floats(0.01, 50.0))
    ms = st.one_of(st.just(0.0), st.floats(0.0, 50.0, allow_subnormal=False))
    c, d, e, f, g = (draw(ms) / scale for scale in (1, 100, 1, 10, 1000))
    prefill, joins = draw(st.sampled_from(TRAITS))
    batch = draw(st.integers(1, 6))
    budget = batch + draw(st.sampled_from([1, 2, 5, 40])) if prefill == "mixed" else None
    latency = LatencyProfile("drawn", a, c, d, p0, e, f, g, capacity, prefill, budget, joins)
    return Cluster("drawn", latency, draw(st.integers(1, 3)), batch, draw(st.integers(1, 3)))


@given(st.data())
def test_no_schedule_is_below_the_bound(data: st.DataObject) -> None:
    bank = data.draw(
        banks(max_size=4, max_stages=5, max_tokens=data.draw(st.sampled_from([5, 200])))
    )
    need = int(bank.prompt_tokens.max() + bank.output_limit.max())
    cluster = data.draw(clusters(max(2, need) * data.draw(st.integers(1, 8))))
    jobs = data.draw(st.lists(st.integers(0, len(bank) - 1), min_size=1, max_size=20))
    scale = data.draw(st.sampled_from([0.0, 0.05, 1.0]))
    begin = data.draw(st.sampled_from([0.0, 12.7, 3.9e6]))
    gaps = data.draw(st.lists(st.floats(0, 1), min_size=len(jobs), max_size=len(jobs)))
    arrival_s = begin + scale * np.cumsum(gaps)
    state = new_state(bank, jobs, arrival_s, cluster, np.full(len(bank.stage_kind), -1))
    dice, waiting = (
        random.Random(data.draw(st.integers(0, 99))),
        data.draw(st.sampled_from([0.0, 0.0, 0.3])),
    )
    in_order = data.draw(st.booleans())
    status = simulator.start(state)
    while status == DECIDE:
        able = runnable(state)
        wait = simulator.can_wait(state) and dice.random() < waiting
        status = simulator.step(state, -1 if wait else able[0] if in_order else dice.choice(able))
    assert status == FINISHED
    lower = LowerBound(bank, cluster)
    assert 0 <= lower.mean_jct_s(jobs, arrival_s) <= mean_jct_s(state)
    # and from the seconds that are written of the arrivals, in any order
    written = state.jobs["arrival"] / 10**12
    assert lower.mean_jct_s(jobs[::-1], written[::-1]) <= mean_jct_s(state)
