"""What Gymnasium, stable-baselines3 and their wrappers ask of an environment."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv

SMALL: dict[str, Any] = {"workload": "planning", "num_jobs": 5, "belief": "none"}
METRICS = {"mean_jct_s", "p95_jct_s", "makespan_s", "jobs_completed", "llm_utilisation"}


def make(**options: Any) -> Any:
    return gymnasium.make("LLMSched-v0", **(SMALL | options))


def play(env: Any, steps: int = 10_000, seed: int = 0) -> tuple[int, Any]:
    """The loop of README.md; how many steps it took, and the last info."""
    observation, info = env.reset(seed=seed)
    for step in range(1, steps + 1):
        observation, _, terminated, truncated, info = env.step(
            int(observation["action_mask"].argmax())
        )
        if terminated or truncated:
            return step, info
    return steps, info


# --- pictures -------------------------------------------------------------------------------------


def test_a_picture_has_one_size_and_changes() -> None:
    env = make(render_mode="rgb_array", num_jobs=20)
    observation, _ = env.reset(seed=0)
    frames = [env.render()]
    for _ in range(30):
        observation, *_ = env.step(int(observation["action_mask"].argmax()))
        frames.append(env.render())
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((720, 1280, 3), "uint8")}
    assert len({frame.tobytes() for frame in frames}) > 20
    assert env.metadata["render_fps"] == 20


def test_looking_changes_nothing() -> None:
    seen, unseen = make(render_mode="rgb_array"), make()
    observation, _ = seen.reset(seed=0)
    unseen.reset(seed=0)
    for _ in range(20):
        seen.render()
        action = int(observation["action_mask"].argmax())
        observation, *rest = seen.step(action)
        same, *others = unseen.step(action)
        np.testing.assert_equal((observation, rest), (same, others))


def test_pictures_come_as_fast_as_a_video_needs_them() -> None:
    env = make(render_mode="rgb_array", num_jobs=100, workload="mixed", load=5.0)
    observation, _ = env.reset(seed=0)
    for _ in range(200):
        observation, *_ = env.step(int(observation["action_mask"].argmax()))
    env.render()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        env.render()
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1 / 25


@pytest.mark.parametrize(
    "sizes",
    [
        {"engines": 1, "max_batch": 1, "regular_executors": 1},
        {"engines": 200, "max_batch": 4, "regular_executors": 5000},
        {"engines": 2, "max_batch": 2000, "regular_executors": 64},
    ],
)
def test_clusters_of_any_size_have_a_picture(sizes: dict[str, Any]) -> None:
    env = make(render_mode="rgb_array", cluster=load_cluster("constant", **sizes), load=3.0)
    observation, _ = env.reset(seed=0)
    for _ in range(20):
        assert env.render().shape == (720, 1280, 3)
        observation, *_, info = env.step(int(observation["action_mask"].argmax()))
        if "mean_jct_s" in info:
            break


def test_a_picture_needs_no_display_and_no_plotting_library() -> None:
    code = (
        "import sys, gymnasium, llmsched_gym\n"
        "env = gymnasium.make('LLMSched-v0', workload='planning', num_jobs=3, belief='none',\n"
        "                     render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "assert env.render().any() and 'matplotlib' not in sys.modules\n"
    )
    environment = {"MPLBACKEND": "nonsense", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)


def test_modes_are_named_when_one_is_unknown() -> None:
    with pytest.raises(ValueError, match="^render_mode: unknown 'human', choose from ansi, rgb_"):
        LLMSchedEnv(**SMALL, render_mode="human")
    with pytest.raises(ValueError, match="^render_mode: unknown 3"):
        LLMSchedEnv(**SMALL, render_mode=3)  # type: ignore[arg-type]


def test_a_window_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    with pytest.warns(UserWarning, match="HumanRendering"):
        env: Any = gymnasium.make("LLMSched-v0", render_mode="human", **SMALL)
    if importlib.util.find_spec("pygame") is None:
        with pytest.raises(gymnasium.error.DependencyNotInstalled, match="pygame is not installed"):
            env.reset(seed=0)
        return
    env.reset(seed=0)
    env.step(0)
    assert env.window.get_size() == (1280, 720)
    env.close()


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_many_clusters_show_what_each_would(mode: str) -> None:
    envs = gymnasium.make_vec("LLMSched-v0", num_envs=2, render_mode=mode, **SMALL)
    envs.reset(seed=4)
    pictures: Any = envs.render()
    assert len(pictures) == 2
    for number, shown in enumerate(pictures):
        single = LLMSchedEnv(**SMALL, render_mode=mode)
        single.reset(seed=4 + number)
        np.testing.assert_array_equal(shown, single.render())


# --- checkers, wrappers, vectors ------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
def test_checkers_have_no_complaint_about_rendering(mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(render_mode=mode).unwrapped)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sb3_check_env(make(render_mode=mode))
    texts = [str(one.message) for one in said]
    assert [text for text in texts if "1-D" not in text and "shape" not in text] == []


@pytest.mark.parametrize(
    "wrap",
    [
        wrappers.RecordEpisodeStatistics,
        wrappers.FlattenObservation,
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        wrappers.RenderCollection,
        wrappers.Autoreset,
        wrappers.NormalizeReward,
        lambda env: wrappers.TransformReward(env, lambda reward: float(reward) / 100),
        lambda env: wrappers.FilterObservation(env, ["stages", "action_mask"]),
    ],
)
def test_gymnasiums_wrappers_take_it(wrap: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = wrap(LLMSchedEnv(**SMALL, render_mode="rgb_array"))
        env.reset(seed=0)
        for _ in range(30):
            mask = env.unwrapped.action_masks()
            *_, terminated, truncated, _ = env.step(int(mask.argmax()))
            if terminated or truncated:
                env.reset()
        assert env.render() is not None


def test_a_list_of_pictures() -> None:
    env = make(render_mode="rgb_array_list")
    env.reset(seed=0)
    for _ in range(3):
        env.step(int(env.unwrapped.action_masks().argmax()))
    assert [frame.shape for frame in env.render()] == [(720, 1280, 3)] * 4


@pytest.mark.skipif(importlib.util.find_spec("moviepy") is None, reason="needs moviepy")
def test_videos_are_recorded(tmp_path: Path) -> None:
    env: Any = wrappers.RecordVideo(make(render_mode="rgb_array"), str(tmp_path))
    play(env)
    env.close()
    assert list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
def test_every_kind_of_vector(mode: str) -> None:
    envs = gymnasium.make_vec("LLMSched-v0", num_envs=2, vectorization_mode=mode, **SMALL)
    observation, _ = envs.reset(seed=0)
    for _ in range(20):
        observation, *_ = envs.step(observation["action_mask"].argmax(axis=1))
    envs.close()


def test_baselines_make_vec_env_and_agents() -> None:
    from sb3_contrib import MaskablePPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    venv = make_vec_env("LLMSched-v0", 2, env_kwargs=SMALL)
    venv.reset()
    picture = venv.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    for agent in (PPO, MaskablePPO):
        agent("MultiInputPolicy", venv, n_steps=8, batch_size=8, n_epochs=1).learn(16)


def test_maskable_ppo_by_name() -> None:
    from sb3_contrib import MaskablePPO

    MaskablePPO("MultiInputPolicy", "LLMSched-v0", n_steps=4, batch_size=4)


def test_our_clusters_as_baselines_wants_them_have_pictures() -> None:
    from llmsched_gym.env.sb3 import SB3VecEnv

    options = SMALL | {"autoreset_mode": "Disabled", "render_mode": "rgb_array"}
    venv = SB3VecEnv(LLMSchedVectorEnv(2, **options))
    venv.reset()
    picture = venv.render()
    assert picture is not None
    assert picture.shape[2] == 3


# --- who truncates --------------------------------------------------------------------------------


def test_metrics_where_a_time_limit_of_gymnasium_truncates() -> None:
    limited: list[Any] = [
        make(max_episode_steps=5),
        TimeLimit(LLMSchedEnv(**SMALL), 5),
        wrappers.RecordEpisodeStatistics(TimeLimit(TimeLimit(make(), 9), 5)),
    ]
    for env in limited:
        for seed in range(2):  # the first reset and one that follows
            steps, info = play(env, seed=seed)
            assert steps == 5
            assert info.keys() >= METRICS
            np.testing.assert_equal(
                {key: info[key] for key in METRICS},
                {key: env.unwrapped.metrics()[key] for key in METRICS},
            )
            assert not np.isnan(play(make(), seed=seed)[1]["mean_jct_s"])


def test_metrics_come_with_no_other_step() -> None:
    env = make(max_episode_steps=5)
    _, info = play(env, steps=4)
    assert "mean_jct_s" not in info
    _, info = play(env.unwrapped, steps=7)
    assert "mean_jct_s" not in info, "nobody truncates now"


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_many_clusters_are_truncated_as_single_ones_are(mode: str) -> None:
    options = SMALL | {"max_episode_steps": 7}
    ours = gymnasium.make_vec("LLMSched-v0", num_envs=2, autoreset_mode=mode, **options)
    theirs = gymnasium.make_vec(
        "LLMSched-v0",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **options,
    )
    np.testing.assert_equal(ours.reset(seed=0)[0], theirs.reset(seed=0)[0])
    for step in range(1, 40):
        actions = ours.unwrapped.action_masks().argmax(axis=1)  # type: ignore[attr-defined]
        mine, other = ours.step(actions), theirs.step(actions)
        np.testing.assert_equal(mine[:4], other[:4], err_msg=f"step {step}")
        assert mine[4].keys() == other[4].keys()
        if "mean_jct_s" in mine[4]:
            np.testing.assert_equal(mine[4]["jobs_completed"], other[4]["jobs_completed"])


def test_rewards_are_the_same_to_the_last_bit() -> None:
    for reward in ("makespan", "jct"):
        single = LLMSchedEnv(**(SMALL | {"num_jobs": 30}), reward=reward)
        envs = LLMSchedVectorEnv(1, **(SMALL | {"num_jobs": 30}), reward=reward)
        observation, _ = single.reset(seed=5)
        envs.reset(seed=5)
        over, rng = False, np.random.default_rng(0)
        while not over:
            action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
            observation, mine, over, *_ = single.step(action)
            assert envs.step(np.array([action]))[1][0] == mine
