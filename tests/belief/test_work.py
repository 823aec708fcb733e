"""Work on engines: what a task takes of the others, and what is believed of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.belief.fitting import fit_profile, load_or_fit
from llmsched_gym.belief.inference import compile_profile
from llmsched_gym.belief.networks import BAYES, PRIOR
from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings
from llmsched_gym.belief.work import WorkRates, task_seconds, work_rates
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, RegularTask, Stage
from llmsched_gym.workload.mixes import make_workload
from support.enumeration import Expected, nearest_bin
from support.moments import believe
from support.random_cases import random_case

SEEDS = st.integers(0, 2**32 - 1)
PLAIN = BeliefSettings(min_jobs=10**9)


def random_rates(rng: np.random.Generator, profile: BeliefProfile) -> dict[str, WorkRates]:
    nothing = WorkRates((), np.zeros(2))
    return {"": nothing} | {
        name: WorkRates(
            tuple(rng.uniform(0, 2, len(bins)) for bins in network.demand_bins),
            rng.uniform(0, 2, 2),
        )
        for name, network in profile.networks.items()
    }


@settings(max_examples=60)
@given(SEEDS)
def test_expected_work_is_exact(seed: int) -> None:
    """Against the sum over the whole joint distribution, of stages and of the job."""
    rng = np.random.default_rng(seed)
    profile, moment = random_case(rng)
    rates = random_rates(rng, profile)
    for mode in (BAYES, PRIOR):
        beliefs = believe(profile, moment, mode, rates)
        expected = Expected(profile, moment, mode == BAYES, rates)
        for c in range(expected.count):
            work_s = expected.stage(c)["work_s"]
            assert beliefs.stages["work_s"][0, c] == pytest.approx(work_s, rel=1e-9, abs=1e-9)
        work_s = expected.job()["work_llm_s"]
        assert beliefs.jobs["work_llm_s"][0] == pytest.approx(work_s, rel=1e-9, abs=1e-8)


def test_the_rates_of_bins_are_those_of_their_past_stages() -> None:
    """Job by job, on applications with plans, fan-outs, tools and hidden stages."""
    cluster = load_cluster("a100_llama2_7b")
    past = make_workload("mixed", jobs_per_application=60).past
    profile = fit_profile(past, cluster.latency, PLAIN)
    demand: dict[tuple[str, int, int], float] = {}
    work: dict[tuple[str, int, int], float] = {}
    for number in range(len(past)):
        job = past.job(number)
        network, names = profile.networks[job.application], job.canonical_names()
        for stage, name in zip(job.stages, names, strict=True):
            c = profile.templates[job.application].stages.index(name)
            alone, taken = seconds_of(stage, cluster)
            key = (job.application, c, nearest_bin(network.demand_bins[c], alone))
            demand[key] = demand.get(key, 0.0) + alone
            work[key] = work.get(key, 0.0) + taken
    rates = work_rates(profile, past, cluster)
    for (name, c, state), seconds in demand.items():
        expected = work[name, c, state] / seconds
        assert rates[name].stages[c][state] == pytest.approx(expected, rel=1e-9)
    assert len(demand) > 100


def seconds_of(stage: Stage, cluster: Cluster) -> tuple[float, float]:
    """What a stage takes alone, and of the others."""
    alone = taken = 0.0
    for task in stage.tasks:
        if isinstance(task, RegularTask):
            alone, taken = alone + task.duration_s, taken + task.duration_s
        else:
            tokens = task.prompt_tokens, task.output_tokens
            alone += float(cluster.latency.demand_s(*tokens))
            taken += float(cluster.latency.engine_seconds(*tokens, cluster.max_batch))
    return alone, taken


def test_work_is_demand_with_one_sequence_an_engine() -> None:
    cluster = load_cluster("a100_llama2_7b", max_batch=1)
    past = make_workload("planning", jobs_per_application=60).past
    profile = fit_profile(past, cluster.latency, PLAIN)
    for one in work_rates(profile, past, cluster).values():
        for rates in (*one.stages, one.tasks):
            assert rates[rates > 0] == pytest.approx(1.0, rel=1e-9)


def test_an_application_with_tools_alone() -> None:
    stage = Stage("tool", Kind.REGULAR, (), (RegularTask(2.0),))
    past = JobBank.from_jobs(Job("app", str(number), (stage,)) for number in range(3))
    cluster = load_cluster("constant")
    rates = work_rates(fit_profile(past, cluster.latency), past, cluster)["app"]
    assert rates.stages[0].tolist() == [0.0, 1.0]
    assert rates.tasks.tolist() == [0.0, 1.0]


def test_the_work_of_a_full_engine_is_its_time() -> None:
    """Eight alike sequences that begin together end after eight times their engine work."""
    latency = load_cluster("a100_llama2_7b").latency
    prompt, output, batch = 300, 120, 8
    together = latency.prefill_ticks(prompt) * batch + sum(
        latency.decode_ticks(batch, batch * (prompt + done)) for done in range(1, output)
    )
    work = latency.engine_seconds(prompt, output, batch) * batch
    assert float(work) == pytest.approx(float(together) / 1e12, rel=1e-9)


def test_mean_work_of_past_jobs_is_that_of_the_prior() -> None:
    """The mean over all past jobs, up to the weight of what was never seen."""
    cluster = load_cluster("a100_llama2_7b")
    past = make_workload("planning").past
    profile = load_or_fit(past, cluster.latency)
    networks = compile_profile(profile, past.applications, work_rates(profile, past, cluster))
    llm = past.output_tokens > 0
    work = cluster.latency.engine_seconds(
        past.prompt_tokens[llm], past.output_tokens[llm], cluster.max_batch
    )
    demand = task_seconds(past, cluster.latency)[llm]
    jobs = np.bincount(past.job_application)
    assert networks.tasks["job_work_s"][:, 0] @ jobs == pytest.approx(work.sum(), rel=0.02)
    assert work.sum() < 0.5 * demand.sum(), "eight share an iteration"
