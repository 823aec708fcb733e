"""The page of a report: tables to be sorted and figures, with all that they need in the file.

Names come from users: whatever is in them, a browser shows it and does nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.timeline import Timeline
from llmsched_gym.evaluation.comparison import Comparison
from llmsched_gym.evaluation.report_figures import (
    MOST_APPLICATIONS,
    Looks,
    belief,
    by_application,
    cdf,
    gantt,
    javascript,
    shown,
    tails,
)
from llmsched_gym.metrics import Estimate
from llmsched_gym.rendering.history import BeliefHistory

BUTTONS = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]
SMALL_S = 10.0  # times below it are shown to hundredths of a second
CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [BUTTONS]}


@dataclass(frozen=True)
class FirstMinutes:
    """The first minutes of an episode: who ran where, and a job's belief if there was one."""

    timelines: dict[str, Timeline]
    applications: tuple[str, ...]
    belief: BeliefHistory | None


@dataclass(frozen=True)
class _Cell:
    """Of a table: what is shown, as HTML, and what it is sorted by; None stays below."""

    text: str
    value: float | str | None


def page_of(comparison: Comparison, minutes: FirstMinutes | None) -> str:
    """The whole page."""
    sections = _of_comparison(comparison)
    if minutes is not None:
        sections += _of_minutes(minutes)
    return _page(comparison.setting.title, sections, comparison.notes)


def page_of_places(
    title: str,
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
    scores: Mapping[str, Sequence[Estimate]],
) -> str:
    """A page on the same policies in several places: scores, all means, then each place."""
    sections = [_of_scores(comparisons, scores)] if scores else []
    sections.append(_of_places(comparisons))
    for number, comparison in enumerate(comparisons):
        place = _place(number)
        name, about = _titled(comparison)
        head = f'<h2 class="place">{name}</h2><p class="about">{about}</p>'
        sections.append(f'<section id="{place}">{head}</section>')
        sections += _of_comparison(comparison, f"{place}-")
    return _page(title, sections, notes)


def _page(title: str, sections: Sequence[str], notes: Iterable[str]) -> str:
    first, _, rest = title.partition("\n")
    told = "".join(f"<li>{shown(note)}</li>" for note in notes)
    last = f'<section><h2>Notes</h2><ul class="notes">{told}</ul></section>'
    template = (files(__package__) / "report.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        name=shown(first),
        setting=shown(rest),
        plotly=javascript(),
        sections="\n".join([*sections, last]),
    )


def _of_comparison(comparison: Comparison, place: str = "") -> list[str]:
    """Its sections; ``place`` stands before all that has a name in the page."""
    looks = _looks(comparison)
    return [*_of_policies(comparison, looks, place), _of_applications(comparison, looks, place)]


def _looks(comparison: Comparison) -> Looks:
    return Looks([one.policy for one in comparison.summaries], comparison.clairvoyant)


def _place(number: int) -> str:
    return f"place{number}"


def _titled(comparison: Comparison) -> tuple[str, str]:
    """The name of a place, and what else there is to say of it."""
    name, _, about = comparison.setting.title.partition("\n")
    return shown(name), shown(about)


def _of_scores(comparisons: Sequence[Comparison], scores: Mapping[str, Sequence[Estimate]]) -> str:
    """The scores of each policy, a row a place, and their mean, which stays below."""
    clairvoyant = sorted({label for one in comparisons for label in one.clairvoyant})
    looks = Looks(list(scores), clairvoyant)
    names = [_Cell(_link(n, _titled(one)[0]), _titled(one)[0]) for n, one in enumerate(comparisons)]
    rows = [[name] for name in [*names, _Cell("<b>mean</b>", None)]]
    best = set()
    for number, row in enumerate(rows):
        here = [each[number] for each in scores.values()]
        is_mean = number == len(names)
        row += [_Cell(_score(one), None if is_mean else one.value) for one in here]
        reached = [-100 * one.value for one in here if one.value is not None]
        highest = _lowest(reached, 1) if len(reached) == len(here) else []
        best |= {(number, 1 + policy) for policy in highest}
    about = (
        "0: as good as SJF, 100: as good as the clairvoyant reference; with 95 % intervals. Bold: "
        "the highest."
    )
    head = ["scenario", *(_named(label, looks).text for label in scores)]
    return _section("Scores", about, _table("scores", head, rows, best))


def _score(one: Estimate) -> str:
    """In per cent of the way, with its interval."""
    return _share(one).replace(" %", "") or "n/a"


def _link(number: int, name: str) -> str:
    return f'<a href="#{_place(number)}">{name}</a>'


