"""What a network does whose linear part decides alone: the same, without the network.

Tuning begins with such a network where nothing else has been learnt (``begin_as``), and changes
nothing but the linear part. An episode then takes a tenth of the time, so that tuning plays ten
times as many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import Observation
from llmsched_gym.agents.decima.network import GraphNetwork, scales_read
from llmsched_gym.compiled import compiled
from llmsched_gym.env.features import STAGE_COLUMN


class Preferred:
    """Always the legal stage whose linear part is greatest, of equals the lowest row; what
    :func:`llmsched_gym.agents.decima.rollout.likeliest` does, but for how sums are rounded.

    Parameters
    ----------
    network : as it is now; what it learns later makes no difference.
    preference : [N, 2 f], what is added to the weights in each of N environments; None: nothing.
    """

    def __init__(
        self, network: GraphNetwork, preference: NDArray[np.float64] | None = None
    ) -> None:
        self._stages, self._jobs, _ = network.columns
        scales = scales_read({"stages": self._stages, "jobs": self._jobs})
        scale = np.concatenate([scales[table].numpy() for table in ("stages", "jobs")])
        weights = network.preference().cpu().numpy().astype(np.float64)
        weights = weights[None] if preference is None else weights + preference
        self._weights = weights.reshape(len(weights), 2, -1) * scale

    def __call__(self, observation: Observation) -> NDArray[np.int64]:
        """Actions, with the leading dimensions of the observation."""
        seen = [observation[name] for name in ("stages", "stage_job", "jobs", "action_mask")]
        leading = seen[-1].shape[:-1]
        stages, of, jobs, mask = (one.reshape(-1, *one.shape[len(leading) :]) for one in seen)
        weights = np.broadcast_to(self._weights, (len(mask), *self._weights.shape[1:]))
        chosen = _greatest(stages[..., : self._stages], of, jobs[..., : self._jobs], mask, weights)
        return np.asarray(chosen).reshape(leading)


@compiled
def _greatest(stages: Any, stage_job: Any, jobs: Any, mask: Any, weights: Any) -> Any:
    wait = mask.shape[1] - 1
    chosen = np.full(len(mask), wait)
    for b in range(len(mask)):
        best = -np.inf
        for row in range(wait):
            if mask[b, row] == 0:
                continue
            kind = 1 if stages[b, row, STAGE_COLUMN.is_regular] > 0 else 0
            score = _weighted(stages[b, row], weights[b, kind, : stages.shape[2]])
            score += _weighted(jobs[b, stage_job[b, row]], weights[b, kind, stages.shape[2] :])
            if score > best:
                best, chosen[b] = score, row
    return chosen


@compiled
def _weighted(features: Any, weights: Any) -> Any:
    """The sum of the logarithms of features, by their weights."""
    total = 0.0
    for column in range(len(features)):
        if features[column] != 0 and weights[column] != 0:
            total += weights[column] * np.log1p(np.float64(features[column]))
    return total
