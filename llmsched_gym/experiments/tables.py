"""The tables of a whole experiment: what each policy did in each place of each study."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym import metrics
from llmsched_gym.errors import printable
from llmsched_gym.evaluation.belief_quality import BELIEF_COLUMNS
from llmsched_gym.evaluation.comparison import Comparison
from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.evaluation.results import REFERENCE, SJF, Setting, write_csv
from llmsched_gym.experiments.cells import EVALUATED, Place
from llmsched_gym.metrics import Estimate

PLACE_COLUMNS = ("study", "workload", "load", "engines", "policy")
RESULT_COLUMNS = (
    *("study", "workload", "load", "cluster", "engines", "policy", "belief", "episode", "seed"),
    *("num_jobs", "mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s"),
    *("mean_slowdown", "p95_slowdown", "jain", "jobs_completed", "bound_s"),
)
JOB_COLUMNS = (
    *("workload", "load", "policy", "episode", "job", "application"),
    *("arrival_s", "jct_s", "alone_s"),
)
ESTIMATES = ("mean_jct_s", "reduction", "reduction_vs_sjf", "gap_closed")
SUMMARY_COLUMNS = (
    *PLACE_COLUMNS,
    *(f"{name}{end}" for name in ESTIMATES[:1] for end in ("", "_low", "_high")),
    *("p95_jct_s", "p99_jct_s", "mean_slowdown", "p95_slowdown", "jain"),
    *(f"{name}{end}" for name in ESTIMATES[1:] for end in ("", "_low", "_high")),
)
APPLICATION_COLUMNS = (*PLACE_COLUMNS, "application", *SUMMARY_COLUMNS[len(PLACE_COLUMNS) :])
OVERHEAD_COLUMNS = ("workload", "load", "policy", "decision_us")
DIGITS = 6  # after the point, of seconds in the tables with a row for each job


@dataclass(frozen=True)
class Played:
    """One episode of a policy.

    Attributes
    ----------
    number : of the episode.
    makespan_s : from the start of the episode to its last completion.
    decision_us : wall-clock time of a decision in microseconds, mean.
    bound_s : a mean JCT that no policy is below, seconds; NaN of some of the jobs.
    application, arrival_s, jct_s, alone_s : [jobs]; ``alone_s`` see
        :class:`~llmsched_gym.metrics.EmptyCluster`.
    """

    number: int
    makespan_s: float
    decision_us: float
    bound_s: float
    application: NDArray[Any]
    arrival_s: NDArray[np.float64]
    jct_s: NDArray[np.float64]
    alone_s: NDArray[np.float64]

    @property
    def slowdown(self) -> NDArray[np.float64]:
        """Of each job."""
        return metrics.slowdown(self.jct_s, self.alone_s)

    def of_application(self, name: str) -> Played:
        """The same episode with the jobs of one application only."""
        mine = self.application == name
        tables = ("application", "arrival_s", "jct_s", "alone_s")
        jobs = {table: getattr(self, table)[mine] for table in tables}
        return replace(self, bound_s=np.nan, **jobs)


@dataclass(frozen=True)
class Measured:
    """What a study says of one policy in one place: ``policy`` is its label."""

    study: str
    place: Place
    policy: str
    belief: str
    episodes: tuple[Played, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """The values of ``PLACE_COLUMNS``."""
        return self.study, self.place.workload, self.place.load, self.place.engines, self.policy

    def means(self) -> list[float]:
        """The mean JCT of each episode, seconds."""
        return [float(episode.jct_s.mean()) for episode in self.episodes]

    def of_application(self, name: str) -> Measured:
        """With the jobs of one application only, in the episodes that have some."""
        episodes = (episode.of_application(name) for episode in self.episodes)
        return replace(self, episodes=tuple(e for e in episodes if len(e.jct_s)))


def write_tables(
    folder: Path,
    measured: Sequence[Measured],
    belief_rows: Iterable[Mapping[str, Any]],
    cluster: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Write the CSV files of an experiment; returns the rows of ``summary.csv``."""
    main = [one for one in measured if one.study == "main"]
    summary = list(summary_rows(measured))
    results = (row for one in measured for row in _result_rows(one, cluster, seed))
    write_csv(folder / "results.csv", RESULT_COLUMNS, results)
    _write_dicts(folder / "summary.csv", SUMMARY_COLUMNS, summary)
    _write_dicts(folder / "applications.csv", APPLICATION_COLUMNS, application_rows(measured))
    _write_jobs(folder / "jobs.csv.gz", main)
    _write_dicts(folder / "belief.csv", BELIEF_COLUMNS, belief_rows)
    write_csv(folder / "overhead.csv", OVERHEAD_COLUMNS, map(_overhead_row, main))
    return summary


def _result_rows(one: Measured, cluster: str, seed: int) -> Iterator[tuple[Any, ...]]:
    place = one.place
    where = one.study, place.workload, place.load, cluster, place.engines, one.policy, one.belief
    for episode in one.episodes:
        jct, slowdown = episode.jct_s, episode.slowdown
        yield (
            *where,
            *(episode.number, seed, len(jct)),
            *metrics.percentile_summary(jct).values(),
            episode.makespan_s,
            *(float(slowdown.mean()), float(np.percentile(slowdown, 95)), metrics.jain(slowdown)),
            len(jct),  # an episode of which a job does not complete is an error
            episode.bound_s,
        )


