"""PPO in one file, as CleanRL writes it: masks, discount in seconds, saved, compared.

python examples/cleanrl_ppo.py --iterations 30
python evaluate.py policy=custom policy.path=examples.cleanrl_ppo:Learnt +policy.file=ppo.pt
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from llmsched_gym.agents import Policy
from llmsched_gym.env import CLUSTER, JOB, STAGE, LLMSchedVectorEnv
from llmsched_gym.evaluation import compare

SIZES: dict[str, Any] = {"workload": "planning", "num_jobs": 50, "load": 2.0, "max_stages": 128}
READ = ("stages", "stage_job", "stage_mask", "jobs", "cluster", "action_mask")


@dataclass
class Args:
    """What can be said on the command line."""

    iterations: int = 30
    num_envs: int = 16
    steps: int = 128  # of each environment in an iteration
    epochs: int = 4
    minibatch: int = 512
    discount_s: float = 60.0  # what comes so much later counts e times less
    trace_s: float = 20.0  # the lambda of generalised advantage estimation, in time
    learning_rate: float = 1e-3
    clip: float = 0.2
    entropy: float = 0.003
    seed: int = 0
    output: str = "ppo.pt"


class Network(nn.Module):
    """Scores each stage from its own row, that of its job and the cluster's: of any number."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        width, whole = len(STAGE) + len(JOB) + len(CLUSTER), hidden + len(CLUSTER)
        layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.score, self.value = nn.Linear(hidden, 1), nn.Linear(whole, 1)

    def forward(self, seen: dict[str, Tensor]) -> tuple[Categorical, Tensor]:
        """What to do in each of N environments, and what is to be expected there, [N]."""
        job = seen["stage_job"].long().unsqueeze(-1).expand(-1, -1, len(JOB))
        jobs, cluster = torch.gather(seen["jobs"], 1, job), symlog(seen["cluster"])
        around = cluster.unsqueeze(1).expand(-1, job.shape[1], -1)
        rows = self.body(torch.cat([symlog(seen["stages"]), symlog(jobs), around], -1))
        used = seen["stage_mask"].float().unsqueeze(-1)
        whole = torch.cat([(rows * used).sum(1) / used.sum(1).clamp(min=1), cluster], -1)
        score = self.score(rows).squeeze(-1).masked_fill(seen["action_mask"][:, :-1] == 0, -1e9)
        wait = torch.full_like(score[:, :1], -1e6)  # only where no stage can run
        return Categorical(logits=torch.cat([score, wait], -1)), self.value(whole).squeeze(-1)


def symlog(x: Tensor) -> Tensor:
    """Seconds, tokens and counts in one range."""
    return x.float().sign() * x.float().abs().log1p()


def tensors(observation: Any) -> dict[str, Tensor]:
    """The tables that the network reads."""
    return {name: torch.as_tensor(np.array(observation[name])) for name in READ}


class Learnt(Policy):
    """Does what a saved network thinks best."""

    needs_belief = True

    def __init__(self, file: str = "ppo.pt") -> None:
        self.network = Network()
        self.network.load_state_dict(torch.load(file, weights_only=True))

    def act(self, observation: Any) -> Any:
        """The likeliest action."""
        with torch.no_grad():
            seen = {name: table[None] for name, table in tensors(observation).items()}
            return int(self.network(seen)[0].logits.argmax())


def train(args: Args) -> None:
    """Learn, and save what was learnt."""
    torch.manual_seed(args.seed)
    envs = LLMSchedVectorEnv(args.num_envs, autoreset_mode="SameStep", **SIZES)
    network = Network()
    adam = torch.optim.Adam(network.parameters(), args.learning_rate)
    seen, _ = envs.reset(seed=args.seed)
    for iteration in range(args.iterations):
        kept: list[tuple[Any, ...]] = []
        for _ in range(args.steps):
            now = tensors(seen)
            with torch.no_grad():
                choice, value = network(now)
                action = choice.sample()
            begin_s = seen["cluster"][:, CLUSTER["time_s"]]
            seen, reward, over, cut, _ = envs.step(action.numpy())
            ended = torch.as_tensor(over | cut)  # then `seen` is of the next episode
            seconds = torch.as_tensor(seen["cluster"][:, CLUSTER["time_s"]] - begin_s).clamp(min=0)
            scaled = torch.as_tensor(reward, dtype=torch.float32) / args.discount_s / 10
            kept.append((now, action, choice.log_prob(action), value, scaled, seconds, ended))
        following = network(tensors(seen))[1].detach()
        advantages, trace = [], torch.zeros(args.num_envs)
        for _, _, _, value, scaled, seconds, ended in reversed(kept):
            going = ~ended * torch.exp(-seconds / args.discount_s)
            trace = going * torch.exp(-seconds / args.trace_s) * trace
            trace, following = trace + scaled + going * following - value, value
            advantages.append(trace)
        advantage = torch.stack(advantages[::-1]).flatten()
        action, old, value = (torch.stack([k[i] for k in kept]).flatten() for i in (1, 2, 3))
        batch = {name: torch.cat([one[0][name] for one in kept]) for name in READ}
        target, size = advantage + value, len(advantage)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for _ in range(args.epochs):
            for part in torch.randperm(size).split(args.minibatch):
                choice, value = network({name: table[part] for name, table in batch.items()})
                ratio = (choice.log_prob(action[part]) - old[part]).exp()
                near = ratio.clamp(1 - args.clip, 1 + args.clip)
                gain = torch.minimum(ratio * advantage[part], near * advantage[part]).mean()
                error = (value - target[part]).square().mean()
                loss = 0.5 * error - gain - args.entropy * choice.entropy().mean()
                adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 0.5)
                adam.step()
        cost = -sum(float(one[4].mean()) for one in kept) * args.discount_s * 10
        print(f"iteration {iteration}: {cost:.0f} job seconds, value error {error:.3f}")
    torch.save(network.state_dict(), args.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Args):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args()))
    train(args)
    policies = {"ppo": Learnt(args.output), "fcfs": "fcfs", "sjf": "sjf"}
    print(compare(policies, **SIZES).summary[["policy", "mean_jct_s"]])
