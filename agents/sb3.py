"""stable-baselines3: the clusters as it wants them, and MaskablePPO on graphs of jobs.

    clusters = LLMSchedVectorEnv(64, autoreset_mode="Disabled", max_stages=256)
    venv = RewardScaling(SB3VecEnv(clusters), discount_s=100.0)
    model = MaskablePPO(
        GraphPolicy, venv, n_steps=128, batch_size=1024, gamma=1.0, gae_lambda=1.0, device="cpu",
        rollout_buffer_class=GraphRolloutBuffer,
        rollout_buffer_kwargs={"venv": venv, "discount_s": 100.0, "trace_s": 30.0},
    )
    model.learn(100_000)

What is discounted is time. A discount per decision, as is usual, rewards a scheduler for deciding
more often: it learns to prefer small tasks, whichever jobs they belong to.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import (
    MaskableDictRolloutBuffer,
    MaskableDictRolloutBufferSamples,
)
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule, TensorDict
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from agents.decima.network import (
    DecimaNetwork,
    Graph,
    graph_of,
    join,
    legal_stages,
    scales_of,
)
from llmsched_gym.env.observation import CLUSTER, CLUSTER_FEATURES, JOB_FEATURES
from llmsched_gym.env.vector import Infos, LLMSchedVectorEnv

Indices = int | Iterable[int] | None
Arrays = dict[str, NDArray[Any]]

# --- the environments -----------------------------------------------------------------------------


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

    def step_wait(self) -> tuple[Arrays, NDArray[np.float32], NDArray[np.bool_], list[Infos]]:  # type: ignore[override]
        """Do it: observations, rewards, whether an episode ended, infos."""
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
        return observation, reward.astype(np.float32), ended, listed

    def _remember(self, actions: NDArray[np.int64]) -> None:
        if self._length.max() == self._taken.shape[1]:
            self._taken = np.pad(self._taken, ((0, 0), (0, self._taken.shape[1])))
        self._taken[np.arange(self.num_envs), self._length] = actions

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
        self._clusters, self._discount_s = venv, discount_s

    def normalize_obs(self, obs: Any) -> Any:
        """The observations themselves, where ``VecNormalize`` would copy them."""
        return obs

    def _update_reward(self, reward: NDArray[Any]) -> None:
        self.returns = self.returns * np.exp(-self._clusters.seconds / self._discount_s)
        super()._update_reward(reward)


# --- the network ----------------------------------------------------------------------------------


class GraphExtractor(BaseFeaturesExtractor):
    """The network of Decima, and a critic beside it, as the feature extractor of a policy.

    Its features [B, max_stages + 2] are the log-probabilities of the actions, -1e8 for those that
    are not legal, and the value.

    Parameters
    ----------
    space : of the observations.
    embedding, hidden, head : sizes, as of :class:`agents.decima.network.DecimaNetwork`.

    Notes
    -----
    The weights follow from the state of torch's generator, which the ``seed`` of a learner sets.
    """

    def __init__(
        self, space: spaces.Dict, embedding: int = 8, hidden: int = 16, head: int = 32
    ) -> None:
        self._actions = int(space["action_mask"].shape[0])  # type: ignore[index]
        super().__init__(space, self._actions + 1)
        self.network = DecimaNetwork(embedding, hidden, head, int(torch.randint(2**31, ())))
        self.critic = Critic()

    def forward(self, observations: TensorDict | Graph) -> Tensor:
        """The features of a batch of padded observations, or of the graphs of one."""
        graph = observations if isinstance(observations, Graph) else _graph_of(observations)
        graph = graph.to(str(self.critic.scale_of_jobs.device))
        decision = self.network(graph)
        features = decision.wait.new_full((len(decision.wait), self._actions + 1), ILLEGAL)
        features[:, -2] = decision.wait.clamp(min=ILLEGAL)
        features[:, -1] = self.critic(graph)
        stage, _, cluster = legal_stages(graph)
        return features.index_put((cluster, graph.row[stage]), decision.stage[stage])


ILLEGAL = -1e8  # as MaskablePPO has it: in place of minus infinity, whose gradient is no number


def _graph_of(observations: TensorDict) -> Graph:
    return graph_of({name: tensor.cpu().numpy() for name, tensor in observations.items()})


class Critic(nn.Module):
    """The value of a cluster: what the jobs in it cost, summed up, for they delay one another.

    It sees the time and the jobs that are still to arrive, which the network does not: schedules
    do not depend on them, but how much there is to pay until the end of the episode does.

    Parameters
    ----------
    job, hidden : the length of a job's summary, and units of the hidden layer.
    """

    scale_of_jobs: Tensor
    scale_of_cluster: Tensor

    def __init__(self, job: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("scale_of_jobs", scales_of(JOB_FEATURES, {}))
        self.register_buffer("scale_of_cluster", scales_of(CLUSTER_FEATURES, {}))
        inputs = job + len(CLUSTER_FEATURES)
        self.job = nn.Linear(len(JOB_FEATURES), job)
        self.curved = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.straight = nn.Linear(inputs, 1)

    def forward(self, graph: Graph) -> Tensor:
        """The values [B]."""
        summary = torch.tanh(self.job(graph.jobs.log1p() * self.scale_of_jobs))
        total = summary.new_zeros(len(graph.cluster), summary.shape[1])
        total = total.index_add(0, graph.job_cluster, summary) / _JOBS
        cluster = graph.cluster.log1p() * self.scale_of_cluster
        inputs = torch.cat((total, cluster), dim=1)
        return (self.curved(inputs) + self.straight(inputs)).squeeze(1)


_JOBS = 5.0  # what the sum over jobs is divided by


class _Split(nn.Module):
    """From the features of :class:`GraphExtractor` to those of the actor and of the critic."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return features[:, :-1]

    def forward_critic(self, features: Tensor) -> Tensor:
        return features[:, -1:]


