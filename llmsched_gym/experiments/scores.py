"""Scores of the suite: 0 is as good as SJF, 100 as good as the clairvoyant reference."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from llmsched_gym import metrics
from llmsched_gym.env.named import SCENARIOS, SUITE
from llmsched_gym.errors import printable
from llmsched_gym.evaluation.reporting import report_places
from llmsched_gym.evaluation.results import (
    REFERENCE,
    REFERENCES,
    SJF,
    best_reference,
    plain,
    shown,
    write_csv,
)
from llmsched_gym.evaluation.tables import WIDTH
from llmsched_gym.experiments.cells import Cell, Experiment, Place, Variant
from llmsched_gym.experiments.run import finish, measured_in
from llmsched_gym.experiments.suite import ENDS, STUDY
from llmsched_gym.experiments.tables import Measured, comparisons
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import looks_of, new_figure, save, shown_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = -100.0  # score of a picture's axis; what is below stands at its edge, with its number
MEAN = "mean"  # over the scenarios, in place of one
EPISODE_COLUMNS = (
    *("scenario", "policy", "episode", "seed", "num_jobs"),
    *("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "makespan_s", "bound_s"),
)
SCORE_COLUMNS = (
    *("scenario", "policy", "mean_jct_s", "mean_jct_s_low", "mean_jct_s_high"),
    *("score", "score_low", "score_high", "x_bound"),
)
SMALL: Any = {"fontsize": 6.0, "verticalalignment": "center"}
Means = list[float]  # the mean JCT of each episode, seconds


@dataclass(frozen=True)
class Score:
    """What a policy did in a scenario, or over all of them.

    Attributes
    ----------
    scenario : its name, or "mean".
    jct : mean JCT, seconds; of no value in the mean.
    score : 0 to 1 on the way from SJF to the clairvoyant reference, with a paired interval.
    x_bound : the mean JCT over what no policy can be below; None where that is not known.
    """

    scenario: str
    policy: str
    jct: Estimate
    score: Estimate
    x_bound: float | None = None


def scores(
    played: Mapping[str, Mapping[str, Means]], bound_s: Mapping[str, float] | None = None
) -> list[Score]:
    """The score of every policy in every scenario, and of each the mean of them.

    Parameters
    ----------
    played
        By scenario and label, the ends of the scale (``ENDS``) among them.
    bound_s
        By scenario, the mean of what no policy is below.
    """
    found = []
    for label in next(iter(played.values())):
        places = []
        for scenario, means in played.items():
            place = means[label], means[SJF], means[best_reference(means) or REFERENCE]
            score, jct = metrics.gap_closed(*place), metrics.mean(means[label])
            bound = (bound_s or {}).get(scenario)
            x_bound = jct.value / bound if jct.value and bound else None
            found.append(Score(scenario, label, jct, score, x_bound))
            places.append(place)
        found.append(Score(MEAN, label, Estimate(None), metrics.mean_gap_closed(places)))
    return found


def run_suite(
    experiment: Experiment,
    output_dir: Path,
    processes: int,
    settings: dict[str, Any],
    *,
    report: bool = False,
    ray: str | None = None,
) -> float:
    """Play what is not played yet, write scores and their picture, print them.

    Options and errors are those of :func:`llmsched_gym.experiments.run.run_experiment`.

    Returns
    -------
    The first policy's mean JCT over the mean JCT of SJF, mean over the scenarios.
    """

    def write(folder: Path, contents: dict[Cell, Any]) -> list[Score]:
        measured = measured_in(experiment, contents)
        played = _by_scenario(measured)
        found = scores(played, _bounds(measured))
        rows = (row for one in measured for row in _episode_rows(one, experiment.bench.seed))
        write_csv(folder / "episodes.csv", EPISODE_COLUMNS, rows)
        write_csv(folder / "scores.csv", SCORE_COLUMNS, map(_score_row, found))
        about = {
            "settings": settings,
            "suite": SUITE,
            "commit": commit(),
            "clairvoyant": {name: best_reference(means) for name, means in played.items()},
            "policies": {row.label: _described(row.cells[0].variant) for row in experiment.rows},
        }
        (folder / "summary.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        save(lambda: picture(found, _title(experiment)), folder / "suite.png")
        if report:
            _report(folder, experiment, measured, found)
        return found

    found = finish(experiment, output_dir, processes, write, ray)
    _print(found, experiment, output_dir)
    first = experiment.rows[0].label
    jct = {(one.scenario, one.policy): one.jct.value or 0.0 for one in found}
    names = [name for name, label in jct if label == first and name != MEAN]
    return float(np.mean([jct[name, first] / jct[name, SJF] for name in names]))


def commit() -> str | None:
    """The commit of the checkout that this is, "+" after it if files differ; None elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "llmsched_gym")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _described(variant: Variant) -> dict[str, Any]:
    """A policy, its options and what it is shown."""
    return {
        "policy": variant.policy,
        "options": dict(variant.options),
        "belief": variant.belief,
    }


def _by_scenario(measured: Iterable[Measured]) -> dict[str, dict[str, Means]]:
    played: dict[str, dict[str, Means]] = {}
    for one in measured:
        played.setdefault(one.place.workload, {})[one.policy] = one.means()
    return played


def _bounds(measured: Iterable[Measured]) -> dict[str, float]:
    """By scenario, the mean over the episodes of what no policy is below."""
    return {
        one.place.workload: float(np.mean([episode.bound_s for episode in one.episodes]))
        for one in measured
    }


def _episode_rows(one: Measured, seed: int) -> Iterator[tuple[Any, ...]]:
    for episode in one.episodes:
        numbers = metrics.percentile_summary(episode.jct_s).values()
        where = one.place.workload, one.policy, episode.number, seed, len(episode.jct_s)
        yield *where, *numbers, episode.makespan_s, episode.bound_s


