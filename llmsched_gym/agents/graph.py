"""What policies compute on the graphs of an observation, for any leading batch dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import Observation


def longest_path(observation: Observation, length: NDArray[Any]) -> NDArray[np.float64]:
    """The longest path from each stage row down the edges, both ends included.

    Parameters
    ----------
    observation
        Its edges must not form a cycle.
    length : [..., stage rows]
        What each row adds to a path, at least 0.

    Returns
    -------
    float64 [..., stage rows].

    Notes
    -----
    All edges are relaxed at once until nothing changes: as often as the deepest graph has levels.
    """
    own = np.asarray(length, np.float64).ravel()
    path = own.copy()
    used = observation["edge_mask"] != 0
    rows = length.shape[-1]
    begins = _begins(length.shape)
    source, target = (observation["edges"] + begins[..., None, None])[used].T
    for _ in range(rows):
        through = own[source] + path[target]
        if not (through > path[source]).any():
            break
        np.maximum.at(path, source, through)
    return path.reshape(length.shape)


def job_sum(observation: Observation, values: NDArray[Any]) -> NDArray[np.float64]:
    """Add up a value per stage row [..., stage rows] for each job: float64 [..., job rows]."""
    shape = observation["job_mask"].shape
    total = np.bincount(_job_numbers(observation), values.ravel(), math.prod(shape))
    return total.astype(np.float64, copy=False).reshape(shape)


def job_max(observation: Observation, values: NDArray[Any]) -> NDArray[np.float64]:
    """The largest of the values per stage row, at least 0, for each job: float64 [..., job rows].

    A job without rows has 0.
    """
    largest = np.zeros(observation["job_mask"].shape)
    np.maximum.at(largest.reshape(-1), _job_numbers(observation), values.ravel())
    return largest


def _job_numbers(observation: Observation) -> NDArray[np.int64]:
    """The job of each stage row, counted through the whole batch: [stage rows of all]."""
    jobs = _begins(observation["job_mask"].shape)
    return (observation["stage_job"] + jobs[..., None]).ravel()


def _begins(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the rows of each member of a batch begin when the members follow one another."""
    members = np.arange(math.prod(shape[:-1]), dtype=np.int64)
    return shape[-1] * members.reshape(shape[:-1])