class GraphPolicy(MaskableActorCriticPolicy):
    """A policy for ``MaskablePPO`` that points at a stage, or waits.

    It works on padded observations of any size, and knows which actions are legal from them.

    Parameters
    ----------
    extractor : the sizes of the network, see :class:`GraphExtractor`.
    """

    features_extractor: GraphExtractor

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        **options: Any,
    ) -> None:
        options = {"features_extractor_class": GraphExtractor, **options}
        super().__init__(observation_space, action_space, lr_schedule, **options)

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        """The features of observations or of graphs, where SB3 would make all numbers floats."""
        return self.features_extractor(obs)

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """The distribution of the actions for observations."""
        latent = self.mlp_extractor.forward_actor(self.extract_features(obs))
        distribution = self._get_action_dist_from_latent(latent)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def predict_values(self, obs: Any) -> Tensor:
        """The values [B, 1] of observations."""
        return self.mlp_extractor.forward_critic(self.extract_features(obs))

    def _build(self, lr_schedule: Schedule) -> None:
        self.mlp_extractor = _Split()  # type: ignore[assignment]
        self.action_net, self.value_net = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


# --- the buffer -----------------------------------------------------------------------------------


class GraphRolloutBuffer(MaskableDictRolloutBuffer):
    """Steps with their graphs in place of padded observations, and advantages discounted in time.

    Generalised advantage estimation (Schulman, Moritz, Levine, Jordan and Abbeel, 2016) with the
    time t that a step takes: what comes after it counts ``gamma * exp(-t / discount_s)``, and later
    rewards, against the critic's estimate, ``gae_lambda * exp(-t / trace_s)`` times as much.

    Minibatches are made of whole steps of all clusters, about ``batch_size`` decisions. No masks
    come with them: :class:`GraphPolicy` needs none.

    Parameters
    ----------
    venv : a :class:`SB3VecEnv`, or one wrapped, whose steps are added.
    discount_s, trace_s : seconds, may be infinite.
    """

    def __init__(
        self, *args: Any, venv: VecEnv, discount_s: float, trace_s: float, **options: Any
    ) -> None:
        self._venv: Any = venv
        self._discount_s, self._trace_s = discount_s, trace_s
        super().__init__(*args, **options)

    def reset(self) -> None:
        """Forget everything."""
        shape = (self.buffer_size, self.n_envs)
        self.graphs: list[Graph] = []
        self.actions = np.zeros(shape, np.int64)
        self.seconds = np.zeros(shape)
        for name in ("rewards", "episode_starts", "values", "log_probs", "advantages", "returns"):
            setattr(self, name, np.zeros(shape, np.float32))
        self.pos, self.full = 0, False

    def add(  # type: ignore[override]
        self,
        obs: Arrays,
        action: NDArray[np.int64],
        reward: NDArray[np.float32],
        episode_start: NDArray[np.bool_],
        value: Tensor,
        log_prob: Tensor,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add the step that ``venv`` has just done, from observations to log-probabilities."""
        self.graphs.append(graph_of(obs))
        self.actions[self.pos] = action.reshape(-1)
        self.seconds[self.pos] = self._venv.seconds
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.cpu().numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.cpu().numpy()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[np.bool_]) -> None:
        """Compute them from the values of what follows the last step, [num_envs]."""
        discount = self.gamma * np.exp(-self.seconds / self._discount_s)
        trace = self.gae_lambda * np.exp(-self.seconds / self._trace_s)
        after, ended = last_values.cpu().numpy().reshape(-1), dones
        advantage = np.zeros(self.n_envs)
        for step in reversed(range(self.buffer_size)):
            kept = np.where(ended, 0.0, discount[step])
            error = self.rewards[step] + kept * after - self.values[step]
            advantage = error + kept * trace[step] * advantage
            self.advantages[step] = advantage
            after, ended = self.values[step], self.episode_starts[step] > 0
        self.returns = self.advantages + self.values

    def get(  # type: ignore[override]
        self, batch_size: int | None = None
    ) -> Iterator[MaskableDictRolloutBufferSamples]:
        """Minibatches of all steps, in random order; observations are a :class:`Graph`."""
        steps = self.buffer_size if batch_size is None else max(1, batch_size // self.n_envs)
        order = torch.randperm(self.buffer_size).numpy()
        for first in range(0, self.buffer_size, steps):
            chosen = order[first : first + steps]
            tables = (self.actions, self.values, self.log_probs, self.advantages, self.returns)
            flat = (torch.from_numpy(table[chosen].reshape(-1)) for table in tables)
            graph: Any = join([self.graphs[step] for step in chosen])
            masks: Any = None
            yield MaskableDictRolloutBufferSamples(  # type: ignore[call-arg]
                graph, *(one.to(self.device) for one in flat), masks
            )
