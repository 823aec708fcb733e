from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.cluster.limits import TaskTooLarge, check_fits
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.cluster.state import ClusterState, copy_state, new_state
from llmsched_gym.cluster.ticks import NEVER, TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from support.strategies import banks

CLUSTER = load_cluster("a100_llama2_7b")


def one_job(*tasks: LLMTask | RegularTask, application: str = "app") -> Job:
    kind = Kind.LLM if isinstance(tasks[0], LLMTask) else Kind.REGULAR
    return Job(application, "job", (Stage("stage", kind, (), tasks),))


def begin(bank: JobBank, indices: Any = (0,), arrival_s: Any = (0.0,), **more: Any) -> ClusterState:
    canonical = np.arange(len(bank.stage_kind)) % 5
    return new_state(bank, indices, arrival_s, CLUSTER, canonical, **more)


def row(starts: np.ndarray[Any, Any], members: np.ndarray[Any, Any], s: int) -> list[int]:
    return members[starts[s] : starts[s + 1]].tolist()


@given(banks(max_tokens=3000), st.data())
@settings(max_examples=100, derandomize=True)
def test_the_tables_say_what_the_jobs_say(bank: JobBank, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(bank) - 1), min_size=1, max_size=8))
    state = begin(bank, indices, np.arange(len(indices)) / 2)
    latency, first = CLUSTER.latency, 0
    assert state.jobs["bank_job"].tolist() == indices
    assert state.jobs["arrival"].tolist() == [
        j * TICKS_PER_SECOND // 2 for j in range(len(indices))
    ]
    assert state.clock["num_jobs"] == len(indices)
    needs = [0]
    for j, index in enumerate(indices):
        job = bank.job(index)
        limit = int(bank.output_limit[bank.applications.index(job.application)])
        assert bank.applications[state.jobs["application"][j]] == job.application
        assert state.jobs["first_stage"][j] == first
        assert state.jobs["num_stages"][j] == state.jobs["unfinished_stages"][j] == len(job.stages)
        for number, stage in enumerate(job.stages):
            s = first + number
            table = state.stages[s]
            assert (table["job"], table["kind"]) == (j, stage.kind)
            assert table["canonical"] == (bank.job_stages[index] + number) % 5
            revealed_by = -1 if stage.revealed_by is None else first + stage.revealed_by
            assert table["revealed_by"] == revealed_by
            assert row(state.parents_of, state.parents, s) == [first + p for p in stage.parents]
            assert table["unfinished_parents"] == len(stage.parents)
            children = [first + n for n, other in enumerate(job.stages) if number in other.parents]
            assert row(state.children_of, state.children, s) == children
            reveals = [first + n for n, x in enumerate(job.stages) if x.revealed_by == number]
            assert row(state.reveals_of, state.reveals, s) == reveals
            start, end = table["first_task"], table["first_task"] + table["num_tasks"]
            assert table["num_tasks"] == len(stage.tasks)
            for task, found in zip(stage.tasks, state.tasks[start:end], strict=True):
                assert found["stage"] == s
                if isinstance(task, LLMTask):
                    expected = (task.prompt_tokens, task.output_tokens)
                    assert (found["prompt_tokens"], found["output_tokens"]) == expected
                    assert found["demand"] == latency.demand_ticks(*expected)
                    assert table["output_limit"] == limit
                    needs.append(task.prompt_tokens + limit)
                else:
                    assert found["demand"] == round(task.duration_s * TICKS_PER_SECOND)
                    assert found["prompt_tokens"] == found["output_tokens"] == 0
                    assert table["output_limit"] == 0
            assert table["prompt_tokens"] == state.tasks["prompt_tokens"][start:end].sum()
            assert table["demand"] == state.tasks["demand"][start:end].sum()
        first += len(job.stages)
    assert first == len(state.stages)
    assert state.clock["largest_need"] == max(needs)


def test_nothing_has_happened_yet() -> None:
    state = begin(JobBank.from_jobs([one_job(LLMTask(5, 5), LLMTask(5, 5))]))
    for name in ("start", "end", "executor"):
        assert (state.tasks[name] == -1).all()
    assert (state.jobs["completion"] == -1).all()
    assert (state.stages["ready_slot"] == -1).all()
    assert not state.stages["visible"].any()
    assert (state.engines["event"] == NEVER).all()
    assert (state.executors["task"] == -1).all()
    assert state.clock["regular_free"] == len(state.executors) == 16
    assert state.sequences.shape == (4, 8)


def test_a_copy_shares_nothing() -> None:
    state = begin(JobBank.from_jobs([one_job(LLMTask(5, 5))]))
    for table, copied in zip(state, copy_state(state), strict=True):
        assert not np.shares_memory(table, copied)
        assert (table == copied).all()


