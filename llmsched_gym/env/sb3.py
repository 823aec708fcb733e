"""The clusters as stable-baselines3 wants them.

    clusters = LLMSchedVectorEnv(64, autoreset_mode="Disabled", max_stages=256)
    venv = RewardScaling(SB3VecEnv(clusters), discount_s=100.0)
    model = MaskablePPO(
        GraphPolicy, venv, n_steps=128, batch_size=1024, gamma=1.0, gae_lambda=1.0, device="cpu",
        rollout_buffer_class=GraphRolloutBuffer,
        rollout_buffer_kwargs={"discount_s": 100.0, "trace_s": 30.0},
    )
    model.learn(100_000)
    model.save("model.zip")
    MaskablePPO.load("model.zip", env=venv).learn(100_000)

What is discounted is time. A discount per decision, as is usual, rewards a scheduler for deciding
more often: it learns to prefer small tasks, whichever jobs they belong to. ``GraphPolicy`` and
``GraphRolloutBuffer`` are in :mod:`llmsched_gym.agents.ppo`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from llmsched_gym.env.actions import numbers_of
from llmsched_gym.env.features import CLUSTER
from llmsched_gym.env.vector import Infos, LLMSchedVectorEnv

Indices = int | Iterable[int] | None
Arrays = dict[str, NDArray[Any]]


class TimedRewards(np.ndarray[Any, Any]):
    """Rewards [num_envs] that know how long their step took, and so does what is computed of them.

    Attributes
    ----------
    seconds : float64 [num_envs], of the clusters' time.
    """

    seconds: NDArray[np.float64]

    def __array_finalize__(self, source: Any) -> None:
        self.seconds = getattr(source, "seconds", np.zeros(0))


class SB3VecEnv(VecEnv):
    """A vector environment of Gymnasium as one of stable-baselines3.

    Where an episode ends, the next one begins at once. The info of its cluster then has the
    episode's metrics, and, as ``Monitor`` gives it, ``episode``: the return ``r``, the length ``l``
    and the seconds ``t`` since the start. All other infos are one and the same empty dictionary,
    but for illegal actions.

    Cluster i plays the episode of the seed it is given, which is s + i by ``seed(s)``, and then
    those that follow from it.

    Parameters
    ----------
    clusters : in mode Disabled and with ``copy=True``.

    Attributes
    ----------
    seconds : float64 [num_envs], of the clusters' time, that passed in the last step.

    Raises
    ------
    ValueError
        for clusters in another mode, or that overwrite their arrays.
    """

    def __init__(self, clusters: LLMSchedVectorEnv) -> None:
        if clusters.autoreset_mode != AutoresetMode.DISABLED or not clusters.copy:
            raise ValueError('clusters: need autoreset_mode="Disabled" and copy=True')
        self.clusters = clusters
        count = clusters.num_envs
        self.seconds = np.zeros(count)
        self._first_seed = np.random.default_rng().integers(2**31, size=count)
        self._episode = np.full(count, -1)  # how many followed the one of the first seed
        self._length = np.zeros(count, np.int64)
        self._return = np.zeros(count)
        self._taken = np.zeros((count, 1), np.int64)  # the actions of the episodes so far
        self._start = time.time()
        super().__init__(count, clusters.single_observation_space, clusters.single_action_space)

    def reset(self) -> Arrays:
        """Begin new episodes: of the seeds that were set for this reset, else the ones that follow.

        Raises
        ------
        ValueError
            for options: what a cluster is, ``time_limit`` too, is said when it is made.
        """
        if any(self._options):
            raise ValueError("options: a reset takes none")
        for number, seed in enumerate(self._seeds):
            if seed is not None:
                self._first_seed[number], self._episode[number] = seed, -1
        self._reset_seeds()
        observation = self._begin(np.ones(self.num_envs, np.bool_))
        self._now_s = _time_s(observation)
        return observation

    def _begin(self, which: NDArray[np.bool_], following: int = 1) -> Arrays:
        """Begin the episode that follows, or this one again, in some clusters."""
        self._episode[which] += following
        self._return[which], self._length[which] = 0.0, 0
        seeds: list[int | None] = [None] * self.num_envs
        for number in np.flatnonzero(which).tolist():
            first, episode = int(self._first_seed[number]), int(self._episode[number])
            drawn = np.random.SeedSequence((first, episode)).generate_state(1, np.uint64)
            seeds[number] = int(drawn[0]) if episode else first
        options = {} if which.all() else {"reset_mask": which}
        return self.clusters.reset(seed=seeds, options=options)[0]

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remember what to do."""
        self._actions = actions

    def step_wait(self) -> tuple[Arrays, TimedRewards, NDArray[np.bool_], list[Infos]]:  # type: ignore[override]
        """Do it: observations, rewards (float32), whether an episode ended, infos."""
        self._remember(self._actions)
        observation, reward, terminated, truncated, infos = self.clusters.step(self._actions)
        self._return += reward
        self._length += 1
        ended, end_s = terminated | truncated, _time_s(observation)
        listed: list[Infos] = [_NOTHING] * self.num_envs
        for number in np.flatnonzero(infos.get("invalid_action", False)).tolist():
            listed[number] = {"invalid_action": True}
        for number in np.flatnonzero(ended).tolist():
            last = {name: array[number].copy() for name, array in observation.items()}
            final = self._final(_member(infos, number), number, bool(terminated[number]))
            listed[number] = final | listed[number] | {"terminal_observation": last}
        if ended.any():
            observation = self._begin(ended)
        self.seconds = end_s - self._now_s
        self._now_s = _time_s(observation)
        timed = reward.astype(np.float32).view(TimedRewards)
        timed.seconds = self.seconds
        return observation, timed, ended, listed

    def _remember(self, actions: NDArray[np.int64]) -> None:
        if self._length.max() == self._taken.shape[1]:
            self._taken = np.pad(self._taken, ((0, 0), (0, self._taken.shape[1])))
        self._taken[np.arange(self.num_envs), self._length] = numbers_of(actions, self.num_envs)

    def _final(self, metrics: Infos, number: int, terminated: bool) -> Infos:
        """The info of a cluster whose episode is over."""
        return {
            **metrics,
            "TimeLimit.truncated": not terminated,
            "episode": {
                "r": round(float(self._return[number]), 6),
                "l": int(self._length[number]),
                "t": round(time.time() - self._start, 6),
            },
        }

    def state(self) -> Arrays:
        """All it takes to go on from here: the seeds of the episodes and the actions since."""
        taken = self._taken[:, : self._length.max()]
        of_this_episode = np.arange(taken.shape[1]) < self._length[:, np.newaxis]
        return {
            "first_seed": self._first_seed.copy(),
            "episode": self._episode.copy(),
            "length": self._length.copy(),
            "taken": np.where(of_this_episode, taken, 0),
        }

    def restore(self, state: Arrays) -> Arrays:
        """Go on from :meth:`state`, by doing the same again; returns what is observed there."""
        self._first_seed, self._episode = state["first_seed"].copy(), state["episode"].copy()
        length, taken = state["length"], state["taken"]
        steps, every = taken.shape[1], np.arange(self.num_envs)
        observation = self._begin(np.ones(self.num_envs, np.bool_), following=0)
        wait = steps - length  # so that all are there at the same time
        for step in range(steps):
            if (wait == step).any() and step:
                self._begin(wait == step, following=0)
            anything = self.clusters.action_masks().argmax(axis=1)
            acted = np.where(wait <= step, taken[every, np.maximum(step - wait, 0)], anything)
            self._remember(acted)
            observation, reward, *_ = self.clusters.step(acted)
            self._return += reward
            self._length += 1
        if (wait == steps).any() and steps:
            observation = self._begin(wait == steps, following=0)
        self._now_s = _time_s(observation)
        return observation

    def close(self) -> None:
        """End the threads of the clusters."""
        self.clusters.close()

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """Pictures of all clusters, if they were made with ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        return list(self.clusters.render() or ())

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the clusters, which they share."""
        shared = getattr(self.clusters, attr_name)
        return [shared for _ in self._get_indices(indices)]

    def env_method(
        self, method_name: str, *args: Any, indices: Indices = None, **options: Any
    ) -> list[Any]:
        """What ``action_masks()`` and ``job_table()`` say of single clusters."""
        members = list(self._get_indices(indices))
        if method_name == "action_masks":
            return list(self.clusters.action_masks()[members])
        if method_name == "job_table":
            return [self.clusters.job_table(number) for number in members]
        raise AttributeError(
            f"env_method: {method_name!r} is not a method of single clusters, choose from "
            "action_masks, job_table"
        )

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Clusters have nothing of their own to set.

        Raises
        ------
        AttributeError
            always.
        """
        raise AttributeError(f"set_attr: {attr_name!r} cannot be set, all clusters are made alike")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """True for ``Monitor``, which has nothing to add; no cluster is wrapped in another."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]


