"""Episodes to learn from, collected in chunks: in threads of this process, or by Ray actors."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmsched_gym.agents.base import Observation, make_policy
from llmsched_gym.agents.decima.network import (
    WAIT,
    Graph,
    GraphNetwork,
    actions,
    choose,
    graph_of,
    log_prob,
)
from llmsched_gym.agents.decima.options import DecimaOptions
from llmsched_gym.agents.decima.preferred import Preferred
from llmsched_gym.agents.learning.episodes import Act, Trajectory, make_environments, play
from llmsched_gym.agents.learning.run import (
    ACTIONS,
    JOBS,
    NOISE,
    Training,
    TrainingError,
    random_stream,
)
from llmsched_gym.env.vector import LLMSchedVectorEnv
from llmsched_gym.processes import start_ray


class Choices(NamedTuple):
    """What was chosen at a step of a vector environment, where more than one action was legal.

    Attributes
    ----------
    step, environment : int64 [B], when and in which environment.
    graph : of the B observations.
    chosen : int64 [B], the numbers of the stages in the graph, or ``WAIT``.
    log_prob : float32 [B], of what was chosen, by the network of that time.
    """

    step: NDArray[np.int64]
    environment: NDArray[np.int64]
    graph: Graph
    chosen: Tensor
    log_prob: Tensor


class Rollout(NamedTuple):
    """What a chunk collects in an iteration."""

    trajectory: Trajectory
    choices: list[Choices]


def decisions_of(rollouts: Sequence[Rollout]) -> int:
    """All that were made."""
    return sum(int(rollout.trajectory.decisions.sum()) for rollout in rollouts)


def job_seconds(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """What each episode cost: float64 [episodes]."""
    return np.concatenate([-rollout.trajectory.reward.sum(axis=0) for rollout in rollouts])


def outcome(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """The mean return of the episodes, and the mean number of jobs in the system, for the logs."""
    cost = job_seconds(rollouts)
    seconds = sum(float(rollout.trajectory.time_s[-1].sum()) for rollout in rollouts)
    return {"return": -float(cost.mean()), "mean_jobs": float(cost.sum()) / seconds}


class Task(NamedTuple):
    """What to collect.

    Attributes
    ----------
    limit_s : until when, seconds, or None: whole episodes.
    weights : of the network.
    expert : the policy to watch instead of it, or None.
    noise : the deviation of what is added to its preferences, 0 to draw actions instead.
    """

    iteration: int
    limit_s: float | None
    weights: Mapping[str, NDArray[Any]]
    expert: str | None = None
    noise: float = 0.0


def weights_of(network: GraphNetwork) -> dict[str, NDArray[Any]]:
    """The weights of a network, for a :class:`Task`."""
    return {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}


# --- Episodes -------------------------------------------------------------------------------------


class Recorder:
    """Acts as the network draws, or as an expert does, and keeps all choices.

    Where only one action is legal it is taken: there is nothing to learn.

    Parameters
    ----------
    generators : one per environment, so that what is drawn does not depend on the others.
    """

    def __init__(
        self,
        network: GraphNetwork,
        generators: Sequence[np.random.Generator],
        expert: Act | None = None,
    ) -> None:
        self.choices: list[Choices] = []
        self._network, self._generators, self._expert = network, generators, expert
        self._step = 0

    def __call__(self, observation: Observation) -> NDArray[np.int64]:
        """Actions [N]."""
        acted, choosing = where_to_choose(observation)
        if len(choosing):
            acted[choosing] = self._choose(observation, choosing)
        self._step += 1
        return acted

    def _choose(self, observation: Observation, choosing: NDArray[np.int64]) -> NDArray[np.int64]:
        wait = observation["action_mask"].shape[1] - 1
        graph = graph_of(_members(observation, choosing))
        with torch.no_grad():
            decision = self._network(graph)
            if self._expert is None:
                uniform = np.array([self._generators[k].random() for k in choosing])
                chosen = choose(graph, decision, uniform)
            else:
                chosen = _numbers(graph, self._expert(observation)[choosing], wait)
            numbers = torch.from_numpy(chosen)
            log = log_prob(decision, numbers)
        steps = np.full(len(choosing), self._step)
        self.choices.append(Choices(steps, choosing, graph, numbers, log))
        return actions(graph, chosen, wait)


def _members(observation: Observation, which: NDArray[np.int64]) -> Observation:
    """Some of a batch of observations."""
    if len(which) == len(observation["cluster"]):
        return observation
    return {name: array[which] for name, array in observation.items()}


def _numbers(graph: Graph, acted: NDArray[Any], wait: int) -> NDArray[np.int64]:
    """The opposite of :func:`actions`, for observations that have stages."""
    (first,) = (graph.row.numpy() == 0).nonzero()
    return np.where(acted == wait, WAIT, first + acted)


def likeliest(network: GraphNetwork, preference: NDArray[np.float64] | None = None) -> Act:
    """Always the likeliest action; with ``preference`` [N, 2 f], to a network that prefers other
    things in each environment (:meth:`llmsched_gym.agents.decima.network.GraphNetwork.forward`).
    """
    if network.only_prefers():
        return Preferred(network, preference)
    preferences = None if preference is None else torch.from_numpy(preference).float()

    def act(observation: Observation) -> NDArray[np.int64]:
        acted, choosing = where_to_choose(observation)
        if len(choosing):
            graph = graph_of(_members(observation, choosing))
            own = None if preferences is None else preferences[choosing]
            with torch.no_grad():
                chosen = choose(graph, network(graph, own))
            acted[choosing] = actions(graph, chosen, observation["action_mask"].shape[1] - 1)
        return acted

    return act


def where_to_choose(observation: Observation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first legal action of each environment [N], and the environments that have another."""
    mask = observation["action_mask"]
    (choosing,) = (mask.sum(axis=-1, dtype=np.int64) > 1).nonzero()
    return mask.argmax(axis=-1), choosing


