"""Training by stable-baselines3: sb3-contrib's MaskablePPO on graphs of jobs.

It shares the network with Decima, and nothing of how Decima is trained: clusters go on from one
episode to the next, and a critic in place of replicas says what was to be expected.
"""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from llmsched_gym.agents.decima.network import DecimaNetwork
from llmsched_gym.agents.decima.rollout import likeliest
from llmsched_gym.agents.learning.course import (
    Course,
    Learner,
    Row,
    Snapshot,
    go_on_from,
    last_state,
    learn,
)
from llmsched_gym.agents.learning.held_out import HeldOut
from llmsched_gym.agents.learning.run import (
    ACTIONS,
    JOBS,
    WEIGHTS,
    Training,
    TrainingError,
    check_one,
    random_stream,
)
from llmsched_gym.agents.ppo.buffer import GraphRolloutBuffer
from llmsched_gym.agents.ppo.network import GraphPolicy
from llmsched_gym.agents.ppo.options import PPOOptions
from llmsched_gym.env.sb3 import RewardScaling, SB3VecEnv
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.env.vector import LLMSchedVectorEnv

KIND = "ppo"  # of the checkpoints
ROOM = 256  # stage rows of an observation, if nothing else is said
LEARNT = {  # what an update led to: our names, and those that stable-baselines3 logs it by
    "policy": "train/policy_gradient_loss",
    "value": "train/value_loss",
    "explained": "train/explained_variance",
    "entropy": "train/entropy_loss",
    "kl": "train/approx_kl",
    "clipped": "train/clip_fraction",
}
COLUMNS = (
    *("iteration", "seconds", "decisions", "return", "mean_jobs", "jct_s", "learning_rate"),
    *(*LEARNT, "decisions_per_s", "collect_s", "update_s"),
)


def train(training: Training, options: PPOOptions) -> dict[str, float]:
    """Train until the last iteration or the end of the time.

    Writes to ``training.folder`` the weights that did best on the held-out episodes
    (``best.safetensors``), the state to go on from (``training.safetensors``) and logs.

    Returns
    -------
    Mean JCT on the held-out episodes in seconds, of PPO at its best and of other policies.

    Raises
    ------
    TrainingError
        if it cannot begin or go on.
    KeyboardInterrupt
        after Ctrl-C; the last iteration that was completed is kept.

    Notes
    -----
    The state has no generators and no clusters in it: each iteration draws from streams of its own,
    and clusters get to where they were by doing the same again.
    """
    torch.set_num_threads(1)  # the network is too small for more
    check(training)
    state = last_state(training, KIND)
    held_out = HeldOut(training.environments, options.evaluation_episodes)
    timed = options.at_rate(held_out.scenario.rate)
    course = Course(
        KIND,
        training,
        held_out,
        likeliest,
        options.iterations,
        options.evaluate_every,
        COLUMNS,
    )
    with clusters_of(training, options, held_out.scenario) as clusters:
        learner = PPOLearner(clusters, training.seed, timed)
        go_on_from(learner, state, training)
        return learn(learner, partial(iterate, learner, training.seed, timed), course)


def check(training: Training) -> None:
    """TrainingError for settings that do not fit together."""
    check_one(training, KIND)
    if training.environment["belief"] == "none":
        raise TrainingError("belief: the network reads demands, so it needs prior, bayes or oracle")
    if training.rollout != "threads":
        raise TrainingError(
            f"rollout: stable-baselines3 collects in this process, so {training.rollout} is of no "
            "use, choose threads"
        )


def clusters_of(
    training: Training, options: PPOOptions, scenario: Scenario
) -> closing[LLMSchedVectorEnv]:
    """The clusters to learn on, with room for 256 stages unless it is said how much."""
    room = min(max(ROOM, scenario.rows_of_a_job), scenario.max_stages)
    environment = dict(training.environment)
    environment["max_stages"] = environment.get("max_stages") or room
    clusters = LLMSchedVectorEnv(
        options.environments,
        autoreset_mode=AutoresetMode.DISABLED,
        threads=training.workers,
        **environment,
    )
    return closing(clusters)


