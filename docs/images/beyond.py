"""The table and the picture of docs/beyond.md, from the episodes of a run of the suite.

    python docs/images/beyond.py outputs/suite [resource_srtf [llmsched srtf ...]]

By how much the first policy's mean JCT is below that of the others, with the paired interval.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from llmsched_gym import metrics
from llmsched_gym.env import SCENARIOS
from llmsched_gym.metrics import Estimate
from llmsched_gym.plotting import looks_of, new_figure

DOCS = Path(__file__).parents[1]
OTHERS = ("llmsched", "srtf", "gittins", "sjf")


def reductions(
    folder: Path, policy: str, others: tuple[str, ...]
) -> dict[str, dict[str, Estimate]]:
    """By other policy and scenario; under "mean" the mean over the scenarios."""
    played = pd.read_csv(folder / "episodes.csv").pivot_table(
        index=["scenario", "episode"], columns="policy", values="mean_jct_s"
    )
    found = {}
    for other in others:
        pairs = {n: (played.loc[n][policy], played.loc[n][other]) for n in SCENARIOS}
        found[other] = {name: metrics.reduction(*pair) for name, pair in pairs.items()}
        found[other]["mean"] = metrics.mean_reduction(list(pairs.values()))
    return found


def table(found: dict[str, dict[str, Estimate]]) -> str:
    """Markdown, in per cent."""
    lines = [f"| scenario | {' | '.join(f'`{other}`' for other in found)} |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for name in (*SCENARIOS, "mean"):
        cells = []
        for of in found.values():
            value, low, high = (None if x is None else 100 * x for x in of[name])
            interval = "" if low is None else f" [{low:.1f}, {high:.1f}]"
            cells.append(f"{value:.1f}{interval}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(found: dict[str, dict[str, Estimate]], policy: str) -> Figure:
    """A row a scenario, a mark for each policy that is compared."""
    figure, axes = new_figure(f"Mean JCT of {policy} below that of others, %", 4.6)
    looks = looks_of(found)
    for number, (other, of) in enumerate(found.items()):
        shift = 0.6 * ((number + 0.5) / len(found) - 0.5)
        for row, name in enumerate(SCENARIOS):
            value, low, high = (100 * (x or 0.0) for x in of[name])
            axes.plot((low, high), (row + shift,) * 2, color=looks[other].colour, linewidth=1.2)
            label = other if row == 0 else None
            axes.plot([value], [row + shift], linestyle="none", label=label, **looks[other].dot())
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(SCENARIOS)), list(SCENARIOS))
    axes.invert_yaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    return figure


if __name__ == "__main__":
    where, first = Path(sys.argv[1]), (sys.argv[2:3] or ["resource_srtf"])[0]
    found = reductions(where, first, tuple(sys.argv[3:]) or OTHERS)
    print(table(found))
    if not sys.argv[2:]:
        picture(found, first).savefig(DOCS / "images" / "beyond.png", dpi=120)
