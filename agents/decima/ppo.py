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

import copy
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import checkpoint
from agents.base import Observation, make_policy
from agents.decima.network import (
    WAIT,
    DecimaNetwork,
    Graph,
    actions,
    choose,
    entropy,
    graph_of,
    join,
    log_prob,
)
from agents.decima.options import DecimaOptions
from agents.decima.rollout import COLLECTORS, Act, Collect, Rollout, Task, play
from agents.logs import open_log, shown
from agents.training import (
    HELD_OUT,
    HORIZON,
    MINIBATCHES,
    WEIGHTS,
    Training,
    TrainingError,
    make_environments,
    random_stream,
)

FloatArray = NDArray[np.float64]
COMPARED = ("fcfs", "sjf", "srtf", "llmsched")  # on the held-out episodes
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


def ppo_loss(network: DecimaNetwork, sample: Sample, clip: float, bonus: float) -> Loss:
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


def imitation_loss(network: DecimaNetwork, sample: Sample, bonus: float) -> Loss:
    """Minus the log-likelihood of what was chosen (by an expert), less the entropy times its bonus:
    what is certain explores nothing, and PPO learns nothing from it.
    """
    decision = network(sample.graph)
    log = log_prob(decision, sample.chosen)
    nats = entropy(sample.graph, decision).sum()
    with torch.no_grad():
        kl = (sample.log_prob - log).sum()
    return Loss(-log.sum() - bonus * nats, -log.sum(), nats, kl, torch.zeros_like(kl))


LossOf = Callable[[DecimaNetwork, Sample], Loss]


def update(
    learner: Learner,
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
    learner: Learner,
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

    def gradients(part: Sequence[Sample]) -> tuple[Loss, Sequence[Tensor]]:
        loss = loss_of(learner.network, merge(part).to(learner.device))
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


@dataclass
class Learner:
    """What training changes.

    Attributes
    ----------
    iteration : the last one that is done, -1 before number 0, which only evaluates.
    decisions : how many episodes have taken.
    seconds : of wall-clock time, over all that was interrupted and resumed.
    best_jct_s : the least mean JCT on the held-out episodes so far.
    compared_jct_s : of other policies on these episodes.
    device : that learns.
    """

    network: DecimaNetwork
    optimizer: torch.optim.Adam
    iteration: int = -1
    decisions: int = 0
    seconds: float = 0.0
    best_jct_s: float = math.inf
    compared_jct_s: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"


def iterate(
    learner: Learner,
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
    rollouts = collect(Task(number, limit_s, _weights(learner.network), imitated))
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

    trajectories = [rollout.trajectory for rollout in rollouts]
    decisions = sum(int(one.decisions.sum()) for one in trajectories)
    learner.iteration += 1
    learner.decisions += decisions
    end = time.perf_counter()
    job_seconds = sum(float(-one.reward.sum()) for one in trajectories)
    return {
        "decisions": learner.decisions,
        "horizon_s": horizon_s,
        "limit_s": limit_s,
        "mean_jobs": job_seconds / sum(float(one.time_s[-1].sum()) for one in trajectories),
        "learning_rate": rate,
        **happened,
        "decisions_per_s": decisions / (end - begin),
        "collect_s": collected - begin,
        "update_s": end - collected,
    }


def _between(start: float | None, end: float | None, done: float) -> float:
    assert start is not None  # DecimaOptions.at_rate
    assert end is not None
    return start + (end - start) * done


def _weights(network: DecimaNetwork) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}


# --- held-out evaluation --------------------------------------------------------------------------


class HeldOut:
    """The same whole episodes for everyone, with jobs that nobody learns from."""

    def __init__(self, environment: dict[str, Any], episodes: int) -> None:
        self._envs = make_environments(environment, episodes)
        self._seeds = range(HELD_OUT, HELD_OUT + episodes)
        self.scenario = self._envs.scenario

    def mean_jct_s(self, act: Act) -> float:
        """The mean JCT, seconds."""
        reward = play(self._envs, act, self._seeds).reward
        return -float(reward.sum(0).mean()) / self.scenario.num_jobs

    def mean_jct_of(self, name: str) -> float:
        """The mean JCT of a policy with its default options, seconds."""
        policy = make_policy(name)
        policy.reset(HELD_OUT)
        return self.mean_jct_s(lambda observation: np.asarray(policy.act(observation)))


def greedy(network: DecimaNetwork) -> Act:
    """Always the likeliest action."""

    def act(observation: Observation) -> NDArray[np.int64]:
        graph = graph_of(observation)
        with torch.no_grad():
            chosen = choose(graph, network(graph))
        return actions(graph, chosen, observation["action_mask"].shape[1] - 1)

    return act


# --- checkpoints ----------------------------------------------------------------------------------

BEST, STATE = "best.safetensors", "training.safetensors"
KIND = "decima training"  # of the latter
COUNTERS = ("iteration", "decisions", "seconds", "best_jct_s", "compared_jct_s")
FREE = (  # settings that may change when training goes on
    *("resume", "minutes", "checkpoint_minutes", "output_dir"),
    *("logger", "wandb", "rollout.name", "ray"),
)

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]


