"""What counts as an action or a number, and what is said of everything else."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.base import Policy
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.env.actions import InvalidAction, number_of, numbers_of
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from llmsched_gym.errors import InputError
from llmsched_gym.evaluation.episodes import play
from llmsched_gym.workload.mixes import make_workload

SMALL: dict[str, Any] = {"workload": "planning", "num_jobs": 5, "belief": "none"}
single = cache(lambda strict=False, name="": LLMSchedEnv(**SMALL, strict=strict))
many = cache(lambda strict=False, name="": LLMSchedVectorEnv(2, **SMALL, strict=strict))
ACTIONS = (0, np.int64(0), np.uint8(0), np.array(0), np.array([0]), np.array([0], np.int32))
NO_ACTIONS = (
    *(0.0, 0.5, -0.4, float("nan"), float("inf"), np.float32(0), np.array([0.0]), np.array(0.2)),
    *(None, "0", b"0", "zero", True, False, np.True_, np.array([True]), 1j, object, [0], (0,)),
    *(np.array([0, 0]), np.array([[0]]), np.array([]), np.array(["0"]), {"action": 0}),
    *(-1, 10**30, np.uint64(2**64 - 1), np.int64(-(2**63))),
)


@pytest.mark.parametrize("action", ACTIONS, ids=repr)
def test_integers_are_actions(action: Any) -> None:
    env, plain = single(True), single()
    for one in (env, plain):
        one.reset(seed=0)
    got, same = env.step(action), plain.step(0)
    assert "invalid_action" not in got[-1]
    np.testing.assert_equal(got[:2], same[:2])


def test_torchs_integers_are_actions() -> None:
    torch = pytest.importorskip("torch")
    assert number_of(torch.tensor(3)) == 3
    assert numbers_of(torch.tensor([3, 4]), 2).tolist() == [3, 4]
    assert number_of(torch.tensor(3.0)) == -1
    assert numbers_of(torch.tensor([3.0, 4.5]), 2).tolist() == [-1, -1]


@pytest.mark.parametrize("action", NO_ACTIONS, ids=repr)
def test_all_else_is_illegal_everywhere(action: Any) -> None:
    strict, lenient, waiting = single(True), single(), single(name="waiting")
    for env in (strict, lenient, waiting):
        env.reset(seed=0)
    with pytest.raises(InvalidAction, match="^action .*: valid actions are the integers 0 to") as e:
        strict.step(action)
    assert "\n" not in str(e.value)
    got, same = lenient.step(action), waiting.step(waiting.max_stages)
    assert got[-1]["invalid_action"] is True
    np.testing.assert_equal(got[:2], same[:2])

    envs, alike, strict_ones = many(), many(name="alike"), many(True)
    for vector in (envs, alike, strict_ones):
        vector.reset(seed=0)
    infos = envs.step([0, action])[-1]
    assert infos["invalid_action"].tolist() == [False, True]
    alike.step(np.array([0, envs.scenario.max_stages]))
    np.testing.assert_equal(envs.state(1), alike.state(1))
    with pytest.raises(InvalidAction, match="^cluster 1: action .*: valid actions"):
        strict_ones.step([0, action])


@pytest.mark.parametrize(
    ("actions", "invalid"),
    [
        (np.array([0, 0]), [False, False]),
        (np.array([[0], [0]]), [False, False]),
        (np.array([0, 0], np.uint64), [False, False]),
        ([0, np.array([0])], [False, False]),
        ((np.int32(0), 0), [False, False]),
        (np.array([0.0, 0.7]), [True, True]),
        (np.array([True, False]), [True, True]),
        (np.array([np.nan, np.inf]), [True, True]),
        (np.array([0, None], object), [False, True]),
        ([None, 0], [True, False]),
        ([0, [0, 0]], [False, True]),
        ("00", [True, True]),
    ],
)
def test_the_rule_is_the_same_for_many(actions: Any, invalid: list[bool]) -> None:
    envs = many()
    envs.reset(seed=0)
    said = envs.step(actions)[-1].get("invalid_action", np.zeros(2, bool))
    assert said.tolist() == invalid


@pytest.mark.parametrize(
    "actions", [0, None, [], [0], np.array([0, 0, 0]), np.zeros((2, 2), int), np.array(0), 0.5]
)
def test_as_many_actions_as_clusters(actions: Any) -> None:
    envs = many()
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="actions: 2 are needed, one a cluster, got "):
        envs.step(actions)


@given(
    st.one_of(st.none(), st.text(), st.floats(), st.booleans(), st.binary(), st.complex_numbers())
)
def test_nothing_is_rounded(action: Any) -> None:
    assert number_of(action) == -1


@pytest.mark.parametrize("action", [0.4, None, np.array([0, 1]), float("nan")])
def test_the_player_rounds_nothing_either(action: Any) -> None:
    class Odd(Policy):
        def act(self, observation: Any) -> Any:
            return action

    with pytest.raises(InputError, match="policy odd: episode 0: decision 0: action "):
        play(LLMSchedEnv(**SMALL, strict=True), Odd(), "odd", 0, 0)


# --- numbers --------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    "5",
    b"5",
    2.5,
    5.0,
    True,
    np.True_,
    float("nan"),
    [5],
    {},
    object,
    1j,
    0,
    -3,
    10**30,
)
ODD_TIMES: tuple[Any, ...] = (
    "5",
    True,
    float("nan"),
    float("inf"),
    0,
    -1.0,
    [1.0],
    {},
    object,
    1j,
    10**400,
)


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["num_jobs", "max_stages", "max_jobs"])
def test_counts_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: ") as error:
        Scenario(**(SMALL | {name: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["num_envs", "threads", "max_episode_steps"])
def test_so_are_those_of_many_clusters(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        LLMSchedVectorEnv(**({"num_envs": 2} | SMALL | {name: value}))


@pytest.mark.parametrize("value", ODD_TIMES, ids=repr)
@pytest.mark.parametrize("name", ["load", "arrival_rate", "time_limit"])
def test_amounts_are_positive_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        Scenario(**(SMALL | {name: value}))


@pytest.mark.parametrize("value", [3, None, [], {"a": 1}, 2.5, True], ids=repr)
@pytest.mark.parametrize("name", ["belief", "reward", "workload"])
def test_names_are_names(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        Scenario(**(SMALL | {name: value}))


def test_settings_of_beliefs_are_such() -> None:
    with pytest.raises(ValueError, match="^belief_settings: "):
        Scenario(**SMALL, belief_settings={"bins": 2})  # type: ignore[arg-type]
    assert Scenario(**SMALL, belief_settings=BeliefSettings())


def test_numpys_numbers_are_numbers() -> None:
    env = LLMSchedEnv(
        workload="planning",
        belief="none",
        num_jobs=np.int64(3),  # type: ignore[arg-type]
        load=np.float32(1.5),  # type: ignore[arg-type]
        time_limit=np.int32(50),  # type: ignore[arg-type]
        max_jobs=np.uint8(2),  # type: ignore[arg-type]
    )
    env.reset(seed=np.int64(3))  # type: ignore[arg-type]
    assert len(env.job_table()["jct_s"]) == 3


@pytest.mark.parametrize("seed", [1.0, "1", True, -1, [1], float("nan")], ids=repr)
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(ValueError, match="^seed: "):
        single().reset(seed=seed)
    for seeds in (seed, [None, seed]):
        with pytest.raises(ValueError, match="^seed: "):
            many().reset(seed=seeds)


@pytest.mark.parametrize(
    "options",
    [
        *({1: 2, "a": 3}, {None: 1}, {("a",): 1}, "time_limit", [1], 5),
        *({"time_limit": limit} for limit in ("10", [1.0], True, float("nan"))),
    ],
    ids=repr,
)
def test_options_of_a_reset_are_named(options: Any) -> None:
    for env in (single(), many()):
        with pytest.raises(ValueError, match=r"^(options|time_limit): "):
            env.reset(seed=0, options=options)


# --- arrivals beyond the clock --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load": 1e-9}, "^load: 1e-09 is too small, arrival_s: "),
        ({"load": 5e-324}, "^load: "),
        ({"load": 1e308}, "^load: "),
        ({"arrival_rate": 1e-8}, "^arrival_rate: 1e-08 is too small, arrival_s: "),
        ({"arrival_rate": 1e-320}, "^arrival_rate: "),
    ],
)
def test_a_load_too_small_is_named_when_it_is_given(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLMSchedEnv(**SMALL, **options)


def test_a_load_too_small_for_bursts_and_pauses_is_named_when_it_is_given() -> None:
    bursts = make_workload("planning", arrivals="interrupted_poisson", jobs_per_application=20)
    with pytest.raises(ValueError, match="^load: 1e-09 is too small, arrival_s: "):
        LLMSchedEnv(**(SMALL | {"workload": bursts}), load=1e-9)


def test_a_load_that_is_too_small_by_bad_luck_is_named_when_drawn() -> None:
    env = LLMSchedEnv(**SMALL, arrival_rate=5 / 3.9e6)
    said = set()
    for seed in range(30):
        try:
            env.reset(seed=seed)
        except ValueError as error:
            said.add(str(error).partition(", arrival_s: the last of 5 jobs")[0])
    assert said == {f"arrival_rate: {5 / 3.9e6} is too small"}


def test_a_burst_takes_any_load() -> None:
    burst = make_workload("planning", arrivals="burst", jobs_per_application=20)
    LLMSchedEnv(**(SMALL | {"workload": burst}), load=1e-9).reset(seed=0)


# --- before the first reset -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda env: env.action_masks(),
        lambda env: env.step(0),
        lambda env: env.job_table(),
        lambda env: env.metrics(),
        lambda env: env.beliefs(),
        lambda env: env.look(),
        lambda env: env.render(),
        lambda env: env.snapshot(),
        lambda env: env.state,
    ],
)
def test_nothing_is_read_before_it_is_there(read: Any) -> None:
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        read(LLMSchedEnv(**SMALL, render_mode="rgb_array"))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize(
    "read",
    [
        lambda envs: envs.action_masks(),
        lambda envs: envs.step(np.array([0, 0])),
        lambda envs: envs.job_table(0),
        lambda envs: envs.metrics(1),
        lambda envs: envs.state(0),
        lambda envs: envs.render(),
    ],
)
def test_nor_of_many_clusters(read: Any, mode: str) -> None:
    envs = gymnasium.make_vec(
        "LLMSched-v0", num_envs=2, autoreset_mode=mode, render_mode="rgb_array", **SMALL
    )
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        read(envs)
