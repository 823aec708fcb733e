"""MaskablePPO of stable-baselines3, with its own network and a discount in seconds.

    python examples/sb3_maskable_ppo.py --decisions 40960
    python evaluate.py policy=custom policy.path=examples.sb3_maskable_ppo:Learnt \
        +policy.file=maskable_ppo.zip workload=planning workload.load=2 num_jobs=50 max_stages=64

The network of `train.py agent=ppo` reads the graphs of jobs and does better; this one reads rows in
their order, as any client of stable-baselines3 would.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from llmsched_gym.agents import Policy
from llmsched_gym.env import LLMSchedVectorEnv, RewardScaling, SB3VecEnv
from llmsched_gym.evaluation import compare

DISCOUNT_S, TRACE_S = 60.0, 20.0  # times in which what comes later counts e times less
SIZES: dict[str, Any] = {"workload": "planning", "num_jobs": 50, "load": 2.0, "max_stages": 64}
READ = ("stages", "jobs", "cluster", "stage_job", "action_mask")


class TimedBuffer(MaskableDictRolloutBuffer):
    """Discounts by the seconds that steps take: a discount a decision favours deciding often."""

    def __init__(self, *args: Any, venv: SB3VecEnv | None = None, **options: Any) -> None:
        self._venv = venv  # None in a model that is loaded to play
        super().__init__(*args, **options)

    def reset(self) -> None:
        """Forget all."""
        super().reset()
        self.seconds = np.zeros((self.buffer_size, self.n_envs), np.float32)

    def add(self, *args: Any, **options: Any) -> None:
        """Add a step, and how long it took."""
        assert self._venv is not None
        self.seconds[self.pos] = self._venv.seconds
        super().add(*args, **options)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[Any]) -> None:
        """Generalised advantage estimation in time."""
        following, going = last_values.clone().cpu().numpy().flatten(), 1.0 - dones
        trace = np.zeros(self.n_envs, np.float32)
        for step in reversed(range(self.buffer_size)):
            kept = going * np.exp(-self.seconds[step] / DISCOUNT_S)
            error = self.rewards[step] + kept * following - self.values[step]
            trace = error + kept * np.exp(-self.seconds[step] / TRACE_S) * trace
            self.advantages[step] = trace
            following, going = self.values[step], 1.0 - self.episode_starts[step]
        self.returns = self.advantages + self.values


class Scaled(BaseFeaturesExtractor):
    """Seconds, tokens and counts in one range, flat."""

    def __init__(self, observation_space: Any, features: int = 128) -> None:
        super().__init__(observation_space, features)
        width = sum(int(np.prod(observation_space[name].shape)) for name in READ)
        self.layer = nn.Sequential(nn.Linear(width, features), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features [N, features]."""
        flat = torch.cat([observations[name].float().flatten(1) for name in READ], 1)
        return self.layer(flat.sign() * flat.abs().log1p())


class Learnt(Policy):
    """Does what a saved model thinks best."""

    needs_belief = True

    def __init__(self, file: str = "maskable_ppo.zip") -> None:
        self.model = MaskablePPO.load(file, custom_objects={"rollout_buffer_kwargs": {}})

    def act(self, observation: Any) -> Any:
        """The likeliest action."""
        masks = np.asarray(observation["action_mask"]).astype(bool)
        action, _ = self.model.predict(dict(observation), action_masks=masks, deterministic=True)
        return action if masks.ndim > 1 else int(action)


def train(decisions: int, output: str, num_envs: int = 16, steps: int = 128, seed: int = 0) -> None:
    """Learn, and save what was learnt."""
    clusters = LLMSchedVectorEnv(num_envs, autoreset_mode="Disabled", **SIZES)
    venv = SB3VecEnv(clusters)
    venv.seed(seed)
    model = MaskablePPO(
        "MultiInputPolicy",
        RewardScaling(venv, DISCOUNT_S),
        learning_rate=5e-4,
        n_steps=steps,
        batch_size=num_envs * steps // 4,
        n_epochs=4,
        gamma=1.0,  # time discounts
        rollout_buffer_class=TimedBuffer,
        rollout_buffer_kwargs={"venv": venv},
        policy_kwargs={"features_extractor_class": Scaled},
        seed=seed,
        verbose=1,
        device="cpu",
    )
    model.learn(decisions)
    model.save(output, exclude=["rollout_buffer_kwargs"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=40960)
    parser.add_argument("--output", default="maskable_ppo.zip")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.decisions, args.output, seed=args.seed)
    policies = {"ppo": Learnt(args.output), "fcfs": "fcfs", "sjf": "sjf"}
    print(compare(policies, **SIZES).summary[["policy", "mean_jct_s"]])
