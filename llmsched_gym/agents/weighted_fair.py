"""Weighted fair: a share of the executors in proportion to a power of the job's work.

Mao et al., "Learning Scheduling Algorithms for Data Processing Clusters" (Decima), SIGCOMM 2019,
section 7.1: with a tuned exponent the strongest of the heuristics that Decima is compared with.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register

_LEAST_WORK_S = 1e-3


@register("weighted_fair")
class WeightedFair(PriorityPolicy):
    """Job i is given the share ``T_i ** alpha / sum_j T_j ** alpha``, T its total work.

    The next slot goes to the job that stays furthest below its share, in proportion to it, when it
    has got the slot; ties to the job that arrived first. What a job leaves of its share, the others
    divide in the same proportions.

    Parameters
    ----------
    alpha : 0 is ``fair``, 1 shares in proportion to the work, and the further below 0, the more
        short jobs are preferred, up to shortest job first. Decima tunes it in [-2, 2] for each
        experiment; the default is the best on the training seeds of
        ``python benchmarks/tune_weighted_fair.py`` (docs/policies.md).

    Notes
    -----
    Decima knows T. Here it is what the job has used plus what it is expected to need yet. Decima
    takes turns among the runnable stages of a job; here the first in topological order goes first.
    LLM slots and regular executors count alike, as in ``fair``.
    """

    needs_belief = True
    reads = ()

    def __init__(self, alpha: float = -2.0) -> None:
        try:
            self.alpha = float(alpha)
        except (TypeError, ValueError):
            self.alpha = float("nan")
        if not np.isfinite(self.alpha):
            raise ValueError(f"alpha: {alpha!r} is not a finite number")

    def priority(self, observation: Observation) -> Scores:
        """The logarithm of the job's weight for each slot it has when it gets this one."""
        work = job_feature(observation, "attained_s") + job_feature(observation, "demand_s")
        weight = self.alpha * np.log(np.maximum(work, _LEAST_WORK_S))
        return weight - np.log1p(job_feature(observation, "running_tasks"))
