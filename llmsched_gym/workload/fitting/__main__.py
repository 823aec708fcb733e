"""Fit the generators to the measured jobs and arrivals, and compare them.

``python -m llmsched_gym.workload.fitting --shared ../shared``, in a checkout, writes the
``parameters.json`` of the applications, the tables between the markers of ``docs/workloads.md`` and
the pictures ``docs/images/workload_*.png``. Running it twice gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from llmsched_gym.errors import one_line
from llmsched_gym.files import replacing
from llmsched_gym.workload.applications import sampling
from llmsched_gym.workload.fitting import arrivals, comparison
from llmsched_gym.workload.fitting.applications import fit
from llmsched_gym.workload.fitting.measured import Measured

ROOT = Path(__file__).parents[3]
BEGIN, END = "<!-- {}: begin -->\n", "<!-- {}: end -->\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; 0, or 2 with one line on standard error and nothing written."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shared",
        type=Path,
        required=True,
        help="folder with traces/, agent_traces/, structures/ and arrivals/",
    )
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="folder of workloads.md (default: docs)"
    )
    options = parser.parse_args(arguments)
    page = options.docs / "workloads.md"
    try:
        if not (ROOT / "pyproject.toml").is_file():
            raise ValueError(f"{ROOT}: no checkout, and an installed package stays as it is")
        measured = Measured(options.shared)
        text = page.read_text(encoding="utf-8")
        times = arrivals.read(options.shared)
        for name in ("arrivals", "arrivals, others", "comparison", "demand"):
            _between(text, name, "")
    except (OSError, ValueError) as error:
        print(f"calibration: {one_line(error)}", file=sys.stderr)
        return 2

    contents = parameters(measured)
    write(sampling.PARAMETERS_FILE, dump(contents).encode())
    sampling.parameters.cache_clear()

    jobs = comparison.generate()
    statistics = {name: contents[name]["measured"] for name in jobs}
    tables = {
        "arrivals": arrivals.fit_table(times),
        "arrivals, others": arrivals.held_out_table(times),
        "comparison": comparison.tables(statistics, jobs),
        "demand": comparison.demand_table(jobs),
    }
    pictures = {
        "workload_arrivals.png": comparison.png(arrivals.picture(times)),
        "workload_calibration.png": comparison.calibration_picture(measured, jobs),
        "workload_demand.png": comparison.demand_picture(jobs),
    }
    for name, table in tables.items():
        text = _between(text, name, table)
        print(table)
    (options.docs / "images").mkdir(exist_ok=True)
    for name, picture in pictures.items():
        write(options.docs / "images" / name, picture)
    write(page, text.encode())
    return 0


def parameters(measured: Measured) -> dict[str, Any]:
    """All of ``parameters.json``: what the generators use, and the measured statistics."""
    contents = fit(measured)
    for application, statistics in comparison.measured_statistics(measured).items():
        contents[application]["measured"] = statistics
    return contents


def dump(contents: dict[str, Any]) -> str:
    """The text of ``parameters.json``: one parameter a line."""
    sections = []
    for name, section in contents.items():
        parts = []
        for part, value in section.items():
            if part in ("marginals", "counts", "choices", "constants", "measured"):
                rows = [f"   {json.dumps(key)}: {json.dumps(row)}" for key, row in value.items()]
                parts.append(f"  {json.dumps(part)}: {{\n" + ",\n".join(rows) + "\n  }")
            else:
                parts.append(f"  {json.dumps(part)}: {json.dumps(value)}")
        sections.append(f" {json.dumps(name)}: {{\n" + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def _between(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the two markers called ``name``."""
    begin, end = BEGIN.format(name), END.format(name)
    if begin not in text or end not in text:
        raise ValueError(f"workloads.md: markers {begin.strip()} and {end.strip()} not found")
    head, rest = text.split(begin, 1)
    return head + begin + content + end + rest.split(end, 1)[1]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"calibration: {message}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    raise SystemExit(main())
