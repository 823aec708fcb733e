"""Which policy did best, and which others did as well as far as the episodes can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym import metrics
from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.evaluation.results import (
    REFERENCES,
    SJF,
    best_reference,
    by_policy,
    episode_means,
)
from llmsched_gym.metrics import Estimate


def verdict(episodes: Sequence[Episode], references: Sequence[str] = REFERENCES) -> str:
    """Who has the lowest mean JCT, and who the lowest 99th percentile, in one line.

    Behind each, in brackets, stand those that equal it: the 95 % interval of the reduction, paired
    by episodes, holds zero. One episode has no intervals, and no equals but those alike.

    Parameters
    ----------
    episodes
        The same numbers of episodes, in the same order, for each policy.
    references
        They are left out; without two others there is no verdict.
    """
    own = {
        policy: played for policy, played in by_policy(episodes).items() if policy not in references
    }
    if len(own) < 2:
        return ""
    means = {policy: np.array(episode_means(played)) for policy, played in own.items()}
    jct = {
        policy: np.array([one.jobs["jct_s"] for one in played]) for policy, played in own.items()
    }
    mean = _best(means, np.mean, metrics.reduction)
    p99 = _best(jct, lambda sample: np.percentile(sample, 99), metrics.p99_reduction)
    return f"Lowest mean: {mean}; lowest p99: {p99}."


def gap_is_sure(
    episodes: Sequence[Episode], sjf: str = SJF, references: Sequence[str] = REFERENCES
) -> bool:
    """Whether the better reference beats SJF: the interval of its reduction is above zero."""
    means = {policy: episode_means(played) for policy, played in by_policy(episodes).items()}
    best = best_reference(means, references)
    if best is None or sjf not in means:
        return False
    low = metrics.reduction(means[best], means[sjf]).low
    return low is not None and low > 0


def _best(
    samples: Mapping[str, NDArray[np.float64]],
    figure: Callable[[NDArray[np.float64]], Any],
    reduction: Callable[..., Estimate],
) -> str:
    """The policy whose figure is lowest, and those that equal it in pairs of episodes."""
    best, *others = sorted(samples, key=lambda policy: float(figure(samples[policy])))
    equal = [policy for policy in others if _may_be_zero(reduction(samples[best], samples[policy]))]
    return f"{best} (equal: {', '.join(equal)})" if equal else best


def _may_be_zero(reduction: Estimate) -> bool:
    """Without an interval only zero itself is known to be."""
    low = reduction.value if reduction.low is None else reduction.low
    return low is None or low <= 0
