"""Where the mean misleads and the Gittins index does not, worked out by hand."""

import numpy as np
import pytest

from llmsched_gym.agents.base import make_policy
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.features import JOB
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.arrivals import Burst, Poisson
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload
from support.observations import observation
from support.one_slot import report, research

PAST = [
    *(research(f"past-{number}", number % 2 == 0) for number in range(1000)),
    *(report(f"past-{number}") for number in range(50)),
]
ONE_SLOT = load_cluster("constant", engines=1, max_batch=1, regular_executors=1)


def completions(env: LLMSchedEnv, name: str, seed: int = 0) -> list[float]:
    policy = make_policy(name)
    observation, _ = env.reset(seed=seed)
    policy.reset(seed)
    over = False
    while not over:
        observation, _, over, _, _ = env.step(int(np.asarray(policy.act(observation))))
    return [float(x) for x in env.job_table()["jct_s"]]


def burst(*long: bool) -> LLMSchedEnv:
    """Research jobs and a report, all at time 0, on one slot."""
    jobs = [*(research(f"{number}", some) for number, some in enumerate(long)), report("r")]
    workload = Workload(
        "burst", JobBank.from_jobs(jobs), JobBank.from_jobs(PAST), Burst(), replay=True
    )
    return LLMSchedEnv(workload, ONE_SLOT, num_jobs=len(jobs), strict=True)


def test_the_least_index_goes_first_and_ties_go_by_arrival() -> None:
    jobs = [{"gittins_s": 5.0}, {"gittins_s": 3.0}, {"gittins_s": 3.0, "demand_s": 1.0}]
    stages = [{"job": job} for job in (0, 1, 1, 2)]
    policy = make_policy("gittins")
    assert policy.needs_belief
    assert policy.act(observation(jobs, stages)) == 1
    assert policy.act(observation(jobs, [stages[0], {"job": 1, "legal": 0}, *stages[2:]])) == 2


def test_an_index_by_hand() -> None:
    """2 s complete every second research job: 4 s for each. A report takes its 40 s."""
    env = burst(True, False)
    observation, _ = env.reset(seed=0)
    index = observation["jobs"][:3, JOB["gittins_s"]]
    assert index == pytest.approx([2 / 0.5, 2 / 0.5, 40], rel=0.01)
    mean = observation["jobs"][:3, JOB["demand_s"]]
    assert mean == pytest.approx([2 + 0.5 * 100, 52, 40], rel=0.01)


@pytest.mark.parametrize(
    ("long", "gittins", "srtf"),
    [
        # Gittins runs both plans (4 s before 40 s), then the report (40 s before 100 s), then the
        # work they revealed. SRTF runs the report first (40 s before 52 s on average), then both
        # plans (52 s before 100 s), then the work.
        ((False, False), [2, 4, 44], [42, 44, 40]),
        ((False, True), [2, 144, 44], [42, 144, 40]),
        ((True, False), [144, 4, 44], [144, 44, 40]),
        ((True, True), [144, 244, 44], [144, 244, 40]),
    ],
)
def test_plans_go_before_a_report(
    long: tuple[bool, bool], gittins: list[float], srtf: list[float]
) -> None:
    env = burst(*long)
    assert completions(env, "gittins") == pytest.approx(gittins)
    assert completions(env, "srtf") == pytest.approx(srtf)


def test_it_pays_on_average() -> None:
    """Over the four cases, which are equally likely: 4 s more for the report, 40 s less for each
    short job, of which there is one on average: (4 - 40) / 3 = -12 s."""
    cases = [burst(a, b) for a in (False, True) for b in (False, True)]
    mean = {
        name: np.mean([completions(env, name) for env in cases]) for name in ("gittins", "srtf")
    }
    assert mean["gittins"] - mean["srtf"] == pytest.approx(-12)


def test_it_pays_in_a_queue() -> None:
    """The same jobs arriving at random, at 95 % load of the only slot."""
    jobs = [research(f"{number}", number % 2 == 0) for number in range(10)]
    jobs += [report(f"{number}") for number in range(10)]
    workload = Workload("queue", JobBank.from_jobs(jobs), JobBank.from_jobs(PAST), Poisson())
    env = LLMSchedEnv(workload, ONE_SLOT, num_jobs=200, arrival_rate=0.95 / 46, strict=True)
    gittins, srtf = (
        [np.mean(completions(env, name, seed)) for seed in range(5)] for name in ("gittins", "srtf")
    )
    assert np.mean(gittins) < 0.95 * np.mean(srtf)
    assert (np.array(gittins) < srtf).all()