def noise_of(
    seed: int, iteration: int, groups: Sequence[int], replicas: int, size: int
) -> NDArray[np.float64]:
    """Standard normal noise [groups * replicas, size], opposite in each two replicas."""
    drawn = [
        random_stream(seed, NOISE, iteration, group, pair).normal(size=size)
        for group in groups
        for pair in range(replicas // 2)
    ]
    return np.stack((drawn, np.negative(drawn)), axis=1).reshape(-1, size)


# --- Chunks ---------------------------------------------------------------------------------------


class Chunk:
    """Some of the groups of episodes, in a vector environment for each kind of cluster."""

    def __init__(self, training: Training, options: DecimaOptions, groups: Sequence[int]) -> None:
        self._seed, self._replicas = training.seed, options.replicas
        self._parts = [
            (make_environments(environment, len(own) * options.replicas, 1), own)
            for environment, dealt in zip(
                training.environments, groups_of(options, training), strict=True
            )
            if (own := [group for group in groups if group in dealt])
        ]
        self._network = options.make_network()
        self._stopped = False

    def collect(self, task: Task) -> list[Rollout]:
        """Play the episodes of an iteration."""
        weights = {name: torch.from_numpy(array) for name, array in task.weights.items()}
        self._network.load_state_dict(weights)
        return [self._collect(task, *part) for part in self._parts]

    def _collect(self, task: Task, envs: LLMSchedVectorEnv, groups: Sequence[int]) -> Rollout:
        seeds = [
            int(random_stream(self._seed, JOBS, task.iteration, group).integers(2**63))
            for group in groups
            for _ in range(self._replicas)
        ]
        if task.noise:
            size = len(self._network.preference())
            drawn = noise_of(self._seed, task.iteration, groups, self._replicas, size)
            act = likeliest(self._network, task.noise * drawn)
            return Rollout(self._play(envs, act, seeds, task), [])
        generators = [
            random_stream(self._seed, ACTIONS, task.iteration, group, replica)
            for group in groups
            for replica in range(self._replicas)
        ]
        recorder = Recorder(self._network, generators, self._expert(task))
        return Rollout(self._play(envs, recorder, seeds, task), recorder.choices)

    def _play(
        self, envs: LLMSchedVectorEnv, act: Act, seeds: Sequence[int], task: Task
    ) -> Trajectory:
        return play(envs, act, seeds, task.limit_s, lambda: self._stopped)

    def _expert(self, task: Task) -> Act | None:
        if task.expert is None:
            return None
        policy = make_policy(task.expert)
        policy.reset(int(random_stream(self._seed, ACTIONS, task.iteration).integers(2**63)))
        return lambda observation: np.asarray(policy.act(observation))

    def stop(self) -> None:
        """Give up what is being collected, in whichever thread."""
        self._stopped = True


Collect = Callable[[Task], list[Rollout]]


def chunks_of(options: DecimaOptions, training: Training) -> list[Sequence[int]]:
    """The groups of each chunk."""
    return [part.tolist() for part in np.array_split(np.arange(options.groups), training.workers)]


def groups_of(options: DecimaOptions, training: Training) -> list[Sequence[int]]:
    """The groups that play in each environment, as many in each."""
    groups = np.arange(options.groups).reshape(len(training.environments), -1)
    return [part.tolist() for part in groups]


@contextmanager
def in_threads(training: Training, options: DecimaOptions) -> Iterator[Collect]:
    """Collect chunks at the same time: torch and the compiled simulator let go of the GIL."""
    chunks = [Chunk(training, options, part) for part in chunks_of(options, training)]
    with ThreadPoolExecutor(len(chunks)) as pool:
        try:
            yield lambda task: list(
                itertools.chain(*pool.map(lambda chunk: chunk.collect(task), chunks))
            )
        finally:
            for chunk in chunks:
                chunk.stop()


@contextmanager
def on_ray(training: Training, options: DecimaOptions) -> Iterator[Collect]:
    """Collect chunks in Ray actors, on any machine of a cluster.

    Ray starts an actor that dies again, and has it do its chunk again: with the same result, for
    a chunk depends on its task alone.

    Raises
    ------
    TrainingError
        if Ray is not installed or cannot be reached.
    """
    try:
        ray = start_ray(training.ray_address, max(training.workers, os.cpu_count() or 1))
    except ImportError as error:
        raise TrainingError(f"rollout=ray: {error}") from error
    except OSError as error:
        raise TrainingError(f"ray.address: {error}") from error
    try:
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(RemoteChunk)
        actors = [actor.remote(training, options, part) for part in chunks_of(options, training)]

        def collect(task: Task) -> list[Rollout]:
            sent = ray.put(task)
            parts = ray.get([a.collect.remote(sent) for a in actors])
            return [unpack(one) for part in parts for one in part]

        yield collect
    finally:
        ray.shutdown()


class RemoteChunk(Chunk):
    """A chunk in a process of its own."""

    def __init__(self, training: Training, options: DecimaOptions, groups: Sequence[int]) -> None:
        torch.set_num_threads(1)
        super().__init__(training, options, groups)

    def collect(self, task: Task) -> list[Packed]:  # type: ignore[override]
        """As :meth:`Chunk.collect`."""
        return [pack(one) for one in super().collect(task)]


class Packed(NamedTuple):
    """A rollout in few arrays: those of its choices joined, and their lengths [choices, arrays]."""

    trajectory: Trajectory
    arrays: list[NDArray[Any]]
    lengths: NDArray[np.int64]


def pack(rollout: Rollout) -> Packed:
    """Thousands of small tensors would take longer to send than to compute."""
    rows = [_arrays(choices) for choices in rollout.choices]
    lengths = np.array([[array.shape[-1] for array in row] for row in rows], np.int64)
    joined = [np.concatenate(arrays, axis=-1) for arrays in zip(*rows, strict=True)]
    return Packed(rollout.trajectory, joined, lengths)


def unpack(packed: Packed) -> Rollout:
    """The opposite of :func:`pack`."""
    columns = [
        np.split(np.array(array), lengths.cumsum()[:-1], axis=-1)
        for array, lengths in zip(packed.arrays, packed.lengths.T, strict=True)
    ]
    return Rollout(packed.trajectory, [_choices(*row) for row in zip(*columns, strict=True)])


def _arrays(choices: Choices) -> list[NDArray[Any]]:
    """The arrays of choices, with the axis that differs in length last."""
    graph = [tensor.numpy() for tensor in choices.graph]
    turned = [a.T if name != "edges" else a for name, a in zip(Graph._fields, graph, strict=True)]
    own = [choices.step, choices.environment, choices.chosen.numpy(), choices.log_prob.numpy()]
    return [*own, *turned]


def _choices(
    step: NDArray[Any],
    environment: NDArray[Any],
    chosen: NDArray[Any],
    log: NDArray[Any],
    *turned: NDArray[Any],
) -> Choices:
    """The opposite of :func:`_arrays`."""
    arrays = [a.T if name != "edges" else a for name, a in zip(Graph._fields, turned, strict=True)]
    graph = Graph(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
    return Choices(step, environment, graph, torch.from_numpy(chosen), torch.from_numpy(log))


COLLECTORS = {"threads": in_threads, "ray": on_ray}
