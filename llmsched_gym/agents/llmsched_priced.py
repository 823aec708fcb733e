"""LLMSched that explores what is worth its price: the published rule, improved.

What exploring costs, and how the defaults were tuned, is told in docs/llmsched.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.agents.base import (
    Observation,
    job_feature,
    register,
    runnable,
    stage_feature,
)
from llmsched_gym.agents.llmsched import LLMSched, check_number


@register("llmsched_priced")
class LLMSchedPriced(LLMSched):
    """LLMSched, but it explores only what is worth its price and may change the order.

    Under the published rule nearly every stage that has a successor may be explored, and R is
    largest for the longest jobs, so that a share ``epsilon`` of all slots goes to them.

    Parameters
    ----------
    epsilon, explore_fraction, demand : as of :class:`~llmsched_gym.agents.llmsched.LLMSched`.
    price : bits. R is worth its price if it exceeds ``price`` times what remains of the stage
        itself, in seconds: exploring a stage delays the shorter jobs by about that much. The
        default 2 is tuned on seeds that no result uses.
    contenders : explore only jobs that may turn out shorter than the one that exploitation would
        serve: whose interval begins below its E[rem]. Of the others nothing that is learnt changes
        the choice. Default true.
    """

    needs_belief = True
    reads = ("uncertainty_reduction",)

    def __init__(
        self,
        epsilon: float = 0.2,
        explore_fraction: float = 0.3,
        price: float = 2.0,
        contenders: bool = True,
        demand: str = "all",
    ) -> None:
        super().__init__(epsilon, explore_fraction, demand)
        self.price = check_number("price", price, np.inf)
        if not isinstance(contenders, bool):
            raise ValueError(f"contenders: {contenders!r} is not true or false")
        self.contenders = contenders

    def candidates(self, observation: Observation) -> NDArray[np.bool_]:
        """The stages whose R is worth its price, in whichever set: bool [..., stage rows]."""
        reduction = stage_feature(observation, "uncertainty_reduction")
        worth = reduction > self.price * stage_feature(observation, "demand_s")
        candidate = super().candidates(observation) & worth
        return candidate & self._may_be_shorter(observation) if self.contenders else candidate

    def _may_be_shorter(self, observation: Observation) -> NDArray[np.bool_]:
        """Whether the stage's job may need less than the job that exploitation would serve."""
        expected = np.where(runnable(observation), job_feature(observation, "demand_s"), np.inf)
        shortest = expected.min(axis=-1, initial=np.inf, keepdims=True)
        return job_feature(observation, "demand_low_s") < shortest
