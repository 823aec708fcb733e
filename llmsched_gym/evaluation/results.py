"""The results of an evaluation: the summary of its episodes, their table and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from llmsched_gym import metrics
from llmsched_gym.errors import printable
from llmsched_gym.evaluation.episodes import Episode
from llmsched_gym.metrics import Estimate

SMALL_S = 10.0  # means below it are shown to hundredths of a second
SJF, REFERENCE = "sjf", "srtf_oracle"  # the two ends of the gap

EPISODE_COLUMNS = (
    *("policy", "workload", "cluster", "load", "seed", "episode", "num_jobs"),
    *("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s"),
    *("decisions", "decision_us"),
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
    gap_closed : the share of the way from SJF to the reference; None for these two, and without.
    clairvoyant : whether it knows what is hidden.
    """

    policy: str
    mean: Estimate
    percentiles: dict[str, float]
    reduction: Estimate | None
    gap_closed: Estimate | None
    clairvoyant: bool


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
    reference: str = REFERENCE,
) -> list[Summary]:
    """Summarise policies, in the order of their first episodes; the first is the evaluated one.

    Parameters
    ----------
    episodes
        The same numbers of episodes, in the same order, for each policy.
    clairvoyant
        The policies that know what is hidden.
    sjf, reference
        The two ends of the gap; without one of them there is none.
    """
    jct = _jct_of_policies(episodes)
    means = {policy: [float(sample.mean()) for sample in jct[policy]] for policy in jct}
    evaluated = next(iter(jct))
    with_gap = means.keys() - {sjf, reference} if {sjf, reference} <= means.keys() else set()
    return [
        Summary(
            policy=policy,
            mean=metrics.mean(means[policy]),
            percentiles=metrics.percentile_summary(np.concatenate(jct[policy])),
            reduction=None
            if policy == evaluated
            else metrics.reduction(means[evaluated], means[policy]),
            gap_closed=metrics.gap_closed(means[policy], means[sjf], means[reference])
            if policy in with_gap
            else None,
            clairvoyant=policy in clairvoyant,
        )
        for policy in jct
    ]


def _jct_of_policies(episodes: Iterable[Episode]) -> dict[str, list[NDArray[np.float64]]]:
    jct: dict[str, list[NDArray[np.float64]]] = {}
    for episode in episodes:
        jct.setdefault(episode.policy, []).append(episode.jobs["jct_s"])
    return jct


def results_table(summaries: Sequence[Summary], title: str) -> Table:
    """The summaries to be read, one row a policy."""
    evaluated = summaries[0].policy
    digits = 1 if max(one.mean.value or 0.0 for one in summaries) >= SMALL_S else 2
    table = Table(title=plain(title, "bold"), title_justify="left")
    table.add_column("policy\n")
    table.add_column(plain("mean JCT, s\n[95 % interval]"), justify="right")
    table.add_column("p95 JCT, s\n", justify="right")
    table.add_column(plain(f"reduction by\n{evaluated}"), justify="right")
    table.add_column("SJF-to-oracle\ngap closed", justify="right")
    for one in summaries:
        table.add_row(
            plain(one.policy + (" (clairvoyant)" if one.clairvoyant else "")),
            shown(one.mean, digits=digits),
            f"{one.percentiles['p95_jct_s']:.{digits}f}",
            shown(one.reduction, percent=True),
            shown_gap(one.gap_closed),
            style="bold" if one.policy == evaluated else None,
            end_section=one is summaries[0] or one in summaries[-2:-1],
        )
    return table


def plain(text: str, style: str = "") -> Text:
    """A text with names in it, to be shown as it is: no markup, no emoji, nothing for terminals."""
    return Text(printable(text), style)


def shown_gap(gap: Estimate | None) -> str:
    """A policy far worse than SJF has not closed minus so many gaps: the figure says nothing."""
    if gap is not None and gap.value is not None and gap.value < -1:
        return "below -100 %"
    return shown(gap, percent=True)


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
        yield one.policy, *same, one.number, len(one.jobs["jct_s"]), *numbers, *timing


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
        "reduction": summary.reduction and summary.reduction._asdict(),
        "gap_closed": summary.gap_closed and summary.gap_closed._asdict(),
    }
