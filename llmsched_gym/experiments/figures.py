"""The figures of a whole experiment, drawn from its tables alone.

A policy looks alike in all of them, and as in every figure of an evaluation: see
:func:`llmsched_gym.plotting.looks_of`. Names stand beside the lines and bars they belong to. Less
is better, and a change that is positive is for the worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmsched_gym import metrics
from llmsched_gym.experiments.cells import EVALUATED
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import (
    BLACK,
    COLOURS,
    DASHES,
    OWN_COLOURS,
    Look,
    far_apart,
    legend_name,
    log_axis,
    looks_of,
    new_picture,
    save,
    shown_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = tuple(OWN_COLOURS.values())  # of applications
LOAD = 1.3  # of the figures that show one load
NAMES = ("study", "workload", "cluster", "policy", "belief", "application")  # columns of tables
SMALL = 7.0  # points, of what stands beside bars and lines
TALLEST = 10.0  # inches, of all panels: then a figure fits a screen and can be read

Cell = Mapping[str, Any]


def draw_all(folder: Path) -> list[Path]:
    """Draw the figures of an experiment whose tables lie in a folder, beside them.

    Parameters
    ----------
    folder
        With ``results.csv``, ``jobs.csv.gz``, ``belief.csv`` and ``overhead.csv``. What a missing
        table, or an empty one, or one without the study in question would show is not drawn.

    Returns
    -------
    The PNG files written. The same tables make the same files. A figure that cannot be drawn costs
    no other: see :func:`llmsched_gym.plotting.save`.
    """
    results = _table(folder / "results.csv")
    looks = Looks.of(results)
    main = _study(results, "main")
    figures: dict[str, Callable[[], Figure | None]] = {
        "jct_by_policy": lambda: jct_by_policy(main, looks),
        "jct_cdf": lambda: jct_cdf(_table(folder / "jobs.csv.gz"), looks),
        "jct_by_load": lambda: jct_by_load(main, looks),
        "jct_by_engines": lambda: jct_by_engines(_study(results, "engines"), looks),
        "epsilon_and_fraction": lambda: epsilon_and_fraction(results, looks),
        "ablations": lambda: ablations(results, looks),
        "belief_calibration": lambda: belief_calibration(_table(folder / "belief.csv")),
        "belief_error": lambda: belief_error(_table(folder / "belief.csv")),
        "overhead": lambda: overhead(_table(folder / "overhead.csv"), looks),
    }
    paths = {folder / f"{name}.png": draw for name, draw in figures.items()}
    return [path for path, draw in paths.items() if save(draw, path)]


def _table(path: Path) -> pd.DataFrame:
    """A table, without rows or columns if there is none."""
    if not path.exists() or not path.stat().st_size:
        return pd.DataFrame()
    # Names such as "NA", "null" or "7" are names.
    return pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])


def _study(results: pd.DataFrame, study: str) -> pd.DataFrame:
    return results[results["study"] == study] if len(results) else results


# --- Looks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looks:
    """How the policies of an experiment look, by label: the same in every figure."""

    looks: Mapping[str, Look]
    clairvoyant: frozenset[str]

    @classmethod
    def of(cls, results: pd.DataFrame) -> Looks:
        """LLMSched's variants look as it does, but for their dashes."""
        labels = list(dict.fromkeys(results["policy"])) if len(results) else []
        hidden = set(results["policy"][results["belief"] == "oracle"]) if len(results) else set()
        others = [one for one in labels if one in hidden or not _is_variant(one)]
        found = looks_of([EVALUATED, *others], hidden)
        variants = [one for one in labels if one not in found]
        found |= {
            label: replace(found[EVALUATED], dash=DASHES[1 + number % (len(DASHES) - 1)])
            for number, label in enumerate(variants)
        }
        return cls(found, frozenset(hidden))

    def colour(self, label: str) -> str:
        """That of a label, black for one that nobody knows."""
        return self.looks[label].colour if label in self.looks else BLACK

    def line(self, label: str) -> dict[str, Any]:
        """Of a line: its colour, dash, marker and width."""
        return self.looks[label].line(strong=label == EVALUATED)

    def bar(self, label: str) -> dict[str, Any]:
        """Of a bar: its fill, edge and hatch."""
        return self.looks[label].bar()

    def name(self, label: str) -> str:
        """The label, with a word on what it knows."""
        return shown_label(label, self.clairvoyant)


