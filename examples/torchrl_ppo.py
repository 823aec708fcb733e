"""TorchRL: the environment by its id, masks by its ActionMask, and its PPO.

python examples/torchrl_ppo.py
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import Env, spaces
from gymnasium.wrappers import TransformObservation
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, GymWrapper, TransformedEnv
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import llmsched_gym  # noqa: F401 (registers the id)

DECISIONS, BATCH, EPOCHS, MINIBATCH = 20_000, 1000, 4, 250
SIZES = {"workload": "planning", "num_jobs": 20, "load": 2.0, "max_stages": 64}
READ = ("stages", "jobs", "cluster", "stage_job")


def flat(env: Env) -> Env:
    """``observation`` float32 [n], in one range, and ``action_mask`` bool [actions]."""

    def in_a_row(seen: dict) -> dict:
        row = np.concatenate([seen[name].ravel() for name in READ], dtype=np.float32)
        return {"observation": np.log1p(row), "action_mask": seen["action_mask"].astype(bool)}

    width = sum(int(np.prod(env.observation_space[name].shape)) for name in READ)
    space = spaces.Dict(
        observation=spaces.Box(0, np.inf, (width,), np.float32),
        action_mask=spaces.Box(0, 1, (int(env.action_space.n),), bool),
    )
    return TransformObservation(env, in_a_row, space)


def make() -> TransformedEnv:
    """The environment of TorchRL."""
    env = flat(gymnasium.make("LLMSched-v0", **SIZES))
    return TransformedEnv(GymWrapper(env, categorical_action_encoding=True), ActionMask())


def main() -> ProbabilisticTensorDictSequential:
    """Learn, and save what was learnt."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the networks are too small for more
    env = make()
    env.set_seed(0)
    width, actions = env.observation_spec["observation"].shape[-1], env.action_space.n
    score = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, actions))
    actor = ProbabilisticActor(
        TensorDictModule(score, ["observation"], ["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    value = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1))
    critic = ValueOperator(value, in_keys=["observation"])
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic)
    adam = torch.optim.Adam(loss.parameters(), 5e-4)
    collector = Collector(env, actor, frames_per_batch=BATCH, total_frames=DECISIONS)
    for batch in collector:
        batch["next", "reward"] /= 100
        for _ in range(EPOCHS):
            with torch.no_grad():
                advantage(batch)
            for part in batch[torch.randperm(BATCH)].split(MINIBATCH):
                terms = loss(part)
                (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                adam.step()
                adam.zero_grad()
        print(f"{-100 * batch['next', 'reward'].sum():.0f} job seconds in {BATCH} decisions")
    torch.save(score.state_dict(), "torchrl_ppo.pt")
    return actor


if __name__ == "__main__":
    main()
