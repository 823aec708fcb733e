"""Carbyne: fair shares, whose leftovers go to the jobs closest to completion.

Grandl et al., "Altruistic Scheduling in Multi-Resource Clusters", OSDI 2016.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import (
    Observation,
    PriorityPolicy,
    Scores,
    job_feature,
    of_job,
    register,
    stage_feature,
)
from llmsched_gym.agents.graph import job_max, job_sum, longest_path
from llmsched_gym.env.features import CLUSTER

_KINDS = (("is_llm", "llm_slots"), ("is_regular", "regular_executors"))


@register("carbyne")
class Carbyne(PriorityPolicy):
    """First what jobs need now of their fair shares, then leftovers by remaining demand.

    1. *Fair share*: the slots of a kind divided by the jobs that can use one now. A job is entitled
       to a slot while it has fewer than its share.
    2. *Altruism*: of its share a job takes only what it needs now. A stage can wait if, started
       only when the job's critical stage has completed, it still does not delay the job.
    3. *Leftovers* go to the job with the least expected remaining demand.

    Among entitled jobs the one with the fewest slots of the kind goes first, and of those the one
    closest to completion.

    Notes
    -----
    Where the paper's setting differs or leaves room, our reading is: dominant resource fairness
    comes down to an equal share for each kind, since a task uses one slot of one kind; a share
    below one slot still entitles to one, as when it is filled task by task; the paper plans a job
    backwards from its end, here the longest expected path says what can wait, where a stage takes
    its demand divided by the tasks that the share runs at once; what a job cannot use of its share
    is leftover, too; leftovers are not packed by size, since all slots are alike.
    """

    needs_belief = True
    reads = ()

    def priority(self, observation: Observation) -> Scores:
        """Up to 1 for leftovers; above for entitled stages, most with the fewest slots."""
        share, held = _slots(observation)
        entitled = (held < share) & _needed_now(observation, share)
        closeness = 1 / (1 + job_feature(observation, "demand_s").astype(np.float64))
        most = held.max(axis=-1, keepdims=True) + 1
        return np.where(entitled, most - held, 0) + closeness


def _slots(observation: Observation) -> tuple[Scores, Scores]:
    """Of the slots of a stage's kind: the fair share of a job, and how many its job holds."""
    running = stage_feature(observation, "running_tasks")
    usable = running + stage_feature(observation, "ready") * stage_feature(
        observation, "waiting_tasks"
    )
    share, held = np.zeros((2, *running.shape))
    for kind, feature in _KINDS:
        of_kind = stage_feature(observation, kind)
        slots = observation["cluster"][..., CLUSTER[feature]]
        sharers = np.count_nonzero(job_sum(observation, of_kind * usable), axis=-1)
        share += of_kind * (slots / np.maximum(sharers, 1))[..., None]
        held += of_kind * of_job(observation, job_sum(observation, of_kind * running))
    return share, held


def _needed_now(observation: Observation, share: Scores) -> NDArray[np.bool_]:
    """Whether a stage that is ready would delay its job if it waited for the critical one."""
    tasks = stage_feature(observation, "waiting_tasks") + stage_feature(
        observation, "running_tasks"
    )
    duration = stage_feature(observation, "demand_s") / np.clip(tasks, 1, np.maximum(share, 1))
    path = longest_path(observation, duration)
    ready = stage_feature(observation, "ready") != 0
    longest = of_job(observation, job_max(observation, np.where(ready, path, 0)))
    critical = path >= longest
    first = of_job(observation, job_max(observation, np.where(ready & critical, duration, 0)))
    return critical | (path > longest - first)
