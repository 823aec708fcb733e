"""What the robustness study says: mean JCTs, their ranks, and which orders of policies hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from llmsched_gym import metrics
from llmsched_gym.errors import printable
from llmsched_gym.evaluation.results import plain, write_csv
from llmsched_gym.evaluation.tables import WIDTH
from llmsched_gym.experiments.cells import Cell, Experiment
from llmsched_gym.experiments.robustness import RULER, UNCHANGED, change_of
from llmsched_gym.experiments.run import finish, measured_in
from llmsched_gym.experiments.tables import Measured
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import far_apart, log_axis, looks_of, new_picture, save, shown_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIOS = (f"x_{RULER}", "x_unchanged", "x_first")
ENDS = ("", "_low", "_high")
STANDING_COLUMNS = (
    *("workload", "change", "policy", "rank"),
    *(f"mean_jct_s{end}" for end in ENDS),
    *(f"{ratio}{end}" for ratio in RATIOS for end in ENDS),
)
ORDER_COLUMNS = ("workload", "change", "tau", "clear", "hold", "reversed", "pairs_reversed")
ACROSS = 4  # panels of a row of the picture


@dataclass(frozen=True)
class Standing:
    """What a policy did in a workload under a change.

    Attributes
    ----------
    rank : 1 is the least mean JCT.
    jct : mean JCT, seconds.
    x_ruler, x_first : it over that of FCFS, and over that of the first policy: the same jobs.
    x_unchanged : over its own without the change; of no value where jobs come at other times.
    """

    workload: str
    change: str
    policy: str
    rank: int
    jct: Estimate
    x_ruler: Estimate
    x_unchanged: Estimate
    x_first: Estimate


@dataclass(frozen=True)
class Order:
    """How the order of the policies under a change agrees with that without it.

    Attributes
    ----------
    tau : Kendall's tau-b between the orders before and now, in which two policies are tied unless
        the interval of their difference is without zero; None where all are.
    clear : pairs of policies that are not tied without the change.
    hold : those of them that are in the same order now.
    reversed : those that are in the opposite order now: (better before, better now).
    """

    workload: str
    change: str
    tau: float | None
    clear: int
    hold: int
    reversed: tuple[tuple[str, str], ...]


Group = Mapping[str, Measured]  # by policy


def standings(measured: Iterable[Measured]) -> list[Standing]:
    """Of every policy in every workload under every change, those of ``unchanged`` first."""
    groups = _groups(measured)
    found = []
    for (workload, change), group in groups.items():
        before = groups[workload, UNCHANGED]
        means = {label: one.means() for label, one in group.items()}
        ranked = sorted(np.mean(row) for row in means.values())
        first = next(iter(means.values()))
        for label, row in means.items():
            paired = _same_arrivals(group[label], before[label])
            found.append(
                Standing(
                    *(workload, change, label),
                    1 + int(np.searchsorted(ranked, np.mean(row))),
                    metrics.mean(row),
                    ratio(row, means[RULER]),
                    ratio(row, before[label].means()) if paired else Estimate(None),
                    ratio(row, first),
                )
            )
    return found


def orders(measured: Iterable[Measured]) -> list[Order]:
    """Of every workload under every change but ``unchanged``."""
    groups = _groups(measured)
    found = []
    for (workload, change), group in groups.items():
        if change == UNCHANGED:
            continue
        before, now = (
            {label: one.means() for label, one in part.items()}
            for part in (groups[workload, UNCHANGED], group)
        )
        pairs = [(_better(before, two), _better(now, two)) for two in combinations(now, 2)]
        clear = sum(one is not None for one, _ in pairs)
        clear_now = sum(other is not None for _, other in pairs)
        both = [(one, other) for one, other in pairs if one is not None and other is not None]
        turned = tuple((one, other) for one, other in both if one != other)
        hold = len(both) - len(turned)
        ties = math.sqrt(clear * clear_now)
        tau = (hold - len(turned)) / ties if ties else None
        found.append(Order(workload, change, tau, clear, hold, turned))
    return found


def ratio(policy: ArrayLike, baseline: ArrayLike) -> Estimate:
    """The policy's mean over the baseline's, with the paired interval; [episodes] each."""
    value, low, high = metrics.reduction(policy, baseline)
    return Estimate(*(None if x is None else 1 - x for x in (value, high, low)))


def _better(means: Mapping[str, Sequence[float]], pair: tuple[str, str]) -> str | None:
    """The policy of a pair with the lower mean, if the interval of the difference says so."""
    one, other = pair
    _, low, high = metrics.reduction(means[one], means[other])
    if low is None or high is None or low <= 0 <= high:
        return None
    return one if low > 0 else other


def _groups(measured: Iterable[Measured]) -> dict[tuple[str, str], dict[str, Measured]]:
    """By workload and change, the policies by label."""
    groups: dict[tuple[str, str], dict[str, Measured]] = {}
    for one in measured:
        groups.setdefault(change_of(one.place), {})[one.policy] = one
    return groups


def _same_arrivals(one: Measured, other: Measured) -> bool:
    pairs = zip(one.episodes, other.episodes, strict=True)
    return all(np.array_equal(a.arrival_s, b.arrival_s) for a, b in pairs)


# --- The run --------------------------------------------------------------------------------------


def run_robustness(
    experiment: Experiment,
    output_dir: Path,
    processes: int,
    settings: dict[str, Any],
    ray: str | None = None,
) -> float:
    """Play what is not played yet, write tables and their picture, print them.

    Options and errors are those of :func:`llmsched_gym.experiments.run.run_experiment`.

    Returns
    -------
    The first policy's mean JCT over that of FCFS, mean over workloads and changes.
    """

    def write(folder: Path, contents: dict[Cell, Any]) -> tuple[list[Standing], list[Order]]:
        measured = measured_in(experiment, contents)
        found = standings(measured), orders(measured)
        write_csv(folder / "standings.csv", STANDING_COLUMNS, map(_standing_row, found[0]))
        write_csv(folder / "orders.csv", ORDER_COLUMNS, map(_order_row, found[1]))
        about = {"settings": settings, "notes": experiment.notes}
        (folder / "summary.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        title = f"Mean JCT over that of {RULER}, {_episodes(experiment)}"
        save(lambda: picture(found[0], title), folder / "robustness.png")
        return found

    found, held = finish(experiment, output_dir, processes, write, ray)
    _print(found, held, experiment, output_dir)
    first = experiment.rows[0].label
    return float(np.mean([one.x_ruler.value or 0.0 for one in found if one.policy == first]))


def _standing_row(one: Standing) -> tuple[Any, ...]:
    ratios = *one.x_ruler, *one.x_unchanged, *one.x_first
    return one.workload, one.change, one.policy, one.rank, *one.jct, *ratios


def _order_row(one: Order) -> tuple[Any, ...]:
    counts = one.tau, one.clear, one.hold, len(one.reversed)
    return one.workload, one.change, *counts, _listed(one.reversed)


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{better} < {other}" for better, other in pairs)


# --- What people read -----------------------------------------------------------------------------


def jct_tables(found: Sequence[Standing]) -> Iterator[Table]:
    """For each workload the mean JCTs: a row a change, a column a policy."""
    for workload in dict.fromkeys(one.workload for one in found):
        mine = [one for one in found if one.workload == workload]
        policies = list(dict.fromkeys(one.policy for one in mine))
        made = _table(f"{workload}: mean JCT, s", policies)
        for change in dict.fromkeys(one.change for one in mine):
            jct = (f"{one.jct.value or 0.0:.1f}" for one in mine if one.change == change)
            made.add_row(plain(change), *map(plain, jct))
        yield made


def order_table(held: Sequence[Order]) -> Table:
    """A row a change, a column a workload: Kendall's tau, and which clear orders hold."""
    workloads = list(dict.fromkeys(one.workload for one in held))
    made = _table(
        "Kendall's tau to unchanged (clear orders that hold / all clear orders)", workloads
    )
    for change in dict.fromkeys(one.change for one in held):
        mine = (one for one in held if one.change == change)
        made.add_row(plain(change), *(plain(agreement(one)) for one in mine))
    return made


