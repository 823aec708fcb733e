"""The jobs that ship: our own, enough of each application, and found by a short name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmsched_gym.workload import Job, RegularTask, make_workload, read_traces, sample_path
from llmsched_gym.workload.fitting.sample import sample_jobs


def sizes(job: Job) -> list[float]:
    """Tokens, each way, or seconds of every task."""
    return [
        size
        for task in job.tasks()
        for size in (
            (task.duration_s,)
            if isinstance(task, RegularTask)
            else (task.prompt_tokens, task.output_tokens)
        )
    ]


def test_they_are_what_our_applications_draw() -> None:
    shipped, drawn = read_traces(sample_path()), sample_jobs()
    assert len(shipped) == len(drawn) == 40
    for job, again in zip(shipped, drawn, strict=True):
        assert (job.application, job.job_id) == (again.application, again.job_id)
        assert [stage.name for stage in job.stages] == [stage.name for stage in again.stages]
        np.testing.assert_allclose(sizes(job), sizes(again), rtol=1e-6)
        assert job.arrival_s == pytest.approx(again.arrival_s)


def test_they_arrive_one_after_the_other() -> None:
    times = [job.arrival_s for job in read_traces(sample_path())]
    assert times[0] == 0
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]


def test_the_workload_called_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workload = make_workload("traces", path="sample", replay=True)
    evaluated = Counter(job.application for job in workload.bank.jobs())
    past = Counter(job.application for job in workload.past.jobs())
    assert len(evaluated) == 4
    assert evaluated.total() + past.total() == 40
    assert min(past.values()) >= 4
    assert min(evaluated.values()) >= 1
    (tmp_path / "sample").mkdir()  # what is there comes first
    with pytest.raises(ValueError, match=r"sample: no \*\.jsonl file in this folder"):
        make_workload("traces", path="sample")
