"""Named scenarios: what a name stands for, in one environment, in many and on the command line."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest

from llmsched_gym.agents import make_policy
from llmsched_gym.cluster import load_cluster
from llmsched_gym.commands.groups import groups, training_groups
from llmsched_gym.env import SCENARIOS, LLMSchedEnv, NamedScenario, named_scenario
from llmsched_gym.env.named import PRESET
from llmsched_gym.evaluation import play
from llmsched_gym.workload.mixes import ARRIVALS, WORKLOADS, make_workload

each = pytest.mark.parametrize("name", SCENARIOS)


def made(**options: Any) -> LLMSchedEnv:
    env = gymnasium.make("LLMSched-v0", **options).unwrapped
    assert isinstance(env, LLMSchedEnv)
    return env


def spelled(one: NamedScenario, **options: Any) -> LLMSchedEnv:
    cluster = load_cluster(PRESET, engines=one.engines, regular_executors=one.regular_executors)
    workload = make_workload(one.workload, arrivals=one.arrivals)
    return LLMSchedEnv(workload, cluster, load=one.load, **options)


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key]) for key in first
    )


@each
def test_a_scenario_says_what_it_tests_and_names_what_there_is(name: str) -> None:
    one = SCENARIOS[name]
    assert re.fullmatch(r"\w+", name)
    assert one.tests
    assert "\n" not in one.tests
    assert one.workload in WORKLOADS
    assert one.arrivals in (*ARRIVALS, None)


def test_no_two_scenarios_are_alike() -> None:
    assert len({(one.workload, *one.__dict__.values()) for one in SCENARIOS.values()}) == 12
    assert len({one.tests for one in SCENARIOS.values()}) == 12


@pytest.mark.parametrize("name", ["fact_checking", "bursty", "tool_scarce"])
def test_a_scenario_is_the_options_that_it_stands_for(name: str) -> None:
    one = SCENARIOS[name]
    env, other = (
        made(scenario=name, belief="none"),
        spelled(one, num_jobs=one.num_jobs, belief="none"),
    )
    assert (env.num_jobs, env.rate, env.cluster) == (one.num_jobs, other.rate, other.cluster)
    assert env.observation_space == other.observation_space
    assert same(env.reset(seed=3)[0], other.reset(seed=3)[0])
    assert np.array_equal(env.state.jobs, other.state.jobs)


@pytest.mark.slow
@each
def test_a_scenario_is_played_to_its_end(name: str) -> None:
    env = made(scenario=name, num_jobs=4, strict=True)
    episode = play(env, make_policy("srtf"), "srtf", 0, 0)
    assert (episode.jobs["jct_s"] > 0).all()


def test_options_beside_a_scenario_replace_its_own() -> None:
    env = made(scenario="large", num_jobs=7, load=0.5, cluster="a100_llama2_7b", belief="none")
    assert (env.num_jobs, env.cluster.engines, env.workload.name) == (7, 4, "planning")
    large = made(scenario="large", num_jobs=7, belief="none")
    assert env.rate == pytest.approx(large.rate * 0.5 / 1.3 / 2)
    by_rate = made(scenario="large", num_jobs=7, arrival_rate=2.0, belief="none")
    assert by_rate.rate == 2.0


def test_many_clusters_of_a_scenario_are_those_of_single_ones() -> None:
    many = gymnasium.make_vec(
        "LLMSched-v0", num_envs=2, scenario="both_scarce", num_jobs=5, belief="none"
    )
    one = made(scenario="both_scarce", num_jobs=5, belief="none")
    shown, _ = many.reset(seed=8)
    for number in range(2):
        alone, _ = one.reset(seed=8 + number)
        assert all(np.array_equal(shown[key][number], alone[key]) for key in alone)
    many.close()


def test_an_environment_can_be_made_again_from_its_spec() -> None:
    first = gymnasium.make("LLMSched-v0", scenario="tool_agent", num_jobs=3, belief="none")
    assert first.spec is not None
    again = gymnasium.make(first.spec)
    assert again.unwrapped.workload.name == "tool_agent"  # type: ignore[attr-defined]
    assert same(first.reset(seed=1)[0], again.reset(seed=1)[0])


@pytest.mark.parametrize("name", ["fact_cheking", "", 3, ["large"]])
def test_an_unknown_name_is_told_with_those_that_there_are(name: Any) -> None:
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(ValueError, match=r"^scenario: unknown .*choose from .*fact_checking"):
            make("LLMSched-v0", scenario=name)
    with pytest.raises(ValueError, match="did you mean 'fact_checking'"):
        named_scenario("fact_cheking")


@each
def test_the_commands_have_each_scenario(name: str) -> None:
    for choices in (groups(), training_groups()):
        node, one = choices["scenario"][name], SCENARIOS[name]
        assert node["defaults"] == [{"override /workload": one.workload}]
        assert node["num_jobs"] == one.num_jobs
        assert node["workload"] == {"load": one.load, "arrivals": one.arrivals}
