"""stable-baselines3 by the environment's id: MaskablePPO of sb3-contrib, which finds the masks.

    python examples/sb3_by_id.py

``env.action_masks()`` is what sb3-contrib asks for. ``sb3_maskable_ppo.py`` has the faster vector
environment, and discounts in seconds.
"""

from __future__ import annotations

import numpy as np
from gymnasium import Env, spaces
from gymnasium.wrappers import TransformObservation
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env

import llmsched_gym  # noqa: F401 (registers the id)

DECISIONS = 20_000
SIZES = {"workload": "planning", "num_jobs": 20, "load": 2.0, "max_stages": 64}
READ = ("stages", "jobs", "cluster", "stage_job")


def flat(env: Env) -> Env:
    """Float32 [n]: seconds, tokens and counts in one range."""

    def in_a_row(seen: dict) -> np.ndarray:
        return np.log1p(np.concatenate([seen[name].ravel() for name in READ], dtype=np.float32))

    width = sum(int(np.prod(env.observation_space[name].shape)) for name in READ)
    return TransformObservation(env, in_a_row, spaces.Box(0, np.inf, (width,), np.float32))


def main() -> MaskablePPO:
    """Learn, and save what was learnt."""
    envs = make_vec_env("LLMSched-v0", n_envs=4, seed=0, env_kwargs=SIZES, wrapper_class=flat)
    model = MaskablePPO("MlpPolicy", envs, n_steps=128, learning_rate=5e-4, seed=0, device="cpu")
    model.learn(DECISIONS)
    model.save("sb3_by_id.zip")
    print(f"{model.num_timesteps} decisions, saved sb3_by_id.zip")
    return model


if __name__ == "__main__":
    main()
