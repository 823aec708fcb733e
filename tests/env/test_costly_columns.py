"""Costly columns are worked out where they are wanted, and nothing else depends on them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmsched_gym.agents.base import POLICIES, Actions, Observation, Policy, make_policy
from llmsched_gym.env.features import COSTLY, JOB, STAGE
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from llmsched_gym.evaluation.episodes import play
from support.sampled import sampled

SIZES: dict[str, Any] = {"num_jobs": 6, "load": 3.0, "max_stages": 128}
WHERE = {"gittins_s": ("jobs", JOB), "uncertainty_reduction": ("stages", STAGE)}
CHOICES = [(), ("gittins_s",), ["uncertainty_reduction"], COSTLY]


def column(observation: Observation, name: str) -> NDArray[Any]:
    table, numbers = WHERE[name]
    return observation[table][..., numbers[name]]


def episode(env: LLMSchedEnv, **options: Any) -> Iterator[Observation]:
    """The observations of an episode of random actions."""
    rng, over = np.random.default_rng(0), False
    observation, info = env.reset(seed=3, options=options)
    while not over:
        yield observation
        action = rng.choice(np.flatnonzero(info["action_mask"]))
        observation, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated


def without(observation: Observation, names: set[str]) -> dict[str, NDArray[Any]]:
    """A copy with zeros in some columns."""
    seen = copy.deepcopy(dict(observation))
    for name in names:
        column(seen, name)[...] = 0.0
    return seen


@sampled("belief", ["bayes", "prior", "oracle"])
@pytest.mark.parametrize("wanted", CHOICES)
def test_others_are_zero_and_the_rest_is_as_ever(belief: str, wanted: Any) -> None:
    unwanted, told = set(COSTLY) - set(wanted), dict.fromkeys(COSTLY, 0.0)
    whole = LLMSchedEnv(belief=belief, **SIZES)
    envs = episode(LLMSchedEnv(belief=belief, columns=wanted, **SIZES))
    resets = episode(LLMSchedEnv(belief=belief, **SIZES), columns=wanted)
    for expected, seen, again in zip(episode(whole), envs, resets, strict=True):
        shown = whole.look()
        for name in COSTLY:
            told[name] += float(column(expected, name).sum())
        for key, table in without(expected, unwanted).items():
            np.testing.assert_array_equal(seen[key], table)
            np.testing.assert_array_equal(again[key], table)
            np.testing.assert_array_equal(shown[key], expected[key])
    assert told["gittins_s"] > 0
    assert (told["uncertainty_reduction"] > 0) == (belief != "oracle")


def test_an_episode_goes_on_with_the_columns_that_it_began_with() -> None:
    env = LLMSchedEnv(**SIZES)
    other = LLMSchedEnv(**SIZES)
    seen = list(episode(env, columns=["gittins_s"]))
    steps = episode(env, columns=["gittins_s"])
    for _ in range(5):
        next(steps)
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env)), other]
    other.restore(env.snapshot())
    for twin in twins:
        rng = np.random.default_rng(1)
        for _ in range(30):
            shown = twin.look()
            assert column(shown, "gittins_s").any()
            assert not column(shown, "uncertainty_reduction").any()
            legal = np.flatnonzero(twin.action_masks())
            observation, *_ = twin.step(rng.choice(legal))
        np.testing.assert_array_equal(column(observation, "uncertainty_reduction"), 0)
    again = list(episode(env))
    assert any(column(one, "uncertainty_reduction").any() for one in again)
    assert not any(column(one, "uncertainty_reduction").any() for one in seen)


@pytest.mark.parametrize("wanted", CHOICES)
def test_many_clusters(wanted: Any) -> None:
    one = LLMSchedEnv(columns=wanted, **SIZES)
    many = LLMSchedVectorEnv(3, columns=wanted, **SIZES)
    alone, _ = one.reset(seed=1)
    together, _ = many.reset(seed=0)
    for _ in range(60):
        for key, table in alone.items():
            np.testing.assert_array_equal(together[key][1], table)
        actions = together["action_mask"].argmax(axis=1)
        together, *_ = many.step(actions)
        alone, *_ = one.step(actions[1])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            ["gittins"],
            r"unknown 'gittins' \(did you mean 'gittins_s'\?\), choose from gittins_s,",
        ),
        (["demand_s", "gittins_s"], "unknown 'demand_s', choose from"),
        ([3], "unknown 3, choose from"),
        ("gittins_s", "'gittins_s' is no list of names"),
        (True, "True is no list of names"),
    ],
)
def test_other_names_are_refused(columns: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"^columns: {said}"):
        LLMSchedEnv(columns=columns, **SIZES)
    with pytest.raises(ValueError, match=f"^columns: {said}"):
        LLMSchedVectorEnv(2, columns=columns, **SIZES)
    with pytest.raises(ValueError, match=f"^columns: {said}"):
        LLMSchedEnv(**SIZES).reset(options={"columns": columns})


# --- What policies say they read --------------------------------------------------------------


class Poisoned(Policy):
    """Asks another policy, which finds nonsense in the costly columns that it does not read."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.noise = np.random.default_rng(0)

    def reset(self, seed: int | None = None) -> None:
        self.policy.reset(seed)

    def act(self, observation: Observation) -> Actions:
        seen = copy.deepcopy(dict(observation))
        assert self.policy.reads is not None
        for name in set(COSTLY) - set(self.policy.reads):
            values = column(seen, name)
            values[...] = self.noise.choice([np.nan, np.inf, -1e9, 1e9], values.shape)
        return self.policy.act(seen)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_read_what_they_say_and_no_more(name: str) -> None:
    env = LLMSchedEnv(strict=True, **SIZES)
    everything = make_policy(name)
    everything.reads = None  # type: ignore[misc]
    expected = play(env, everything, name, 0, 0)
    for policy in (make_policy(name), Poisoned(make_policy(name))):
        found = play(env, policy, name, 0, 0)
        assert found.decisions == expected.decisions
        for key, values in expected.jobs.items():
            np.testing.assert_array_equal(found.jobs[key], values)


def test_an_evaluation_works_out_what_a_policy_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    reset = LLMSchedEnv.reset

    def spied(self: LLMSchedEnv, *, seed: int | None = None, options: Any = None) -> Any:
        asked.append(options)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(LLMSchedEnv, "reset", spied)
    env = LLMSchedEnv(**SIZES)
    for name in ("fcfs", "srtf", "gittins", "llmsched"):
        play(env, make_policy(name), name, 0, 0)
    wanted = [(), (), ("gittins_s",), ("uncertainty_reduction",)]
    assert asked == [{"columns": columns} for columns in wanted]
