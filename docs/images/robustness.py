"""The tables and the picture of docs/robustness.md, from a run of experiment=robustness.

    python docs/images/robustness.py outputs/robustness_seed0

Tables stand between markers in the page: begin and end of "orders", "leads" and "losses".
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "robustness.md"


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def orders(held: pd.DataFrame) -> str:
    """A row a change, a column a workload: tau, and how many clear orders hold."""
    wide = held.set_index(["change", "workload"])
    workloads, changes = (held[name].drop_duplicates().tolist() for name in ("workload", "change"))

    def cell(change: str, workload: str) -> str:
        one = wide.loc[change, workload]
        tau = "-" if pd.isna(one.tau) else f"{one.tau:.2f}"
        turned = f", {one.reversed} reversed" if one.reversed else ""
        return f"{tau} ({one.hold} of {one.clear}{turned})"

    rows = ([f"`{change}`", *(cell(change, one) for one in workloads)] for change in changes)
    return markdown(["change", *(f"`{one}`" for one in workloads)], rows)


def by_place(found: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """The policies of each workload and change, workload by workload."""
    for workload, part in found.groupby("workload", sort=False):
        for change, rows in part.groupby("change", sort=False):
            yield (str(workload), str(change)), rows


def per_cent(low: float, value: float, high: float) -> str:
    """Such as "1.5 [1.3, 1.7]"."""
    numbers = [f"{100 * x:.1f}".replace("-0.0", "0.0") for x in (value, low, high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def leads(found: pd.DataFrame) -> str:
    """By how much the first policy is below the others, a row a workload and change."""
    first = found.policy.iloc[0]
    others = [name for name in found.policy.drop_duplicates() if name != first]
    rows = []
    for (workload, change), part in by_place(found):
        of = part.set_index("policy")
        mine = of.loc[first]
        cells = [f"`{workload}`", f"`{change}`", f"{mine.mean_jct_s:.1f}"]
        for name in others:  # x_first is other / first; 1 - first / other is what is shown
            x = of.loc[name]
            cells.append(per_cent(*(1 - 1 / y for y in (x.x_first_low, x.x_first, x.x_first_high))))
        rows.append(cells)
    heads = ["workload", "change", f"`{first}`, s", *(f"`{name}`" for name in others)]
    return markdown(heads, rows)


def losses(found: pd.DataFrame) -> str:
    """By how much each policy is above itself unchanged, a row a workload and change of past."""
    policies = [name for name in found.policy.drop_duplicates() if name != "fcfs"]
    paired = found[found.x_unchanged.notna() & (found.change != "unchanged")]
    rows = []
    for (workload, change), part in by_place(paired):
        of = part.set_index("policy")
        cells = [f"`{workload}`", f"`{change}`"]
        for name in policies:
            x = of.loc[name]
            ends = x.x_unchanged_low, x.x_unchanged, x.x_unchanged_high
            cells.append(per_cent(*(y - 1 for y in ends)))
        rows.append(cells)
    return markdown(["workload", "change", *(f"`{name}`" for name in policies)], rows)


def filled(text: str, name: str, table: str) -> str:
    """The page with a table between its markers."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    head, rest = text.split(begin, 1)
    return head + begin + table + "\n" + end + rest.split(end, 1)[1]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = pd.read_csv(folder / "standings.csv")
    text = PAGE.read_text(encoding="utf-8")
    text = filled(text, "orders", orders(pd.read_csv(folder / "orders.csv")))
    text = filled(text, "leads", leads(found))
    text = filled(text, "losses", losses(found))
    PAGE.write_text(text, encoding="utf-8")
    shutil.copyfile(folder / "robustness.png", DOCS / "images" / "robustness.png")
