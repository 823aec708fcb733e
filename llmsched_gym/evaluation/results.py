"""The results of an evaluation: the summary of its episodes, their table and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from llmsched_gym import metrics
from llmsched_gym.errors import printable
from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.metrics import Estimate

SJF = "sjf"  # one end of the gap
# The other is the best of these: SRTF that knows what is hidden, by all that a job still needs, and
# by what it needs of the executors that its stage asks for. By label the options of SRTF.
OF_REFERENCES: dict[str, dict[str, Any]] = {"srtf_oracle": {}, "srtf_own_oracle": {"demand": "own"}}
REFERENCES = REFERENCE, OWN_REFERENCE = tuple(OF_REFERENCES)

EPISODE_COLUMNS = (
    *("policy", "workload", "cluster", "load", "seed", "episode", "num_jobs"),
    *("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s"),
    *("decisions", "decision_us", "bound_s"),
)
JOB_COLUMNS = ("policy", "episode", "job", "application", "arrival_s", "completion_s", "jct_s")
TASK_COLUMNS = (
    *("policy", "episode", "job", "stage", "task", "kind", "engine"),
    *("queued_s", "sent_s", "first_token_s", "end_s"),
    *("prompt_tokens", "output_tokens", "retries"),
)


@dataclass(frozen=True)
class Summary:
    """One policy over all episodes.

    Attributes
    ----------
    mean : mean JCT in seconds, with an interval over episodes.
    percentiles : mean and percentiles of the JCT over the jobs of all episodes, seconds.
    reduction : by what share the evaluated policy's mean JCT is below this one's; None for itself.
    gap_closed : the share of the way from SJF to the clairvoyant reference; None for these two, and
        without.
    clairvoyant : whether it knows what is hidden.
    bound_s : what no policy's mean can be below (:class:`~llmsched_gym.cluster.bound.LowerBound`),
        seconds; None: unknown.
    slowdown : mean over all jobs of the JCT over the time alone on an empty cluster; None: unknown.
    applications : mean JCT of the jobs of each application, seconds.
    """

    policy: str
    mean: Estimate
    percentiles: dict[str, float]
    reduction: Estimate | None
    gap_closed: Estimate | None
    clairvoyant: bool
    slowdown: float | None
    applications: dict[str, float]
    bound_s: float | None = None

    @property
    def x_bound(self) -> float | None:
        """The mean JCT over what it cannot be below, so at least 1; None: unknown, or it is 0."""
        return self.mean.value / self.bound_s if self.mean.value and self.bound_s else None


@dataclass(frozen=True)
class Setting:
    """The columns of ``episodes.csv`` that are the same in every row, and the title above all."""

    workload: str
    cluster: str
    load: float | None
    seed: int
    title: str


def summarise(
    episodes: Sequence[Episode],
    clairvoyant: Collection[str] = (),
    sjf: str = SJF,
    references: Sequence[str] = REFERENCES,
) -> list[Summary]:
    """Summarise policies, in the order of their first episodes; the first is the evaluated one.

    Parameters
    ----------
    episodes
        The same numbers of episodes, in the same order, for each policy.
    clairvoyant
        The policies that know what is hidden.
    sjf, references
        The two ends of the gap, the second of them the best of several; without one there is none.
    """
    own = by_policy(episodes)
    jobs = {policy: _pooled(played) for policy, played in own.items()}
    means = {policy: episode_means(played) for policy, played in own.items()}
    evaluated = next(iter(own))
    best = best_reference(means, references)
    with_gap = means.keys() - {sjf, best} if best is not None and sjf in means else set()
    return [
        Summary(
            policy=policy,
            mean=metrics.mean(means[policy]),
            percentiles=metrics.percentile_summary(jobs[policy]["jct_s"]),
            reduction=None
            if policy == evaluated
            else metrics.reduction(means[evaluated], means[policy]),
            gap_closed=metrics.gap_closed(means[policy], means[sjf], means[best])
            if best is not None and policy in with_gap
            else None,
            clairvoyant=policy in clairvoyant,
            slowdown=_mean_slowdown(jobs[policy]),
            applications=_application_means(jobs[policy]),
            bound_s=_mean_bound(own[policy]),
        )
        for policy in own
    ]


def best_reference(
    means: Mapping[str, Sequence[float]], references: Sequence[str] = REFERENCES
) -> str | None:
    """The clairvoyant reference: of those that played, the one with the lowest mean; None if none.

    ``means`` are those of the episodes of each policy, seconds.
    """
    played = [label for label in references if label in means]
    return min(played, key=lambda label: float(np.mean(means[label])), default=None)


def by_policy(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    """The episodes of each policy."""
    own: dict[str, list[Episode]] = {}
    for episode in episodes:
        own.setdefault(episode.policy, []).append(episode)
    return own


def episode_means(episodes: Iterable[Episode]) -> list[float]:
    """The mean JCT of each episode, seconds."""
    return [float(one.jobs["jct_s"].mean()) for one in episodes]


def _pooled(episodes: Sequence[Episode]) -> dict[str, NDArray[Any]]:
    """The columns that all episodes have of their jobs, one below the other."""
    names = set.intersection(*(set(one.jobs) for one in episodes))
    return {name: np.concatenate([one.jobs[name] for one in episodes]) for name in names}


def _mean_slowdown(jobs: dict[str, NDArray[Any]]) -> float | None:
    if "alone_s" not in jobs:
        return None
    return float(metrics.slowdown(jobs["jct_s"], jobs["alone_s"]).mean())


def _mean_bound(episodes: Sequence[Episode]) -> float | None:
    bounds = [one.bound_s for one in episodes if one.bound_s is not None]
    return float(np.mean(bounds)) if len(bounds) == len(episodes) else None


def _application_means(jobs: dict[str, NDArray[Any]]) -> dict[str, float]:
    names, rows = np.unique(jobs["application"], return_inverse=True)
    means = np.bincount(rows, jobs["jct_s"]) / np.bincount(rows)
    return dict(zip(names.tolist(), means.tolist(), strict=True))


def plain(text: str, style: str = "") -> Text:
    """A text with names in it, to be shown as it is: no markup, no emoji, nothing for terminals."""
    return Text(printable(text), style)


def shown(estimate: Estimate | None, percent: bool = False, digits: int = 1) -> str:
    """An estimate to be read, with its interval if it has one; empty without an estimate."""
    if estimate is None:
        return ""
    if estimate.value is None:
        return "n/a"
    scale, unit = (100, " %") if percent else (1, "")
    # Adding 0 turns -0.0 into 0.0.
    numbers = [f"{round(scale * x, digits) + 0.0:.{digits}f}" for x in estimate if x is not None]
    interval = f" [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else ""
    return numbers[0] + unit + interval


def write_results(
    folder: Path,
    episodes: Sequence[Episode],
    summaries: Sequence[Summary],
    setting: Setting,
    **more: Any,
) -> None:
    """Write ``episodes.csv``, ``jobs.csv`` and ``summary.json`` (with ``more``)."""
    write_csv(folder / "episodes.csv", EPISODE_COLUMNS, episode_rows(episodes, setting))
    write_csv(folder / "jobs.csv", JOB_COLUMNS, job_rows(episodes))
    summary = {"policies": {one.policy: _as_json(one) for one in summaries}} | more
    text = json.dumps(summary, indent=2, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write a table with a row of column names."""
    # Names from anywhere: half of a surrogate pair has no place in UTF-8 and is escaped.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def episode_rows(episodes: Iterable[Episode], setting: Setting) -> Iterator[tuple[Any, ...]]:
    """The rows of ``episodes.csv``."""
    same = (setting.workload, setting.cluster, setting.load, setting.seed)
    for one in episodes:
        numbers = metrics.percentile_summary(one.jobs["jct_s"]).values()
        timing = one.makespan_s, one.decisions, one.decision_us
        yield one.policy, *same, one.number, len(one.jobs["jct_s"]), *numbers, *timing, one.bound_s


