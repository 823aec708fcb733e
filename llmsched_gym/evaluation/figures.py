"""Figures of job completion times, one curve or bar a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import ArrayLike

from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import looks_of, new_figure, shown_label


def jct_cdf(jct_s: Mapping[str, ArrayLike], clairvoyant: Sequence[str], title: str) -> Figure:
    """Draw the share of jobs completed within a time, one curve a policy.

    Parameters
    ----------
    jct_s
        Label of a policy to its job completion times in seconds; the first is the evaluated one.
    clairvoyant
        The labels to mark as clairvoyant.
    title
        Of the figure.
    """
    figure, axes = new_figure(title, height=4.5)
    evaluated, styles = next(iter(jct_s)), looks_of(jct_s, clairvoyant)
    for number, (label, sample) in enumerate(jct_s.items()):
        ordered = np.sort(np.asarray(sample, dtype=np.float64))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        style = styles[label].line(strong=label == evaluated)
        style["markevery"] = (0.02 * (number % 6), 0.12)  # of the curve, so that none hides another
        axes.step(ordered, share, where="post", label=shown_label(label, clairvoyant), **style)
    if min(np.min(sample) for sample in jct_s.values()) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.set_xlabel("job completion time, s")
    axes.set_ylabel("share of jobs completed")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right", frameon=False)
    return figure


def jct_by_policy(
    means: Mapping[str, Estimate],
    p95_s: Mapping[str, float],
    clairvoyant: Sequence[str],
    title: str,
) -> Figure:
    """Draw mean job completion times with their intervals as bars, 95th percentiles as marks.

    The policy with the lowest mean is at the top.

    Parameters
    ----------
    means
        Label of a policy to its mean in seconds; the first is the evaluated one.
    p95_s
        Label of a policy to its 95th percentile in seconds.
    clairvoyant
        The labels to mark as clairvoyant.
    title
        Of the figure.
    """
    figure, axes = new_figure(title, height=1.6 + 0.45 * len(means))
    styles, evaluated = looks_of(means, clairvoyant), next(iter(means))
    order = sorted(means, key=lambda label: means[label].value or 0.0)
    for number, label in enumerate(order):
        mean, look = means[label], styles[label]
        value = mean.value or 0.0
        axes.barh(number, value, height=0.6, **look.bar())
        if mean.low is not None and mean.high is not None:
            error = [[max(0.0, value - mean.low)], [max(0.0, mean.high - value)]]
            axes.errorbar(value, number, xerr=error, color="black", capsize=3, linewidth=1.2)
        axes.plot(p95_s[label], number, "D", color="black", markerfacecolor="white", markersize=5)
    axes.set_yticks(range(len(order)), [shown_label(label, clairvoyant) for label in order])
    axes.get_yticklabels()[order.index(evaluated)].set_fontweight("bold")
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(
        "job completion time, s: less is better\n"
        "(bar: mean, line: its 95 % interval, diamond: 95th percentile)"
    )
    return figure
