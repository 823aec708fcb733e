"""Training Decima: PPO with what learning to schedule a queue needs.

Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal Policy Optimization Algorithms", 2017,
with, from Mao et al. (SIGCOMM 2019, section 5.3; Mao, Venkatakrishnan, Schwarzkopf and Alizadeh,
"Variance Reduction for Reinforcement Learning in Input-Driven Environments", ICLR 2019):

- Episodes stop after a random time without memory (exponential), the same for all of an iteration.
  Its mean grows: at first only the beginnings of queues are learnt, before bad schedules have made
  them long.
- The episodes of an iteration are groups of replicas. Those of a group have the same jobs and
  arrivals and differ by their actions only, so the mean of their returns is a baseline that knows
  the arrivals: what arrives explains most of what returns differ by.

The reward is minus the job seconds since the last decision. The published one has their average
over a long time added (the differential reward), which is the same at the same time in all
replicas of a group: the baseline takes it away, and no code is needed for it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmsched_gym.agents.base import make_policy
from llmsched_gym.agents.decima.network import WAIT, Graph, GraphNetwork, entropy, join, log_prob
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.rollout import (
    COLLECTORS,
    Collect,
    Rollout,
    Task,
    decisions_of,
    likeliest,
    outcome,
    weights_of,
)
from llmsched_gym.agents.decima.tuning import tune
from llmsched_gym.agents.learning.course import Course, Learner, go_on_from, last_state, learn
from llmsched_gym.agents.learning.held_out import HeldOut
from llmsched_gym.agents.learning.run import (
    HORIZON,
    MINIBATCHES,
    WEIGHTS,
    Training,
    TrainingError,
    random_stream,
)

FloatArray = NDArray[np.float64]
THREADS = 2  # that learn
PART = 512  # choices that a thread takes at once: about what a processor's cache holds


# --- returns and baseline -------------------------------------------------------------------------


def returns_to_go(reward: FloatArray, time_s: FloatArray, discount_s: float) -> FloatArray:
    """Sums of the rewards from each step on, discounted by the time until their steps begin.

    Parameters
    ----------
    reward : [T, N], of the times between steps.
    time_s : [T + 1, N], of the steps and of the end.
    discount_s : a reward t seconds later counts exp(-t / discount_s).

    Returns
    -------
    float64 [T + 1, N]; the last is 0.
    """
    weight = np.exp(-np.diff(time_s, axis=0) / discount_s)
    returns = np.zeros_like(time_s)
    for step in range(len(reward) - 1, -1, -1):
        returns[step] = reward[step] + weight[step] * returns[step + 1]
    return returns


def baseline(returns: FloatArray, time_s: FloatArray, replicas: int) -> FloatArray:
    """At each step the mean return-to-go of the replicas of its group at the same time.

    Returns-to-go are linear between steps, and 0 after the end of an episode.

    Parameters
    ----------
    returns, time_s : [T + 1, N], the replicas of a group side by side.
    """
    mean = np.empty_like(returns)
    for first in range(0, returns.shape[1], replicas):
        group = slice(first, first + replicas)
        times = time_s[:, group]
        others = zip(times.T, returns[:, group].T, strict=True)
        mean[:, group] = sum(np.interp(times, *other) for other in others) / replicas
    return mean


# --- update ---------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """B choices to learn from: chosen stages (numbers in the graph), their log-probabilities when
    they were chosen, and their advantages.
    """

    graph: Graph
    chosen: Tensor
    log_prob: Tensor
    advantage: Tensor

    def to(self, device: str) -> Sample:
        """The same on a device, such as "cuda"."""
        graph, *tensors = self
        return Sample(graph.to(device), *(tensor.to(device) for tensor in tensors))


def samples_of(
    rollouts: Sequence[Rollout], replicas: int, discount_s: float | None
) -> list[Sample]:
    """One for each step of a vector environment; advantages have mean 0 and deviation 1.

    Episodes that stop at once may have left nothing to choose.
    """
    assert discount_s is not None  # DecimaOptions.at_rate
    samples = []
    for (time_s, reward, _), choices in rollouts:
        returns = returns_to_go(reward, time_s, discount_s)
        advantage = returns - baseline(returns, time_s, replicas)
        for step, environment, graph, chosen, log in choices:
            samples.append(
                Sample(graph, chosen, log, torch.from_numpy(advantage[step, environment]))
            )
    if not samples:
        return []
    everything = torch.cat([sample.advantage for sample in samples])
    mean, deviation = everything.mean(), everything.std(correction=0) + 1e-8
    return [one._replace(advantage=((one.advantage - mean) / deviation).float()) for one in samples]


def merge(samples: Sequence[Sample]) -> Sample:
    """Several samples as one, in the same order."""
    first = np.cumsum([0, *(len(sample.graph.stages) for sample in samples)]).tolist()
    chosen = [
        torch.where(sample.chosen == WAIT, WAIT, sample.chosen + before)
        for sample, before in zip(samples, first, strict=False)
    ]
    return Sample(
        join([sample.graph for sample in samples]),
        torch.cat(chosen),
        torch.cat([sample.log_prob for sample in samples]),
        torch.cat([sample.advantage for sample in samples]),
    )


class Loss(NamedTuple):
    """Sums over the choices of a sample."""

    total: Tensor
    policy: Tensor
    entropy: Tensor
    kl: Tensor
    clipped: Tensor


def ppo_loss(network: GraphNetwork, sample: Sample, clip: float, bonus: float) -> Loss:
    """The clipped surrogate, less the entropy times its bonus."""
    decision = network(sample.graph)
    difference = log_prob(decision, sample.chosen) - sample.log_prob
    ratio = difference.exp()
    near = ratio.clamp(1 - clip, 1 + clip)
    policy = -torch.minimum(ratio * sample.advantage, near * sample.advantage).sum()
    nats = entropy(sample.graph, decision).sum()
    with torch.no_grad():
        kl = (ratio - 1 - difference).sum()
        clipped = (ratio != near).sum()
    return Loss(policy - bonus * nats, policy, nats, kl, clipped.float())


def imitation_loss(network: GraphNetwork, sample: Sample, bonus: float) -> Loss:
    """Minus the log-likelihood of what was chosen (by an expert), less the entropy times its bonus:
    what is certain explores nothing, and PPO learns nothing from it.
    """
    decision = network(sample.graph)
    log = log_prob(decision, sample.chosen)
    nats = entropy(sample.graph, decision).sum()
    with torch.no_grad():
        kl = (sample.log_prob - log).sum()
    return Loss(-log.sum() - bonus * nats, -log.sum(), nats, kl, torch.zeros_like(kl))


LossOf = Callable[[GraphNetwork, Sample], Loss]


def update(
    learner: Learner[GraphNetwork],
    samples: Sequence[Sample],
    loss_of: LossOf,
    options: DecimaOptions,
    rng: np.random.Generator,
    pool: ThreadPoolExecutor,
) -> dict[str, float]:
    """Learn from samples, ``epochs`` times in random order; returns what happened, for the logs."""
    minibatches = (
        minibatch
        for _ in range(options.epochs)
        for minibatch in split(
            [samples[k] for k in rng.permutation(len(samples))], options.minibatch
        )
    )
    seen, sums = 0, np.zeros(len(Loss._fields))
    norms: list[float] = []
    for minibatch in minibatches:
        count = _choices(minibatch)
        loss, norm = _step(learner, minibatch, loss_of, options.max_gradient, pool)
        seen, sums, norms = seen + count, sums + loss, [*norms, norm]
        if (
            options.target_kl is not None
            and loss[Loss._fields.index("kl")] > options.target_kl * count
        ):
            break
    means = dict(zip(Loss._fields, (sums / max(seen, 1)).tolist(), strict=True))
    return means | {"gradient": float(np.mean(norms)) if norms else 0.0}


def _step(
    learner: Learner[GraphNetwork],
    minibatch: Sequence[Sample],
    loss_of: LossOf,
    max_gradient: float,
    pool: ThreadPoolExecutor,
) -> tuple[FloatArray, float]:
    """One step of Adam; returns the sums of the losses and the norm of the gradient.

    Threads take parts that fit a processor's cache. Their gradients are added in the order of the
    parts, so that the number of threads makes no difference.
    """
    parameters = list(learner.network.parameters())
    device = str(parameters[0].device)

    def gradients(part: Sequence[Sample]) -> tuple[Loss, Sequence[Tensor]]:
        loss = loss_of(learner.network, merge(part).to(device))
        return loss, torch.autograd.grad(
            loss.total, parameters, allow_unused=True, materialize_grads=True
        )

    losses, found = zip(*pool.map(gradients, split(minibatch, PART)), strict=True)
    count = _choices(minibatch)
    for parameter, parts in zip(parameters, zip(*found, strict=True), strict=True):
        parameter.grad = torch.stack(parts).sum(0) / count
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_gradient)
    learner.optimizer.step()
    sums = torch.stack([torch.stack(loss) for loss in losses]).sum(0)
    return sums.detach().cpu().numpy(), float(norm)


def split(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    """Parts with about so many choices each, in order."""
    if not samples:
        return []
    counts = np.cumsum([len(sample.chosen) for sample in samples])
    parts = max(1, round(counts[-1] / size))
    ends = np.searchsorted(counts, counts[-1] * np.arange(parts + 1) / parts, side="right")
    found = (samples[begin:end] for begin, end in itertools.pairwise(ends.tolist()))
    return [part for part in found if part]


def _choices(samples: Sequence[Sample]) -> int:
    return sum(len(sample.chosen) for sample in samples)


# --- an iteration ---------------------------------------------------------------------------------


def iterate(
    learner: Learner[GraphNetwork],
    collect: Collect,
    seed: int,
    options: DecimaOptions,
    pool: ThreadPoolExecutor,
) -> dict[str, float]:
    """Collect episodes and learn from them; returns what happened, for the logs."""
    number = learner.iteration
    done = number / max(1, options.iterations - 1)
    imitated = options.warm_start if learner.decisions < options.warm_start_decisions else None
    horizon_s = _between(options.horizon_start_s, options.horizon_end_s, done)
    limit_s = random_stream(seed, HORIZON, number).exponential(horizon_s)
    begin = time.perf_counter()
    rollouts = collect(Task(number, limit_s, weights_of(learner.network), imitated))
    collected = time.perf_counter()

    rate = _between(options.learning_rate, options.learning_rate_end, done)
    learner.optimizer.param_groups[0]["lr"] = rate
    bonus = _between(options.entropy, options.entropy_end, done)
    loss_of: LossOf = partial(ppo_loss, clip=options.clip, bonus=bonus)
    if imitated:
        loss_of = partial(imitation_loss, bonus=options.warm_start_entropy)
    rng = random_stream(seed, MINIBATCHES, number)
    samples = samples_of(rollouts, options.replicas, options.discount_s)
    happened = update(learner, samples, loss_of, options, rng, pool)

    return {
        "horizon_s": horizon_s,
        "limit_s": limit_s,
        **outcome(rollouts),
        "learning_rate": rate,
        **happened,
        **learner.count(decisions_of(rollouts), begin, collected),
    }


def _between(start: float | None, end: float | None, done: float) -> float:
    assert start is not None  # DecimaOptions.at_rate
    assert end is not None
    return start + (end - start) * done


# --- training -------------------------------------------------------------------------------------

COLUMNS = (
    *("iteration", "seconds", "decisions", "horizon_s", "limit_s", "return", "mean_jobs", "jct_s"),
    *("learning_rate", *Loss._fields, "gradient", "decisions_per_s", "collect_s", "update_s"),
)


def train(training: Training, options: DecimaOptions) -> dict[str, float]:
    """Train until the last iteration or the end of the time.

    Writes to ``training.folder`` the weights that did best on the held-out episodes
    (``best.safetensors``), the state to go on from (``training.safetensors``) and logs. No state of
    random generators is in it: each iteration has its own.

    Returns
    -------
    Mean JCT on the held-out episodes in seconds, of the network at its best and of other policies.

    Raises
    ------
    TrainingError
        if it cannot begin or go on.
    KeyboardInterrupt
        after Ctrl-C; the last iteration that was completed is kept.
    """
    torch.set_num_threads(1)  # threads do more around whole networks than within layers
    check(training, options)
    learner = begin(training, options)
    with COLLECTORS[training.rollout](training, options) as collect:
        held_out = HeldOut(training.environments, options.evaluation_episodes)
        timed = options.at_rate(held_out.scenario.rate)
        total = options.iterations + options.tuning_iterations
        course = Course(
            options.kind, training, held_out, likeliest, total, options.evaluate_every, COLUMNS
        )
        with ThreadPoolExecutor(THREADS) as pool:

            def go_on() -> dict[str, float]:
                if learner.iteration < options.iterations:
                    return iterate(learner, collect, training.seed, timed, pool)
                return tune(learner, collect, training.seed, timed, len(training.environments))

            return learn(learner, go_on, course)


def check(training: Training, options: DecimaOptions) -> None:
    """TrainingError for settings that do not fit together."""
    if training.environment["belief"] == "none":
        raise TrainingError("belief: the network reads demands, so it needs prior, bayes or oracle")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("agent.device: torch finds no CUDA device here, choose cpu")
    if training.workers > options.groups:
        raise TrainingError(
            f"rollout.num_workers: {training.workers} workers have only {options.groups} groups of "
            "episodes to collect (agent.groups)"
        )
    kinds = len(training.environments)
    if options.groups % kinds:
        raise TrainingError(
            f"agent.groups: {options.groups} groups are not as many in each of {kinds} scenarios"
        )
    if kinds > 1 and options.iterations:
        raise TrainingError(
            f"agent.iterations: {options.iterations} of imitation and PPO, which learn from one "
            "scenario; with scenarios choose 0, and tuning alone"
        )
    if options.warm_start is not None:
        try:
            make_policy(options.warm_start)
        except ValueError as error:
            raise TrainingError(f"agent.warm_start: {error}") from error


def begin(training: Training, options: DecimaOptions) -> Learner[GraphNetwork]:
    """A new learner, or the one of the last checkpoint if training is to be resumed.

    Raises
    ------
    TrainingError
        for a checkpoint that is damaged, was made with other settings, or would be overwritten.
    """
    seed = int(random_stream(training.seed, WEIGHTS).integers(2**63))
    network = options.make_network(seed)
    if options.begin_as is not None:
        network.begin_as_resource_srtf()
    network.to(options.device)
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
    learner = Learner(network, network, optimizer)
    go_on_from(learner, last_state(training, options.kind), training)
    return learner
