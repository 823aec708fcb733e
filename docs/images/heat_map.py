"""The heat map of docs/index.md, from a table of docs/results.md: python docs/images/heat_map.py.

Each workload is divided by its best policy that knows no more than it may.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

DOCS = Path(__file__).parents[1]
LOAD = "1.3"
MOST = 4.0  # times as long: the darkest colour


def table(load: str = LOAD) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Policies, workloads, and mean JCT in seconds or NaN, of "Every policy, where ..."."""
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    part = text.split("## Every policy", 1)[1].split(f"### Load {load}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    workloads = [name.strip() for name in rows[0][1:]]
    means = {}
    for row in rows[2:]:
        policy = row[0].strip().strip("*")
        found = [re.match(r"[\d.]+", cell.strip()) for cell in row[1:]]
        means[policy] = [float(one[0]) if one else np.nan for one in found]
    return list(means), workloads, np.array(list(means.values()))


def heat_map() -> Figure:
    """How many times as long as the best, policies down, workloads across; white is best."""
    policies, workloads, seconds = table()
    fair = ["clairvoyant" not in name for name in policies]
    ratio = seconds / np.nanmin(seconds[fair], axis=0)
    order = np.nanmean(np.log(ratio), axis=1).argsort()
    figure = Figure(figsize=(7.2, 0.33 * len(policies) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.log(ratio[order]), cmap="Oranges", vmin=0, vmax=np.log(MOST), aspect="auto")
    axes.set_xticks(range(len(workloads)), workloads)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(policies)), [policies[row] for row in order])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(ratio[order]):
        if np.isnan(value):
            continue
        colour = "white" if value > 2.2 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
    title = f"Mean completion time, times that of the best that is not clairvoyant; load {LOAD}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


if __name__ == "__main__":
    heat_map().savefig(DOCS / "images" / "heat_map.png", dpi=120)
