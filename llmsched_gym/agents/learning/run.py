"""What every learner is told, whatever its algorithm: where, how long, and where to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# What a stream of random numbers is for:
WEIGHTS, JOBS, ACTIONS, HORIZON, MINIBATCHES, NOISE = range(6)
ROLLOUTS = ("threads", "ray")  # where episodes are collected
HELD_OUT = 1_000_000  # the first seed of episodes nobody learns from; other seeds are 63-bit draws


class TrainingError(ValueError):
    """A training run that cannot begin or go on as it is asked to: one line that says why."""


@dataclass(frozen=True)
class Training:
    """A training run.

    Attributes
    ----------
    environment : the arguments of :class:`llmsched_gym.env.scheduling.LLMSchedEnv`.
    seed : determines everything that is learnt.
    workers : parts in which episodes are collected; results depend on it by rounding.
    rollout : "threads" of this process, or actors of "ray"; results do not depend on it.
    ray_address : of a Ray cluster; None starts one on this machine.
    minutes : after which it stops, or None.
    checkpoint_minutes : between checkpoints.
    resume : whether to go on from the last checkpoint, if there is one.
    folder : where everything is written.
    logger : a name from :data:`llmsched_gym.agents.learning.logs.LOGGERS`.
    settings : all the settings, to be logged and kept with what is learnt.
    wandb : "project" and "mode" for ``logger="wandb"``, each may be None.
    also : the arguments of other environments, to learn from as well; only some learners do.
    """

    environment: dict[str, Any]
    seed: int
    workers: int
    rollout: str
    ray_address: str | None
    minutes: float | None
    checkpoint_minutes: float
    resume: bool
    folder: Path
    logger: str
    settings: dict[str, Any]
    wandb: Mapping[str, Any] = field(default_factory=dict)
    also: Sequence[dict[str, Any]] = ()

    @property
    def environments(self) -> list[dict[str, Any]]:
        """The arguments of all environments to learn from."""
        return [self.environment, *self.also]


def check_one(training: Training, agent: str) -> None:
    """TrainingError for several environments, where a learner learns from one."""
    if training.also:
        raise TrainingError(f"scenarios: agent={agent} learns from one, choose it as scenario=NAME")


def random_stream(seed: int, *which: int) -> np.random.Generator:
    """A stream of random numbers of its own for each tuple of numbers."""
    return np.random.default_rng(np.random.SeedSequence((seed, *which)))
