"""The checks that users run on what they write: what comes with the gym passes, faults are seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmsched_gym.agents.base import (
    POLICIES,
    Observation,
    Policy,
    PriorityPolicy,
    Scores,
    job_feature,
    make_policy,
)
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.testing import check_environment, check_policy, check_workload
from llmsched_gym.workload.mixes import Workload, make_workload


@pytest.mark.parametrize("name", POLICIES)
def test_all_policies_pass(name: str) -> None:
    check_policy(make_policy(name))


@pytest.mark.parametrize("name", ["mixed", "planning", "web_search"])
def test_workloads_pass(name: str) -> None:
    check_workload(make_workload(name, jobs_per_application=50))


@pytest.mark.parametrize("options", [{}, {"belief": "none", "max_stages": 64}, {"time_limit": 5.0}])
def test_environments_pass(options: dict[str, Any]) -> None:
    check_environment(LLMSchedEnv(num_jobs=5, **options))


class Global(PriorityPolicy):
    def priority(self, observation: Observation) -> Scores:
        return np.random.random(observation["stage_mask"].shape)  # noqa: NPY002


class Remembering(PriorityPolicy):
    asked = 0

    def priority(self, observation: Observation) -> Scores:
        self.asked += 1
        return (self.asked % 3 - 1) * job_feature(observation, "age_s")


class Changing(PriorityPolicy):
    def priority(self, observation: Observation) -> Scores:
        observation["jobs"][..., 0] += 1
        return job_feature(observation, "age_s")


class Dishonest(PriorityPolicy):
    reads = ()

    def priority(self, observation: Observation) -> Scores:
        return -job_feature(observation, "gittins_s")


class First(Policy):
    def act(self, observation: Observation) -> Any:
        return 0


class OneByOne(PriorityPolicy):
    def priority(self, observation: Observation) -> Scores:
        assert observation["stage_mask"].ndim == 1
        return job_feature(observation, "age_s")


class Local(PriorityPolicy):
    def __init__(self) -> None:
        self.key: Any = lambda age: age

    def priority(self, observation: Observation) -> Scores:
        return self.key(job_feature(observation, "age_s"))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Global(), "decision 0: it drew from numpy's global generator"),
        (Remembering(), "differs with the same seed after an episode"),
        (Changing(), "decision 0: it changed 'jobs'"),
        (Dishonest(), r"differs with reads = \(\) alone: no other column is to determine"),
        (First(), "policy: decision [0-9]+: row 0: all .* tasks of the stage have started"),
        (OneByOne(), "a batch of [0-9]+ observations: AssertionError"),
        (Local(), "it cannot be pickled for other processes"),
        (First, "is no Policy; is it a class?"),
    ],
)
def test_faults_of_policies_are_seen(policy: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_policy(policy)


class Backwards:
    def draw(self, rng: np.random.Generator, count: int, rate: float) -> Any:
        return np.arange(count)[::-1] / rate


class Unseeded:
    def draw(self, rng: np.random.Generator, count: int, rate: float) -> Any:
        return np.sort(np.random.default_rng().random(count)) / rate


def test_faults_of_workloads_are_seen() -> None:
    fine = make_workload("planning", jobs_per_application=30)
    for wrong, message in (
        (Workload("known", fine.past, fine.past, fine.arrivals), "past jobs are evaluated too"),
        (replace(fine, arrivals=Backwards()), "arrivals are not ascending"),
        (replace(fine, arrivals=Unseeded()), "drawn again, the same seed gives other times"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_workload(wrong)


class Greedy(LLMSchedEnv):
    """Forgets in which space its observations lie."""

    def _observe(self) -> dict[str, Any]:
        observation = super()._observe()
        observation["cluster"] = observation["cluster"] - 1e9
        return observation


def test_faults_of_environments_are_seen() -> None:
    with pytest.raises(AssertionError, match="^environment: "):
        check_environment(Greedy(num_jobs=3))
