"""How long jobs take alone on a cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.cluster import simulator
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.state import new_state
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank


class EmptyCluster:
    """How long the jobs of a bank take, each alone on a cluster; none is simulated twice.

    All tasks that can start do so at once, those of stages that come first in the job going first
    where there are too few slots.

    Parameters
    ----------
    bank : jobs that fit the cluster.
    cluster : what they have to themselves.
    """

    def __init__(self, bank: JobBank, cluster: Cluster) -> None:
        self._bank, self._cluster = bank, cluster
        self._seconds = np.full(len(bank), np.nan)

    def alone_s(self, jobs: ArrayLike) -> NDArray[np.float64]:
        """Seconds from the arrival of each job to its completion: float64, one for each index."""
        indices = np.asarray(jobs, np.int64)
        for job in set(indices[np.isnan(self._seconds[indices])].tolist()):
            self._seconds[job] = self._simulate(job)
        return self._seconds[indices]

    def _simulate(self, job: int) -> float:
        unknown = np.full(len(self._bank.stage_name), -1, np.int64)  # nobody asks for templates
        state = new_state(self._bank, [job], [0.0], self._cluster, unknown)
        stages = range(len(state.stages))
        status = simulator.start(state)
        while status == simulator.DECIDE:
            able = (stage for stage in stages if simulator.can_run(state, stage))
            status = simulator.step(state, next(able))
        return int(state.jobs["completion"][0]) / TICKS_PER_SECOND
