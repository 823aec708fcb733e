"""Jobs that are too large for the cluster, where on_bad_job=skip leaves them out."""

from __future__ import annotations

from pathlib import Path

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.experiments.cells import Bench, Place
from llmsched_gym.experiments.plan import digest, left_out
from llmsched_gym.experiments.play import _empty_cluster, environment
from llmsched_gym.workload.arrivals import Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage
from llmsched_gym.workload.mixes import Workload


def bank(*outputs: int, source: str = "") -> JobBank:
    return JobBank.from_jobs(
        Job("chat", f"{n}", (Stage("x", Kind.LLM, (), (LLMTask(10, n),)),), source=source)
        for n in outputs
    )


def test_all_parts_of_an_experiment_leave_out_the_same_jobs(tmp_path: Path) -> None:
    cluster = load_cluster("a100_llama2_7b")
    workload = Workload("own", bank(500_000, 10, 900), bank(1, 2), Poisson(), on_bad_job="skip")
    bench = Bench({"own": workload}, cluster, 0, tmp_path, {"own": "x"}, "y")
    env = environment(bench, Place("own", 1.0, 2), "none", BeliefSettings(), 2)
    assert env.bank.job_ids == ("10", "900")
    short, long = _empty_cluster(bench, Place("own", 1.0, 2)).alone_s([0, 1])
    assert short < long < 30
    (note,) = left_out([workload], cluster)
    assert note in env.workload.notes
    assert "1 of 3 jobs left out" in note


def test_results_do_not_depend_on_where_a_trace_lies() -> None:
    here, there = (
        Workload("own", bank(5, 10, source=source), bank(1, 2, source=source), Poisson())
        for source in ("a.jsonl:1", "b.jsonl:1")
    )
    assert digest(here) == digest(there)
    assert digest(here) != digest(Workload("own", bank(5, 11), bank(1, 2), Poisson()))
