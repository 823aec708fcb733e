"""Look at a file of jobs before it is evaluated.

``python -m llmsched_gym.workload.validate jobs.jsonl`` reads a file, or all files of a folder, like
``workload.path`` does, and tells what is in it: jobs, stages, tasks, tokens and seconds by
application, arrivals, and each job that breaks a rule with its place.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from llmsched_gym.errors import need, printable
from llmsched_gym.files import replacing
from llmsched_gym.workload.console import Parser, run
from llmsched_gym.workload.inputs import given_path
from llmsched_gym.workload.job import Job, LLMTask, RegularTask
from llmsched_gym.workload.traces import check_traces

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

PROGRAM = "validate"
SHOWN = 20  # problems
ALL = "all"


def calls(job: Job) -> list[LLMTask]:
    """The LLM calls of a job."""
    return [task for task in job.tasks() if isinstance(task, LLMTask)]


def tools(job: Job) -> list[RegularTask]:
    """The tool runs of a job."""
    return [task for task in job.tasks() if isinstance(task, RegularTask)]


# Of a job: numbers of stages, LLM calls and tool runs, tokens read and written, seconds of tools.
MEASURES: dict[str, Callable[[Job], float]] = {
    "stages": lambda job: len(job.stages),
    "calls": lambda job: len(calls(job)),
    "tools": lambda job: len(tools(job)),
    "prompt": lambda job: sum(call.prompt_tokens for call in calls(job)),
    "output": lambda job: sum(call.output_tokens for call in calls(job)),
    "tool s": lambda job: sum(tool.duration_s for tool in tools(job)),
}
PANELS = {"stages": "stages", "output": "output tokens", "tool s": "tool seconds"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0, 1 if a job breaks a rule, or 2 after one line if nothing can be read."""
    parser = Parser(
        prog="python -m llmsched_gym.workload.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", help="file or folder of jobs, or a file of another tool")
    parser.add_argument("--figure", metavar="PNG", help="a picture to draw, too")
    options = parser.parse_args(arguments)
    return run(PROGRAM, lambda: validate(options.path, options.figure))


def validate(path: str, figure: str | None = None) -> int:
    """Tell what is in a file or folder.

    Raises
    ------
    ValueError, OSError
        if it cannot be read, or the picture cannot be written.
    """
    need("commands", "summaries", "rich")
    from rich.console import Console

    picture = None if figure is None else _picture_path(figure)
    jobs, problems, notes = check_traces(path)
    output = Console(highlight=False, markup=False, emoji=False)
    if jobs:
        output.print(
            f"{printable(path)}: {len(jobs)} jobs; of a job, in the median:", soft_wrap=True
        )
        output.print(summary(jobs))
        for line in remarks(jobs):
            output.print(line, soft_wrap=True)
    for note in notes:
        output.print(printable(note), soft_wrap=True)
    for place, why in problems[:SHOWN]:
        output.print(printable(f"{place}: {why}"), soft_wrap=True)
    if len(problems) > SHOWN:
        output.print(f"... and {len(problems) - SHOWN} more")
    if picture is not None and jobs:
        draw(jobs, picture)
        output.print(f"{picture}: drawn", soft_wrap=True)
    return 1 if problems else 0


