"""The options of training by stable-baselines3: without it, so that commands list them quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from llmsched_gym.agents.learning.options import check_numbers, in_seconds

_MAY_BE_ZERO = ("learning_rate_end", "entropy", "value")
_JOBS = {"discount_s": 10.0, "trace_s": 3.0}  # that arrive in it


@dataclass(frozen=True)
class PPOOptions:
    """How ``MaskablePPO`` is set up; see :mod:`llmsched_gym.agents.ppo.training`.

    Attributes
    ----------
    iterations : of collecting decisions and learning from them.
    environments : clusters side by side.
    steps : decisions of each in an iteration.
    discount_s : time in which what a decision causes counts e times less, seconds; may be infinite.
        None (default): the time in which 10 jobs arrive.
    trace_s : time in which the weight of later rewards against the critic's estimate falls e times
        (the lambda of generalised advantage estimation, in time), seconds; may be infinite. None
        (default): the time in which 3 jobs arrive.
    learning_rate, learning_rate_end : of Adam, at the beginning and at the end.
    epochs : how often an iteration's decisions are learnt from.
    minibatch : about how many of them a step of Adam is for.
    clip : how far PPO lets the ratio of new to old probability go from 1 to its advantage.
    entropy : weight of the entropy, per nat.
    value : weight of the critic's squared error.
    max_gradient : norm to which gradients are clipped.
    target_kl : nats between old and new policy after which an iteration learns no more, or None.
    evaluate_every : iterations between held-out evaluations.
    evaluation_episodes : episodes of each.
    embedding, hidden, head : sizes of the network
        (:class:`llmsched_gym.agents.decima.network.DecimaNetwork`).

    Raises
    ------
    ValueError
        for a number out of its range.
    """

    iterations: int = 25
    environments: int = 64
    steps: int = 128
    discount_s: float | None = None
    trace_s: float | None = None
    learning_rate: float = 2e-3
    learning_rate_end: float = 2e-4
    epochs: int = 4
    minibatch: int = 1024
    clip: float = 0.2
    entropy: float = 0.0
    value: float = 0.5
    max_gradient: float = 0.5
    target_kl: float | None = None
    evaluate_every: int = 5
    evaluation_episodes: int = 32
    embedding: int = 8
    hidden: int = 16
    head: int = 32

    def __post_init__(self) -> None:
        check_numbers(self, may_be_zero=_MAY_BE_ZERO, may_be_infinite=tuple(_JOBS))

    def at_rate(self, jobs_per_s: float) -> Self:
        """These options with seconds in place of each None that stands for a number of jobs."""
        return replace(self, **in_seconds(self, _JOBS, jobs_per_s))
