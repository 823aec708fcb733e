"""Job completion times in numbers: means, percentiles, reductions, and how sure they are.

A job's *slowdown* is its completion time over the time that it takes alone on the same cluster,
and Jain's index of the slowdowns says how evenly a policy treats the jobs.

Episodes are independent, the jobs of one are not, so that intervals resample whole episodes. Two
policies meet the same episodes, so that their differences resample pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 9999
TAIL_RESAMPLES = 999  # of percentiles over all jobs, which take longer
MOST_AT_ONCE = 1_000_000  # numbers that resampling holds
Statistic = Callable[..., NDArray[np.float64]]


class Estimate(NamedTuple):
    """A number with its 95 % interval; None is what the data cannot say."""

    value: float | None
    low: float | None = None
    high: float | None = None


def percentile_summary(jct_s: ArrayLike) -> dict[str, float]:
    """Mean, 50th, 95th and 99th percentile (linear interpolation) of times in seconds.

    Raises
    ------
    ValueError
        if there is none.
    """
    jct = np.asarray(jct_s, dtype=np.float64)
    if not jct.size:
        raise ValueError("jct_s: no job has completed")
    p50, p95, p99 = np.percentile(jct, (50, 95, 99))
    return {
        "mean_jct_s": float(jct.mean()),
        "p50_jct_s": float(p50),
        "p95_jct_s": float(p95),
        "p99_jct_s": float(p99),
    }


def slowdown(jct_s: ArrayLike, alone_s: ArrayLike) -> NDArray[np.float64]:
    """JCT over the job's own time on an empty cluster, for each job.

    It can be slightly below 1: alone, all tasks of a job start at once and share the batches of its
    engines. A job that takes no time alone counts as 1.

    Parameters
    ----------
    jct_s, alone_s : [jobs]
        Seconds; see :class:`EmptyCluster`.
    """
    jct, alone = np.asarray(jct_s, np.float64), np.asarray(alone_s, np.float64)
    return np.divide(jct, alone, out=np.ones_like(jct), where=alone > 0)


def jain(values: ArrayLike) -> float:
    """Jain's index of fairness, ``(sum x)^2 / (n sum x^2)``.

    1 if all n values are alike, 1/n if all but one are zero (Jain, Chiu and Hawe, "A Quantitative
    Measure of Fairness and Discrimination", 1984).

    Raises
    ------
    ValueError
        if there is no value, or none above zero.
    """
    x = np.asarray(values, np.float64)
    if not (x > 0).any():
        raise ValueError("values: none is above zero")
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))


def mean(episodes: ArrayLike) -> Estimate:
    """Mean of one number an episode, with its bootstrap interval."""
    return _estimate(_mean, episodes)


def reduction(policy: ArrayLike, baseline: ArrayLike) -> Estimate:
    """By what share the policy's mean is below the baseline's: ``1 - mean(policy)/mean(baseline)``.

    Parameters
    ----------
    policy, baseline : [episodes]
        Mean JCTs of the same episodes, in the same order.

    Raises
    ------
    ValueError
        if they are not of one length.
    """
    return _estimate(_reduction, policy, baseline)


def mean_reduction(places: Sequence[tuple[ArrayLike, ArrayLike]]) -> Estimate:
    """The mean over several places of :func:`reduction`; every place counts alike.

    Parameters
    ----------
    places
        Policy and baseline of each, [episodes] mean JCTs. Episodes of one number are resampled
        together, in all places at once.

    Raises
    ------
    ValueError
        if there is no place, or they are not of one length.
    """
    return _mean_estimate(_reduction, places)


def p99_reduction(policy: ArrayLike, baseline: ArrayLike) -> Estimate:
    """By what share the policy's 99th percentile over all jobs is below the baseline's.

    The interval is that of the percentiles of resampled pairs of episodes; their generator is
    seeded.

    Parameters
    ----------
    policy, baseline : [episodes, jobs]
        JCTs in the same episodes, in the same order.

    Raises
    ------
    ValueError
        if they are not of one shape.
    """
    ours, theirs = np.asarray(policy, np.float64), np.asarray(baseline, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"jct_s: {ours.shape} and {theirs.shape} make no pairs")

    below, above = np.percentile(ours, 99), np.percentile(theirs, 99)
    if not above > 0:
        return Estimate(None)
    value = float(1 - below / above)
    if len(ours) < 2:
        return Estimate(value)
    drawn = np.random.default_rng(0).integers(len(ours), size=(TAIL_RESAMPLES, len(ours)))
    with np.errstate(all="ignore"):
        shares = 1 - _tails(ours, drawn) / _tails(theirs, drawn)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(shares, (tail, 100 - tail))
    return Estimate(value, float(low), float(high))


def _tails(jct: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """The 99th percentile over the jobs of each draw of episodes."""
    parts = max(1, drawn.size * jct.shape[1] // MOST_AT_ONCE)
    return np.concatenate(
        [np.percentile(jct[rows], 99, axis=(1, 2)) for rows in np.array_split(drawn, parts)]
    )


def gap_closed(policy: ArrayLike, sjf: ArrayLike, oracle: ArrayLike) -> Estimate:
    """The share of the way from SJF to the clairvoyant reference that a policy has gone.

    ``(mean(sjf) - mean(policy)) / (mean(sjf) - mean(oracle))``: 0 is as good as SJF, 1 as good as
    the reference. Without a positive gap there is no such share; where some resamples of the
    episodes have none, the share has no interval.

    Parameters
    ----------
    policy, sjf, oracle : [episodes]
        Mean JCTs of the same episodes, in the same order.

    Raises
    ------
    ValueError
        if they are not of one length.
    """
    return _estimate(_gap_closed, policy, sjf, oracle)


def mean_gap_closed(places: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Estimate:
    """The mean over several places of :func:`gap_closed`; every place counts alike.

    Parameters
    ----------
    places
        Policy, SJF and reference of each, [episodes] mean JCTs. Episodes of one number are
        resampled together, in all places at once.

    Raises
    ------
    ValueError
        if there is no place, or they are not of one length.
    """
    return _mean_estimate(_gap_closed, places)


def _mean(sample: NDArray[np.float64], axis: int = -1) -> Any:
    return np.mean(sample, axis=axis)


def _reduction(policy: NDArray[np.float64], baseline: NDArray[np.float64], axis: int = -1) -> Any:
    return 1 - policy.mean(axis) / baseline.mean(axis)


def _gap_closed(
    policy: NDArray[np.float64],
    sjf: NDArray[np.float64],
    oracle: NDArray[np.float64],
    axis: int = -1,
) -> Any:
    gap = sjf.mean(axis) - oracle.mean(axis)
    gone = sjf.mean(axis) - policy.mean(axis)
    return np.divide(gone, gap, out=np.full_like(gap, np.nan), where=gap > 0)


def _mean_estimate(statistic: Statistic, places: Sequence[Sequence[ArrayLike]]) -> Estimate:
    """The mean over places of a statistic of the samples of each, all resampled together."""
    if not places:
        raise ValueError("places: there is none")
    each = len(places[0])

    def mean(*samples: NDArray[np.float64], axis: int = -1) -> Any:
        of_places = (samples[k : k + each] for k in range(0, len(samples), each))
        return np.mean([statistic(*place, axis=axis) for place in of_places], axis=0)

    return _estimate(mean, *(sample for place in places for sample in place))


def _estimate(statistic: Statistic, *samples: ArrayLike) -> Estimate:
    data = tuple(np.asarray(sample, dtype=np.float64) for sample in samples)
    lengths = [len(sample) for sample in data]
    if len(set(lengths)) > 1:
        raise ValueError(f"episodes: {lengths} of them make no pairs")
    value = float(statistic(*data))
    if np.isnan(value):
        return Estimate(None)
    if lengths[0] < 2:
        return Estimate(value)
    return Estimate(value, *_interval(statistic, data))


def _interval(
    statistic: Statistic, data: tuple[NDArray[np.float64], ...]
) -> tuple[float | None, float | None]:
    """The bias-corrected and accelerated (BCa) interval, of width 0 if all episodes are alike.

    The generator is seeded: the same episodes have the same interval.
    """
    from scipy.stats import bootstrap  # takes half a second to import

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is handled below
        result = bootstrap(
            data,
            statistic,
            paired=len(data) > 1,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            random_state=np.random.default_rng(0),
        )
    resampled = result.bootstrap_distribution
    if np.ptp(resampled) <= 1e-12 * np.abs(resampled).max():
        return float(resampled[0]), float(resampled[0])
    low, high = (float(end) for end in result.confidence_interval)
    if np.isnan(resampled).any() or np.isnan(low) or np.isnan(high):
        return None, None
    return low, high
