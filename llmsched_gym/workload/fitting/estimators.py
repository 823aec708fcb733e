"""From measured values to the parameters of the generators.

Every parameter is a quantile, a share of a variance, a correlation of normal scores or a frequency.
The method is that of :mod:`llmsched_gym.workload.applications.sampling`, read backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from llmsched_gym.workload.applications.sampling import FloatArray

# One entry per job, the values of its tasks in it (none, one or several).
Groups = Sequence[Sequence[float]]
Section = dict[str, Any]
LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
LEVELS_OF_FEW = (0.25, 0.5, 0.75)
MANY, FEW = 20, 8
LEAST_JOBS_FOR_CORRELATION, LEAST_SHARE_FOR_CORRELATION = 8, 0.05


def marginal(groups: Groups, source: str) -> Section:
    """Quantile knots over the pooled values; the extremes stand at levels 1/2n and 1 - 1/2n."""
    values = _pooled(groups)
    n = len(values)
    inner = LEVELS if n >= MANY else LEVELS_OF_FEW if n >= FEW else (0.5,)
    levels = (0.5 / n, *(level for level in inner if 0.5 / n < level < 1 - 0.5 / n), 1 - 0.5 / n)
    knots = np.quantile(values, (0.0, *levels[1:-1], 1.0))
    return {
        "z": [round(NormalDist().inv_cdf(level), 4) for level in levels],
        "values": [_rounded(value) for value in knots],
        "n": n,
        "source": source,
    }


def count(values: Mapping[int, int], source: str) -> Section:
    """A histogram of a small number, as thresholds of its normal score."""
    total = sum(values.values())
    below = np.cumsum([values[value] for value in sorted(values)])[:-1] / total
    return {
        "values": sorted(values),
        "z": [round(NormalDist().inv_cdf(float(level)), 4) for level in below],
        "n": total,
        "source": source,
    }


def choice(frequencies: Mapping[str, float], source: str) -> Section:
    """Relative frequencies of labels."""
    total = sum(frequencies.values())
    weights = {label: round(frequencies[label] / total, 4) for label in sorted(frequencies)}
    return {"weights": weights, "n": round(total), "source": source}


def constant(value: Any, source: str) -> Section:
    """A number (or a list) that does not vary."""
    return {"value": value, "source": source}


def shared_variance(groups: Groups) -> float:
    """Correlation of the normal scores of two tasks of one job (intraclass), 0 to 1."""
    products = pairs = 0.0
    for z in _scores(groups):
        products += z.sum() ** 2 - (z**2).sum()
        pairs += len(z) * (len(z) - 1)
    return round(float(min(1.0, max(0.0, products / pairs))), 3) if pairs else 1.0


def copula(columns: Mapping[str, Groups], source: str) -> Section:
    """Correlations between the job levels of several quantities.

    For each pair the covariance of the jobs' mean scores, divided by the part of the standard
    deviation that tasks of one job share. Independent by definition: a pair seen in fewer than 8
    jobs; a quantity whose tasks share less than 0.05 of their variance, as it has no job level.
    """
    names = list(columns)
    means, share = {}, {}
    for name in names:
        means[name] = np.array([z.mean() if len(z) else np.nan for z in _scores(columns[name])])
        share[name] = shared_variance(columns[name])
    matrix = np.eye(len(names))
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            both = ~np.isnan(means[first]) & ~np.isnan(means[second])
            if (
                both.sum() < LEAST_JOBS_FOR_CORRELATION
                or min(share[first], share[second]) < LEAST_SHARE_FOR_CORRELATION
            ):
                continue
            covariance = np.cov(means[first][both], means[second][both])[0, 1]
            matrix[i, j] = matrix[j, i] = covariance / np.sqrt(share[first] * share[second])
    return {"names": names, "correlation": _positive_definite(matrix), "source": source}


def _pooled(groups: Groups) -> FloatArray:
    return np.array([value for group in groups for value in group], np.float64)


def _scores(groups: Groups) -> list[FloatArray]:
    """Normal scores of the pooled values (mean 0, variance 1), per job."""
    values = _pooled(groups)
    levels = (rankdata(values) - 0.5) / len(values)
    scores = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
    deviation = scores.std()
    if deviation > 0:
        scores /= deviation
    return np.split(scores, np.cumsum([len(group) for group in groups])[:-1])


def _positive_definite(matrix: NDArray[np.float64]) -> list[list[float]]:
    """The nearest usable correlation matrix: no eigenvalue below 0.02, ones on the diagonal."""
    limited = np.clip(matrix, -0.97, 0.97)
    np.fill_diagonal(limited, 1.0)
    values, vectors = np.linalg.eigh(limited)
    fixed = vectors @ np.diag(np.maximum(values, 0.02)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    fixed = fixed / scale[:, None] / scale[None, :]
    return [[round(float(value), 3) + 0.0 for value in row] for row in fixed]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
