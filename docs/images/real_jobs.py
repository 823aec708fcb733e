"""The tables and the picture of docs/beyond.md on real jobs, from runs of experiment=beyond.

    python docs/images/real_jobs.py outputs/real_1_engine [outputs/real_4_engines ...]

By how much the mean JCT of resource SRTF is below that of others, with paired intervals. With
several folders a picture is drawn as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llmsched_gym import metrics
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import new_figure

DOCS = Path(__file__).parents[1]
POLICY, PUBLISHED = "resource_srtf", "llmsched"
Cells = dict[tuple[str, float], dict[str, Estimate]]  # by workload and load, then by other policy


def reductions(folder: Path) -> Cells:
    """Of the policy against all others that were played."""
    played = pd.read_csv(folder / "results.csv")
    played = played[played["study"] == "main"]
    found: Cells = {}
    for (workload, load), rows in played.groupby(["workload", "load"], sort=False):
        jct = rows.pivot_table(index=["seed", "episode"], columns="policy", values="mean_jct_s")
        found[str(workload), float(load)] = {
            other: metrics.reduction(jct[POLICY], jct[other])
            for other in rows["policy"].unique()
            if other != POLICY and not other.endswith("_oracle")
        }
    return found


def names_of(found: Cells) -> tuple[list[str], list[float]]:
    """The workloads, and the loads in order."""
    return list(dict.fromkeys(name for name, _ in found)), sorted({load for _, load in found})


def by_workload(found: Cells) -> str:
    """Markdown: against the published order, workload by workload, in per cent."""
    workloads, loads = names_of(found)
    lines = ["| jobs | " + " | ".join(f"load {load:g}" for load in loads) + " |"]
    lines.append("|---" * (len(loads) + 1) + "|")
    for name in workloads:
        cells = []
        for load in loads:
            value, low, high = (100 * (x or 0.0) for x in found[name, load][PUBLISHED])
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_policy(found: Cells) -> str:
    """Markdown: against each other policy, the mean over all cells and the least, in per cent."""
    lines = ["| against | mean of all cells | least | there |", "|---" * 4 + "|"]
    for other in next(iter(found.values())):
        values = {cell: 100 * (of[other].value or 0.0) for cell, of in found.items()}
        (name, load), least = min(values.items(), key=lambda item: item[1])
        low, high = (100 * (x or 0.0) for x in found[name, load][other][1:])
        mean = np.mean(list(values.values()))
        interval = f"{least:.1f} [{low:.1f}, {high:.1f}]"
        lines.append(f"| `{other}` | {mean:.1f} | {interval} | {name}, load {load:g} |")
    return "\n".join(lines)


def picture(runs: dict[str, Cells]) -> Figure:
    """A map: by how much it is below the published order, a column for each load of each run."""
    workloads, _ = names_of(next(iter(runs.values())))
    columns = [(run, load) for run, found in runs.items() for load in names_of(found)[1]]
    values = np.array(
        [
            [100 * (runs[run][name, load][PUBLISHED].value or 0.0) for run, load in columns]
            for name in workloads
        ]
    )
    figure, axes = new_figure(f"Mean JCT of {POLICY} below that of {PUBLISHED}, %", 4.8)
    axes.imshow(values, cmap="BrBG", vmin=-20, vmax=20, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8)
    axes.set_yticks(range(len(workloads)), workloads)
    axes.set_xticks(range(len(columns)), [f"{run}\nload {load:g}" for run, load in columns])
    axes.tick_params(labelsize=8, length=0)
    axes.grid(visible=False)
    return figure


def cluster_of(folder: Path) -> str:
    """The number of engines of a run."""
    engines = pd.read_csv(folder / "results.csv")["engines"].iloc[0]
    return f"{engines} engine{'s' if engines > 1 else ''}"


if __name__ == "__main__":
    folders = [Path(one) for one in sys.argv[1:]]
    runs = {cluster_of(folder): reductions(folder) for folder in folders}
    for name, found in runs.items():
        print(f"{name}\n\n{by_workload(found)}\n\n{by_policy(found)}\n")
    if len(runs) > 1:
        picture(runs).savefig(DOCS / "images" / "beyond_real.png", dpi=120)