def _of_places(comparisons: Sequence[Comparison]) -> str:
    """The mean of each policy in each place, which leads to the place."""
    means = [{one.policy: one.mean.value or 0.0 for one in each.summaries} for each in comparisons]
    labels = list(dict.fromkeys(label for each in means for label in each))
    clairvoyant = {label for one in comparisons for label in one.clairvoyant}
    looks = Looks(labels, sorted(clairvoyant))
    rows = [[_named(label, looks)] for label in labels]
    best: set[tuple[int, int]] = set()
    for column, each in enumerate(means, start=1):
        digits = _digits(each.values())
        for row, label in zip(rows, labels, strict=True):
            value = each.get(label)  # some play in some places only
            row.append(_Cell("" if value is None else f"{value:,.{digits}f}", value))
        seeing = [label for label in each if label not in clairvoyant]
        lowest = _lowest([each[label] for label in seeing], digits)
        best |= {(labels.index(seeing[at]), column) for at in lowest}
    names = [_titled(one)[0] for one in comparisons]
    links = [_link(number, name) for number, name in enumerate(names)]
    about = "Mean JCT in seconds. Bold: the lowest of those that do not know what is hidden."
    body = f"<p>{' · '.join(links)}</p>" + _table("places", ["policy", *names], rows, best, 0)
    return _section("All places", about, body)


def _of_policies(comparison: Comparison, looks: Looks, place: str) -> list[str]:
    return [
        _section(
            "Policies",
            "JCT: the time from a job's arrival to its completion; slowdown: over the time that it "
            "takes alone, mean; x bound: mean JCT over a lower bound that no policy can be below; "
            "reduction: by what share the mean of the first policy is below the row's. Bold: the "
            "lowest of those that do not know what is hidden. Click on a heading to sort.",
            f"<p><b>{shown(comparison.verdict)}</b></p>" + _policy_table(comparison, looks, place),
            place,
        ),
        _section(
            "Mean against tail",
            "Left and down is better. Lines: 95 % intervals of the mean. A click on a name hides "
            "it, two clicks show it alone; drag to zoom, two clicks zoom out.",
            _div(f"{place}tails", tails(comparison.summaries, looks)),
            place,
        ),
        _section(
            "Distribution of completion times",
            "The share of jobs, of all episodes, done within a time. Further left is better.",
            _div(f"{place}cdf", cdf(comparison.jct_s(), looks)),
            place,
        ),
    ]


def _policy_table(comparison: Comparison, looks: Looks, place: str) -> str:
    summaries = comparison.summaries
    digits = _digits(one.mean.value or 0.0 for one in summaries)
    head = ["policy", "mean JCT, s", "p50, s", "p95, s", "p99, s", "slowdown"]
    head += ["x bound", "reduction"]
    rows = []
    for one in summaries:
        times = [_Cell(_times(one.mean, digits), one.mean.value)]
        for name in ("p50_jct_s", "p95_jct_s", "p99_jct_s"):
            value = one.percentiles[name]
            times.append(_Cell(f"{value:,.{digits}f}", value))
        slowdown = _Cell("" if one.slowdown is None else f"{one.slowdown:,.1f}", one.slowdown)
        times_bound = _Cell("" if one.x_bound is None else f"{one.x_bound:,.2f}", one.x_bound)
        reduced = _Cell(_share(one.reduction), one.reduction and one.reduction.value)
        rows.append([_named(one.policy, looks), *times, slowdown, times_bound, reduced])
    seeing = [row for row, one in enumerate(summaries) if not one.clairvoyant]
    columns = [[rows[row][column].value for row in seeing] for column in range(1, 5)]
    best = {
        (seeing[place], number)
        for number, column in enumerate(columns, 1)
        for place in _lowest(column, digits)
    }
    return _table(f"{place}policies", head, rows, best, evaluated=0)


def _of_applications(comparison: Comparison, looks: Looks, place: str) -> str:
    jct_s = _by_application(comparison)
    means = {
        name: {label: float(sample.mean()) for label, sample in one.items()}
        for name, one in jct_s.items()
    }
    digits = _digits(mean for one in means.values() for mean in one.values())
    seeing = [number for number, one in enumerate(comparison.summaries) if not one.clairvoyant]
    rows, best = [], set()
    for row, (name, one) in enumerate(means.items()):
        jobs, values = len(next(iter(jct_s[name].values()))), list(one.values())
        times = [_Cell(f"{value:,.{digits}f}", value) for value in values]
        rows.append([_Cell(shown(name), name), _Cell(f"{jobs:,}", jobs), *times])
        best |= {
            (row, seeing[place] + 2) for place in _lowest([values[one] for one in seeing], digits)
        }
    head = ["application", "jobs", *(looks.name(one.policy) for one in comparison.summaries)]
    about = "Mean JCTs, and how many jobs of all episodes were of the application."
    if len(means) > MOST_APPLICATIONS:
        about += f" The figure has the {MOST_APPLICATIONS} that have most jobs."
    body = _div(f"{place}by_application", by_application(means, looks))
    body += _table(f"{place}applications", head, rows, best)
    return _section("By application", about, body, place)