_NOTHING: Infos = {}


def _time_s(observation: Arrays) -> NDArray[np.float64]:
    return observation["cluster"][:, CLUSTER["time_s"]].astype(np.float64)


def _member(infos: Infos, number: int) -> Infos:
    """The info of one cluster out of those of all."""
    return {
        name: _member(value, number) if isinstance(value, dict) else value[number]
        for name, value in infos.items()
        if not name.startswith("_") and infos[f"_{name}"][number]
    }


class RewardScaling(VecNormalize):
    """Divides rewards by the standard deviation of the returns so far; these are of job seconds.

    Observations stay as they are: the network scales them.

    Parameters
    ----------
    venv : a :class:`SB3VecEnv`, which says how long steps take.
    discount_s : time in which a reward counts e times less in a return, seconds.
    """

    def __init__(self, venv: SB3VecEnv, discount_s: float) -> None:
        super().__init__(venv, norm_obs=False, gamma=1.0)
        self._discount_s = discount_s

    def normalize_obs(self, obs: Any) -> Any:
        """The observations themselves, where ``VecNormalize`` would copy them."""
        return obs

    def _update_reward(self, reward: NDArray[Any]) -> None:
        venv: Any = self.venv
        self.returns = self.returns * np.exp(-venv.seconds / self._discount_s)
        super()._update_reward(reward)
