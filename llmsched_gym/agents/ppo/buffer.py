"""The rollout buffer of MaskablePPO, of graphs, with time that discounts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import (
    MaskableDictRolloutBuffer,
    MaskableDictRolloutBufferSamples,
)
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from llmsched_gym.agents.decima.network import Graph, graph_of, join
from llmsched_gym.env.sb3 import Arrays, TimedRewards


class GraphRolloutBuffer(MaskableDictRolloutBuffer):
    """Steps with their graphs in place of padded observations, and advantages discounted in time.

    Generalised advantage estimation (Schulman, Moritz, Levine, Jordan and Abbeel, 2016) with the
    time t that a step takes: what comes after it counts ``gamma * exp(-t / discount_s)``, and later
    rewards, against the critic's estimate, ``gae_lambda * exp(-t / trace_s)`` times as much.

    Minibatches are made of whole steps of all clusters, about ``batch_size`` decisions. No masks
    come with them: :class:`GraphPolicy` needs none.

    Parameters
    ----------
    discount_s, trace_s : seconds, may be infinite.
    venv : a :class:`SB3VecEnv`, or one wrapped. Only needed where some wrapper between it and the
        model makes new arrays of rewards, so that they are no :class:`TimedRewards`.
    """

    def __init__(
        self,
        *args: Any,
        discount_s: float,
        trace_s: float,
        venv: VecEnv | None = None,
        **options: Any,
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
        """Add a step, from observations to log-probabilities; its rewards say how long it took."""
        self.graphs.append(graph_of(obs))
        self.actions[self.pos] = action.reshape(-1)
        timed = reward if isinstance(reward, TimedRewards) else self._venv
        self.seconds[self.pos] = timed.seconds
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