def _score_row(one: Score) -> tuple[Any, ...]:
    score = (None if x is None else 100 * x for x in one.score)
    return one.scenario, one.policy, *one.jct, *score, one.x_bound


def _policies(found: Iterable[Score]) -> list[str]:
    """Those that have a score of their own."""
    return [one for one in dict.fromkeys(score.policy for score in found) if one not in ENDS]


# --- What people read -----------------------------------------------------------------------------


def table(found: Sequence[Score], policy: str) -> Table:
    """One policy: a row a scenario with the mean JCTs and the score, the mean of scores last."""
    of = {(one.scenario, one.policy): one for one in found}
    names = [one.scenario for one in found if one.policy == policy]
    title = plain(f"{policy} on the suite {SUITE}")
    made = Table(title=title, title_justify="left", box=HORIZONTALS, pad_edge=False)
    made.add_column("scenario", overflow="fold")
    heads = "SJF, s", "clair-\nvoyant, s", "mean\nJCT, s", "x bound", "score\n[95 %]"
    for head in heads:
        made.add_column(plain(head), justify="right", no_wrap=True)
    for name in names:
        one = of[name, policy]
        score = shown(one.score, percent=True).replace(" %", "")
        if name == MEAN:
            made.add_row(name, "", "", "", "", score, style="bold")
            continue
        least = min(of[name, label].jct.value or 0.0 for label in REFERENCES)
        x_bound = "" if one.x_bound is None else f"{one.x_bound:.2f}"
        means = (f"{jct or 0.0:.1f}" for jct in (of[name, SJF].jct.value, least, one.jct.value))
        cells = *means, x_bound, score
        made.add_row(name, *map(plain, cells), end_section=name == names[-2])
    return made


def picture(found: Sequence[Score], title: str) -> Figure | None:
    """The scores of the policies with their intervals, a row a scenario, the mean at the bottom."""
    policies = _policies(found)
    if not policies:
        return None
    names = list(dict.fromkeys(one.scenario for one in found))
    looks = looks_of(policies)
    figure, axes = new_figure(title, 1.6 + len(names) * max(0.3, 0.1 * len(policies)))
    for number, policy in enumerate(policies):
        axes.plot([], [], linestyle="none", label=shown_label(policy, ()), **looks[policy].dot())
        shift = 0.6 * ((number + 0.5) / len(policies) - 0.5)
        for one in found:
            if one.policy != policy or one.score.value is None:
                continue
            at, value = names.index(one.scenario) + shift, 100 * one.score.value
            if one.score.low is not None and one.score.high is not None:
                ends = [max(LEAST, 100 * end) for end in (one.score.low, one.score.high)]
                axes.plot(ends, (at, at), color=looks[policy].colour, linewidth=1.2)
            look = looks[policy].dot() | {"markersize": 6, "clip_on": False}
            axes.plot([max(LEAST, value)], [at], linestyle="none", **look)
            if value < LEAST:
                axes.annotate(
                    f"{value:,.0f}", (LEAST, at), (6, 0), textcoords="offset points", **SMALL
                )
    for value in (0, 100):
        axes.axvline(value, color="0.4", linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(left=max(LEAST, axes.get_xlim()[0]))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axhline(len(names) - 1.5, color="0.4", linewidth=0.8)
    axes.set_xlabel("score: 0 is SJF, 100 the clairvoyant reference")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    return figure


def _title(experiment: Experiment) -> str:
    return f"Suite {SUITE}, {_episodes(experiment)}, seed {experiment.bench.seed}"


def _episodes(experiment: Experiment) -> str:
    number = experiment.rows[0].cells[-1].last + 1
    return "1 episode" if number == 1 else f"{number} episodes"


def _report(
    folder: Path, experiment: Experiment, measured: Sequence[Measured], found: Sequence[Score]
) -> None:
    """Write the page for browsers: scores, and what all policies did in each scenario."""
    bench = experiment.bench
    compared = comparisons(measured, bench.cluster.name, bench.seed, STUDY, _described_place)
    of = {label: [one.score for one in found if one.policy == label] for label in _policies(found)}
    report_places(_title(experiment), compared, folder / "report.html", _notes(experiment), of)


def _described_place(place: Place) -> str:
    """The name of a scenario, and below it what it tests, and where."""
    one = SCENARIOS[place.workload]
    arrivals = "" if one.arrivals is None else f", {one.arrivals}"
    return (
        f"{place.workload}\n{one.tests}: {one.workload} at load {one.load:g}{arrivals}, "
        f"engines: {one.engines} of 8 slots, tools: {one.regular_executors}"
    )


def _notes(experiment: Experiment) -> tuple[str, ...]:
    """What a reader of the results has to know."""
    return (
        f"{_episodes(experiment)} a scenario, the same for all policies. Intervals: 95 % "
        "bootstrap over episodes, paired.",
        "score: 0 is as good as SJF, 100 as good as the clairvoyant reference, the lower of SRTF "
        "by all remaining demand and by that of the resource asked for, both with belief=oracle.",
        "x bound: the mean JCT over what no policy can be below (docs/bound.md).",
    )


def _print(found: Sequence[Score], experiment: Experiment, output_dir: Path) -> None:
    """A table for each policy, and what numbers mean."""
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = WIDTH
    for policy in _policies(found):
        output.print(table(found, policy))
    for note in _notes(experiment):
        output.print(f"- {note}", soft_wrap=not output.is_terminal)
    output.print(f"Files: {printable(str(output_dir))}", soft_wrap=True)