def _by_application(comparison: Comparison) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The JCTs of each application and policy, seconds; the application of most jobs first."""
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    for episode in comparison.played:
        names = np.asarray(episode.jobs["application"])
        for name in np.unique(names).tolist():
            samples = found.setdefault(name, {}).setdefault(episode.policy, [])
            samples.append(episode.jobs["jct_s"][names == name])
    whole = {
        name: {label: np.concatenate(samples) for label, samples in one.items()}
        for name, one in sorted(found.items())
    }
    return dict(sorted(whole.items(), key=lambda one: -len(next(iter(one[1].values())))))


def _of_minutes(minutes: FirstMinutes) -> list[str]:
    sections = [
        _section(
            "The first minutes",
            "Episode 0, the same jobs for each policy. A colour is a job; hatched: on tools; "
            "triangles: arrivals. Drag to zoom, point at a bar to read it.",
            _div("gantt", gantt(minutes.timelines, minutes.applications)),
        )
    ]
    history = minutes.belief
    if history is not None:
        name = next(iter(minutes.timelines))
        sections.append(
            _section(
                "What was believed of a job",
                f"Job {history.job} of episode 0, {history.application}, under {name}: of the jobs "
                "done in ten minutes the one of which least was known when it arrived. Demand is "
                "at the batch sizes of the moment; each stage that completes (dotted) tells more.",
                _div("belief", belief(history)),
            )
        )
    return sections


# --- pieces of HTML -------------------------------------------------------------------------------


def _section(title: str, about: str, body: str, place: str = "") -> str:
    name = place + title.lower().replace(" ", "-")
    about = f'<p class="about">{shown(about)}</p>'
    return f'<section id="{name}"><h2>{title}</h2>\n{about}\n{body}</section>'


def _div(name: str, figure: Any) -> str:
    """A figure; plotly escapes what could end the script."""
    return str(figure.to_html(CONFIG, full_html=False, include_plotlyjs=False, div_id=name))


def _table(
    name: str,
    head: Sequence[str],
    rows: Sequence[Sequence[_Cell]],
    best: Collection[tuple[int, int]],
    evaluated: int | None = None,
) -> str:
    """A table to be sorted; ``head`` is HTML, ``best`` are the (row, column) of cells in bold."""
    columns = "".join(f"<th><button>{one}</button></th>" for one in head)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(_td(cell, (number, column) in best) for column, cell in enumerate(row))
        lines.append(f"<tr{' class=evaluated' if number == evaluated else ''}>{cells}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table id="{name}-table"><thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _td(cell: _Cell, best: bool) -> str:
    value = cell.value if isinstance(cell.value, str) else repr(cell.value)
    sorted_by = "" if cell.value is None else shown(value)
    kind = ' class="best"' if best else ""
    return f'<td{kind} data-value="{sorted_by}">{cell.text}</td>'


def _named(label: str, looks: Looks) -> _Cell:
    mark = f'<span class="mark" style="color:{looks.colour(label)}">{looks.sign(label)}</span>'
    return _Cell(f'<span title="{shown(label)}">{mark}{looks.name(label)}</span>', label)


def _lowest(values: Sequence[Any], digits: int) -> list[int]:
    """Where the lowest numbers are, as they are shown; nowhere if there is but one to compare."""
    shown_ones = [round(value, digits) for value in values]
    if len(values) < 2:
        return []
    return [place for place, value in enumerate(shown_ones) if value == min(shown_ones)]


def _digits(seconds: Iterable[float]) -> int:
    """Behind the point, for all of a table."""
    return 1 if max(seconds) >= SMALL_S else 2


def _times(estimate: Estimate, digits: int) -> str:
    value, low, high = estimate
    if value is None:
        return "n/a"
    if low is None or high is None:
        return f"{value:,.{digits}f}"
    return f"{value:,.{digits}f} <small>[{low:,.{digits}f}, {high:,.{digits}f}]</small>"


def _share(estimate: Estimate | None) -> str:
    value, low, high = estimate or Estimate(None)
    if value is None:
        return ""
    # Adding 0 turns -0.0 into 0.0.
    shown = f"{round(100 * value, 1) + 0.0:.1f} %"
    if low is None or high is None:
        return shown
    ends = f"{round(100 * low, 1) + 0.0:.1f}, {round(100 * high, 1) + 0.0:.1f}"
    return f"{shown} <small>[{ends}]</small>"
