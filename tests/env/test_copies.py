"""Environments that are copied, pickled, saved or forked go on as if nothing had happened."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.env.vector import LLMSchedVectorEnv
from llmsched_gym.workload.mixes import make_workload
from support.comparing import check_same
from support.sampled import sampled

SMALL: dict[str, Any] = {"workload": "planning", "num_jobs": 5}


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def act(observation: Any, rng: np.random.Generator) -> Any:
    mask = observation["action_mask"]
    return (rng.random(mask.shape) * mask).argmax(axis=-1)


def go_on(env: Any, observation: Any, steps: int, seed: int) -> list[Any]:
    """What happens in some more steps, over the end of episodes."""
    rng, happened = np.random.default_rng(seed), []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(act(observation, rng))
        happened.append(copy.deepcopy((observation, reward, terminated, truncated, info)))
        if not isinstance(env, LLMSchedVectorEnv) and (terminated or truncated):
            observation, _ = env.reset()
            happened.append(copy.deepcopy(observation))
    return happened


@pytest.mark.parametrize("twin_of", [copy.deepcopy, pickled])
@pytest.mark.parametrize("belief", ["none", "bayes", "oracle"])
def test_a_copy_goes_on_alike_and_by_itself(belief: str, twin_of: Any) -> None:
    env = gymnasium.make("LLMSched-v0", belief=belief, **SMALL)
    observation, _ = env.reset(seed=3)
    env.action_space.seed(4)
    for _ in range(9):
        observation, *_ = env.step(int(act(observation, np.random.default_rng(0))))
    twin = twin_of(env)
    mine = go_on(env, observation, 80, 1)
    np.testing.assert_equal(go_on(twin, observation, 80, 1), mine)
    assert twin.action_space.sample() == env.action_space.sample()
    assert twin.unwrapped.np_random.random() == env.unwrapped.np_random.random()


def test_copies_share_what_never_changes() -> None:
    workload = make_workload("planning", jobs_per_application=20)
    env: Any = gymnasium.make("LLMSched-v0", workload=workload, num_jobs=5, belief="bayes")
    for twin in (copy.deepcopy(env), copy.deepcopy(copy.deepcopy(env))):
        assert twin.unwrapped.scenario is env.unwrapped.scenario
        assert twin.spec.kwargs["workload"].bank is workload.bank
        assert twin.unwrapped.observation_space is env.unwrapped.observation_space
        assert twin.unwrapped.action_space is not env.unwrapped.action_space


def steps_taken(env: Any, what: Any) -> float:
    """How many steps take as long: the best of some tries of each."""
    observation, _ = env.reset(seed=0)
    step_s, what_s = [], []
    for _ in range(150):
        action = int(observation["action_mask"].argmax())
        begin = time.perf_counter()
        observation, *_ = env.step(action)
        step_s.append(time.perf_counter() - begin)
    for _ in range(10):
        begin = time.perf_counter()
        what()
        what_s.append(time.perf_counter() - begin)
    return float(np.min(what_s) / np.median(step_s))


@pytest.mark.parametrize("belief", ["none", "bayes"])
def test_a_copy_of_a_running_environment_costs_a_few_steps(belief: str) -> None:
    env = gymnasium.make("LLMSched-v0", num_jobs=100, belief=belief)
    assert steps_taken(env, lambda: copy.deepcopy(env)) < 20
    assert steps_taken(env, env.unwrapped.snapshot) < 10  # type: ignore[attr-defined]


@pytest.mark.parametrize("belief", ["none", "bayes"])
def test_snapshots_lead_back_as_often_as_need_be(belief: str) -> None:
    env, other = (LLMSchedEnv(belief=belief, **SMALL) for _ in range(2))
    observation, _ = env.reset(seed=1)
    for _ in range(7):
        observation, *_ = env.step(act(observation, np.random.default_rng(5)))
    snapshot = env.snapshot()
    first = go_on(env, observation, 120, 2)  # into episodes that follow
    again, info = env.restore(snapshot)
    np.testing.assert_equal(again, observation)
    np.testing.assert_equal(info["action_mask"], observation["action_mask"])
    np.testing.assert_equal(go_on(env, again, 120, 2), first)
    there, _ = other.restore(pickled(snapshot))  # in an environment that has not begun
    np.testing.assert_equal(go_on(other, there, 120, 2), first)
    np.testing.assert_equal(go_on(env, env.restore(snapshot)[0], 120, 2), first)


def test_a_snapshot_holds_no_jobs_to_draw_from() -> None:
    env = LLMSchedEnv(num_jobs=20, belief="bayes")
    env.reset(seed=0)
    assert len(pickle.dumps(env.snapshot())) < 1_000_000


@pytest.mark.parametrize("snapshot", [None, "x", LLMSchedEnv(**SMALL, belief="none")])
def test_what_is_no_snapshot_is_refused(snapshot: Any) -> None:
    env = LLMSchedEnv(num_jobs=6, workload="planning", belief="none")
    env.reset(seed=0)
    if isinstance(snapshot, LLMSchedEnv):
        snapshot.reset(seed=0)
        snapshot = snapshot.snapshot()
    with pytest.raises(ValueError, match="^snapshot: it is not of an environment"):
        env.restore(snapshot)


# --- many clusters --------------------------------------------------------------------------------


def running(threads: int = 2, count: int = 26, **options: Any) -> tuple[LLMSchedVectorEnv, Any]:
    envs = LLMSchedVectorEnv(count, threads=threads, **(SMALL | options))
    observation, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation, *_ = envs.step(act(observation, rng))
    return envs, observation


@pytest.mark.parametrize("twin_of", [copy.deepcopy, pickled])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("arrays", [True, False])
def test_a_copy_of_many_clusters_goes_on_alike(twin_of: Any, mode: str, arrays: bool) -> None:
    envs, observation = running(autoreset_mode=mode, copy=arrays)
    observation = copy.deepcopy(observation)
    assert envs.threads == 2
    twin = twin_of(envs)
    mine = go_on(envs, observation, 60, 1)
    check_same(go_on(twin, observation, 60, 1), mine)
    for one in (envs, twin):
        one.close()


def test_clusters_that_have_not_begun_can_be_copied() -> None:
    envs = LLMSchedVectorEnv(3, **SMALL)
    for twin in (copy.deepcopy(envs), pickled(envs)):
        np.testing.assert_equal(
            twin.reset(seed=1)[0], LLMSchedVectorEnv(3, **SMALL).reset(seed=1)[0]
        )


def test_arrays_in_the_hands_of_others_stay_after_a_copy() -> None:
    envs, observation = running()
    kept = copy.deepcopy(observation)
    twin = copy.deepcopy(envs)
    go_on(twin, observation, 5, 0)
    go_on(envs, observation, 5, 0)
    np.testing.assert_equal(observation, kept)


def test_a_copy_holds_no_padding() -> None:
    envs = LLMSchedVectorEnv(64, belief="bayes", max_stages=256)
    envs.reset(seed=0)
    assert len(pickle.dumps(envs)) < 100_000_000


def test_a_forked_child_has_threads_of_its_own() -> None:
    envs, observation = running()
    queue: Any = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        queue.put([step[1] for step in go_on(envs, observation, 30, 1)])
        envs.close()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    hangs = process.is_alive()
    if hangs:
        process.kill()
    assert not hangs
    assert process.exitcode == 0
    np.testing.assert_equal(queue.get(), [step[1] for step in go_on(envs, observation, 30, 1)])
    envs.close()


def test_closing_ends_the_threads_and_can_be_done_twice() -> None:
    import threading

    before = threading.active_count()
    envs, _ = running()
    assert threading.active_count() == before + 1
    envs.close()
    envs.close()
    assert threading.active_count() == before


# --- models of stable-baselines3 ------------------------------------------------------------------


def learner(clusters: LLMSchedVectorEnv, **buffer: Any) -> Any:
    from sb3_contrib import MaskablePPO

    from llmsched_gym.agents.ppo.buffer import GraphRolloutBuffer
    from llmsched_gym.agents.ppo.network import GraphPolicy
    from llmsched_gym.env.sb3 import RewardScaling, SB3VecEnv

    venv = RewardScaling(SB3VecEnv(clusters), 100.0)
    given = {"venv": venv} if buffer.pop("hold", False) else {}
    return MaskablePPO(
        GraphPolicy,
        venv,
        n_steps=4,
        batch_size=64,
        gamma=1.0,
        gae_lambda=1.0,
        device="cpu",
        rollout_buffer_class=GraphRolloutBuffer,
        rollout_buffer_kwargs={"discount_s": 100.0, "trace_s": 30.0, **given},
    )


@sampled("hold", [False, True])
def test_a_model_is_saved_loaded_and_goes_on(tmp_path: Path, hold: bool) -> None:
    from sb3_contrib import MaskablePPO

    from llmsched_gym.env.sb3 import RewardScaling, SB3VecEnv

    options = SMALL | {"autoreset_mode": "Disabled", "threads": 2}
    model = learner(LLMSchedVectorEnv(64, **options), hold=hold)
    model.learn(64 * 4)
    model.save(tmp_path / "m.zip")
    if not hold:
        assert (tmp_path / "m.zip").stat().st_size < 5_000_000
    venv = RewardScaling(SB3VecEnv(LLMSchedVectorEnv(64, **options)), 100.0)
    loaded = MaskablePPO.load(tmp_path / "m.zip", env=venv)
    loaded.learn(256)
    buffer: Any = loaded.rollout_buffer
    assert (buffer.seconds > 0).any(), "the seconds of the clusters that it learns on"
    inner: Any = venv.venv
    np.testing.assert_array_equal(buffer.seconds[-1], inner.seconds)


def test_the_scale_of_rewards_is_saved_and_loaded(tmp_path: Path) -> None:
    from llmsched_gym.env.sb3 import RewardScaling, SB3VecEnv

    options = SMALL | {"autoreset_mode": "Disabled"}
    venvs = [SB3VecEnv(LLMSchedVectorEnv(2, **options)) for _ in range(2)]
    scaled = RewardScaling(venvs[0], 100.0)
    for venv in venvs:
        venv.seed(0)
    scaled.reset()
    for _ in range(5):
        scaled.step(venvs[0].clusters.action_masks().argmax(1))
    scaled.save(str(tmp_path / "scale.pkl"))
    again: Any = RewardScaling.load(str(tmp_path / "scale.pkl"), venvs[1])
    again.reset()
    for _ in range(5):
        again.step(venvs[1].clusters.action_masks().argmax(1))
    assert again.ret_rms.var > 0
    np.testing.assert_array_equal(again.returns, scaled.returns)
