"""RLlib (its new API stack): PPO, with the module for action masks of its own examples.

    python examples/rllib_ppo.py

That module asks for ``observations`` and ``action_mask``, both float32.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import ray
from gymnasium import Env, spaces
from gymnasium.wrappers import TransformObservation
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule
from ray.tune.registry import register_env

import llmsched_gym  # noqa: F401 (registers the id)

ITERATIONS, DECISIONS = 10, 2_000  # of an iteration
SIZES = {"workload": "planning", "num_jobs": 20, "load": 2.0, "max_stages": 64}
READ = ("stages", "jobs", "cluster", "stage_job")


def flat(env: Env) -> Env:
    """``observations`` [n], in one range, and ``action_mask`` [actions], both float32."""

    def in_a_row(seen: dict) -> dict:
        row = np.concatenate([seen[name].ravel() for name in READ], dtype=np.float32)
        mask = seen["action_mask"].astype(np.float32)
        return {"observations": np.log1p(row), "action_mask": mask}

    width = sum(int(np.prod(env.observation_space[name].shape)) for name in READ)
    space = spaces.Dict(
        observations=spaces.Box(0, np.inf, (width,), np.float32),
        action_mask=spaces.Box(0, 1, (int(env.action_space.n),), np.float32),
    )
    return TransformObservation(env, in_a_row, space)


def config() -> PPOConfig:
    """PPO in this process; ``env_runners(num_env_runners=8)`` collects in others."""
    register_env("llmsched", lambda sizes: flat(gymnasium.make("LLMSched-v0", **sizes)))
    made = PPOConfig().environment("llmsched", env_config=SIZES).env_runners(num_env_runners=0)
    made.rl_module(rl_module_spec=RLModuleSpec(module_class=ActionMaskingTorchRLModule))
    made.training(train_batch_size_per_learner=DECISIONS, minibatch_size=250, num_epochs=4)
    return made.debugging(seed=0)


def main() -> PPO:
    """Learn, and save what was learnt in ``rllib_ppo/``."""
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    algorithm = config().build_algo()
    for iteration in range(ITERATIONS):
        said = algorithm.train()["env_runners"]
        returned = said.get("episode_return_mean", float("nan"))
        print(f"iteration {iteration}: {-returned:.0f} job seconds an episode")
    algorithm.save_to_path(str(Path("rllib_ppo").absolute()))
    return algorithm


if __name__ == "__main__":
    main().stop()
