"""Where means mislead: the example of the paper's Fig. 2 in spirit, worked out by hand."""

import numpy as np
import pytest

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.arrivals import Burst
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload
from support.one_slot import report, research


@pytest.fixture(scope="module")
def env() -> LLMSchedEnv:
    """Three jobs at time 0 on one slot: long research, short research, a report."""
    past = [
        *(research(f"{number}", number % 2 == 0) for number in range(100)),
        *(report(f"{number}") for number in range(50)),
    ]
    jobs = [research("1000", True), research("1001", False), report("1002")]
    workload = Workload(
        "figure_2", JobBank.from_jobs(jobs), JobBank.from_jobs(past), Burst(), replay=True
    )
    cluster = load_cluster("constant", engines=1, max_batch=1, regular_executors=1)
    return LLMSchedEnv(workload, cluster, num_jobs=3, belief="bayes", strict=True)


def completions(env: LLMSchedEnv, name: str, **options: float) -> list[float]:
    policy = make_policy(name, **options)
    observation, _ = env.reset(seed=0)
    policy.reset(0)
    over = False
    while not over:
        observation, _, over, _, _ = env.step(int(np.asarray(policy.act(observation))))
    return [float(x) for x in env.job_table()["completion_s"]]


def test_sjf_and_srtf_are_misled_by_the_mean(env: LLMSchedEnv) -> None:
    # The report (40 s) before the research jobs (52 s on average), these in order of arrival:
    # the long one (2 + 100 s) before the short one (2 s). SRTF sees the first plan's result and
    # is spared that.
    assert completions(env, "sjf") == pytest.approx([142, 144, 40])
    assert completions(env, "srtf") == pytest.approx([144, 44, 40])


def test_running_the_plans_early_shows_which_job_is_short(env: LLMSchedEnv) -> None:
    # Both plans (4 s) show that the second job is done; then the report, then the long job.
    explored = completions(env, "llmsched", epsilon=1)
    assert explored == pytest.approx([144, 4, 44])
    assert np.mean(explored) == pytest.approx(64)
    assert np.mean(completions(env, "sjf")) == pytest.approx(326 / 3)
    assert np.mean(completions(env, "srtf")) == pytest.approx(76)


def test_without_exploring_it_is_srtf(env: LLMSchedEnv) -> None:
    assert completions(env, "llmsched", epsilon=0) == completions(env, "srtf")
