"""Figures of job completion times, one curve or bar a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import far_apart, log_axis, looks_of, new_figure, shown_label


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
    figure, axes = new_figure(title, height=max(4.5, 1.5 + 0.22 * len(jct_s)))
    evaluated, styles = next(iter(jct_s)), looks_of(jct_s, clairvoyant)
    for number, (label, sample) in enumerate(jct_s.items()):
        ordered = np.sort(np.asarray(sample, dtype=np.float64))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        style = styles[label].line(strong=label == evaluated)
        style["markevery"] = (0.02 * (number % 6), 0.12)  # of the curve, so that none hides another
        axes.step(ordered, share, where="post", label=shown_label(label, clairvoyant), **style)
    if min(np.min(sample) for sample in jct_s.values()) > 0:
        log_axis(axes.xaxis, axes.set_xscale)
    axes.set_xlabel("job completion time, s")
    axes.set_ylabel("share of jobs completed")
    axes.set_ylim(0, 1.02)
    figure.legend(loc="outside right center", frameon=False, fontsize="small", handlelength=3.5)
    return figure


def jct_by_policy(
    means: Mapping[str, Estimate],
    p95_s: Mapping[str, float],
    clairvoyant: Sequence[str],
    title: str,
) -> Figure:
    """Draw mean job completion times with their intervals as bars, 95th percentiles as marks.

    The policy with the lowest mean is at the top. Means that are far apart are marks on a
    logarithmic axis.

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
    figure, axes = new_figure(title, height=1.6 + min(0.45, 5 / len(means)) * len(means))
    styles, evaluated = looks_of(means, clairvoyant), next(iter(means))
    order = sorted(means, key=lambda label: means[label].value or 0.0)
    wide = far_apart([means[label].value or 0.0 for label in order])
    for number, label in enumerate(order):
        mean, look = means[label], styles[label]
        value = mean.value or 0.0
        if wide:
            axes.plot(value, number, **look.dot())
        else:
            axes.barh(number, value, height=0.6, **look.bar())
        if mean.low is not None and mean.high is not None:
            error = [[max(0.0, value - mean.low)], [max(0.0, mean.high - value)]]
            axes.errorbar(value, number, xerr=error, color="black", capsize=3, linewidth=1.2)
        axes.plot(p95_s[label], number, "D", color="black", markerfacecolor="white", markersize=5)
    axes.set_yticks(range(len(order)), [shown_label(label, clairvoyant) for label in order])
    axes.get_yticklabels()[order.index(evaluated)].set_fontweight("bold")
    axes.set_ylim(len(order) - 0.5, -0.5)
    if wide:
        log_axis(axes.xaxis, axes.set_xscale)
    else:
        axes.set_xlim(left=0)
    mark = "mark" if wide else "bar"
    figure.supxlabel(
        "job completion time, s: less is better\n"
        f"({mark}: mean, line: its 95 % interval, white diamond: 95th percentile)",
        fontsize="medium",
    )
    return figure
