"""When jobs arrive: a Poisson process, recorded timestamps, or all at once."""

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
from llmsched_gym.workload.inputs import given_path, other_than_file
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
