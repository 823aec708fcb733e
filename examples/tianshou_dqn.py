"""DQN of tianshou, with masks: its observations are dictionaries of ``obs`` and ``mask``.

    python examples/tianshou_dqn.py

Small observations keep the replay buffer small: docs/clients.md.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import Env, spaces
from gymnasium.wrappers import TransformObservation
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

import llmsched_gym  # noqa: F401 (registers the id)

EPOCHS, DECISIONS = 4, 5_000  # of an epoch
SIZES = {"workload": "planning", "num_jobs": 20, "load": 2.0, "max_stages": 32, "max_jobs": 16}
READ = ("stages", "jobs", "cluster", "stage_job")


def flat(env: Env) -> Env:
    """``obs`` float32 [n], in one range, and ``mask`` int8 [actions]."""

    def in_a_row(seen: dict) -> dict:
        row = np.concatenate([seen[name].ravel() for name in READ], dtype=np.float32)
        return {"obs": np.log1p(row), "mask": seen["action_mask"]}

    width = sum(int(np.prod(env.observation_space[name].shape)) for name in READ)
    row = spaces.Box(0, np.inf, (width,), np.float32)
    space = spaces.Dict(obs=row, mask=env.observation_space["action_mask"])
    return TransformObservation(env, in_a_row, space)


def make() -> Env:
    """An environment."""
    return flat(gymnasium.make("LLMSched-v0", **SIZES))


def main() -> DQN:
    """Learn, and save what was learnt."""
    np.random.seed(0)  # tianshou explores with it  # noqa: NPY002
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the network is too small for more
    env, envs, held_out = make(), DummyVectorEnv([make] * 4), DummyVectorEnv([make])
    envs.seed(0)
    held_out.seed(1000)
    width, actions = env.observation_space["obs"].shape, env.action_space.n
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=width, action_shape=actions, hidden_sizes=[64, 64]),
        action_space=env.action_space,
        eps_training=0.1,
    )
    adam = AdamOptimizerFactory(lr=1e-3)
    dqn = DQN(policy=policy, optim=adam, gamma=0.99, target_update_freq=200)
    collector = Collector(dqn, envs, VectorReplayBuffer(20_000, 4), exploration_noise=True)
    result = dqn.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            test_collector=Collector(dqn, held_out),
            max_epochs=EPOCHS,
            epoch_num_steps=DECISIONS,
            collection_step_num_env_steps=100,
            test_step_num_episodes=2,
            update_step_num_gradient_steps_per_sample=0.2,
            show_progress=False,
            verbose=False,
        )
    )
    print(f"{-result.best_score:.0f} job seconds in held-out episodes at its best")
    torch.save(policy.state_dict(), "tianshou_dqn.pt")
    return dqn


if __name__ == "__main__":
    main()
