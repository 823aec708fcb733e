"""The network of Decima: from the graphs of jobs to a probability for every legal action.

Mao, Schwarzkopf, Venkatakrishnan, Meng and Alizadeh, "Learning Scheduling Algorithms for Data
Processing Clusters", SIGCOMM 2019, section 5.1 and 5.2.

Nothing here is padded: the graphs of a batch of observations lie one after the other
(:class:`Graph`), so that probabilities depend neither on how many rows an observation has room for
nor on what else is in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, pad

from llmsched_gym.agents.base import Observation
from llmsched_gym.compiled import compiled
from llmsched_gym.env.features import (
    CLUSTER_FEATURES,
    JOB,
    JOB_FEATURES,
    STAGE,
    STAGE_FEATURES,
    Feature,
)

WAIT = -1  # the number of the chosen stage where waiting is chosen


class Graph(NamedTuple):
    """The graphs of B observations: n stages and m jobs in all, and e edges between stages.

    The stages of an observation follow one another in the order of its rows, and so do its jobs.

    Attributes
    ----------
    stages, jobs, cluster : float32 [n, 13], [m, 13], [B, 9]
        The features, in physical units.
    stage_job, job_cluster : int64 [n], [m]
        The job of a stage, the observation of a job.
    edges : int64 [2, e]
        Parents and their children.
    height : int64 [n]
        The longest path, in edges, from the stage to one without children.
    legal, can_wait : bool [n], [B]
        The stages that can be run, and where waiting is legal.
    row : int64 [n]
        The row of the stage in its observation: the action that runs it.
    """

    stages: Tensor
    jobs: Tensor
    cluster: Tensor
    stage_job: Tensor
    job_cluster: Tensor
    edges: Tensor
    height: Tensor
    legal: Tensor
    can_wait: Tensor
    row: Tensor

    def to(self, device: str) -> Graph:
        """The same graphs on a device, such as "cuda"."""
        return Graph(*(tensor.to(device) for tensor in self))


class Decision(NamedTuple):
    """What the network says about B observations with n stages in all.

    Attributes
    ----------
    stage : float32 [n], the log-probability of running a task of each stage, -inf if not legal.
    wait : float32 [B], the log-probability of waiting, -inf if not legal.
    """

    stage: Tensor
    wait: Tensor


# --- from observations to graphs ------------------------------------------------------------------


def graph_of(observation: Observation) -> Graph:
    """The graphs of one observation, or of a batch with any leading dimensions.

    Rows in use have to come first, parents before their children, edges in the order of the
    children's rows: as in every observation of the environment.
    """
    leading = observation["stage_mask"].ndim - 1
    tables = (observation[name] for name in _TABLES)
    batch = [np.ascontiguousarray(one.reshape(-1, *one.shape[leading:])) for one in tables]
    return Graph(*map(torch.from_numpy, _flatten(*batch)))


_TABLES = (
    *("stages", "stage_job", "stage_mask", "edges", "edge_mask"),
    *("jobs", "job_mask", "cluster", "action_mask"),
)


def join(graphs: Sequence[Graph]) -> Graph:
    """The graphs of several batches as those of one, in the same order."""
    counted = {"stage_job": "jobs", "job_cluster": "cluster", "edges": "stages"}
    joined = {}
    for name in Graph._fields:
        parts = [getattr(graph, name) for graph in graphs]
        joined[name] = torch.cat(parts, dim=1 if name == "edges" else 0)
        if name in counted:  # numbers of jobs, observations and stages, which go on
            sizes = [len(getattr(graph, counted[name])) for graph in graphs]
            before = torch.tensor(sizes).cumsum(0) - torch.tensor(sizes)
            lengths = torch.tensor([part.shape[-1] for part in parts])
            joined[name] += before.repeat_interleave(lengths)
    return Graph(**joined)


@compiled
def _flatten(
    stages: Any,
    stage_job: Any,
    stage_mask: Any,
    edges: Any,
    edge_mask: Any,
    jobs: Any,
    job_mask: Any,
    cluster: Any,
    action_mask: Any,
) -> Any:
    """The fields of a :class:`Graph`, as arrays."""
    batch, max_stages = stage_mask.shape
    n, m, e = _all_in_use(stage_mask), _all_in_use(job_mask), _all_in_use(edge_mask)
    flat_stages = np.empty((n, stages.shape[2]), np.float32)
    flat_jobs = np.empty((m, jobs.shape[2]), np.float32)
    flat_stage_job = np.empty(n, np.int64)
    job_cluster = np.empty(m, np.int64)
    flat_edges = np.empty((2, e), np.int64)
    height = np.zeros(n, np.int64)
    legal = np.empty(n, np.bool_)
    can_wait = np.empty(batch, np.bool_)
    row = np.empty(n, np.int64)
    n, m, e = 0, 0, 0
    for b in range(batch):
        num_edges = _in_use(edge_mask[b])
        for k in range(num_edges):
            flat_edges[0, e + k] = n + edges[b, k, 0]
            flat_edges[1, e + k] = n + edges[b, k, 1]
        for k in range(e + num_edges - 1, e - 1, -1):  # children first
            parent, child = flat_edges[0, k], flat_edges[1, k]
            height[parent] = max(height[parent], height[child] + 1)
        e += num_edges
        num_stages = _in_use(stage_mask[b])
        for k in range(num_stages):
            for column in range(stages.shape[2]):
                flat_stages[n + k, column] = stages[b, k, column]
            flat_stage_job[n + k] = m + stage_job[b, k]
            legal[n + k] = action_mask[b, k] != 0
            row[n + k] = k
        n += num_stages
        num_jobs = _in_use(job_mask[b])
        for k in range(num_jobs):
            for column in range(jobs.shape[2]):
                flat_jobs[m + k, column] = jobs[b, k, column]
            job_cluster[m + k] = b
        m += num_jobs
        can_wait[b] = action_mask[b, max_stages] != 0
    return (
        flat_stages,
        flat_jobs,
        cluster.copy(),
        flat_stage_job,
        job_cluster,
        flat_edges,
        height,
        legal,
        can_wait,
        row,
    )


@compiled
def _all_in_use(masks: Any) -> Any:
    """How many entries there are before the first zeros of all masks of a batch."""
    count = 0
    for b in range(len(masks)):
        count += _in_use(masks[b])
    return count


@compiled
def _in_use(mask: Any) -> Any:
    """How many entries there are before the first zero."""
    count = 0
    while count < len(mask) and mask[count] != 0:
        count += 1
    return count


# --- the network ----------------------------------------------------------------------------------

# Features enter as scale * log(1 + feature), so that most are between 0 and 2 at any load. The
# three scales of 0 are of what would not hold for other workloads and for longer episodes.
_SCALES = {
    **{"application": 0.0, "time_s": 0.0, "jobs_to_arrive": 0.0},
    **{"is_llm": 1.44, "is_regular": 1.44, "is_dynamic": 1.44, "ready": 1.44, "presence": 1.44},
    **{"prompt_tokens": 0.15, "entropy_bits": 0.7, "batch_slowdown": 1.0},
    **{"uncertainty_reduction": 0.2, "age_s": 0.2, "attained_s": 0.2, "jobs_in_system": 0.3},
}
_SECONDS, _COUNT = 0.25, 0.5  # the scales of other features, by their unit
NEVER = -10.0  # the score of waiting where it is not to be tried; the best stage has 0
_SHARPNESS = 10.0  # of the linear part of a score
_STAGES_OF_A_JOB = 10.0  # what the sum over the stages of a job is divided by


class GraphNetwork(nn.Module, ABC):
    """A network that :mod:`llmsched_gym.agents.decima.training` trains.

    Attributes
    ----------
    options : what to make the like with.
    columns : how many it reads of each table of the observation: stages, jobs, cluster.
    """

    options: dict[str, int]
    columns: tuple[int, int, int]

    @abstractmethod
    def forward(self, graph: Graph, preference: Tensor | None = None) -> Decision:
        """The log-probabilities of all actions of all observations.

        Parameters
        ----------
        preference : float32 [B, 2 f], added to the weights of the linear part: first those of LLM
            stages for the f features of a stage and its job, then those of regular stages.
        """

    @abstractmethod
    def preference(self) -> Tensor:
        """A view of the weights of the linear part, as far as no cluster changes them: [2 f]."""

    @abstractmethod
    def begin_as_resource_srtf(self) -> None:
        """Let the linear part order jobs by the work on what a stage asks for, and all else wait.

        Scores are then those of ``policy=resource_srtf`` until something is learnt: what is added
        to them begins at 0, as waiting does at never.
        """

    @abstractmethod
    def only_prefers(self) -> bool:
        """Whether the linear part decides alone: nothing is added to it, no cluster changes its
        weights, and nobody waits who can do otherwise.
        """

    def prefer_least_work(self) -> None:
        """Let the linear part be minus the work of the job on what a stage asks for."""
        stages, jobs, _ = self.columns
        wanted = torch.zeros(2, stages + jobs)
        for kind, name in enumerate(("work_llm_s", "work_regular_s")):
            wanted[kind, stages + JOB[name]] = -1.0
        self.preference().copy_(wanted.flatten())


class DecimaNetwork(GraphNetwork):
    """Scores every legal stage and waiting, and turns the scores into probabilities.

    Each stage v gets an embedding that tells of everything below it, from x_v, a map of its
    features, and the embeddings of its children u (equation 1): ``e_v = g(sum_u f(e_u)) + x_v``,
    and ``e_v = x_v`` where there are no children. A summary y of each job is made from the
    embeddings of its stages, and a summary z of the cluster from those of its jobs, each with
    non-linear maps of its own. The score of a stage depends on e, y and z, that of waiting on z.

    Parameters
    ----------
    embedding : the length of e; default 8, as published.
    hidden : the length of y and z, and units of the hidden layers of all maps; default 16.
    head : units of the hidden layer that scores stages; default 32.
    seed : determines the weights.
    columns : how many columns it reads of each table of the observation, the first ones; default
        all. Checkpoints say so by the names of their features.

    Notes
    -----
    Ours: features are scaled logarithms. f has one layer: a second linear one, summed, would be one
    with the first of g. z comes from a mean over jobs, not a sum, for queues much longer than those
    seen in training. Scores see the features themselves beside the embeddings, and have a linear
    part, whose weights depend on z and on the kind of the stage: jobs of hundreds of seconds are to
    be told apart to a percent, which embeddings do not carry. With one weight that is not 0 it is
    FCFS, LAS, SJF, SRTF, Gittins or Argus. The best legal stage has 0 in it, so that waiting
    competes with the rest of the score.
    """

    scale_of_stages: Tensor
    scale_of_jobs: Tensor
    scale_of_cluster: Tensor

    def __init__(
        self,
        embedding: int = 8,
        hidden: int = 16,
        head: int = 32,
        seed: int = 0,
        columns: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.options = {"embedding": embedding, "hidden": hidden, "head": head}
        scales = scales_read(columns)
        stage, job, cluster = self.columns = columns_of(scales)
        self._demands = [column for column in _DEMANDS if column < job]
        demands = len(self._demands)
        self.parts = (head, 2 * (stage + job), 1)
        self.stage_in = _Linear(stage, hidden)
        self.stage_out = _Linear(hidden, embedding)
        self.message = _Linear(embedding, hidden)  # f
        self.update_in = _Linear(hidden, hidden)  # g
        self.update_out = _Linear(hidden, embedding)
        self.job_message = _Linear(embedding, hidden)
        self.job_update = _Linear(hidden + job, hidden)
        self.cluster_message = _Linear(hidden + job, hidden)
        self.cluster_update = _Linear(hidden + cluster + demands, hidden)
        self.score_stage = _Linear(stage + embedding, head)
        self.score_job = _Linear(hidden + job + demands, head)
        self.score = _Linear(head, 1)
        self.heads = _Linear(hidden, sum(self.parts))
        for name, scale in scales.items():
            self.register_buffer(f"scale_of_{name}", scale, persistent=False)
        self._initialise(np.random.default_rng(seed))

    def _initialise(self, rng: np.random.Generator) -> None:
        with torch.no_grad():
            for layer in self.children():
                assert isinstance(layer, nn.Linear)
                drawn = rng.normal(0.0, layer.in_features**-0.5, tuple(layer.weight.shape))
                layer.weight.copy_(torch.from_numpy(drawn))
                layer.bias.zero_()
            for layer in (self.update_out, self.score):
                layer.weight.mul_(0.3)
            _, linear, wait = self.heads.weight.split_with_sizes(self.parts)
            linear.mul_(0.01)
            wait.mul_(0.1)
            self.heads.bias[-1] = -2.0  # of waiting, which seldom pays

    def begin_as_resource_srtf(self) -> None:
        """Begin as any :class:`GraphNetwork` may."""
        self.prefer_least_work()
        with torch.no_grad():
            self.score.weight.zero_()
            _, linear, wait = self.heads.weight.split_with_sizes(self.parts)
            linear.zero_()
            wait.zero_()
            self.heads.bias[-1] = NEVER

    def only_prefers(self) -> bool:
        """Whether the linear part decides alone, as of any :class:`GraphNetwork`."""
        changing = self.heads.weight[self.parts[0] :]
        zero = self.score.weight, self.score.bias, changing
        return not any(one.any() for one in zero) and self.heads.bias[-1].item() <= NEVER

    def forward(self, graph: Graph, preference: Tensor | None = None) -> Decision:
        """The log-probabilities of all actions, as of any :class:`GraphNetwork`."""
        legal = legal_stages(graph)
        wide = self.columns
        stages = graph.stages[:, : wide[0]].log1p() * self.scale_of_stages
        jobs = graph.jobs[:, : wide[1]].log1p() * self.scale_of_jobs
        cluster = graph.cluster[:, : wide[2]].log1p() * self.scale_of_cluster
        demand = jobs[:, self._demands]
        least = _least(demand.index_select(0, legal.job), legal.cluster, len(cluster))
        longer = (demand - least.index_select(0, graph.job_cluster)) / _SECONDS

        e = self.embed(graph, self.stage_out(_act(self.stage_in(stages))))
        y = torch.cat((self.summarise_jobs(graph, e, jobs), jobs), dim=1)
        z = self.summarise_clusters(graph, y, torch.cat((cluster, least), dim=1))
        of_cluster, weights, wait = self.heads(z).split_with_sizes(self.parts, dim=1)
        if preference is not None:
            weights = weights + preference

        of_job = self.score_job(torch.cat((y, longer), dim=1))
        of_job = of_job + of_cluster.index_select(0, graph.job_cluster)
        stages = stages.index_select(0, legal.stage)
        of_stage = self.score_stage(torch.cat((stages, e.index_select(0, legal.stage)), dim=1))
        scores = self.score(_act(of_stage + of_job.index_select(0, legal.job))).squeeze(1)
        features = torch.cat((stages, jobs.index_select(0, legal.job)), dim=1)
        scores = scores + linear_part(legal, features, weights)
        wait = wait.squeeze(1).masked_fill(~graph.can_wait, -torch.inf)
        return Decision(*log_softmax(graph, legal, scores, wait))

    def preference(self) -> Tensor:
        """A view of the weights of the linear part, as far as no cluster changes them: [2 f]."""
        return self.heads.bias.detach().split_with_sizes(self.parts)[1]

    def embed(self, graph: Graph, x: Tensor) -> Tensor:
        """The embedding e of each stage, from x: both [n, embedding].

        From the leaves up, all stages of one height at once. Messages go to where they are
        summed up as soon as a height is done, also over edges that skip heights.
        """
        order, place, sizes, edges = _by_height(graph)
        leaves, *levels = x.index_select(0, order).split_with_sizes(sizes)
        embedded = [leaves]
        sums = x.new_zeros(len(x) - len(leaves), self.message.out_features)
        for own, (parents, children) in zip(levels, edges, strict=False):  # the last sends nothing
            message = _act(self.message(embedded[-1])).index_select(0, children)
            sums = sums.index_add(0, parents, message)
            received, sums = sums.split_with_sizes((len(own), len(sums) - len(own)))
            embedded.append(own + self.update_out(_act(self.update_in(received))))
        return torch.cat(embedded).index_select(0, place)

    def summarise_jobs(self, graph: Graph, e: Tensor, jobs: Tensor) -> Tensor:
        """What each job's stages and features [m, ...] amount to: [m, hidden]."""
        message = _act(self.job_message(e))
        total = message.new_zeros(len(jobs), message.shape[1])
        total = total.index_add(0, graph.stage_job, message) / _STAGES_OF_A_JOB
        return _act(self.job_update(torch.cat((total, jobs), dim=1)))

    def summarise_clusters(self, graph: Graph, y: Tensor, cluster: Tensor) -> Tensor:
        """z: what each cluster's jobs [m, ...] and features [B, ...] amount to: [B, hidden]."""
        message = _act(self.cluster_message(y))
        total = message.new_zeros(len(cluster), message.shape[1])
        count = torch.bincount(graph.job_cluster, minlength=len(cluster)).clamp(min=1)
        mean = total.index_add(0, graph.job_cluster, message) / count.unsqueeze(1)
        return _act(self.cluster_update(torch.cat((mean, cluster), dim=1)))


