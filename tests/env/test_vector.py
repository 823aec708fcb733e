"""Many clusters at once, against Gymnasium's SyncVectorEnv of single ones."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from llmsched_gym.env.actions import InvalidAction
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from support.comparing import check_same
from support.sampled import sampled

SMALL: dict[str, Any] = {
    "workload": "mixed",
    "num_jobs": 6,
    "load": 2.0,
    "max_stages": 30,
    "max_jobs": 5,
}
Arrays = dict[str, np.ndarray[Any, Any]]


def make(num_envs: int = 3, **options: Any) -> LLMSchedVectorEnv:
    return LLMSchedVectorEnv(num_envs, **{**SMALL, **options})


def make_sync(num_envs: int, mode: str, **options: Any) -> SyncVectorEnv:
    single = {**SMALL, **options}
    return SyncVectorEnv([lambda: LLMSchedEnv(**single)] * num_envs, autoreset_mode=mode)


def random_actions(rng: np.random.Generator, masks: Any, illegal: float) -> Any:
    """Legal ones, but for a share that is anything at all."""
    legal = (rng.random(masks.shape) * masks).argmax(axis=1)
    anything = rng.integers(-1, masks.shape[1] + 1, len(masks))
    return np.where(rng.random(len(masks)) < illegal, anything, legal)


@sampled("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("belief", BELIEFS)
def test_each_cluster_is_the_single_environment(mode: str, belief: str) -> None:
    count = 3
    ours = make(count, autoreset_mode=mode, belief=belief, num_jobs=2)
    theirs = make_sync(count, mode, belief=belief, num_jobs=2)
    rng = np.random.default_rng(0)
    seen, expected = ours.reset(seed=11), cast(Any, theirs.reset(seed=11))
    episodes = 0
    for _ in range(400):
        check_same(seen, expected)
        actions = random_actions(rng, expected[0]["action_mask"], 0.05)
        seen, expected = ours.step(actions), theirs.step(actions)  # type: ignore[assignment]
        check_same(seen, expected)
        over = expected[2] | expected[3]  # type: ignore[misc]
        episodes += int(over.sum())
        if mode == "Disabled" and over.any():
            seen = ours.reset(options={"reset_mask": over})
            expected = theirs.reset(options={"reset_mask": over})
            for infos in (seen[1], expected[1]):  # ours has the masks of all clusters
                infos.pop("action_mask")
                infos.pop("_action_mask")
        seen, expected = seen[:1] + seen[-1:], expected[:1] + expected[-1:]
    assert episodes >= 2 * count


def test_it_is_what_make_vec_makes() -> None:
    env = gymnasium.make_vec("LLMSched-v0", num_envs=2, **SMALL)
    assert isinstance(env, LLMSchedVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.action_space.contains(env.action_space.sample())


def test_gymnasiums_wrappers_take_it() -> None:
    env: VectorEnv[Any, Any, Any] = RecordEpisodeStatistics(make(2, autoreset_mode="SameStep"))
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    while True:
        actions = random_actions(rng, observation["action_mask"], 0)
        observation, _, _, _, infos = env.step(actions)
        if "episode" in infos:
            break
    number = int(infos["_episode"].argmax())
    completed = infos["final_info"]["jobs_completed"][number]
    jcts = infos["final_info"]["mean_jct_s"][number] * completed
    assert infos["episode"]["r"][number] == pytest.approx(-jcts)


def test_threads_change_nothing() -> None:
    def play(threads: int) -> list[Any]:
        env = make(36, threads=threads, belief="bayes")
        assert env.threads == threads
        rng = np.random.default_rng(0)
        observation, _ = env.reset(seed=0)
        played = []
        for _ in range(120):
            actions = random_actions(rng, observation["action_mask"], 0.02)
            observation, *rest = env.step(actions)
            played.append((observation, *rest))
        env.close()
        return played

    for one, three in zip(play(1), play(3), strict=True):
        check_same(three[:4], one[:4])


def test_few_clusters_take_few_threads() -> None:
    assert make(23, threads=4, belief="bayes").threads == 1
    assert make(25, threads=4, belief="bayes").threads == 2
    assert make(25, threads=4, belief="none").threads == 1


def test_observations_stay_as_they_are_while_somebody_holds_them() -> None:
    env = make(2)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    held: list[tuple[Any, Any]] = []
    for number in range(60):
        # All of it, one array of it, or a view into one.
        keep = (observation, observation["stages"], observation["jobs"][0, :2])[number % 3]
        held.append((keep, copied(keep)))
        observation, *_ = env.step(random_actions(rng, observation["action_mask"], 0))
    for keep, as_it_was in held:
        check_same(keep, as_it_was)


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: array.copy() for key, array in value.items()}
    return value.copy()


def test_what_nobody_holds_is_used_again() -> None:
    env = make(2)
    rng = np.random.default_rng(0)
    observation, infos = env.reset(seed=0)
    places = set()
    for _ in range(30):
        actions = random_actions(rng, observation["action_mask"], 0)
        observation, _, _, _, infos = env.step(actions)
        places.add(observation["stages"].__array_interface__["data"][0])
    assert len(places) == 2
    del infos


def test_without_copies_every_step_overwrites_the_last() -> None:
    env = make(2, copy=False)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(random_actions(np.random.default_rng(0), first["action_mask"], 0))
    assert all(second[key] is first[key] for key in first)


def test_a_mask_leaves_the_others_where_they_are() -> None:
    env = make(3)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    for _ in range(20):
        observation, *_ = env.step(random_actions(rng, observation["action_mask"], 0))
    mask = np.array([False, True, False])
    again, _ = env.reset(seed=[None, 5, None], options={"reset_mask": mask})
    single, _ = LLMSchedEnv(**SMALL).reset(seed=5)
    for key in again:
        np.testing.assert_array_equal(again[key][[0, 2]], observation[key][[0, 2]])
        np.testing.assert_array_equal(again[key][1], single[key])


def test_a_time_limit_ends_one_episode() -> None:
    env = make(2, autoreset_mode="Disabled")
    single = LLMSchedEnv(**SMALL)
    seen, _ = env.reset(seed=0, options={"time_limit": 5.0})
    alone, _ = single.reset(seed=0, options={"time_limit": 5.0})
    truncated = False
    while not truncated:
        actions = seen["action_mask"].argmax(axis=1)
        seen, _, _, truncations, _ = env.step(actions)
        alone, _, _, truncated, _ = single.step(int(alone["action_mask"].argmax()))
        assert bool(truncations[0]) == truncated
    assert alone["cluster"][0] == 5
    seen, rewards, _, truncations, _ = env.step(np.array([0, 0]))
    assert truncations[0], "it stays over"
    assert rewards[0] == 0
    _, _ = single.reset()
    assert not single.step(int(alone["action_mask"].argmax()))[3], "the next one has none"


def test_strict_names_the_cluster() -> None:
    env = make(3, strict=True)
    observation, _ = env.reset(seed=0)
    actions = observation["action_mask"].argmax(axis=1)
    actions[1] = 29
    with pytest.raises(InvalidAction, match="cluster 1: row 29: no stage that can run"):
        env.step(actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs: 0 is not a whole number from 1 to"),
        ({"num_envs": 2.0}, "num_envs: 2.0 is not a whole number from 1 to"),
        ({"num_envs": True}, "num_envs: True is not a whole number from 1 to"),
        ({"threads": 0}, "threads: 0 is not a whole number from 1 to"),
        ({"threads": "2"}, "threads: '2' is not a whole number from 1 to"),
        ({"max_episode_steps": 0}, "max_episode_steps: 0 is not a whole number from 1 to"),
        ({"render_mode": "human"}, "render_mode: unknown 'human', choose from ansi, rgb_array"),
        ({"belief": "nosuch"}, "belief: unknown 'nosuch'"),
        ({"autoreset_mode": "never"}, "autoreset_mode: unknown 'never', choose from NextStep"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_resets_and_actions() -> None:
    env = make(2)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.array([0, 0]))
    some = np.array([True, False])
    with pytest.raises(ValueError, match="never reset"):
        env.reset(options={"reset_mask": some})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="seed: 3 seeds for 2 clusters"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask must be 2 booleans"):
        env.reset(options={"reset_mask": np.array([1, 0])})
    with pytest.raises(ValueError, match="unknown 'colour'"):
        env.reset(options={"colour": 1})
    with pytest.raises(ValueError, match="time_limit"):
        env.reset(options={"time_limit": -1})
    with pytest.raises(ValueError, match="actions: 2 are needed"):
        env.step(np.array([0]))
