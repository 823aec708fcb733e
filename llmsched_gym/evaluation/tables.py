"""The tables that people read: one row a policy, and one row an application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.box import HORIZONTALS
from rich.table import Table
from rich.text import Text

from llmsched_gym.errors import printable
from llmsched_gym.evaluation.results import (
    REFERENCES,
    Summary,
    best_reference,
    plain,
    shown,
)

WIDTH = 80  # characters of a line where there is no terminal


def results_table(summaries: Sequence[Summary], title: str, gap: bool = True) -> Table:
    """The summaries to be read, one row a policy: legible in 80 columns.

    Parameters
    ----------
    summaries
        The first is the evaluated policy.
    title
        Above the table.
    gap
        Whether to show the share of the gap that is closed, if there is one.

    "x bound" is in it where the lower bound is known.
    """
    evaluated = summaries[0].policy
    gap = gap and any(one.gap_closed for one in summaries)
    interval = "\n[95 %]" if any(one.mean.low is not None for one in summaries) else "\n"
    table = _new_table(title, _caption(summaries, gap))
    table.add_column("policy\n", overflow="fold")
    heads = [f"mean JCT, s{interval}", "p99,\ns", "slow-\ndown"]
    heads += [f"reduction, %{interval}"] if len(summaries) > 1 else []
    heads += ["gap,\n%"] if gap else []
    bound = any(one.x_bound for one in summaries)
    heads += ["x\nbound"] if bound else []
    for head in heads:
        table.add_column(plain(head), justify="right", no_wrap=True)
    rows = list(_cells(summaries, gap, bound))
    columns = zip((max(head.split("\n"), key=len) for head in heads), *rows, strict=True)
    room = WIDTH - sum(2 + max(map(len, column)) for column in columns)
    last = [one.policy for one in summaries if one.policy not in REFERENCES][-1:]
    for one, cells in zip(summaries, rows, strict=True):
        style = "bold" if one.policy == evaluated else None
        section = one is summaries[0] or one.policy in last
        name = Text(_broken(_marked(one), room))
        table.add_row(name, *map(plain, cells), style=style, end_section=section)
    return table


def _cells(summaries: Sequence[Summary], gap: bool, bound: bool) -> Iterator[list[str]]:
    """The rows of numbers, perhaps with the gap and with how far the bound is."""
    digits = _digits(one.mean.value or 0.0 for one in summaries)
    tail = _digits((10 * one.percentiles["p99_jct_s"] for one in summaries), most=digits)
    for one in summaries:
        row = [shown(one.mean, digits=digits)]
        row.append(f"{one.percentiles['p99_jct_s']:.{tail}f}")
        slow, times = one.slowdown, one.x_bound
        row.append("" if slow is None else f"{slow:.{1 if slow < 100 else 0}f}")
        row += [shown(one.reduction, percent=True).replace(" %", "")] if len(summaries) > 1 else []
        row += [_short_gap(one)] if gap else []
        row += ["" if times is None else f"{times:.{_digits([times])}f}"] if bound else []
        yield row


def application_tables(summaries: Sequence[Summary], width: int = WIDTH) -> list[Table]:
    """Mean JCTs in seconds: a row an application, a column a policy, the best mean first.

    What the evaluated policy takes longest for comes first. Where there are more policies than
    ``width`` characters hold, there are more tables; without several applications there is none.
    """
    mine = summaries[0].applications
    if len(mine) < 2:
        return []
    rows = sorted(mine, key=lambda name: -mine[name])
    left = sorted(summaries, key=lambda one: (one.policy != summaries[0].policy, _mean(one)))
    columns = sorted(left, key=_mean)
    digits = _digits(value for one in columns for value in one.applications.values())
    cells = {
        one.policy: [f"{one.applications[name]:.{digits}f}" for name in rows] for one in columns
    }
    room = width - max(map(len, map(printable, rows)))
    tables: list[Table] = []
    for part in _parts(columns, cells, room):
        title = "mean JCT by application, s" if not tables else "and with other policies"
        tables.append(_new_table(title))
        tables[-1].add_column("application", overflow="fold")
        for one in part:
            tables[-1].add_column(_heading(one), justify="right", no_wrap=True)
        for number, name in enumerate(rows):
            tables[-1].add_row(plain(name), *(cells[one.policy][number] for one in part))
    return tables


def _parts(
    columns: Sequence[Summary], cells: dict[str, list[str]], room: int
) -> Iterator[list[Summary]]:
    """As many columns at once as there is room for."""
    part: list[Summary] = []
    used = 0
    for one in columns:
        wide = 2 + max(map(len, [*_heading(one).plain.split("\n"), *cells[one.policy]]))
        if part and used + wide > room:
            yield part
            part, used = [], 0
        part.append(one)
        used += wide
    yield part


def _new_table(title: str, caption: str = "") -> Table:
    return Table(
        title=plain(title, "bold"),
        title_justify="left",
        caption=plain(caption) if caption else None,
        caption_justify="left",
        box=HORIZONTALS,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _caption(summaries: Sequence[Summary], gap: bool) -> str:
    """What the headings mean."""
    evaluated = summaries[0].policy
    told = ["slowdown: JCT over the time alone, mean"]
    if len(summaries) > 1:
        told.append(f"reduction: by what {evaluated}'s mean is below the row's")
    if gap:
        best = best_reference({one.policy: [_mean(one)] for one in summaries})
        told.append(f"gap: share of the way from SJF to {best}")
    if any(one.x_bound for one in summaries):
        told.append("x bound: mean JCT over what no policy can be below")
    if any(one.clairvoyant for one in summaries):
        told.append("*: clairvoyant")
    return "; ".join(told)


def _marked(one: Summary) -> str:
    return printable(one.policy) + ("*" if one.clairvoyant else "")


def _broken(name: str, room: int) -> str:
    """In two lines, at a sign that parts words, if there is no room for one."""
    cut = 1 + max(name.rfind(sign, 0, room) for sign in "_ :")
    return name if len(name) <= room or not cut else f"{name[:cut]}\n{name[cut:]}"


def _heading(one: Summary) -> Text:
    """A label in several lines, that takes little room above numbers."""
    return Text(_marked(one).replace("_", "_\n").replace(" ", "\n").replace(":", ":\n"))


def _mean(one: Summary) -> float:
    return one.mean.value or 0.0


def _digits(seconds: Iterable[float], most: int = 2) -> int:
    """Behind the point, so that all of a column are alike and the largest takes five signs."""
    largest = max(seconds)
    return min(most, 2 if largest < 10 else 1 if largest < 1000 else 0)


def _short_gap(one: Summary) -> str:
    """A policy far worse than SJF has not closed minus so many gaps: the figure says nothing."""
    if one.gap_closed is None or one.gap_closed.value is None:
        return ""
    share = 100 * one.gap_closed.value
    return "<-100" if share < -100 else f"{round(share) + 0:d}"
