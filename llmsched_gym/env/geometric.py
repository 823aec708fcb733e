"""The PyTorch Geometric view of observations, for networks made of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch_geometric.data import Data


def graph_data(observation: Mapping[str, NDArray[Any]]) -> Data:
    """One graph of all stages shown: rows that are not in use are left out.

    Parameters
    ----------
    observation
        Of one environment, or of B with a leading dimension.

    Returns
    -------
    ``torch_geometric.data.Data`` of n stages and m jobs in all, with

    - ``x`` float32 [n, stage features], ``edge_index`` int64 [2, e] from parents to children;
    - ``batch`` int64 [n] and ``ptr`` int64 [B + 1], which observation a stage is of, as batches of
      PyTorch Geometric have them, so that its pooling works;
    - ``job`` int64 [n], the job of a stage; ``jobs`` float32 [m, job features]; ``job_batch``
      int64 [m], which observation a job is of;
    - ``cluster`` float32 [B, cluster features];
    - ``row`` int64 [n], the action that runs the stage; ``legal`` bool [n], whether it may;
    - ``can_wait`` bool [B].

    A ``Batch`` or ``DataLoader`` of PyTorch Geometric makes of the graphs of single environments,
    field by field, the graph of their stacked observations. Names and units of the features are in
    :mod:`llmsched_gym.env.features`.
    """
    import torch

    from llmsched_gym.env.stage_graph import StageGraph

    batched = observation["stage_mask"].ndim > 1
    seen = {key: array if batched else array[None] for key, array in observation.items()}
    stage_env, row = np.nonzero(seen["stage_mask"])
    job_env, job_row = np.nonzero(seen["job_mask"])
    edge_env, edge = np.nonzero(seen["edge_mask"])
    stages, jobs = (_begins(seen[mask]) for mask in ("stage_mask", "job_mask"))
    arrays = {
        "x": seen["stages"][stage_env, row],
        "edge_index": (seen["edges"][edge_env, edge] + stages[edge_env, None]).T,
        "batch": stage_env,
        "ptr": np.append(stages, len(row)),
        "job": seen["stage_job"][stage_env, row] + jobs[stage_env],
        "jobs": seen["jobs"][job_env, job_row],
        "job_batch": job_env,
        "cluster": seen["cluster"],
        "row": row,
        "legal": seen["action_mask"][stage_env, row] != 0,
        "can_wait": seen["action_mask"][:, -1] != 0,
    }
    return StageGraph(**{name: torch.tensor(array) for name, array in arrays.items()})


def _begins(mask: NDArray[Any]) -> NDArray[np.int64]:
    """How many rows all earlier observations have in use: [B]."""
    used = np.count_nonzero(mask, axis=1)
    return np.cumsum(used) - used