def agreement(one: Order) -> str:
    """Such as "0.87 (12/13)"."""
    tau = "-" if one.tau is None else f"{one.tau:.2f}"
    return f"{tau} ({one.hold}/{one.clear})"


def _table(title: str, heads: Iterable[str]) -> Table:
    made = Table(title=plain(title), title_justify="left", box=HORIZONTALS, pad_edge=False)
    made.add_column("change", overflow="fold")
    for head in heads:
        made.add_column(plain(head), justify="right", overflow="fold")
    return made


def picture(found: Sequence[Standing], title: str) -> Figure | None:
    """A panel a workload, a row a change, a mark a policy but FCFS, which is 1."""
    workloads = list(dict.fromkeys(one.workload for one in found))
    changes = list(dict.fromkeys(one.change for one in found))
    drawn = [one for one in found if one.policy != RULER]
    if not drawn:
        return None
    rows, across = -(-len(workloads) // ACROSS), min(ACROSS, len(workloads))
    figure = new_picture(title, 2.0 + 2.7 * across, 1.3 + 0.45 * len(changes) * rows)
    grid = figure.subplots(rows, across, squeeze=False, sharey=True)
    for panel in grid.flat[len(workloads) :]:
        panel.set_visible(False)
    for panel, workload in zip(grid.flat, workloads, strict=False):
        _panel(panel, [one for one in drawn if one.workload == workload], changes)
        panel.set_title(workload, fontsize="small")
    grid[0, 0].set_yticks(range(len(changes)), changes)
    grid[0, 0].set_ylim(len(changes) - 0.5, -0.5)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


def _panel(axes: Axes, found: Sequence[Standing], changes: Sequence[str]) -> None:
    looks = looks_of(one.policy for one in found)
    for number, (policy, look) in enumerate(looks.items()):
        shift = 0.6 * ((number + 0.5) / len(looks) - 0.5)
        mine = [one for one in found if one.policy == policy]
        at = [changes.index(one.change) + shift for one in mine]
        for one, y in zip(mine, at, strict=True):
            _, low, high = one.x_ruler
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=look.colour, linewidth=1.2)
        values = [one.x_ruler.value or np.nan for one in mine]
        dots = look.dot() | {"markersize": 5}
        axes.plot(values, at, linestyle="none", label=shown_label(policy, ()), **dots)
    if far_apart([one.x_ruler.value or np.nan for one in found]):
        log_axis(axes.xaxis, axes.set_xscale)
    left, right = axes.get_xlim()
    if left < 1 < right:  # far from FCFS the line would leave no room for the marks
        axes.axvline(1, color="0.4", linewidth=0.8, zorder=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize="small")


def _episodes(experiment: Experiment) -> str:
    number = experiment.rows[0].cells[-1].last + 1
    return "1 episode" if number == 1 else f"{number} episodes"


def _print(
    found: Sequence[Standing], held: Sequence[Order], experiment: Experiment, output_dir: Path
) -> None:
    """The tables, the orders that turn round, and what numbers mean."""
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = WIDTH
    for made in jct_tables(found):
        output.print(made)
    if held:
        output.print(order_table(held))
    turned = (
        f"{one.workload}, {one.change}: the opposite of {_listed(one.reversed)}"
        for one in held
        if one.reversed
    )
    for note in (
        f"{_episodes(experiment)} of {experiment.rows[0].cells[0].num_jobs} jobs, the same for all "
        "policies. Intervals of differences: 95 % bootstrap over episodes, paired.",
        f"An order of two policies is clear if their mean JCTs differ in {UNCHANGED} by such an "
        "interval; it holds if they differ likewise, and is reversed if the other way. Kendall's "
        "tau-b takes policies for tied that do not differ.",
        *turned,
        *experiment.notes,
    ):
        output.print(f"- {printable(note)}", soft_wrap=not output.is_terminal)
    output.print(f"Files: {printable(str(output_dir))}", soft_wrap=True)
