"""JobBank: the flat arrays say what the jobs said."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.workload.bank import JobBank, limits_from_past
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from support.strategies import banks, job_lists, jobs, llm, tool


def with_sorted_parents(job: Job) -> Job:
    """The same job, the parents of each stage in rising order."""
    stages = (replace(stage, parents=tuple(sorted(stage.parents))) for stage in job.stages)
    return replace(job, stages=tuple(stages))


@given(job_lists(max_size=4))
def test_packing_loses_nothing_but_the_order_of_parents(given_jobs: list[Job]) -> None:
    bank = JobBank.from_jobs(given_jobs)
    assert len(bank) == len(given_jobs)
    assert bank.jobs() == [with_sorted_parents(job) for job in given_jobs]


@given(banks(max_size=4))
def test_packing_again_gives_the_same_arrays(bank: JobBank) -> None:
    again = JobBank.from_jobs(bank.jobs())
    for field in fields(JobBank):
        first, second = getattr(bank, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(first, second, err_msg=field.name)
        if isinstance(first, np.ndarray):
            assert first.dtype == (np.float64 if field.name == "duration_s" else np.int64)


@given(job_lists(max_size=4))
def test_parents_and_revealers_are_numbered_as_in_their_job(given_jobs: list[Job]) -> None:
    bank = JobBank.from_jobs(given_jobs)
    stages = [stage for job in given_jobs for stage in job.stages]
    revealers = [-1 if stage.revealed_by is None else stage.revealed_by for stage in stages]
    assert bank.stage_revealed_by.tolist() == revealers
    rows = zip(bank.stage_parents[:-1], bank.stage_parents[1:], stages, strict=True)
    for first, last, stage in rows:
        assert bank.parents[first:last].tolist() == sorted(stage.parents)


@given(st.data(), banks(max_size=4))
def test_selected_jobs_are_those_jobs(data: st.DataObject, bank: JobBank) -> None:
    indices = data.draw(st.lists(st.integers(0, len(bank) - 1), min_size=1))
    assert bank.select(indices).jobs() == [bank.job(index) for index in indices]


def test_arrays_of_two_jobs_by_hand() -> None:
    first = Job(
        "b",
        "first",
        (
            Stage("end", Kind.LLM, (1, 2), (LLMTask(7, 8),)),
            Stage("plan", Kind.LLM, (), (LLMTask(1, 2), LLMTask(3, 40))),
            Stage("tool", Kind.REGULAR, (1,), (RegularTask(0.5),), revealed_by=1),
        ),
    )
    bank = JobBank.from_jobs([first, Job("a", "second", (tool("plan"),))])
    assert bank.applications == ("a", "b")
    assert bank.stage_names == ("end#1", "plan#1", "tool#1")
    assert bank.job_ids == ("first", "second")
    expected = {
        "job_application": [1, 0],
        "job_stages": [0, 3, 4],
        "stage_name": [0, 1, 2, 1],
        "stage_kind": [0, 0, 1, 1],
        "stage_revealed_by": [-1, -1, 1, -1],
        "stage_parents": [0, 2, 2, 3, 3],
        "parents": [1, 2, 1],
        "stage_tasks": [0, 1, 3, 4, 5],
        "prompt_tokens": [7, 1, 3, 0, 0],
        "output_tokens": [8, 2, 40, 0, 0],
        "duration_s": [0.0, 0.0, 0.0, 0.5, 1.0],
        "output_limit": [1, 40],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(bank, name), values, err_msg=name)


@given(job_lists(min_size=2, max_size=4))
def test_output_limit_is_the_longest_output_of_the_application(given_jobs: list[Job]) -> None:
    bank = JobBank.from_jobs(given_jobs)
    for application, limit in zip(bank.applications, bank.output_limit, strict=True):
        outputs = [
            task.output_tokens
            for job in given_jobs
            if job.application == application
            for stage in job.stages
            for task in stage.tasks
            if isinstance(task, LLMTask)
        ]
        assert limit == max(outputs, default=1)


def test_same_name_in_two_applications_is_one_name() -> None:
    bank = JobBank.from_jobs([Job("a", "1", (llm("x"),)), Job("b", "2", (tool("x"),))])
    assert bank.stage_names == ("x#1",)
    assert [job.application for job in bank.jobs()] == ["a", "b"]


@given(jobs())
def test_one_job_makes_a_bank(job: Job) -> None:
    assert len(JobBank.from_jobs(iter([job]))) == 1


def test_no_job_makes_no_bank() -> None:
    with pytest.raises(ValueError, match="at least one job"):
        JobBank.from_jobs([])


def of_output(application: str, tokens: int) -> Job:
    return Job(application, f"{tokens}", (Stage("x", Kind.LLM, (), (LLMTask(1, tokens),)),))


def test_past_jobs_tell_the_output_limits_and_the_jobs_themselves_do_not() -> None:
    past = [of_output("a", 3), of_output("a", 1025), of_output("b", 1024), of_output("c", 5)]
    past.append(Job("tools", "t", (tool(),)))
    jobs = [of_output(name, 77) for name in ("a", "b", "c", "new")]
    jobs.append(Job("tools", "u", (tool(),)))
    bank = limits_from_past(JobBank.from_jobs(jobs), JobBank.from_jobs(past))
    limits = dict(zip(bank.applications, bank.output_limit.tolist(), strict=True))
    assert limits == {"a": 2048, "b": 1024, "c": 16, "new": 2048, "tools": 2048}
    longer = [replace(of_output(name, 9999), job_id="77") for name in ("a", "b", "c", "new")]
    other = limits_from_past(JobBank.from_jobs([*longer, jobs[-1]]), JobBank.from_jobs(past))
    np.testing.assert_array_equal(bank.output_limit, other.output_limit)
    assert limits_from_past(bank, JobBank.from_jobs(past)) is bank
    none = limits_from_past(bank, JobBank.from_jobs([past[-1]]))
    assert set(none.output_limit.tolist()) == {16}
