"""The learning curve of a training run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import ArrayLike

from llmsched_gym.plotting import looks_of, new_figure


def learning_curve(
    decisions: ArrayLike,
    jct_s: ArrayLike,
    compared_s: Mapping[str, float],
    learner: str,
    title: str,
) -> Figure:
    """Draw the mean job completion time on held-out episodes while a learner learns.

    Other policies that are far above the best are off the figure, so that what the rest differ by
    can be seen; the legend has their numbers.

    Parameters
    ----------
    decisions, jct_s : [evaluations]
        Decisions learnt from so far, and the mean JCT in seconds that they led to.
    compared_s
        Label of another policy to its mean JCT in seconds on the same episodes.
    learner
        The label of what learns.
    title
        Of the figure.
    """
    figure, axes = new_figure(title, height=4.4)
    curve = np.asarray(jct_s, dtype=np.float64)
    best = min([curve.min(), *compared_s.values()])
    top = min(1.3 * best, max(1.1 * best, 1.01 * curve.max()))
    label = f"{learner}: {curve.min():.2f} s at its best"
    styles = looks_of([learner, *compared_s])
    style = styles[learner].line(strong=True) | {"linestyle": "-"}
    axes.plot(decisions, curve, label=label, **style)
    for name, value in compared_s.items():
        where = "" if value < top else ", above the figure"
        label = f"{name}: {value:.2f} s{where}"
        axes.axhline(value, label=label, **styles[name].line() | {"marker": None})
    axes.set_ylim(0.99 * best, top)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("decisions learnt from")
    axes.set_ylabel("mean JCT on held-out episodes, s")
    _legend_below(figure)
    return figure


def _legend_below(figure: Figure) -> None:
    """In as many columns as there is room for."""
    for columns in (3, 2, 1):
        legend = figure.legend(
            loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
        )
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()
