"""The GNN: attention on a graph of stages, jobs and what they run on, in PyTorch Geometric.

Brody, Alon and Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022 (``GATv2Conv``),
with weights of its own for each kind of edge, as Schlichtkrull et al., "Modeling Relational Data
with Graph Convolutional Networks", ESWC 2018 (``HeteroConv``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch_geometric.data import HeteroData
from torch_geometric.nn import GATv2Conv, HeteroConv, SAGEConv

from llmsched_gym.agents.decima.network import (
    NEVER,
    Decision,
    Graph,
    GraphNetwork,
    columns_of,
    legal_stages,
    linear_part,
    log_softmax,
    scales_read,
)
from llmsched_gym.env.features import STAGE
from llmsched_gym.imports import import_for

NODES = ("stage", "job", "pool")
EDGES = (
    ("stage", "follows", "stage"),
    ("stage", "of", "job"),
    ("job", "has", "stage"),
    ("stage", "on", "pool"),
    ("pool", "runs", "stage"),
)
ALONE = (EDGES[2], EDGES[4])  # over which a node hears one other: nothing to pay attention to
POOLS = 2  # of a cluster: its LLM engines, its regular executors


def hetero_data(graph: Graph) -> HeteroData:
    """The graphs of B observations, with n stages and m jobs in all, as one heterogeneous graph.

    Returns
    -------
    ``torch_geometric.data.HeteroData`` with ``x`` (features in physical units) and ``batch`` (the
    observation of a node) of

    - "stage", [n, stage features], and "job", [m, job features];
    - "pool", [2 B, 1 + cluster features]: of each observation its LLM engines, then its regular
      executors. The first feature is 1 for these.

    and ``edge_index`` of what tells what to what: children to their parents ("follows"), stages to
    their job ("of") and back ("has"), stages to the pool they run on ("on") and back ("runs").
    Placeholders of what may yet be revealed run nowhere.
    """
    data = HeteroData()
    regular = graph.stages[:, STAGE["is_regular"]] > 0
    cluster = graph.job_cluster.index_select(0, graph.stage_job)
    pool = POOLS * cluster + regular
    both = graph.cluster.repeat_interleave(POOLS, 0)
    which = torch.arange(len(both), device=both.device) % POOLS
    stage = torch.arange(len(pool), device=pool.device)
    of = torch.stack((stage, graph.stage_job))
    on = torch.stack((stage, pool))[:, regular | (graph.stages[:, STAGE["is_llm"]] > 0)]
    data["stage"].x, data["stage"].batch = graph.stages, cluster
    data["job"].x, data["job"].batch = graph.jobs, graph.job_cluster
    data["pool"].x = torch.cat((which.to(both).unsqueeze(1), both), dim=1)
    data["pool"].batch = torch.arange(len(graph.cluster), device=of.device).repeat_interleave(POOLS)
    for kind, edges in zip(
        EDGES, (graph.edges.flip(0), of, of.flip(0), on, on.flip(0)), strict=True
    ):
        data[kind].edge_index = edges
    return data


def make_network(path: str | None = None, seed: int = 0, **options: Any) -> GNNetwork:
    """A :class:`GNNetwork` with weights that follow from the seed, or one at ``module:Class``.

    Raises
    ------
    ValueError
        if there is none, or for heads that are not of one length.
    PolicyError
        for what its module raises.
    """
    kind = GNNetwork if path is None else _find_network(path)
    with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator
        torch.manual_seed(seed)
        return kind(**options)


def _find_network(path: str) -> type[GNNetwork]:
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(f"{path!r} is not of the form my_module:MyNetwork")
    found = getattr(import_for(path, module), name, None)
    if not (isinstance(found, type) and issubclass(found, GNNetwork)):
        raise ValueError(f"{module} has no subclass {name!r} of {__name__}.GNNetwork")
    return found


class GNNetwork(GraphNetwork):
    """Scores every legal stage and waiting, and turns the scores into probabilities.

    A map of its own makes embeddings of the nodes of each kind from their features (scaled
    logarithms). In each layer a node adds to its embedding what it hears over each kind of edge,
    where attention says how much of whom (a stage has one job and one pool: there it is a linear
    map, ``SAGEConv``). The score of a stage depends on the embeddings of the stage, its job and its
    pool, that of waiting on those of both pools.

    Parameters
    ----------
    embedding : the length of embeddings, a multiple of ``heads``; default 16.
    hidden : units of the hidden layer that makes them; default 32.
    head : units of the hidden layer that scores stages; default 32.
    layers : of attention; default 2, so that a pool hears of the jobs whose stages it runs.
    heads : of attention; default 2.
    columns : how many columns it reads of each table of the observation, the first ones; default
        all.

    Raises
    ------
    ValueError
        if heads are not of one length.

    Notes
    -----
    As in Decima a score has a linear part, a weight for each feature of a stage and its job, to
    which its pool adds: that is what tuning changes (:mod:`llmsched_gym.agents.decima.tuning`).
    """

    def __init__(
        self,
        embedding: int = 16,
        hidden: int = 32,
        head: int = 32,
        layers: int = 2,
        heads: int = 2,
        columns: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if embedding % heads:
            raise ValueError(f"embedding: {embedding} is not a multiple of {heads} heads")
        self.options = {"embedding": embedding, "hidden": hidden, "head": head}
        self.options |= {"layers": layers, "heads": heads}
        of_table = scales_read(columns)
        self.columns = columns_of(of_table)
        pool = torch.cat((torch.ones(1), of_table["cluster"]))  # the first is of which pool it is
        scales = of_table["stages"], of_table["jobs"], pool
        for kind, scale in zip(NODES, scales, strict=True):
            self.register_buffer(f"{kind}_scale", scale, persistent=False)
        linear = sum(self.columns[:2])
        self.embed = nn.ModuleDict(
            {
                kind: nn.Sequential(
                    nn.Linear(len(scale), hidden),
                    nn.LeakyReLU(0.2),
                    nn.Linear(hidden, embedding),
                )
                for kind, scale in zip(NODES, scales, strict=True)
            }
        )
        self.layers = nn.ModuleList(_layer(embedding, heads) for _ in range(layers))
        self.score = nn.Sequential(
            nn.Linear(3 * embedding + linear, head), nn.LeakyReLU(0.2), nn.Linear(head, 1)
        )
        self.of_pool = nn.Linear(embedding, linear + 1)
        self.weights = nn.Parameter(torch.zeros(POOLS * linear))
        with torch.no_grad():
            self.of_pool.weight.mul_(0.1)
            self.of_pool.bias.zero_()
            self.of_pool.bias[-1] = -1.0  # of waiting, which seldom pays

    def begin_as_resource_srtf(self) -> None:
        """Begin as any :class:`GraphNetwork` may."""
        self.prefer_least_work()
        with torch.no_grad():
            for weights in (*self.score[-1].parameters(), *self.of_pool.parameters()):
                weights.zero_()
            self.of_pool.bias[-1] = NEVER

    def only_prefers(self) -> bool:
        """Whether the linear part decides alone, as of any :class:`GraphNetwork`."""
        *zero, wait = *self.score[-1].parameters(), self.of_pool.weight, self.of_pool.bias
        nothing = not any(one.any() for one in (*zero, wait[:-1]))
        ours = type(self).forward is GNNetwork.forward  # and not one that adds something else
        return ours and nothing and wait[-1].item() <= NEVER

    def forward(self, graph: Graph, preference: Tensor | None = None) -> Decision:
        """The log-probabilities of all actions, as of any :class:`GraphNetwork`."""
        data, legal = hetero_data(graph), legal_stages(graph)
        scales = {kind: getattr(self, f"{kind}_scale") for kind in NODES}
        x = {kind: data[kind].x[:, : len(scale)].log1p() * scale for kind, scale in scales.items()}
        e = self.embeddings(x, data.edge_index_dict)

        of_pool = self.of_pool(e["pool"]).reshape(len(graph.cluster), POOLS, -1)
        weights = self.weights + of_pool[..., :-1].flatten(1)
        wait = of_pool[..., -1].sum(1).masked_fill(~graph.can_wait, -torch.inf)
        if preference is not None:
            weights = weights + preference
        stage, job = x["stage"].index_select(0, legal.stage), x["job"].index_select(0, legal.job)
        features = torch.cat((stage, job), dim=1)
        pool = POOLS * legal.cluster + (stage[:, STAGE["is_regular"]] > 0)
        seen = [
            e[kind].index_select(0, of)
            for kind, of in zip(NODES, (legal.stage, legal.job, pool), strict=True)
        ]
        scores = self.score(torch.cat((*seen, features), dim=1)).squeeze(1)
        scores = scores + linear_part(legal, features, weights)
        return Decision(*log_softmax(graph, legal, scores, wait))

    def embeddings(
        self, x: dict[str, Tensor], edges: dict[tuple[str, str, str], Tensor]
    ) -> dict[str, Tensor]:
        """The embeddings of the nodes of each kind, [nodes, embedding], from their features."""
        e = {kind: self.embed[kind](x[kind]) for kind in NODES}
        for layer in self.layers:
            e = {kind: e[kind] + leaky_relu(heard, 0.2) for kind, heard in layer(e, edges).items()}
        return e

    def preference(self) -> Tensor:
        """A view of the weights of the linear part, as far as no pool changes them: [2 f]."""
        return self.weights.detach()


def _layer(embedding: int, heads: int) -> HeteroConv:
    """What hears over all kinds of edge: other operators of PyTorch Geometric would do as well."""
    size = (embedding, embedding)
    operators: dict[tuple[str, str, str], nn.Module] = {
        kind: SAGEConv(size, embedding, root_weight=False)
        if kind in ALONE
        else GATv2Conv(size, embedding // heads, heads, add_self_loops=False)
        for kind in EDGES
    }
    return HeteroConv(operators, aggr="sum")