def snapshot(learner: Learner) -> Snapshot:
    """All that going on to the same result takes, as tensors and as what JSON can hold.

    No state of random generators is in it: each iteration has its own.
    """
    tensors = {
        f"network.{name}": tensor.to("cpu", copy=True)
        for name, tensor in learner.network.state_dict().items()
    }
    for number, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {
            f"adam.{number}.{name}": tensor.to("cpu", copy=True) for name, tensor in state.items()
        }
    return tensors, {name: getattr(learner, name) for name in COUNTERS}


def restore(learner: Learner, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
    """The opposite of :func:`snapshot`."""
    network: dict[str, Tensor] = {}
    adam: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "network":
            network[rest] = tensor
        else:
            number, _, slot = rest.partition(".")
            adam[int(number)][slot] = tensor
    learner.network.load_state_dict(network)
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": dict(adam), "param_groups": groups})
    for name in COUNTERS:
        setattr(learner, name, counters[name])


def begin(training: Training, options: DecimaOptions) -> Learner:
    """A new learner, or the one of the last checkpoint if training is to be resumed.

    Raises
    ------
    TrainingError
        for a checkpoint that is damaged, was made with other settings, or would be overwritten.
    """
    seed = int(random_stream(training.seed, WEIGHTS).integers(2**63))
    network = DecimaNetwork(options.embedding, options.hidden, options.head, seed)
    network.to(options.device)
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
    learner = Learner(network, optimizer, device=options.device)
    path = training.folder / STATE
    if not path.exists():
        return learner
    if not training.resume:
        raise TrainingError(
            f"{path}: there is a training run already; resume=true goes on with it, or choose "
            "another output_dir"
        )
    try:
        tensors, meta = checkpoint.load(path, KIND)
    except checkpoint.CheckpointError as error:
        raise TrainingError(str(error)) from error
    check_same(path, meta["settings"], training.settings)
    restore(learner, tensors, meta)
    return learner


def check_same(path: Path, made: Any, given: Any, name: str = "") -> None:
    """TrainingError if settings differ, but for those that make no difference."""
    if name in FREE or made == given:
        return
    if not (isinstance(made, dict) and isinstance(given, dict)):
        raise TrainingError(f"{path}: made with {name}={made}, cannot go on with {name}={given}")
    for key in sorted(made.keys() | given.keys()):
        check_same(path, made.get(key), given.get(key), f"{name}.{key}".lstrip("."))


# --- training -------------------------------------------------------------------------------------

COLUMNS = (
    *("iteration", "seconds", "decisions", "horizon_s", "limit_s", "mean_jobs", "jct_s"),
    *("learning_rate", *Loss._fields, "gradient", "decisions_per_s", "collect_s", "update_s"),
)


def train(training: Training, options: DecimaOptions) -> dict[str, float]:
    """Train until the last iteration or the end of the time.

    Writes to ``training.folder`` the weights that did best on the held-out episodes
    (``best.safetensors``), the state to go on from (``training.safetensors``) and logs.

    Returns
    -------
    Mean JCT on the held-out episodes in seconds, of Decima at its best and of other policies.

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
    with ExitStack() as stack:
        collect = stack.enter_context(COLLECTORS[training.rollout](training, options))
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        held_out = HeldOut(training.environment, options.evaluation_episodes)
        options = options.at_rate(held_out.scenario.rate)
        training.folder.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context(open_log(training, learner.iteration))
        show = stack.enter_context(shown(options.iterations, max(0, learner.iteration)))

        def go_on() -> None:
            row = _next(learner, training, options, held_out, collect, pool)
            log.row(row)
            show(row)

        _repeat(go_on, learner, training, options)
        compared = {name: learner.compared_jct_s[name] for name in COMPARED}
        result = {"decima": learner.best_jct_s} | compared
        log.table("held_out", [{"policy": k, "mean_jct_s": v} for k, v in result.items()])
        log.curve("decima", compared)
        log.checkpoint(training.folder / BEST)
    return result


def check(training: Training, options: DecimaOptions) -> None:
    """TrainingError for settings that do not fit together."""
    if training.environment["belief"] == "none":
        raise TrainingError("belief: Decima reads demands, so it needs prior, bayes or oracle")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("agent.device: torch finds no CUDA device here, choose cpu")
    if training.workers > options.groups:
        raise TrainingError(
            f"rollout.num_workers: {training.workers} workers have only {options.groups} groups of "
            "episodes to collect (agent.groups)"
        )
    if options.warm_start is not None:
        try:
            make_policy(options.warm_start)
        except ValueError as error:
            raise TrainingError(f"agent.warm_start: {error}") from error


def _repeat(
    go_on: Callable[[], None], learner: Learner, training: Training, options: DecimaOptions
) -> None:
    """Go on until the end, with checkpoints every few minutes and, however it ends, at the end."""
    path = training.folder / STATE
    about = {"kind": KIND, "settings": training.settings}
    saved = time.monotonic()
    end = math.inf if training.minutes is None else saved + 60 * training.minutes
    state: Snapshot | None = None
    try:
        while learner.iteration < options.iterations and (
            learner.iteration < 0 or time.monotonic() < end
        ):
            go_on()
            state = snapshot(learner)
            if time.monotonic() - saved > 60 * training.checkpoint_minutes:
                checkpoint.save(path, state[0], about | state[1])
                saved = time.monotonic()
    finally:  # an interrupt leaves a learner in the middle of an iteration: it does not count
        if state is not None:
            checkpoint.save(path, state[0], about | state[1])


def _next(
    learner: Learner,
    training: Training,
    options: DecimaOptions,
    held_out: HeldOut,
    collect: Collect,
    pool: ThreadPoolExecutor,
) -> dict[str, Any]:
    """Do an iteration; the first, number 0, only evaluates what there is."""
    begin = time.monotonic()
    happened: dict[str, float] = {}
    if learner.iteration >= 0:
        happened = iterate(learner, collect, training.seed, options, pool)
    else:
        learner.compared_jct_s = {name: held_out.mean_jct_of(name) for name in COMPARED}
        learner.iteration = 0
    if learner.iteration % options.evaluate_every == 0 or learner.iteration == options.iterations:
        happened["jct_s"] = _evaluate(learner, training, held_out)
    learner.seconds += time.monotonic() - begin
    counted = {"iteration": learner.iteration, "seconds": learner.seconds}
    return dict.fromkeys(COLUMNS) | {"decisions": learner.decisions} | happened | counted


def _evaluate(learner: Learner, training: Training, held_out: HeldOut) -> float:
    """The mean JCT on the held-out episodes, seconds; keeps the best weights."""
    network = copy.deepcopy(learner.network).to("cpu")
    jct_s = held_out.mean_jct_s(greedy(network))
    if jct_s < learner.best_jct_s:
        learner.best_jct_s = jct_s
        about = {
            "kind": "decima",
            "network": network.options,
            "settings": training.settings,
            "iteration": learner.iteration,
            "held_out_jct_s": jct_s,
        }
        checkpoint.save(training.folder / BEST, network.state_dict(), about)
    return jct_s