class PPOLearner(Learner[DecimaNetwork]):
    """``MaskablePPO`` with its clusters and the scale of their rewards.

    Parameters
    ----------
    clusters : to learn on.
    seed : determines the weights and the jobs.
    options : with times in seconds.
    """

    def __init__(self, clusters: LLMSchedVectorEnv, seed: int, options: PPOOptions) -> None:
        self.venv = SB3VecEnv(clusters)
        self.venv.seed(int(random_stream(seed, JOBS).integers(2**31)))
        self.model = _maskable_ppo(self.venv, seed, options)
        self.scaling: Any = self.model.get_env()
        policy: Any = self.model.policy
        super().__init__(policy.features_extractor.network, policy, policy.optimizer)

    def snapshot(self) -> Snapshot:
        """All that going on takes, as tensors and as what JSON can hold."""
        tensors, counters = super().snapshot()
        clusters = {name: torch.from_numpy(array) for name, array in self.venv.state().items()}
        seen = self.scaling.ret_rms
        scale = [float(number) for number in (seen.mean, seen.var, seen.count)]
        returns = torch.from_numpy(self.scaling.returns.copy())
        extra = {f"clusters.{name}": tensor for name, tensor in clusters.items()}
        extra |= {
            "rewards.scale": torch.tensor(scale, dtype=torch.float64),
            "rewards.returns": returns,
        }
        return tensors | extra, counters

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """The opposite of :meth:`snapshot`."""
        super().restore(tensors, counters)
        if self.iteration < 1:  # the clusters have not begun
            return
        state = {
            name.removeprefix("clusters."): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith("clusters.")
        }
        model: Any = self.model
        model._last_obs = self.venv.restore(state)
        model._last_episode_starts = state["length"] == 0
        seen = self.scaling.ret_rms
        seen.mean, seen.var, seen.count = tensors["rewards.scale"].tolist()
        self.scaling.returns = tensors["rewards.returns"].numpy().copy()


def _maskable_ppo(venv: SB3VecEnv, seed: int, options: PPOOptions) -> MaskablePPO:
    assert options.discount_s is not None  # PPOOptions.at_rate
    clock = {"discount_s": options.discount_s, "trace_s": options.trace_s}
    sizes = {"embedding": options.embedding, "hidden": options.hidden, "head": options.head}
    model = MaskablePPO(
        GraphPolicy,
        RewardScaling(venv, options.discount_s),
        learning_rate=options.learning_rate,
        n_steps=options.steps,
        batch_size=options.minibatch,
        n_epochs=options.epochs,
        gamma=1.0,  # time discounts
        gae_lambda=1.0,
        clip_range=options.clip,
        ent_coef=options.entropy,
        vf_coef=options.value,
        max_grad_norm=options.max_gradient,
        target_kl=options.target_kl,
        rollout_buffer_class=GraphRolloutBuffer,
        rollout_buffer_kwargs=clock,
        policy_kwargs={"features_extractor_kwargs": sizes},
        device="cpu",
        _init_setup_model=False,
    )
    _seed_torch(seed, WEIGHTS)
    model._setup_model()
    model.set_logger(Logger(None, []))
    return model


def _seed_torch(seed: int, *which: int) -> None:
    """stable-baselines3 draws from torch's global generator."""
    torch.manual_seed(int(random_stream(seed, *which).integers(2**63)))


def iterate(learner: PPOLearner, seed: int, options: PPOOptions) -> Row:
    """Collect decisions and learn from them; returns what happened, for the logs."""
    model, number = learner.model, learner.iteration
    done = number / max(1, options.iterations - 1)
    rate = options.learning_rate + done * (options.learning_rate_end - options.learning_rate)
    model.lr_schedule = lambda _: rate
    _seed_torch(seed, ACTIONS, number)
    watch, begin = _Watch(), time.perf_counter()
    decisions = options.steps * options.environments
    model.learn(decisions, watch, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
    speed = learner.count(decisions, begin, watch.collected)
    learnt = {name: float(model.logger.name_to_value[key]) for name, key in LEARNT.items()}
    returns = watch.returns
    return {
        "return": sum(returns) / len(returns) if returns else None,
        "mean_jobs": watch.job_seconds / watch.seconds if watch.seconds else 0.0,
        "learning_rate": rate,
        **learnt,
        "entropy": -learnt["entropy"],  # the loss is minus it
        **speed,
    }


class _Watch(BaseCallback):
    """What happens while decisions are collected.

    Attributes
    ----------
    job_seconds, seconds : of all clusters together.
    returns : of the episodes that ended.
    collected : when it was over, by ``time.perf_counter``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.job_seconds = self.seconds = self.collected = 0.0
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        scaling: Any = self.training_env
        self.job_seconds -= float(scaling.get_original_reward().sum())
        self.seconds += float(scaling.venv.seconds.sum())
        ended = (info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        self.returns.extend(ended)
        return True

    def _on_rollout_end(self) -> None:
        self.collected = time.perf_counter()