def job_rows(episodes: Iterable[Episode]) -> Iterator[tuple[Any, ...]]:
    """The rows of ``jobs.csv``."""
    for one in episodes:
        columns = (one.jobs[name].tolist() for name in JOB_COLUMNS[3:])
        for job, row in enumerate(zip(*columns, strict=True)):
            yield one.policy, one.number, job, *row


def task_rows(episodes: Iterable[Episode], never: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of ``tasks.csv``, of episodes on servers; ``never`` is a time that never was."""
    for one in episodes:
        if one.tasks is not None:
            columns = (one.tasks[name].tolist() for name in TASK_COLUMNS[2:])
            for row in zip(*columns, strict=True):
                yield one.policy, one.number, *(never if cell != cell else cell for cell in row)


def summary_row(summary: Summary) -> dict[str, Any]:
    """A summary as one row of a table; intervals are columns of their own, NaN is unknown."""
    row: dict[str, Any] = {"policy": summary.policy, "clairvoyant": summary.clairvoyant}
    row |= _columns("mean_jct_s", summary.mean)
    row |= {name: value for name, value in summary.percentiles.items() if name not in row}
    for name in ("slowdown", "bound_s", "x_bound"):
        value = getattr(summary, name)
        row[{"slowdown": "mean_slowdown"}.get(name, name)] = np.nan if value is None else value
    return (
        row | _columns("reduction", summary.reduction) | _columns("gap_closed", summary.gap_closed)
    )


def _columns(name: str, estimate: Estimate | None) -> dict[str, float]:
    numbers = (np.nan if x is None else x for x in estimate or (None, None, None))
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def _as_json(summary: Summary) -> dict[str, Any]:
    return {
        "clairvoyant": summary.clairvoyant,
        "mean_jct": summary.mean._asdict(),
        **summary.percentiles,
        "mean_slowdown": summary.slowdown,
        "bound_s": summary.bound_s,
        "x_bound": summary.x_bound,
        "applications": summary.applications,
        "reduction": summary.reduction and summary.reduction._asdict(),
        "gap_closed": summary.gap_closed and summary.gap_closed._asdict(),
    }
