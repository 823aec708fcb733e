"""The options of training Decima: without torch, so that commands can list them quickly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from llmsched_gym.agents.learning.options import check_numbers, in_seconds

if TYPE_CHECKING:
    from llmsched_gym.agents.decima.network import GraphNetwork

DEVICES = ("cpu", "cuda")
FIRST = ("resource_srtf",)  # what a network can begin as
_MAY_BE_ZERO = (
    *("iterations", "learning_rate_end", "entropy", "entropy_end"),
    *("warm_start_decisions", "warm_start_entropy", "tuning_iterations"),
)
_JOBS = {"horizon_start_s": 40.0, "horizon_end_s": 80.0, "discount_s": 40.0}  # that arrive in it


@dataclass(frozen=True)
class DecimaOptions:
    """How Decima is trained; for the algorithm see :mod:`llmsched_gym.agents.decima.training`.

    Attributes
    ----------
    iterations : of collecting episodes and learning from them by imitation and PPO; schedules end
        with the last. 0: tuning alone.
    groups, replicas : episodes of an iteration: the replicas of a group have the same jobs and
        arrivals, and are each other's baseline.
    horizon_start_s, horizon_end_s : mean of the random time after which the episodes of an
        iteration stop, seconds, in the first and the last iteration. None (default): the time in
        which 40 and 80 jobs arrive.
    discount_s : time in which what a decision causes counts e times less, seconds; may be infinite.
        None (default): the time in which 40 jobs arrive.
    learning_rate, learning_rate_end : of Adam, in the first and the last iteration.
    epochs : how often an iteration's decisions are learnt from.
    minibatch : about how many of them a step of Adam is for.
    clip : how far PPO lets the ratio of new to old probability go from 1 to its advantage.
    entropy, entropy_end : weight of the entropy, per nat, in the first and the last iteration.
    max_gradient : norm to which gradients are clipped.
    target_kl : nats between old and new policy after which an iteration learns no more, or None.
    begin_as : "resource_srtf": the first weights order jobs as it does; None (default): random.
    warm_start : name of a policy to imitate first, or None.
    warm_start_decisions : for how many decisions.
    warm_start_entropy : weight of the entropy, per nat, while imitating.
    tuning_iterations : that follow, which explore with preferences instead of actions
        (:mod:`llmsched_gym.agents.decima.tuning`).
    tuning_noise : the deviation of what is added to preferences.
    tuning_rate : the first step along what was found; steps fall to a tenth of it.
    evaluate_every : iterations between held-out evaluations.
    evaluation_episodes : episodes of each.
    embedding, hidden, head : sizes of the network
        (:class:`llmsched_gym.agents.decima.network.DecimaNetwork`).
    device : that learns, "cpu" or "cuda"; episodes are collected on processors in either case,
        a few decisions at a time.

    Raises
    ------
    ValueError
        for a number out of its range, or another device.
    """

    kind: ClassVar[str] = "decima"  # of the checkpoints
    iterations: int = 8
    groups: int = 4
    replicas: int = 16
    horizon_start_s: float | None = None
    horizon_end_s: float | None = None
    discount_s: float | None = None
    learning_rate: float = 1e-3
    learning_rate_end: float = 1e-4
    epochs: int = 3
    minibatch: int = 4096
    clip: float = 0.2
    entropy: float = 0.02
    entropy_end: float = 0.001
    max_gradient: float = 0.5
    target_kl: float | None = None
    begin_as: str | None = None
    warm_start: str | None = "srtf"
    warm_start_decisions: int = 150_000
    warm_start_entropy: float = 0.3
    tuning_iterations: int = 30
    tuning_noise: float = 0.4
    tuning_rate: float = 1.0
    evaluate_every: int = 5
    evaluation_episodes: int = 64
    embedding: int = 8
    hidden: int = 16
    head: int = 32
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_numbers(self, may_be_zero=_MAY_BE_ZERO, may_be_infinite=("discount_s",))
        if self.device not in DEVICES:
            raise ValueError(f"agent.device: choose from {', '.join(DEVICES)}")
        if self.begin_as not in (None, *FIRST):
            raise ValueError(
                f"agent.begin_as: unknown {self.begin_as!r}, choose from {', '.join(FIRST)}, null"
            )
        if not self.iterations + self.tuning_iterations:
            raise ValueError("agent.iterations: 0, as agent.tuning_iterations: nothing is learnt")
        if self.replicas < 2:
            raise ValueError("agent.replicas: 1, but it takes 2 to be each other's baseline")
        if self.tuning_iterations and self.replicas % 2:
            raise ValueError(
                f"agent.replicas: {self.replicas} is odd, but tuning goes two opposite ways"
            )

    def at_rate(self, jobs_per_s: float) -> Self:
        """These options with seconds in place of each None that stands for a number of jobs."""
        return replace(self, **in_seconds(self, _JOBS, jobs_per_s))

    def make_network(self, seed: int = 0) -> GraphNetwork:
        """A network of these sizes, whose weights follow from the seed."""
        from llmsched_gym.agents.decima.network import DecimaNetwork

        return DecimaNetwork(self.embedding, self.hidden, self.head, seed)
