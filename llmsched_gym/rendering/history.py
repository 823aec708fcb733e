"""What was believed of a job while it went on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from llmsched_gym.errors import printable
from llmsched_gym.plotting import COLOURS, new_picture

APART = 0.03  # share of the axis: names of stages that complete closer together share a label
LONGEST_LABEL = 22


@dataclass(frozen=True, eq=False)
class BeliefHistory:
    """The belief about one job's remaining demand, at each moment of M at which it was looked at.

    Attributes
    ----------
    job : the job; application : its application.
    time_s : float64 [M], seconds, ascending.
    expected_s, low_s, high_s : float64 [M], E[rem] and its interval, seconds, at the batch sizes of
        the moment.
    completed : (seconds, name) of each stage that has completed, in order.
    """

    job: int
    application: str
    time_s: NDArray[np.float64]
    expected_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]
    completed: tuple[tuple[float, str], ...]


def draw_belief_history(history: BeliefHistory, title: str = "") -> Figure:
    """Draw E[rem] over time, its interval as an area, and the completions of stages as lines."""
    figure = new_picture(title, 8.5, 4.2)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    colour = COLOURS[1]
    axes.fill_between(
        history.time_s,
        history.low_s,
        history.high_s,
        step="post",
        color=colour,
        alpha=0.25,
        linewidth=0,
        label="its interval",
    )
    axes.step(history.time_s, history.expected_s, where="post", color=colour, label="E[rem]")
    axes.set_ylim(bottom=0)
    if len(history.time_s):
        axes.set_xlim(*_span(history))
    _mark_completions(axes, history)
    axes.set_xlabel("time, s")
    axes.set_ylabel("remaining demand\nat the batch sizes of the moment, s")
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize="small")
    return figure


def _span(history: BeliefHistory) -> tuple[float, float]:
    begin, end = float(history.time_s[0]), float(history.time_s[-1])
    return begin, max(end, begin + 1e-9) + 0.01 * (end - begin)


def _mark_completions(axes: Axes, history: BeliefHistory) -> None:
    """A dotted line for each, a label for those that are near each other."""
    begin, end = axes.get_xlim()
    near = APART * (end - begin)
    labels: list[tuple[float, list[str]]] = []
    for time_s, name in history.completed:
        axes.axvline(time_s, color="0.35", linewidth=0.8, linestyle=":")
        if labels and time_s - labels[-1][0] < near:
            labels[-1][1].append(name)
        else:
            labels.append((time_s, [name]))
    for time_s, names in labels:
        axes.annotate(
            _label(names),
            (time_s, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            rotation=40,
            fontsize=7,
            color="0.25",
            ha="left",
            va="bottom",
            rotation_mode="anchor",
        )


def _label(names: list[str]) -> str:
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    name = printable(names[0]).replace("\n", " ")
    room = LONGEST_LABEL - len(more)
    return f"{name if len(name) <= room else name[: room - 1] + '…'}{more}"
