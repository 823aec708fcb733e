"""What a cluster can run and count, and what becomes of the jobs that are beyond it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched_gym.cluster.limits import TaskTooLarge, fitted, set_aside, too_large, uncountable
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.cluster.ticks import LONGEST_JOB_S
from llmsched_gym.workload.arrivals import Burst, Recorded
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import MAX_DURATION_S, Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import Workload, make_workload
from llmsched_gym.workload.traces import write_traces

CLUSTER = load_cluster("a100_llama2_7b")


def job(number: int, *tasks: LLMTask | RegularTask, application: str = "chat") -> Job:
    kind = Kind.LLM if isinstance(tasks[0], LLMTask) else Kind.REGULAR
    return Job(application, str(number), (Stage("stage", kind, (), tasks),))


def jobs(*first: Job, count: int = 5, start: int = 0) -> list[Job]:
    return [*first, *(job(start + 100 + number, LLMTask(10, 10)) for number in range(count))]


def workload(
    bank: list[Job], past: list[Job] | None = None, on_bad_job: str = "error", **more: Any
) -> Workload:
    before = JobBank.from_jobs(past or jobs(start=1000))
    return Workload("own", JobBank.from_jobs(bank), before, Burst(), on_bad_job=on_bad_job, **more)


def test_one_clock_for_tasks_and_jobs() -> None:
    assert MAX_DURATION_S == LONGEST_JOB_S


def test_the_job_that_is_too_large_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    write_traces(file, jobs(job(1, LLMTask(10, 10)), job(2, LLMTask(9, 200_000))))
    past = tmp_path / "past.jsonl"
    write_traces(past, jobs(start=1000))
    with pytest.raises(TaskTooLarge) as error:
        fitted(make_workload("traces", path=file, train_path=past), CLUSTER)
    assert str(error.value) == (
        f"application chat: a prompt of 9 tokens and 200000 output tokens of job 2 ({file}:2) "
        "exceed the KV capacity of cluster a100_llama2_7b, 107810 tokens; on_bad_job=skip leaves "
        "such jobs out"
    )


def test_too_large_jobs_are_left_out_on_request_with_their_number() -> None:
    large = job(1, LLMTask(9, 200_000)), job(2, *[RegularTask(3e6)] * 2)
    given = workload(jobs(*large), jobs(job(3, LLMTask(1, 8_000_000)), start=1000), "skip")
    left = fitted(given, CLUSTER)
    assert left.bank.jobs() == jobs()
    assert left.past.jobs() == jobs(start=1000)
    (note,) = left.notes
    assert note.startswith(
        "too large for cluster a100_llama2_7b: 2 of 7 jobs left out, first application chat: a "
        "prompt of 9 tokens and 200000 output tokens of job 1 exceed the KV capacity of cluster "
        "a100_llama2_7b, 107810 tokens; 1 of 6 past jobs left out, first application chat: the "
        "tasks of past job 3 take 1"
    )
    assert fitted(left, CLUSTER) is left
    with pytest.raises(TaskTooLarge, match=r"^application chat: a prompt .* job 1 .*\(and 1 more"):
        fitted(replace(given, on_bad_job="error"), CLUSTER)


def test_those_left_keep_their_arrivals() -> None:
    bank = [job(0, LLMTask(1, 1)), job(1, LLMTask(1, 200_000)), *jobs(count=2)]
    times = Recorded([0.0, 1.0, 3.0, 7.0])
    given = replace(workload(bank, on_bad_job="skip"), arrivals=times, replay=True)
    left = fitted(given, CLUSTER)
    _, arrival_s = left.draw(np.random.default_rng(0), 3, 2 / 7)
    np.testing.assert_allclose(arrival_s, [0, 3, 7])


@pytest.mark.parametrize("on_bad_job", ["error", "skip"])
def test_what_fits_stays_the_same_workload(on_bad_job: str) -> None:
    given = workload(jobs(), on_bad_job=on_bad_job)
    assert fitted(given, CLUSTER) is given


def test_if_nothing_is_left_it_is_said_why() -> None:
    large = [job(1, LLMTask(9, 200_000))]
    with pytest.raises(
        TaskTooLarge, match=r"^no job fits cluster a100_llama2_7b: 1 of 1 jobs left"
    ):
        fitted(workload(large, on_bad_job="skip"), CLUSTER)
    with pytest.raises(TaskTooLarge, match=r"^no past job fits cluster .*: 1 of 1 past jobs left"):
        fitted(workload(jobs(), [job(1, LLMTask(2**31 - 1, 1))], "skip"), CLUSTER)


@pytest.mark.parametrize(
    "tasks",
    [
        [LLMTask(1, 8_000_000)],
        [LLMTask(2**31 - 1, 1)],
        [LLMTask(2**31 - 1, 2**31 - 1)],
        [LLMTask(1, 2**31 - 1)],
        [RegularTask(4e6), RegularTask(1.0)],
        [LLMTask(10_000, 100_000)] * 3000,
    ],
)
def test_past_jobs_beyond_the_clock_are_refused(tasks: list[LLMTask | RegularTask]) -> None:
    past = jobs(job(7, *tasks), start=1000)
    assert list(uncountable(JobBank.from_jobs(past), CLUSTER)) == [0]
    with pytest.raises(
        TaskTooLarge, match=r"^application chat: .* past job 7 take .* 4e\+06 s; on_"
    ):
        fitted(workload(jobs(), past), CLUSTER)


def test_past_jobs_need_not_fit_an_engine() -> None:
    past = jobs(job(7, LLMTask(100_000, 50_000)), start=1000)
    assert fitted(workload(jobs(), past), CLUSTER).past.job_ids[0] == "7"


def test_whether_a_job_fits_is_its_own_affair() -> None:
    """No job is refused for the length of another: the limit of the application gives way."""
    fits = job(0, LLMTask(107_800, 10))
    assert not too_large(JobBank.from_jobs([fits, job(1, LLMTask(10, 90_000))]), CLUSTER)
    bank = workload([fits, *jobs()], jobs(job(1, LLMTask(10, 90_000)), start=1000)).bank
    assert bank.output_limit == [131_072]
    assert set_aside(bank, CLUSTER)[0] == 10
    assert not too_large(bank, CLUSTER)


def test_what_runs_beyond_its_limit_counts_for_how_long_others_take() -> None:
    slow = replace(CLUSTER, latency=replace(CLUSTER.latency, d=0.3), max_batch=100)
    bank = workload([job(0, LLMTask(1, 20_000))]).bank
    assert bank.output_limit == [16]
    (why,) = too_large(bank, slow).values()
    # each of 20,000 iterations with up to 2,000,100 tokens held: 600 s
    assert "may take 1.2" in why