def summary_rows(measured: Iterable[Measured]) -> Iterator[dict[str, Any]]:
    """A row of ``SUMMARY_COLUMNS`` for each policy of each study and place.

    What a policy is compared with is looked for in all studies of the same place.
    """
    measured = list(measured)
    anchors: dict[tuple[Place, str], list[float]] = {}
    for one in measured:
        if one.policy in (EVALUATED, SJF, REFERENCE) and (one.place, one.policy) not in anchors:
            anchors[one.place, one.policy] = one.means()
    for one in measured:
        compared = (anchors.get((one.place, name)) for name in (EVALUATED, SJF, REFERENCE))
        yield dict(zip(PLACE_COLUMNS, one.key, strict=True)) | _summary(one, *compared)


def application_rows(measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """The summary of each application's jobs: rows of ``APPLICATION_COLUMNS``."""
    names = {str(name) for one in measured for e in one.episodes for name in set(e.application)}
    for name in sorted(names):
        mine = (one.of_application(name) for one in measured)
        for row in summary_rows(one for one in mine if one.episodes):
            yield {"application": name} | row


def _summary(
    one: Measured,
    evaluated: list[float] | None,
    sjf: list[float] | None,
    reference: list[float] | None,
) -> dict[str, Any]:
    means = one.means()
    jct = metrics.percentile_summary(np.concatenate([e.jct_s for e in one.episodes]))
    slowdowns = [episode.slowdown for episode in one.episodes]
    pooled = np.concatenate(slowdowns)
    estimates: dict[str, Estimate | None] = dict.fromkeys(ESTIMATES)
    estimates["mean_jct_s"] = metrics.mean(means)
    if evaluated is not None and one.policy != EVALUATED:
        estimates["reduction"] = metrics.reduction(evaluated, means)
    if sjf is not None and one.policy != SJF:
        estimates["reduction_vs_sjf"] = metrics.reduction(means, sjf)
        if reference is not None and one.policy != REFERENCE:
            estimates["gap_closed"] = metrics.gap_closed(means, sjf, reference)
    row: dict[str, Any] = {
        "p95_jct_s": jct["p95_jct_s"],
        "p99_jct_s": jct["p99_jct_s"],
        "mean_slowdown": float(pooled.mean()),
        "p95_slowdown": float(np.percentile(pooled, 95)),
        "jain": float(np.mean([metrics.jain(x) for x in slowdowns])),
    }
    for name, estimate in estimates.items():
        row |= zip((name, f"{name}_low", f"{name}_high"), estimate or Estimate(None), strict=True)
    return row


def _overhead_row(one: Measured) -> tuple[Any, ...]:
    times = float(np.mean([episode.decision_us for episode in one.episodes]))
    return one.place.workload, one.place.load, one.policy, times


def _write_jobs(path: Path, measured: Iterable[Measured]) -> None:
    """A row of ``JOB_COLUMNS`` for each job; the file says nothing about when it was written."""
    with gzip.GzipFile(path, "wb", compresslevel=6, mtime=0) as packed:
        text = io.TextIOWrapper(packed, "utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(JOB_COLUMNS)
        for one in measured:
            where = one.place.workload, one.place.load, one.policy
            for e in one.episodes:
                seconds = (np.round(x, DIGITS).tolist() for x in (e.arrival_s, e.jct_s, e.alone_s))
                rows = zip(range(len(e.jct_s)), e.application, *seconds, strict=True)
                writer.writerows((*where, e.number, *row) for row in rows)
        text.flush()


def _write_dicts(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    write_csv(path, columns, (tuple(row[column] for column in columns) for row in rows))


def named(place: Place) -> str:
    """A place in a few words."""
    return printable(f"{place.workload} at load {place.load:g}")


def comparisons(
    measured: Iterable[Measured],
    cluster: str,
    seed: int,
    study: str = "main",
    title: Callable[[Place], str] = named,
) -> list[Comparison]:
    """A study, the main one by default: what all policies did in each place."""
    places: dict[Place, list[Measured]] = {}
    for one in measured:
        if one.study == study:
            places.setdefault(one.place, []).append(one)
    return [
        Comparison(
            tuple(_episode(one.policy, played) for one in here for played in one.episodes),
            Setting(place.workload, cluster, place.load, seed, title(place)),
            (),
            tuple(one.policy for one in here if one.belief == "oracle"),
        )
        for place, here in places.items()
    ]


def _episode(policy: str, played: Played) -> Episode:
    """As an evaluation has it; how many decisions there were is not kept."""
    jobs = {
        "application": played.application,
        "arrival_s": played.arrival_s,
        "completion_s": played.arrival_s + played.jct_s,
        "jct_s": played.jct_s,
        "alone_s": played.alone_s,
    }
    timing = played.makespan_s, 0, played.decision_us
    return Episode(policy, played.number, jobs, *timing, bound_s=played.bound_s)