def _is_variant(label: str) -> bool:
    return label.startswith(f"{EVALUATED}_") and label not in OWN_COLOURS


def _grid(
    title: str, panels: int, columns: int, width: float, height: float, step: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, ``width`` x ``height`` inches each, under a title.

    Columns are added, ``step`` at once, until it is no higher than a screen.
    """
    while columns < panels and -(-panels // columns) * height > TALLEST:
        columns += step
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = new_picture(title, max(7.5, columns * width), 0.5 + rows * height)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for one in axes[panels:]:
        one.set_visible(False)
    for one in axes[:panels]:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.9")
        one.set_axisbelow(True)
        one.tick_params(labelsize="small")
    return figure, axes[:panels]


def _panel_title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize="small", loc="left")


def _episodes(results: pd.DataFrame) -> str:
    """How much was measured, for a title."""
    jobs = sorted(set(results["num_jobs"]))
    episodes = results.groupby(["workload", "load", "engines", "policy"])["episode"].nunique().max()
    cluster = ", ".join(sorted(set(results["cluster"])))
    engines = set(results["engines"])
    if len(engines) == 1:
        cluster += f", {_count(engines.pop(), 'engine')}"
    return f"{cluster}; {_count(episodes, 'episode')} of {_listed(jobs)} jobs"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(f"{value:g}" if not isinstance(value, str) else value for value in values)


def _beside(
    axes: Axes, ends: Mapping[str, tuple[float, float]], looks: Looks, height: float = 2.4
) -> None:
    """Write the names of lines to the right of their ends, moved apart where they would touch.

    The axes are about ``height`` inches high, and their limits are final then.
    """
    from scipy.optimize import isotonic_regression

    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    order = sorted(ends, key=lambda label: ends[label][1])
    to_axes = axes.transData + axes.transAxes.inverted()
    points = to_axes.transform([ends[label] for label in order])
    ranks = 1.15 * SMALL / (72 * height) * np.arange(len(order))
    heights = np.maximum(isotonic_regression(points[:, 1] - ranks).x, 0) + ranks
    heights = np.minimum(heights, 1 - ranks[-1] + ranks)
    for label, end, height in zip(order, points, heights, strict=True):
        axes.annotate(
            looks.name(label),
            tuple(end),
            (1.05, height),
            "axes fraction",
            fontsize=SMALL,
            fontweight="bold" if label == EVALUATED else None,
            verticalalignment="center",
            arrowprops={
                **{"arrowstyle": "-", "color": looks.colour(label), "linewidth": 0.6},
                **{"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 2},
            },
        )


# --- Job completion times -------------------------------------------------------------------------


def _jct(rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Mean JCT per episode, in their order, by policy."""
    ordered = rows.sort_values(["seed", "episode"], kind="stable")
    return {
        str(policy): group["mean_jct_s"].to_numpy(np.float64)
        for policy, group in ordered.groupby("policy", sort=False)
    }


def _cells(rows: pd.DataFrame, *columns: str) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """The parts of a table with the same values in some columns, in the order of the table."""
    for values, part in rows.groupby(list(columns), sort=False, dropna=False):
        yield dict(zip(columns, values, strict=True)), part


def _at_one_load(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the load nearest to 1.3, for each workload."""
    away = (rows["load"] - LOAD).abs()
    return rows[away == away.groupby(rows["workload"]).transform("min")]


def jct_by_policy(main: pd.DataFrame, looks: Looks) -> Figure | None:
    """Mean JCT of every policy as bars, the least first, a panel for each workload, at one load."""
    if main.empty:
        return None
    rows = _at_one_load(main)
    cells = [(cell, _jct(part)) for cell, part in _cells(rows, "workload", "load")]
    most = max(len(means) for _, means in cells)
    figure, panels = _grid(
        f"Mean job completion time; {_episodes(rows)}\n"
        f"Line: 95 % interval over episodes. Beside it: the mean, and by how much {EVALUATED}'s is "
        "below it [95 %, paired].",
        len(cells),
        columns=2,
        width=6.0,
        height=0.9 + 0.2 * most,
    )
    for axes, (cell, means) in zip(panels, cells, strict=True):
        _panel_title(axes, f"{cell['workload']}, load {cell['load']:g}")
        order = sorted(means, key=lambda label: means[label].mean())
        _bars(axes, order, means, looks)
        axes.set_yticks(range(len(order)), map(looks.name, order), fontsize=SMALL + 1)
        axes.set_xlabel("mean job completion time, s: less is better", fontsize="small")
    return figure


def _bars(
    axes: Axes, order: Sequence[str], jct: Mapping[str, NDArray[np.float64]], looks: Looks
) -> None:
    ends = []
    wide = far_apart([jct[label].mean() for label in order])
    for number, label in enumerate(order):
        mean = metrics.mean(jct[label])
        value = mean.value or 0.0
        if wide:
            axes.plot(value, number, **looks.looks[label].dot())
        else:
            axes.barh(number, value, height=0.7, **looks.bar(label))
        if mean.low is not None and mean.high is not None:
            error = [[max(0.0, value - mean.low)], [max(0.0, mean.high - value)]]
            axes.errorbar(value, number, xerr=error, color="black", capsize=2, linewidth=0.9)
        ends.append((max(value, mean.high or 0.0), number, f"{value:.1f}  {_less(jct, label)}"))
    for end, number, text in ends:
        away: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(text, (end, number), fontsize=SMALL, va="center", **away)
    longest = max(end for end, _, _ in ends)
    if wide:
        least = min(jct[label].min() for label in order)
        _log(axes.xaxis, axes.set_xscale)
        axes.set_xlim(0.8 * least, longest * (longest / least) ** 0.6)
    else:
        axes.set_xlim(0, 1.6 * longest)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _less(jct: Mapping[str, NDArray[np.float64]], label: str) -> str:
    """By how much the evaluated policy is below another one, in words."""
    if label == EVALUATED or not _paired(jct.get(EVALUATED), jct[label]):
        return ""
    return _percent(metrics.reduction(jct[EVALUATED], jct[label]))


def _paired(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    return one is not None and other is not None and len(one) == len(other)


def _percent(share: Estimate) -> str:
    if share.value is None:
        return ""
    numbers = [f"{round(100 * x, 1) + 0.0:.1f}" for x in share if x is not None]
    interval = f" [{numbers[1]}, {numbers[2]}]" if len(numbers) == 3 else ""
    return f"{numbers[0]} %{interval}"


def jct_cdf(jobs: pd.DataFrame, looks: Looks) -> Figure | None:
    """The share of jobs completed within a time, a panel for each workload, at one load."""
    if jobs.empty:
        return None
    rows = _at_one_load(jobs)
    cells = list(_cells(rows, "workload", "load"))
    episodes = rows.groupby(["workload", "policy"])["episode"].nunique().max()
    title = f"Job completion times; all jobs of {_count(episodes, 'episode')}"
    figure, panels = _grid(title, len(cells), columns=2, width=5.5, height=3.4)
    for axes, (cell, part) in zip(panels, cells, strict=True):
        _panel_title(axes, f"{cell['workload']}, load {cell['load']:g}")
        for number, (label, group) in enumerate(part.groupby("policy", sort=False)):
            ordered = np.sort(group["jct_s"].to_numpy(np.float64))
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            style = looks.line(str(label)) | {"markevery": (0.02 * (number % 6), 0.12)}
            axes.step(ordered, share, where="post", **style)
        _log(axes.xaxis, axes.set_xscale)
        axes.set_xlim(*np.quantile(part["jct_s"], (0.002, 1)))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("job completion time, s", fontsize="small")
        axes.set_ylabel("share of jobs completed", fontsize="small")
    _legend(figure, list(dict.fromkeys(rows["policy"])), looks)
    return figure


def _legend(figure: Figure, labels: Sequence[str], looks: Looks) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=looks.name(label), **looks.line(label)) for label in labels]
    figure.legend(
        handles=lines,
        loc="outside right center",
        frameon=False,
        fontsize=SMALL + 1,
        handlelength=4,
    )


def _log(axis: Any, set_scale: Callable[[str], None]) -> None:
    log_axis(axis, set_scale)
    axis.set_tick_params(which="both", labelsize="small")


def jct_by_load(main: pd.DataFrame, looks: Looks) -> Figure | None:
    """Mean JCT against load, a panel for each workload that was run at several."""
    if main.empty:
        return None
    several = main.groupby("workload")["load"].transform("nunique") > 1
    rows = main[several]
    return _curves(rows, "load", "load (offered, of the LLM slots)", ("workload",), looks)


def jct_by_engines(engines: pd.DataFrame, looks: Looks) -> Figure | None:
    """Mean JCT against the number of engines, a panel for each workload and load."""
    if engines.empty:
        return None
    return _curves(engines, "engines", "LLM engines", ("workload", "load"), looks)


def _curves(
    rows: pd.DataFrame, x: str, x_label: str, panel: Sequence[str], looks: Looks
) -> Figure | None:
    """Mean JCT against a column ``x``, a line for each policy: in seconds, and to LLMSched's."""
    if rows.empty:
        return None
    cells = list(_cells(rows, *panel))
    title = f"Mean job completion time; {_episodes(rows)}\nLeft: in seconds. Right: relative."
    figure, panels = _grid(title, 2 * len(cells), columns=2, width=5.0, height=3.2, step=2)
    for number, (cell, part) in enumerate(cells):
        means = part.pivot_table(index=x, columns="policy", values="mean_jct_s", sort=False)
        means = means.sort_index()
        unit = EVALUATED if EVALUATED in means else str(means.columns[0])
        named = [f"{name} {cell[name]:g}" if name != "workload" else cell[name] for name in panel]
        for axes, relative in zip(panels[2 * number :], (False, True), strict=False):
            lines = means.div(means[unit], axis=0) if relative else means
            for label, line in lines.items():
                axes.plot(line, **looks.line(str(label)))
            axes.set_xticks(means.index, [f"{tick:g}" for tick in means.index])
            axes.set_xlabel(x_label, fontsize="small")
            _panel_title(axes, ", ".join(named))
        left, right = panels[2 * number : 2 * number + 2]
        _log(left.yaxis, left.set_yscale)
        left.set_ylabel("mean completion time, s: less is better", fontsize="small")
        right.set_ylabel(f"multiple of {unit}'s: less is better", fontsize="small")
        if far_apart(lines.to_numpy()):
            _log(right.yaxis, right.set_yscale)
        ends = {str(label): (lines.index[-1], y) for label, y in lines.iloc[-1].items()}
        _beside(right, ends, looks)
    return figure


# --- Variants of LLMSched -------------------------------------------------------------------------


def epsilon_and_fraction(results: pd.DataFrame, looks: Looks) -> Figure | None:
    """How mean JCT changes with epsilon and with the explored fraction, against the defaults."""
    names = {
        "epsilon": "epsilon, probability of exploring",
        "fraction": "r, share of a stage's tasks that exploration may start",
    }
    drawn = [name for name in names if len(_study(results, name))]
    if not drawn:
        return None
    shown = pd.concat([_study(results, name) for name in drawn])
    title = f"LLMSched's mean job completion time against its defaults'; {_episodes(shown)}"
    figure, panels = _grid(f"{title}\nBars: 95 %, paired.", len(drawn), 2, 5.5, 3.6)
    for axes, name in zip(panels, drawn, strict=True):
        axes.axhline(0, color=BLACK, linewidth=0.8)
        axes.update_datalim([(0, -0.5), (0, 0.5)])  # no microscope on differences of nothing
        _sensitivity(axes, results, name)
        axes.set_xlabel(names[name], fontsize="small")
        axes.set_ylabel("change of mean JCT, %: less is better", fontsize="small")
    return figure


def _sensitivity(axes: Axes, results: pd.DataFrame, study: str) -> None:
    """A line for each workload and load: the change in percent at each value of the option."""
    cells = list(_cells(_study(results, study), "workload", "load", "engines"))
    ends = {}
    for number, (cell, part) in enumerate(cells):
        points = []
        for label, jct in _jct(part).items():
            change = _change(results, cell, label, jct)
            if change is not None and "=" in label:
                points.append((float(label.rpartition("=")[2]), *change))
        if not points:
            continue
        x, value, low, high = np.array(sorted(points)).T
        colour = COLOURS[(1 + number) % len(COLOURS)]
        shift = (number - (len(cells) - 1) / 2) * 0.008
        error = np.maximum(0, [value - low, high - value])
        style: dict[str, Any] = {"color": colour, "linestyle": DASHES[number % len(DASHES)]}
        axes.errorbar(x + shift, value, yerr=error, marker="o", markersize=3.5, capsize=2, **style)
        ends[f"{cell['workload']}, load {cell['load']:g}"] = (x[-1], value[-1])
    colours = {label: COLOURS[(1 + n) % len(COLOURS)] for n, label in enumerate(ends)}
    plain = {label: Look(colour, "o", "-") for label, colour in colours.items()}
    _beside(axes, ends, Looks(plain, frozenset()))


def _change(
    results: pd.DataFrame, cell: Cell, label: str, jct: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Percent by which a policy's mean JCT exceeds LLMSched's, and its interval."""
    if label == EVALUATED:
        return 0.0, 0.0, 0.0
    rows = results[(results["policy"] == EVALUATED)]
    for name, value in cell.items():
        rows = rows[rows[name] == value]
    if rows.empty:
        return None
    first = rows[rows["study"] == rows["study"].iloc[0]]
    defaults = first.sort_values(["seed", "episode"])["mean_jct_s"].to_numpy(np.float64)
    if not _paired(jct, defaults):
        return None
    change = metrics.reduction(jct, defaults)
    value = -100 * (change.value or 0.0)
    low = value if change.high is None else -100 * change.high
    high = value if change.low is None else -100 * change.low
    return value, low, high


def ablations(results: pd.DataFrame, looks: Looks) -> Figure | None:
    """What LLMSched loses without each of its parts, in percent of mean JCT."""
    rows = _study(results, "ablations")
    if rows.empty:
        return None
    cells = list(_cells(rows, "workload", "load", "engines"))
    labels = [label for label in dict.fromkeys(rows["policy"]) if label != EVALUATED]
    figure, panels = _grid(
        f"Mean job completion time against {EVALUATED}'s, higher is worse; {_episodes(rows)}\n"
        "Line: 95 % interval over episodes, paired.",
        len(cells),
        columns=2,
        width=5.5,
        height=0.9 + 0.28 * len(labels),
    )
    for axes, (cell, part) in zip(panels, cells, strict=True):
        _panel_title(axes, f"{cell['workload']}, load {cell['load']:g}")
        found = {name: _change(results, cell, name, jct) for name, jct in _jct(part).items()}
        changes = {name: one for name, one in found.items() if one and name != EVALUATED}
        order = sorted(changes, key=lambda name: -changes[name][0])
        lows, highs = [0.0], [0.0]
        for row, label in enumerate(order):
            value, low, high = change = changes[label]
            axes.barh(row, value, height=0.65, **looks.bar(label))
            axes.plot([low, high], [row, row], color="black", linewidth=1)
            text = "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*(round(x, 1) + 0.0 for x in change))
            end, away = (max(high, 0), row), (4, 0)
            axes.annotate(text, end, away, textcoords="offset points", fontsize=SMALL, va="center")
            lows.append(low)
            highs.append(high)
        span = max(highs) - min(lows) or 1.0
        axes.set_xlim(min(lows) - 0.05 * span, max(highs) + 0.6 * span)
        axes.set_yticks(range(len(order)), list(map(looks.name, order)))
        axes.tick_params(labelsize="small")
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_xlabel("change of mean job completion time, %: less is better", fontsize="small")
    return figure


# --- The belief and its price ---------------------------------------------------------------------

BELIEFS = {"bayes": (COLOURS[0], "-"), "prior": (COLOURS[1], "--")}


def belief_calibration(belief: pd.DataFrame) -> Figure | None:
    """Expected against real remaining demand, and how often the interval held it."""
    if belief.empty:
        return None
    figure, (left, right) = _grid(
        f"Is the belief right? Remaining demand, {_looks_at(belief)}", 2, 2, 5.0, 4.4
    )
    positive = (belief["predicted_s"] > 0) & (belief["actual_s"] > 0)
    bayes = belief[positive & (belief["belief"] == "bayes")]
    applications = sorted(set(belief["application"]))
    for number, name in enumerate(applications):
        mine = bayes[bayes["application"] == name]
        x, y = mine["predicted_s"].to_numpy(), mine["actual_s"].to_numpy()
        colour = PALETTE[number % len(PALETTE)]
        some = np.linspace(0, len(x) - 1, min(len(x), 400)).astype(int)
        left.plot(x[some], y[some], ".", color=colour, markersize=2, alpha=0.25)
        style: dict[str, Any] = {"marker": "osD^vP"[number % 6], "color": colour}
        left.plot(*_binned(x, y), label=legend_name(name), **style)
    ends = [*left.get_xlim(), *left.get_ylim()]
    left.axline((1, 1), slope=1, color=BLACK, linewidth=0.8, linestyle=":")
    _log(left.xaxis, left.set_xscale)
    _log(left.yaxis, left.set_yscale)
    least = max(bayes[["predicted_s", "actual_s"]].quantile(0.005).min(), 1e-3)
    left.set_xlim(least, max(ends))
    left.set_ylim(least, max(ends))
    left.set_xlabel("expected remaining demand, s (belief bayes)", fontsize="small")
    left.set_ylabel("real remaining demand, s", fontsize="small")
    left.legend(frameon=False, fontsize=SMALL, loc="upper left")
    _panel_title(left, "Dots: looks at jobs. Lines: means of equally many. Dotted: ideal.")
    _coverage(right, belief, applications)
    return figure


def _looks_at(belief: pd.DataFrame) -> str:
    workloads = _listed(dict.fromkeys(belief["workload"]))
    episodes = belief.groupby("workload")["episode"].nunique().max()
    return f"looked at after each completed stage; {workloads}; {_count(episodes, 'episode')}"


def _binned(
    x: NDArray[np.float64], y: NDArray[np.float64], bins: int = 6
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of x and y over parts of equally many points, in order of x."""
    order = np.argsort(x, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _coverage(axes: Axes, belief: pd.DataFrame, applications: Sequence[str]) -> None:
    """Bars: the share of looks at jobs whose real remaining demand lies in the interval."""
    slack = 1e-4 * belief["actual_s"]  # tables are rounded
    inside = (belief["low_s"] - slack <= belief["actual_s"]) & (
        belief["actual_s"] <= belief["high_s"] + slack
    )
    groups = {name: belief["application"] == name for name in applications}
    groups["all"] = belief["application"] != ""
    kinds = [kind for kind in BELIEFS if (belief["belief"] == kind).any()]
    for row, chosen in enumerate(groups.values()):
        for number, kind in enumerate(kinds):
            share = 100 * inside[chosen & (belief["belief"] == kind)].mean()
            y = row + (number - (len(kinds) - 1) / 2) * 0.38
            axes.barh(y, share, height=0.36, color=BELIEFS[kind][0])
            text = f"{kind}: {share:.0f} %"
            axes.text(1, y, text, fontsize=SMALL, color="white", va="center")
    axes.axvline(90, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(groups)), list(map(legend_name, groups)), fontsize=SMALL + 1)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("real remaining demand inside the interval, % of looks", fontsize="small")
    _panel_title(axes, "Interval: 5 % to 95 % of each unfinished stage. Dotted: 90 %.")


def belief_error(belief: pd.DataFrame) -> Figure | None:
    """The error of the expected remaining demand as jobs make progress, by belief."""
    if belief.empty:
        return None
    applications = sorted(set(belief["application"]))
    figure, panels = _grid(
        f"Error of the expected remaining demand, {_looks_at(belief)}\n"
        "Mean over jobs; shaded: 95 % interval of it (normal).",
        len(applications),
        columns=3,
        width=3.7,
        height=2.5,
    )
    edges = np.array([-1e-9, 1e-9, 0.2, 0.4, 0.6, 0.8, 1.0])
    middle = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
    for axes, name in zip(panels, applications, strict=True):
        _panel_title(axes, name)
        for kind, (colour, dash) in BELIEFS.items():
            rows = belief[(belief["application"] == name) & (belief["belief"] == kind)]
            error = (rows["predicted_s"] - rows["actual_s"]).abs()
            part = np.clip(np.searchsorted(edges, rows["progress"]) - 1, 0, len(middle) - 1)
            # One number a job in each part: the looks at one job are not independent.
            per_job = error.groupby([part, rows["workload"], rows["episode"], rows["job"]]).mean()
            parts = per_job.groupby(level=0)
            mean, count = parts.mean(), parts.count()
            margin = 1.96 * parts.std().fillna(0) / np.sqrt(count)
            x = 100 * middle[mean.index]
            axes.plot(x, mean, color=colour, linestyle=dash, marker="o", markersize=3, label=kind)
            axes.fill_between(x, mean - margin, mean + margin, color=colour, alpha=0.15, lw=0)
        axes.set_ylim(bottom=0)
        axes.set_xlim(-4, 100)
        axes.tick_params(labelsize="small")
        axes.set_xlabel("demand completed, %", fontsize="small")
        axes.set_ylabel("mean |error|, s", fontsize="small")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def overhead(table: pd.DataFrame, looks: Looks) -> Figure | None:
    """The wall-clock time of a decision, by policy."""
    if table.empty:
        return None
    medians = table.groupby("policy")["decision_us"].median().sort_values()
    title = "Wall-clock time of a policy's decision; dots: workloads and loads, line: their median"
    figure, (axes,) = _grid(title, 1, 1, 7.5, 0.8 + 0.22 * len(medians))
    for row, (label, median) in enumerate(medians.items()):
        colour = looks.colour(str(label))
        times = table["decision_us"][table["policy"] == label]
        fill = "white" if label in looks.clairvoyant else colour
        style: dict[str, Any] = {
            "marker": "o",
            "color": colour,
            "mfc": fill,
            "markersize": 4,
            "alpha": 0.6,
        }
        axes.plot(times, [row] * len(times), linestyle="none", **style)
        axes.plot([median, median], [row - 0.35, row + 0.35], color="black", linewidth=1.5)
    _log(axes.xaxis, axes.set_xscale)
    axes.set_yticks(range(len(medians)), [looks.name(str(label)) for label in medians.index])
    axes.tick_params(axis="y", labelsize="small")
    axes.set_ylim(len(medians) - 0.4, -0.6)
    axes.set_xlabel("mean time from observation to action, microseconds", fontsize="small")
    return figure