def by_application(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """The jobs of each application, the most frequent first."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.application, []).append(job)
    return dict(sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def summary(jobs: Sequence[Job]) -> Table:
    """Two rows for each application, and for all if there are several: median and most of a job."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("application", overflow="fold", max_width=27)
    for name in ("jobs", "graphs", *MEASURES):
        table.add_column(name, justify="right")
    groups = by_application(jobs)
    for name, group in (groups | ({ALL: list(jobs)} if len(groups) > 1 else {})).items():
        values = [[measure(job) for job in group] for measure in MEASURES.values()]
        graphs = "" if name == ALL else f"{len({graph(job) for job in group})}"
        table.add_row(name, f"{len(group)}", graphs, *(shown(median(row)) for row in values))
        table.add_row("  most", "", "", *(shown(max(row)) for row in values))
    return table


def shown(value: float) -> str:
    """A number in a table: three digits, and all of a whole number."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def graph(job: Job) -> tuple[object, ...]:
    """The graph of a job, without the sizes of its tasks: equal for jobs that ran the same way."""
    return tuple(
        (stage.name, stage.kind, stage.parents, stage.revealed_by, len(stage.tasks))
        for stage in job.stages
    )


def remarks(jobs: Sequence[Job]) -> list[str]:
    """What the table does not say."""
    stages = [stage for job in jobs for stage in job.stages]
    known = sum(stage.revealed_by is None for stage in stages) / len(stages)
    lines = [
        "graphs: different ones among the jobs; prompt, output: tokens; tool s: seconds",
        f"{known:.0%} of the stages are known when their job arrives, "
        "the others when a stage before them ends",
    ]
    largest = max(
        ((call.prompt_tokens + call.output_tokens, job) for job in jobs for call in calls(job)),
        key=lambda pair: pair[0],
        default=None,
    )
    if largest is not None:
        tokens, job = largest
        lines.append(
            f"largest call: {tokens:,} tokens read and written, of {job.job_id} ({job.source}); "
            "an engine's KV cache must hold them"
        )
    return [*map(printable, lines), _arrivals(jobs)]


def _arrivals(jobs: Sequence[Job]) -> str:
    times = np.sort([job.arrival_s for job in jobs if job.arrival_s is not None])
    if len(times) < 2:
        return f"arrivals: {len(times) or 'none'} recorded"
    gaps = np.diff(times)
    span = times[-1] - times[0]
    if span <= 0:
        return f"arrivals: {len(times)} of {len(jobs)} recorded, all at once"
    return (
        f"arrivals: {len(times)} of {len(jobs)} recorded, {len(gaps) / span:.3g} jobs/s over "
        f"{span:,.1f} s, coefficient of variation {gaps.std() / gaps.mean():.2f} (Poisson: 1)"
    )


def draw(jobs: Sequence[Job], path: Path) -> None:
    """Write a picture: stages, output tokens and tool seconds by application, and arrivals."""
    from llmsched_gym.plotting import COLOURS, new_picture

    groups = dict(list(by_application(jobs).items())[: len(COLOURS)])
    times = {
        name: np.sort([job.arrival_s for job in group if job.arrival_s is not None])
        for name, group in groups.items()
    }
    first = min((row[0] for row in times.values() if len(row)), default=None)
    title = f"{len(jobs)} jobs; dots: median, bars: half of the jobs, lines: 5 % to 95 %"
    figure = new_picture(title, 10, 1.6 + 0.3 * max(len(groups), 4))
    axes = figure.subplots(1, len(PANELS) + (first is not None))
    for axis, (measure, label) in zip(axes, PANELS.items(), strict=False):
        _draw_spreads(axis, groups, MEASURES[measure])
        axis.set_xlabel(label)
        if axis is not axes[0]:
            axis.set_yticklabels([])
    if first is not None:
        for row, colour in zip(times.values(), COLOURS, strict=False):
            axes[-1].step(row - first, np.arange(1, len(row) + 1), where="post", color=colour)
        axes[-1].set_xlabel("arrival, s")
        axes[-1].set_ylabel("jobs so far")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _draw_spreads(
    axis: Axes, groups: Mapping[str, Sequence[Job]], measure: Callable[[Job], float]
) -> None:
    """How a measure of jobs is spread in each group, the first on top."""
    from llmsched_gym.plotting import COLOURS, legend_name

    rows, colours = range(len(groups)), COLOURS[: len(groups)]
    values = [[measure(job) for job in group] for group in groups.values()]
    spreads = np.array([np.percentile(row, (5, 25, 50, 75, 95)) for row in values]).T
    axis.hlines(rows, spreads[0], spreads[4], colors=colours, linewidth=1.2)
    axis.hlines(rows, spreads[1], spreads[3], colors=colours, linewidth=7)
    axis.scatter(spreads[2], rows, color="white", edgecolors="black", zorder=3, s=22)
    if spreads[0].min() > 0 and spreads[4].max() > 20 * spreads[0].min():
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.xaxis.set_minor_formatter("")
    axis.set_yticks(rows, [legend_name(name) for name in groups])
    axis.set_ylim(len(groups) - 0.5, -0.5)


def _picture_path(figure: str) -> Path:
    path = given_path("--figure", figure)
    if not re.search(r"\.png$", path.name, re.IGNORECASE):
        raise ValueError(f"--figure: {path} does not end with .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--figure: {path.parent}: no such folder")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
