"""Who ran where and when, against the naive simulator and by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster import simulator
from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.simulator import DECIDE
from llmsched_gym.cluster.state import ClusterState, new_state
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.cluster.timeline import COLUMNS, Timeline, timeline
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Kind, LLMTask
from support.hand import begin, call, finish, job, one_engine, play, runnable, tool
from support.naive import NaiveCluster, Run
from support.strategies import banks

ROUND = LatencyProfile("round", 125.0, 0.0, 12.5, 125.0, 0.0, 31.25, 0.0, 10**6)
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))


def both(bank: JobBank, sizes: tuple[int, int, int]) -> tuple[ClusterState, NaiveCluster]:
    """An episode of all jobs of a bank, one every 1/8 s, simulated in both ways."""
    engines, slots, tools = sizes
    arrival_s = np.arange(len(bank)) / 8
    cluster = Cluster("drawn", ROUND, engines, slots, tools)
    canonical = np.full(len(bank.stage_kind), -1)
    state = new_state(bank, np.arange(len(bank)), arrival_s, cluster, canonical)
    limits = dict(zip(bank.applications, bank.output_limit.tolist(), strict=True))
    arrivals = [round(time * TICKS_PER_SECOND) for time in arrival_s.tolist()]
    return state, NaiveCluster(bank.jobs(), arrivals, limits, ROUND, engines, slots, tools)


def compare(found: Timeline, naive: NaiveCluster) -> None:
    """Every row is a run of the naive simulator, and every run that has started has a row."""
    rows: dict[tuple[int, int, int], Run] = {
        (j, s, number): run
        for (j, s), runs in naive.runs.items()
        for number, run in enumerate(runs)
        if run.start is not None
    }
    keys = list(
        zip(*(column.tolist() for column in (found.job, found.stage, found.task)), strict=True)
    )
    assert set(keys) == set(rows)
    assert len(keys) == len(rows)
    for place, key in enumerate(keys):
        run = rows[key]
        assert run.start is not None
        assert found.executor[place] == run.executor
        assert found.start_s[place] == run.start / TICKS_PER_SECOND
        assert found.kind[place] == (Kind.LLM if isinstance(run.task, LLMTask) else Kind.REGULAR)
        if run.end is None:
            assert np.isnan(found.end_s[place])
        else:
            assert found.end_s[place] == run.end / TICKS_PER_SECOND
    assert found.now_s == naive.now / TICKS_PER_SECOND
    assert (np.diff(found.start_s) >= 0).all()
    arrived = [j for j in range(len(naive.jobs)) if naive.arrived(j)]
    assert np.flatnonzero(~np.isnan(found.arrival_s)).tolist() == arrived
    assert found.in_system.tolist() == naive.in_system()


def check_lanes(found: Timeline) -> None:
    """No two tasks are in one lane at one time, and no lane below was free at a start."""
    end = np.where(np.isnan(found.end_s), np.inf, found.end_s)
    assert ((found.lane >= 0) & (found.lane < np.where(found.llm, found.slots, 1))).all()
    for place in range(len(found.job)):
        earlier = np.arange(len(found.job)) < place
        same = earlier & (found.kind == found.kind[place])
        same &= (found.executor == found.executor[place]) & (end > found.start_s[place])
        assert found.lane[place] not in found.lane[same]
        assert set(range(found.lane[place])) <= set(found.lane[same].tolist())


@given(banks(max_size=4, max_stages=5, max_tasks=4, max_tokens=8), SIZES, st.integers(0, 999))
def test_it_is_what_happened_at_every_moment(
    bank: JobBank, sizes: tuple[int, int, int], seed: int
) -> None:
    state, naive = both(bank, sizes)
    where = [(j, s) for j, one in enumerate(naive.jobs) for s in range(len(one.stages))]
    rng = np.random.default_rng(seed)
    status = simulator.start(state)
    naive.start()
    moments = []
    while status == DECIDE:
        moments.append(timeline(state))
        compare(moments[-1], naive)
        waits = rng.random() < 0.2 and bool(state.clock["can_wait"][0])
        stage = -1 if waits else int(rng.choice(runnable(state)))
        status = simulator.step(state, stage)
        naive.step(None if stage < 0 else where[stage])
    whole = timeline(state)
    compare(whole, naive)
    check_lanes(whole)
    assert not np.isnan(whole.end_s).any()
    assert not np.isnan(whole.completion_s).any()
    for moment, following in pairwise(moments):
        at_once = (whole.start_s == moment.now_s) & (whole.end_s == moment.now_s)
        if following.now_s > moment.now_s and not at_once.any():  # nothing else happens then
            before = without_what_began_then(whole.at(moment.now_s), moment)
            known = {name for name in (*COLUMNS, "arrival_s", "completion_s") if name != "lane"}
            for name in sorted(known):
                np.testing.assert_array_equal(getattr(before, name), getattr(moment, name), name)
            earlier = moment.start_s < moment.now_s  # lanes of this very moment are still open
            np.testing.assert_array_equal(before.lane[earlier], moment.lane[earlier])


def without_what_began_then(tasks: Timeline, moment: Timeline) -> Timeline:
    """Without the tasks that began at the very moment, after it was looked at."""
    known = set(zip(moment.job.tolist(), moment.stage.tolist(), moment.task.tolist(), strict=True))
    keys = zip(tasks.job.tolist(), tasks.stage.tolist(), tasks.task.tolist(), strict=True)
    kept = np.array([key in known for key in keys], bool)
    assert (tasks.start_s[~kept] == moment.now_s).all()
    columns: dict[str, Any] = {name: getattr(tasks, name)[kept] for name in COLUMNS}
    rest = {name: value for name, value in vars(tasks).items() if name not in columns}
    return Timeline(**columns, **rest)


# --- by hand --------------------------------------------------------------------------------------


def test_lanes_are_filled_from_below() -> None:
    # Ten ms an iteration and two more a sequence; prompts take 30 ms.
    short, long = LLMTask(10, 1), LLMTask(10, 20)
    tasks = timeline(play([job(call(long)), job(call(short)), job(call(short))], [0, 0, 40],
                          one_engine()))  # fmt: skip
    assert tasks.job.tolist() == [0, 1, 2]
    assert tasks.lane.tolist() == [0, 1, 1], "lane 1 was free again at 40 ms"
    assert tasks.slots == 4


def test_tools_of_no_length_come_first_on_their_executor() -> None:
    tasks = timeline(play([job(tool(0.0, 0.0, 1.0))], [5], one_engine(regular_executors=1)))
    assert tasks.executor.tolist() == [0, 0, 0]
    assert tasks.task.tolist() == [0, 1, 2]
    assert tasks.end_s.tolist() == [0.005, 0.005, 1.005]
    assert tasks.lane.tolist() == [0, 0, 0]


def test_a_running_task_has_no_end_and_a_table_has_all_columns() -> None:
    state = begin([job(call(LLMTask(10, 5))), job(tool(1.0))], [0, 0], one_engine())
    assert len(timeline(state).job) == 0
    assert timeline(state).frame().columns.tolist() == list(COLUMNS)
    simulator.step(state, 0)
    tasks = timeline(state)
    assert len(tasks.job) == 1
    assert np.isnan(tasks.end_s).all()
    assert tasks.in_system.tolist() == [0, 1]
    assert len(tasks.jct_s) == 0
    done = timeline(finish(state))
    assert len(done.frame()) == 2
    np.testing.assert_array_equal(np.sort(done.jct_s), np.sort(done.end_s))


def test_tables_that_disagree_are_refused() -> None:
    state = finish(begin([job(call(LLMTask(10, 5)), call(LLMTask(10, 5)))], [0], one_engine()))
    state.tasks["start"], state.tasks["end"] = 0, 10
    crowded = state._replace(sequences=state.sequences[:, :1])
    with pytest.raises(
        ValueError, match=r"^state: engine 0 has 1 slots, and more tasks ran at once"
    ):
        timeline(crowded)
