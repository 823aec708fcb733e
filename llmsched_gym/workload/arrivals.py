"""When jobs arrive: a Poisson process, steady or interrupted, recorded timestamps, or at once."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_gym.checks import is_number
from llmsched_gym.workload.inputs import given_path, other_than_file, shown
from llmsched_gym.workload.job import MAX_ARRIVAL_S

FloatArray = NDArray[np.float64]
RATES = (1e-12, 1e12)  # jobs/s, the least and the most: one in 30,000 years, one a tick
SHORTEST_SPAN_S = 1e-100  # times closer than this cannot be stretched: they count as equal


class Arrivals(Protocol):
    """A way to draw arrival times.

    If the rate plays no part, so that it makes no sense to speak of a load, an attribute
    ``has_rate`` says so: it is False. Without the attribute it is taken to be True.
    """

    def draw(self, rng: np.random.Generator, count: int, rate: float) -> FloatArray:
        """float64 [count]: arrival times in seconds, ascending, the first at 0 or later.

        ``rate`` is in jobs per second.
        """
        ...


class Poisson:
    """Independent exponential times between arrivals, of mean ``1 / rate`` seconds.

    The first job arrives after one such time, so the expected last arrival is ``count / rate``.
    """

    has_rate = True

    def draw(self, rng: np.random.Generator, count: int, rate: float) -> FloatArray:
        """See :class:`Arrivals`; ValueError unless the rate is positive and finite."""
        _check_rate(rate)
        return np.cumsum(rng.exponential(1.0 / rate, count))


class InterruptedPoisson:
    """Bursts of jobs with pauses between them, as one real service has them.

    Times between arrivals are independent and hyperexponential: with probability
    ``p = 1 / jobs_per_burst`` a pause, else a gap within a burst; both are exponential, and pauses
    make up the share ``q = quiet`` of all time. This is the interrupted Poisson process (Kuczura,
    Bell System Technical Journal 52(3), 1973): a Poisson process that is switched on and off after
    exponential times. Of the two-state Markov-modulated Poisson processes it is the one whose gaps
    are uncorrelated, and in the record they are (-0.003 at lag 1).

    What a queue feels are the counts of jobs over spans of time. Of them the process has

        CV^2 = 1 + 2 (p - q)^2 / (p (1 - p))                           of the times between arrivals
        I(x) = 1 + (CV^2 - 1) (1 - (1 - exp(-k x)) / (k x)),   k = p (1 - p) / (q (1 - q))

    the index of dispersion (variance to mean) of the count in spans that hold x jobs on average.
    The defaults are fitted to I of the 8,819 requests of the Azure LLM inference trace 2023, code
    (AzurePublicDataset, CC-BY 4.0), over spans of 0.3 s to 2 min (``workload.fitting.arrivals``);
    docs/workloads.md has what else was tried and what is left out. CV is 13.9, measured 13.2.

    It has no time scale of its own: another rate stretches or shrinks the rhythm, and a burst has
    as many jobs at every rate, ``(1 - p) / (1 - q)`` (5.7) times as dense as on average. The first
    job arrives after one such time, so the expected last arrival is ``count / rate``; episodes of
    fewer jobs than a few bursts have differ much from each other.

    Parameters
    ----------
    jobs_per_burst : mean, 1 or more and at most 1e6; 1 / p.
    quiet : share of time, 0 to 1, both excluded. With ``quiet == 1 / jobs_per_burst`` this is a
        Poisson process.

    Raises
    ------
    ValueError
        if one of them is out of its range.
    """

    has_rate = True

    def __init__(self, jobs_per_burst: float = 143.0, quiet: float = 0.826) -> None:
        if not is_number(jobs_per_burst, 1 + 1e-6, 1e6):
            raise ValueError(f"jobs_per_burst: {shown(jobs_per_burst)} is not above 1, up to 1e+06")
        if not is_number(quiet, 1e-6, 1 - 1e-6):
            raise ValueError(f"quiet: {shown(quiet)} is not a share between 0 and 1")
        self.jobs_per_burst, self.quiet = float(jobs_per_burst), float(quiet)

    def draw(self, rng: np.random.Generator, count: int, rate: float) -> FloatArray:
        """See :class:`Arrivals`; ValueError unless the rate is positive and finite."""
        _check_rate(rate)
        p, q = 1 / self.jobs_per_burst, self.quiet
        means = np.where(rng.random(count) < p, q / p, (1 - q) / (1 - p))  # mean gap: 1
        return np.asarray(np.cumsum(rng.exponential(means)) / rate)

    def dispersion(self, jobs: ArrayLike) -> FloatArray:
        """Variance to mean of the number of arrivals in a span that holds ``jobs`` on average.

        The span begins anywhere in time. Of any shape, above 0; for a Poisson process 1 throughout.
        """
        p, q = 1 / self.jobs_per_burst, self.quiet
        x = np.asarray(jobs, np.float64) * (p * (1 - p) / (q * (1 - q)))
        return np.asarray(1 + 2 * (p - q) ** 2 / (p * (1 - p)) * (1 + np.expm1(-x) / x))


class Burst:
    """All jobs arrive at time zero; the rate plays no part."""

    has_rate = False

    def draw(self, rng: np.random.Generator, count: int, rate: float) -> FloatArray:
        """See :class:`Arrivals`."""
        return np.zeros(count)


class Recorded:
    """The rhythm of recorded arrivals, sped up or slowed down to the rate that is asked for.

    An episode of n jobs takes n successive timestamps, the first of them drawn uniformly from the
    record; it arrives at time 0. After the record's last timestamp comes its first again, one mean
    time between arrivals later, as often as need be. The times between arrivals are then multiplied
    by one number, so that the episode's own mean is exactly ``1 / rate``: every episode offers the
    load that it is said to offer, and what is kept of the record is the variation within the
    episode, bursts above all. How the load changes over spans longer than an episode is lost.

    If all n timestamps are equal they cannot be scaled, and all jobs arrive at time 0.

    Parameters
    ----------
    timestamps : at least 2, in seconds from any origin, at most 1e20 from it, ascending; repeated
        ones are allowed, but not all may be equal.

    Raises
    ------
    ValueError
        if there are too few timestamps, one is not finite, is too large or is earlier than the one
        before it, or all are equal.
    """

    has_rate = True

    def __init__(self, timestamps: ArrayLike) -> None:
        times = np.asarray(timestamps, np.float64)
        if times.ndim != 1 or len(times) < 2:
            raise ValueError("timestamps: a list of at least 2 is needed")
        if not np.isfinite(times).all():
            raise ValueError("timestamps: one is not finite")
        if np.abs(times).max() > MAX_ARRIVAL_S:
            raise ValueError(f"timestamps: one is beyond {MAX_ARRIVAL_S:g} s")
        gaps = np.diff(times)
        if (gaps < 0).any():
            raise ValueError(f"timestamps: number {np.argmax(gaps < 0) + 2} is out of order")
        if times[-1] - times[0] <= SHORTEST_SPAN_S:
            raise ValueError("timestamps: all are equal")
        self._times = times
        self._gaps = np.append(gaps, gaps.mean())  # time from each to the next, round the end

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], column: str | None = None) -> Recorded:
        """Read one arrival per row from a CSV file, with or without a row of column names.

        A timestamp is a number of seconds, or a date and time in ISO 8601 (without an offset: UTC;
        beyond microseconds, digits are dropped), as in the public Azure LLM inference traces.
        ``column`` names the column; None is the first.

        Raises
        ------
        FileNotFoundError
            if there is no such file.
        ValueError
            ``file:line: what is wrong``: no such column, not a timestamp, not finite, too large,
            earlier than the one before it, fewer than 2, all equal, not a text file; or what is
            there is no file but a folder, a pipe or a device.
        """
        path = given_path("arrivals_path", path)
        if kind := other_than_file(path):
            raise ValueError(f"{path}: {kind}, not a CSV file")
        times: list[float] = []
        line = 1
        for line, text in _column(path, column):
            try:
                times.append(_seconds(text))
            except ValueError:
                raise ValueError(f"{path}:{line}: {text!r} is not a timestamp") from None
            if not math.isfinite(times[-1]):
                raise ValueError(f"{path}:{line}: {text!r} is not finite")
            if abs(times[-1]) > MAX_ARRIVAL_S:
                raise ValueError(f"{path}:{line}: {text!r} is beyond {MAX_ARRIVAL_S:g} s")
            if len(times) > 1 and times[-1] < times[-2]:
                raise ValueError(f"{path}:{line}: {text!r} is earlier than the row before it")
        try:
            return cls(times)
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from None

    def draw(self, rng: np.random.Generator, count: int, rate: float) -> FloatArray:
        """See :class:`Arrivals`; ValueError unless the rate is positive and finite."""
        _check_rate(rate)
        return self._from(int(rng.integers(len(self._gaps))), count, rate)

    def in_order(self, count: int, rate: float) -> FloatArray:
        """Like :meth:`draw`, from the first timestamp on: for jobs that have theirs."""
        _check_rate(rate)
        return self._from(0, count, rate)

    def __len__(self) -> int:
        return len(self._times)

    def at(self, numbers: ArrayLike) -> FloatArray:
        """The timestamps of these numbers, 0 the first, as recorded; those beyond the end go on."""
        rounds, number = np.divmod(np.asarray(numbers, np.int64), len(self))
        return self._times[number] + rounds * self._gaps.sum()

    def _from(self, first: int, count: int, rate: float) -> FloatArray:
        gaps = self._gaps.take(np.arange(first, first + count - 1), mode="wrap")
        span = gaps.sum()
        scale = (count - 1) / (rate * span) if span > SHORTEST_SPAN_S else 0.0
        return np.concatenate([[0.0], np.cumsum(gaps) * scale])


def _column(path: Path, column: str | None) -> Iterator[tuple[int, str]]:
    """The cells of one column with their line numbers, without the row of column names."""
    index = None
    with path.open("rb") as stream:
        rows = csv.reader(_text(path, stream), strict=True)
        try:
            for row in filter(None, rows):
                if index is None:
                    index = 0 if column is None else _position(path, rows.line_num, row, column)
                    if column is not None or not _is_timestamp(row[0]):
                        continue
                if index >= len(row):
                    raise ValueError(f"{path}:{rows.line_num}: no cell in column {index + 1}")
                yield rows.line_num, row[index].strip()
        except csv.Error as error:
            raise ValueError(f"{path}:{rows.line_num}: {error}") from None


def _text(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path}:{number}: not UTF-8") from None


def _position(path: Path, line: int, header: Sequence[str], column: str) -> int:
    if column not in header:
        raise ValueError(f"{path}:{line}: no column {column!r}, choose from {', '.join(header)}")
    return header.index(column)


def _seconds(text: str) -> float:
    """Seconds from some origin; ValueError if the text is neither a number nor a date and time."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_timestamp(text: str) -> bool:
    try:
        _seconds(text.strip())
    except ValueError:
        return False
    return True


def _check_rate(rate: float) -> None:
    if not is_number(rate, *RATES):
        least, most = RATES
        raise ValueError(
            f"rate: {rate} is not a positive number of jobs per second, {least:g} to {most:g}"
        )