_FEATURES = {"stages": STAGE_FEATURES, "jobs": JOB_FEATURES, "cluster": CLUSTER_FEATURES}
_DEMANDS = [JOB[name] for name in ("demand_s", "demand_llm_s", "work_llm_s", "work_regular_s")]


def scales_read(columns: Mapping[str, int] | None) -> dict[str, Tensor]:
    """What the logarithms of those columns of each table are multiplied by that a network reads.

    They are the first ones, as many as ``columns`` says by table, by default all.
    """
    read = {table: len(features) for table, features in _FEATURES.items()} | dict(columns or {})
    return {
        table: scales_of(features[: read[table]], _SCALES) for table, features in _FEATURES.items()
    }


def columns_of(scales: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """How many columns of each table these scales are for: stages, jobs, cluster."""
    return len(scales["stages"]), len(scales["jobs"]), len(scales["cluster"])


def scales_of(features: Sequence[Feature], special: Mapping[str, float]) -> Tensor:
    """What the logarithms of features are multiplied by, as their unit has it unless their name is
    ``special``: [features].
    """
    by_unit = {"s": _SECONDS, "slot s": _SECONDS}
    return torch.tensor([special.get(one.name, by_unit.get(one.unit, _COUNT)) for one in features])


class _Linear(nn.Linear):
    """A linear layer that gives a row the same numbers whatever the other rows are, and how many.

    BLAS does otherwise for few rows and for one column. The weights are not set: torch would draw
    them from its global generator.
    """

    def reset_parameters(self) -> None:
        """Leave them to whoever makes the layer."""

    def forward(self, rows: Tensor) -> Tensor:
        """The outputs [k, outputs] of rows [k, inputs]."""
        if self.out_features == 1:
            return (rows * self.weight).sum(dim=1, keepdim=True) + self.bias
        missing = _FEW - len(rows)
        if missing <= 0:
            return linear(rows, self.weight, self.bias)
        return linear(pad(rows, (0, 0, 0, missing)), self.weight, self.bias)[: len(rows)]


_FEW = 4  # rows, below which BLAS rounds otherwise


def _act(values: Tensor) -> Tensor:
    return leaky_relu(values, 0.2)


# --- the order of message passing -----------------------------------------------------------------


def _by_height(graph: Graph) -> tuple[Tensor, Tensor, list[int], list[tuple[Tensor, Tensor]]]:
    """The stages in order of height, the place of each in that order, and for each height the
    number of stages and the edges to their parents, as :func:`_levels` numbers their ends.
    """
    arrays = _levels(graph.height.cpu().numpy(), graph.edges.cpu().numpy())
    order, place, parents, children = (
        torch.from_numpy(array).to(graph.height.device) for array in arrays[:4]
    )
    stages, sent = (array.tolist() for array in arrays[4:])
    ends = zip(parents.split_with_sizes(sent), children.split_with_sizes(sent), strict=True)
    return order, place, stages, list(ends)


@compiled
def _levels(height: Any, edges: Any) -> Any:
    """Counting sorts of the stages by height, and of the edges by the height of the child.

    A parent is numbered from the first stage higher than the child, a child from the first of its
    height.
    """
    levels = 1 if len(height) == 0 else height.max() + 1
    stages_of = np.zeros(levels, np.int64)
    for v in range(len(height)):
        stages_of[height[v]] += 1
    above = stages_of.cumsum()
    free = above - stages_of
    order, place = np.empty_like(height), np.empty_like(height)
    for v in range(len(height)):
        place[v] = free[height[v]]
        order[place[v]] = v
        free[height[v]] += 1
    edges_of = np.zeros(levels, np.int64)
    for k in range(edges.shape[1]):
        edges_of[height[edges[1, k]]] += 1
    free = edges_of.cumsum() - edges_of
    parents, children = np.empty_like(edges[0]), np.empty_like(edges[0])
    for k in range(edges.shape[1]):
        level = height[edges[1, k]]
        parents[free[level]] = place[edges[0, k]] - above[level]
        children[free[level]] = place[edges[1, k]] - above[level] + stages_of[level]
        free[level] += 1
    return order, place, parents, children, stages_of, edges_of


# --- the legal actions of each observation --------------------------------------------------------


class LegalStages(NamedTuple):
    """The numbers of the k legal stages, of their jobs and of their observations: int64 [k]."""

    stage: Tensor
    job: Tensor
    cluster: Tensor


def legal_stages(graph: Graph) -> LegalStages:
    """The stages that can be run, of all observations."""
    stage = graph.legal.nonzero().squeeze(1)
    job = graph.stage_job.index_select(0, stage)
    return LegalStages(stage, job, graph.job_cluster.index_select(0, job))


def linear_part(legal: LegalStages, features: Tensor, weights: Tensor) -> Tensor:
    """The linear part of the scores, 0 for the best of each observation: [k].

    Parameters
    ----------
    features : [k, f], of the legal stages and their jobs.
    weights : [B, 2 f], for LLM and for regular stages.
    """
    observations = len(weights)
    which = 2 * legal.cluster + (features[:, STAGE["is_regular"]] > 0)
    weights = weights.reshape(2 * observations, -1).index_select(0, which)
    scores = _SHARPNESS * (weights * features).sum(dim=1)
    best = scores.new_zeros(observations)
    best = best.scatter_reduce(0, legal.cluster, scores, "amax", include_self=False)
    return scores - best.index_select(0, legal.cluster)


def _least(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """The least of the values [k, c] of each group, 0 where there is none: [groups, c]."""
    least = values.new_zeros(groups, values.shape[1])
    index = group.unsqueeze(1).expand_as(values)
    return least.scatter_reduce(0, index, values, "amin", include_self=False)


def log_softmax(
    graph: Graph, legal: LegalStages, scores: Tensor, wait: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [n], [B] from scores of legal stages [k] and of waiting, -inf if not."""
    top = wait.detach().scatter_reduce(0, legal.cluster, scores.detach(), "amax")
    scores, wait = scores - top.index_select(0, legal.cluster), wait - top
    total = wait.exp().index_add(0, legal.cluster, scores.exp()).log()
    scores = scores - total.index_select(0, legal.cluster)
    illegal = scores.new_full((len(graph.stages),), -torch.inf)
    return illegal.index_copy(0, legal.stage, scores), wait - total


def entropy(graph: Graph, decision: Decision) -> Tensor:
    """The entropy of each decision, nats: float32 [B]."""
    legal = legal_stages(graph)
    stage = decision.stage.index_select(0, legal.stage)
    wait = decision.wait.masked_fill(~graph.can_wait, 0.0)
    return (-wait.exp() * wait).index_add(0, legal.cluster, -stage.exp() * stage)


def log_prob(decision: Decision, chosen: Tensor) -> Tensor:
    """The log-probability of what was chosen, numbers of stages or ``WAIT``: float32 [B]."""
    if not len(decision.stage):
        return decision.wait
    stage = decision.stage.index_select(0, chosen.clamp(min=0))
    return torch.where(chosen == WAIT, decision.wait, stage)


def choose(
    graph: Graph, decision: Decision, uniform: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """The number of the chosen stage of each observation, or ``WAIT``: int64 [B].

    Parameters
    ----------
    uniform : [B] numbers from [0, 1) to draw the actions with; without them the likeliest is taken,
        of equals the lowest row, and waiting last.
    """
    stage, wait = decision.stage.detach().numpy(), decision.wait.detach().numpy()
    first = np.searchsorted(graph.job_cluster.numpy(), np.arange(len(wait) + 1))
    begins = np.searchsorted(graph.stage_job.numpy(), first)
    if uniform is None:
        return _likeliest(stage, wait, begins)
    return _drawn(stage, wait, begins, uniform)


@compiled
def _likeliest(stage: Any, wait: Any, begins: Any) -> Any:
    chosen = np.full(len(wait), WAIT, np.int64)
    for b in range(len(wait)):
        best = -np.inf
        for k in range(begins[b], begins[b + 1]):
            if stage[k] > best:
                best, chosen[b] = stage[k], k
        if wait[b] > best:
            chosen[b] = WAIT
    return chosen


@compiled
def _drawn(stage: Any, wait: Any, begins: Any, uniform: Any) -> Any:
    chosen = np.full(len(wait), WAIT, np.int64)
    for b in range(len(wait)):
        left = uniform[b]
        last = WAIT
        if wait[b] > -np.inf:
            left -= np.exp(np.float64(wait[b]))
            if left < 0.0:
                continue
        for k in range(begins[b], begins[b + 1]):
            if stage[k] > -np.inf:
                last = k
                left -= np.exp(np.float64(stage[k]))
                if left < 0.0:
                    break
        chosen[b] = last  # rounding may leave a little: it belongs to the last
    return chosen


def actions(graph: Graph, chosen: NDArray[np.int64], wait: int) -> NDArray[np.int64]:
    """The actions of the environment that run the chosen stages; ``wait`` is the one that waits."""
    if not len(graph.row):
        return np.full(len(chosen), wait)
    return np.where(chosen == WAIT, wait, graph.row.numpy()[np.maximum(chosen, 0)])
