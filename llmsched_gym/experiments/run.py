"""Run an experiment: play the cells that are not played yet, then write tables and figures.

An experiment that was interrupted goes on where it was when the same command is run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llmsched_gym.errors import InputError, interrupted, one_line, printable
from llmsched_gym.evaluation.results import REFERENCE
from llmsched_gym.experiments.cells import EVALUATED, Cell, Experiment, load
from llmsched_gym.experiments.play import play_cell
from llmsched_gym.experiments.tables import Measured, Played, workload_tables, write_tables
from llmsched_gym.files import staged
from llmsched_gym.notes import counted
from llmsched_gym.processes import WorkerDied, map_processes


def run_experiment(
    experiment: Experiment, output_dir: Path, processes: int, settings: dict[str, Any]
) -> float:
    """Play what is not played yet, write tables and figures, print the tables of the main study.

    ``settings`` are for ``summary.json``; ``output_dir`` is this run's alone
    (:func:`llmsched_gym.files.locked`).

    Returns
    -------
    LLMSched's mean JCT in seconds over the places of the main study.

    Raises
    ------
    InputError
        for what cannot be played or written.
    KeyboardInterrupt
        with a word on how to go on.
    """
    console = Console(stderr=True)
    try:
        experiment.bench.folder.mkdir(parents=True, exist_ok=True)
        contents = _play_all(experiment, processes, console)
        with console.status("writing tables and figures"), staged(output_dir) as folder:
            summary = _write(folder, experiment, contents, settings)
    except OSError as error:
        raise InputError(f"output_dir: {one_line(error)}") from error
    except WorkerDied as error:
        raise WorkerDied(f"{error}; the same command goes on") from None
    except BaseException as error:
        if interrupted(error):
            raise KeyboardInterrupt("run the same command to go on") from None
        raise
    _print(experiment, summary, output_dir)
    main = (row for row in summary if (row["study"], row["policy"]) == ("main", EVALUATED))
    return float(np.mean([row["mean_jct_s"] for row in main]))


def _play_all(experiment: Experiment, processes: int, console: Console) -> dict[Cell, Any]:
    """The contents of all cells; those that :func:`load` does not give are played now."""
    bench, cells = experiment.bench, experiment.cells
    for part in bench.folder.glob("*.part"):  # of a run that was killed: there is no other now
        part.unlink()
    contents = {cell: load(bench, cell) for cell in cells}
    todo = [cell for cell, content in contents.items() if content is None]
    with (
        _progress(console) as progress,
        counted(len(todo), "cells", wanted=not console.is_terminal) as count,
    ):
        weights = [experiment.weight(cell) for cell in todo]
        task = progress.add_task("", total=sum(weights), cells=len(todo), left=len(todo))

        def done(index: int) -> None:
            _advance(progress, task, weights[index])
            count()

        map_processes(play_cell, bench, todo, processes, done)
    contents |= {cell: load(bench, cell) for cell in todo}
    for cell, content in contents.items():
        if content is None:
            raise InputError(f"{bench.path(cell)}: changed since it was written, run it again")
    return contents


def _progress(console: Console) -> Progress:
    """What is left, in cells and in time."""
    return Progress(
        TextColumn("{task.fields[left]} of {task.fields[cells]} cells left"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=600,
    )


def _advance(progress: Progress, task: TaskID, weight: float) -> None:
    left = next(one.fields["left"] for one in progress.tasks if one.id == task)
    progress.update(task, advance=weight, left=left - 1)


def _write(
    folder: Path, experiment: Experiment, contents: dict[Cell, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Write tables, then figures; the rows of ``summary.csv``."""
    measured = [
        Measured(
            row.study,
            row.place,
            row.label,
            row.cells[0].variant.belief,
            tuple(episode for cell in row.cells for episode in _played(contents[cell])),
        )
        for row in experiment.rows
    ]
    quality = (row for cell in experiment.quality for rows in contents[cell] for row in rows)
    bench = experiment.bench
    summary = write_tables(folder, measured, quality, bench.cluster.name, bench.seed)
    about = {"settings": settings, "clairvoyant": [REFERENCE], "notes": experiment.notes}
    (folder / "summary.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    from llmsched_gym.experiments.figures import draw_all  # matplotlib takes a while

    draw_all(folder)
    return summary


def _played(content: Iterable[dict[str, Any]]) -> Iterator[Played]:
    for episode in content:
        yield Played(
            episode["number"],
            episode["makespan_s"],
            episode["decision_us"],
            np.array(episode["applications"], object)[episode["application"]],
            *(np.array(episode[name]) for name in ("arrival_s", "jct_s", "alone_s")),
        )


def _print(experiment: Experiment, summary: list[dict[str, Any]], output_dir: Path) -> None:
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = 120
    for table in workload_tables(summary, {REFERENCE}):
        output.print(table)
    cells = experiment.rows[0].cells
    output.print(
        f"- {cells[-1].last + 1} episodes of {cells[0].num_jobs} jobs each, the same for all "
        "policies. Intervals: 95 % bootstrap over episodes, paired where policies are compared."
    )
    output.print(f"- {REFERENCE}: SRTF that knows what is hidden; a reference, and not a bound.")
    for note in experiment.notes:
        output.print(f"- {printable(note)}")
    output.print(f"Files: {printable(str(output_dir))}", soft_wrap=True)
