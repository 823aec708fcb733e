"""Figures of job completion times, for people who may not tell all colours apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from llmsched_gym.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette; the evaluated policy comes first and takes the strongest colour.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8C6D31")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)))
REFERENCE = "#000000"


def jct_cdf(
    path: Path, jct_s: Mapping[str, ArrayLike], clairvoyant: Sequence[str], title: str
) -> None:
    """Draw the share of jobs completed within a time, one curve a policy.

    Parameters
    ----------
    path
        The PNG file to write.
    jct_s
        Label of a policy to its job completion times in seconds; the first is the evaluated one.
    clairvoyant
        The labels to mark as clairvoyant.
    title
        Of the figure.
    """
    from matplotlib.ticker import LogFormatter

    figure, axes = _figure(title, height=4.5)
    for number, (label, sample) in enumerate(jct_s.items()):
        ordered = np.sort(np.asarray(sample, dtype=np.float64))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        style = _style(number, label in clairvoyant)
        axes.step(ordered, share, where="post", label=_label(label, clairvoyant), **style)
    if min(np.min(sample) for sample in jct_s.values()) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.set_xlabel("job completion time, s")
    axes.set_ylabel("share of jobs completed")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)


def jct_by_policy(
    path: Path,
    means: Mapping[str, Estimate],
    p95_s: Mapping[str, float],
    clairvoyant: Sequence[str],
    title: str,
) -> None:
    """Draw mean job completion times with their intervals as bars, 95th percentiles as marks.

    Parameters
    ----------
    path
        The PNG file to write.
    means
        Label of a policy to its mean in seconds; the first is the evaluated one.
    p95_s
        Label of a policy to its 95th percentile in seconds.
    clairvoyant
        The labels to mark as clairvoyant.
    title
        Of the figure.
    """
    figure, axes = _figure(title, height=1.6 + 0.45 * len(means))
    for number, (label, mean) in enumerate(means.items()):
        hidden = label in clairvoyant
        value = mean.value or 0.0
        axes.barh(
            number,
            value,
            color="white" if hidden else COLOURS[number % len(COLOURS)],
            edgecolor=REFERENCE if hidden else "none",
            hatch="///" if hidden else None,
            height=0.6,
        )
        if mean.low is not None and mean.high is not None:
            error = [[max(0.0, value - mean.low)], [max(0.0, mean.high - value)]]
            axes.errorbar(value, number, xerr=error, color="black", capsize=3, linewidth=1.2)
        axes.plot(p95_s[label], number, "D", color="black", markerfacecolor="white", markersize=5)
    axes.set_yticks(range(len(means)), [_label(label, clairvoyant) for label in means])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "job completion time, s\n(bar: mean, line: its 95 % interval, diamond: 95th percentile)"
    )
    figure.savefig(path)


def learning_curve(
    path: Path,
    decisions: ArrayLike,
    jct_s: ArrayLike,
    compared_s: Mapping[str, float],
    learner: str,
    title: str,
) -> None:
    """Draw the mean job completion time on held-out episodes while a learner learns.

    Other policies that are far above the best are off the figure, so that what the rest differ by
    can be seen; the legend has their numbers.

    Parameters
    ----------
    path
        The PNG file to write.
    decisions, jct_s : [evaluations]
        Decisions learnt from so far, and the mean JCT in seconds that they led to.
    compared_s
        Label of another policy to its mean JCT in seconds on the same episodes.
    learner
        The label of what learns.
    title
        Of the figure.
    """
    from matplotlib.ticker import EngFormatter

    figure, axes = _figure(title, height=4.0)
    curve = np.asarray(jct_s, dtype=np.float64)
    best = min([curve.min(), *compared_s.values()])
    top = min(1.3 * best, max(1.1 * best, 1.01 * curve.max()))
    label = f"{learner}: {curve.min():.2f} s at its best"
    axes.plot(decisions, curve, marker="o", markersize=4, label=label, **_style(0, False))
    for number, (name, value) in enumerate(compared_s.items(), start=1):
        where = "" if value < top else ", above the figure"
        label = f"{name}: {value:.2f} s{where}"
        axes.axhline(value, label=label, **_style(number, False))
    axes.set_ylim(0.99 * best, top)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("decisions learnt from")
    axes.set_ylabel("mean JCT on held-out episodes, s")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


def _figure(title: str, height: float) -> tuple[Any, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _style(number: int, clairvoyant: bool) -> dict[str, Any]:
    if clairvoyant:
        return {"color": REFERENCE, "linestyle": (0, (1, 2)), "linewidth": 1.5}
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
    return style | {"linewidth": 2.6 if number == 0 else 1.5}


def _label(label: str, clairvoyant: Sequence[str]) -> str:
    return f"{label} (clairvoyant)" if label in clairvoyant else label