@pytest.mark.parametrize(
    ("indices", "arrival_s", "message"),
    [
        ([], [], "job_indices: at least one is needed, each from 0 to 1"),
        ([2], [0.0], "job_indices: at least one is needed, each from 0 to 1"),
        ([-1], [0.0], "job_indices: at least one is needed, each from 0 to 1"),
        ([0, 1], [0.0], "arrival_s: 2 times are needed, got shape (1,)"),
        ([0, 1], [1.0, 0.5], "arrival_s: the times are not ascending"),
        ([0, 1], [1.0, np.nan], "arrival_s: the times are not ascending"),
        ([0], [-1.0], "arrival_s: -1 to -1 s is not within 0 to 4e+06 s"),
        ([0, 1], [0.0, 4.1e6], "arrival_s: 0 to 4.1e+06 s is not within 0 to 4e+06 s"),
        ([0], [np.nan], "arrival_s: nan to nan s is not within 0 to 4e+06 s"),
    ],
)
def test_impossible_episodes_are_refused(indices: Any, arrival_s: Any, message: str) -> None:
    bank = JobBank.from_jobs([one_job(LLMTask(1, 1)), one_job(RegularTask(1.0))])
    with pytest.raises(ValueError) as error:
        begin(bank, indices, arrival_s)
    assert str(error.value) == message


def test_the_time_limit() -> None:
    bank = JobBank.from_jobs([one_job(LLMTask(1, 1))])
    assert begin(bank).clock["limit"] == begin(bank, time_limit_s=1e9).clock["limit"]
    assert begin(bank, time_limit_s=2.5).clock["limit"] == 2.5 * TICKS_PER_SECOND
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="time_limit_s: .* is not above 0"):
            begin(bank, time_limit_s=limit)


def test_tasks_too_large_for_an_engine_are_refused() -> None:
    fits = JobBank.from_jobs([one_job(LLMTask(60, 40)), one_job(RegularTask(1.0))])
    small = replace(CLUSTER, latency=replace(CLUSTER.latency, kv_capacity_tokens=100))
    check_fits(fits, small)
    jobs = [one_job(LLMTask(60, 40)), one_job(LLMTask(61, 40)), one_job(LLMTask(1, 1))]
    too_large = JobBank.from_jobs([replace(job, application="big") for job in jobs])
    message = (
        "application big: a prompt of 61 tokens and 40 output tokens of job job exceed the KV "
        "capacity of cluster a100_llama2_7b, 100 tokens; on_bad_job=skip leaves such jobs out"
    )
    with pytest.raises(TaskTooLarge) as error:
        check_fits(too_large, small)
    assert str(error.value) == message
    canonical = np.full(3, -1)
    with pytest.raises(TaskTooLarge) as error:
        new_state(too_large, [0, 1], [0.0, 0.0], small, canonical)
    assert str(error.value) == message
    new_state(too_large, [0, 2], [0.0, 0.0], small, canonical)  # those of the episode fit


def test_beside_a_long_prompt_less_is_set_aside_for_the_output() -> None:
    """The longest prompt and the longest output need not belong to one task."""
    small = replace(CLUSTER, latency=replace(CLUSTER.latency, kv_capacity_tokens=100))
    jobs = [
        one_job(LLMTask(60, 40)),
        one_job(LLMTask(61, 1), LLMTask(1, 50)),
        one_job(LLMTask(1, 1)),
    ]
    bank = JobBank.from_jobs(jobs)
    assert bank.output_limit == [50]
    check_fits(bank, small)
    state = new_state(bank, [0, 1, 2], [0.0] * 3, small, np.full(3, -1))
    assert state.stages["output_limit"].tolist() == [40, 39, 50]
    assert state.clock["largest_need"] == 100


@pytest.mark.parametrize(
    "tasks", [[RegularTask(4e6), RegularTask(1e6)], [LLMTask(10, 10**5)], [RegularTask(1e6)] * 6]
)
def test_jobs_that_outlast_the_clock_are_refused(tasks: list[LLMTask | RegularTask]) -> None:
    slow = Cluster("slow", replace(CLUSTER.latency, a=60_000.0))  # a token a minute
    fits = [one_job(LLMTask(10, 1000)), one_job(*[RegularTask(1e6)] * 3)]
    check_fits(JobBank.from_jobs(fits), slow)
    message = (
        r"^application app: the tasks of job job may take [56].*e\+06 s in all, .* 4e\+06 s; "
        r"on_bad_job=skip leaves such jobs out$"
    )
    with pytest.raises(TaskTooLarge, match=message):
        check_fits(JobBank.from_jobs([*fits, one_job(*tasks)]), slow)
