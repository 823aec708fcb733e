"""How the generators draw: quantile knots for each quantity, a Gaussian copula to tie them.

A quantity (output tokens of a stage, seconds of a tool) is a monotone function of a standard normal
score. The function is given by a dozen knots: quantiles measured on real jobs. Scores of one job
are correlated (a Gaussian copula), which carries the measured rank correlations over. Interpolation
is linear in the score, so that a draw uses nothing but additions, multiplications and square roots
and gives the same job on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.workload.job import LLMTask, RegularTask

FloatArray = NDArray[np.float64]

PARAMETERS_FILE = Path(__file__).with_name("parameters.json")


class Marginal:
    """A quantity as a function of its normal score.

    Parameters
    ----------
    z : float64 [K], ascending normal scores of the knots; beyond the outer ones it is constant.
    values : float64 [K], the measured quantiles at those scores (tokens or seconds).
    """

    def __init__(self, z: Sequence[float], values: Sequence[float]) -> None:
        self.z = np.array(z, np.float64)
        self.values = np.array(values, np.float64)

    def tokens(self, z: float, least: int = 1) -> int:
        """A whole number, at least ``least``."""
        return max(least, round(float(np.interp(z, self.z, self.values))))

    def many_tokens(self, z: FloatArray, least: int = 1) -> list[int]:
        """Whole numbers, each at least ``least``."""
        values: list[int] = np.rint(np.interp(z, self.z, self.values)).astype(np.int64).tolist()
        return [max(least, value) for value in values]

    def many(self, z: FloatArray) -> FloatArray:
        """Real numbers, not rounded."""
        return np.interp(z, self.z, self.values)

    def seconds(self, z: FloatArray) -> list[float]:
        """Durations in seconds, rounded to 1 ms."""
        durations: list[float] = np.round(np.interp(z, self.z, self.values), 3).tolist()
        return durations


class Count:
    """A small whole number as a function of its normal score.

    Parameters
    ----------
    values : the K possible numbers, ascending.
    z : float64 [K - 1], the scores at which one gives way to the next.
    """

    def __init__(self, values: Sequence[int], z: Sequence[float]) -> None:
        self.values = list(values)
        self.z = np.array(z, np.float64)

    def at(self, z: float) -> int:
        """The number that belongs to a score."""
        return self.values[int(np.searchsorted(self.z, z))]


class Choice:
    """One of several labels, with weights."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    def draw(self, rng: np.random.Generator, without: Sequence[str] = ()) -> str | None:
        """A label that is not in ``without``; None if nothing is left."""
        left = {label: weight for label, weight in self.weights.items() if label not in without}
        if not left:
            return None
        mark = rng.random() * sum(left.values())
        for label, weight in left.items():
            mark -= weight
            if mark < 0:
                return label
        return label


class Copula:
    """Standard normal scores of one job, correlated.

    Parameters
    ----------
    names : the D quantities.
    correlation : float [D, D], of the scores.
    """

    def __init__(self, names: Sequence[str], correlation: Sequence[Sequence[float]]) -> None:
        self.names = tuple(names)
        self.factor = _cholesky(correlation)

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """One score per quantity, by name."""
        noise = rng.standard_normal(len(self.names)).tolist()
        scores = {}
        for name, row in zip(self.names, self.factor, strict=True):
            score = 0.0
            for weight, value in zip(row, noise, strict=False):  # a row ends at the diagonal
                score += weight * value
            scores[name] = score
        return scores


def _cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Lower triangle of the Cholesky factor; in plain floats, so that it is the same everywhere."""
    factor: list[list[float]] = []
    for i, given in enumerate(matrix):
        row: list[float] = []
        for j in range(i + 1):
            rest = given[j]
            for k in range(j):
                rest -= row[k] * (row if i == j else factor[j])[k]
            row.append(math.sqrt(rest) if i == j else rest / factor[j][j])
        factor.append(row)
    return factor


def around(rng: np.random.Generator, level: float, shared: float, count: int) -> FloatArray:
    """Normal scores of ``count`` tasks that share a part of their variance with the job's level.

    ``sqrt(shared) * level + sqrt(1 - shared) * noise``: any two of them correlate by ``shared``.
    """
    return math.sqrt(shared) * level + math.sqrt(1.0 - shared) * rng.standard_normal(count)


class Parameters:
    """The fitted parameters of one application: a section of ``parameters.json``."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        def built(kind: str, make: Any, *keys: str) -> dict[str, Any]:
            return {
                name: make(*(entry[key] for key in keys))
                for name, entry in section.get(kind, {}).items()
            }

        self.marginals: dict[str, Marginal] = built("marginals", Marginal, "z", "values")
        self.counts: dict[str, Count] = built("counts", Count, "values", "z")
        self.choices: dict[str, Choice] = built("choices", Choice, "weights")
        self.shared: dict[str, float] = section.get("shared", {})
        self.constants: dict[str, Any] = built("constants", lambda value: value, "value")
        if "copula" in section:
            self.copula = Copula(section["copula"]["names"], section["copula"]["correlation"])


@cache
def parameters(section: str) -> Parameters:
    """The parameters of an application, read once per process."""
    return Parameters(json.loads(PARAMETERS_FILE.read_text(encoding="utf-8"))[section])


def llm_tasks(prompts: Sequence[int], outputs: Sequence[int]) -> tuple[LLMTask, ...]:
    """LLM tasks from parallel lists of prompt and output tokens."""
    return tuple(map(LLMTask, prompts, outputs))


def regular_tasks(seconds: Sequence[float]) -> tuple[RegularTask, ...]:
    """Regular tasks from a list of durations in seconds."""
    return tuple(map(RegularTask, seconds))
