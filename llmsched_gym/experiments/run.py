"""Run an experiment: play the cells that are not played yet, then write tables and figures.

An experiment that was interrupted goes on where it was when the same command is run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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
from llmsched_gym.evaluation.comparison import Comparison
from llmsched_gym.evaluation.reporting import report_places
from llmsched_gym.evaluation.results import REFERENCE
from llmsched_gym.evaluation.tables import WIDTH
from llmsched_gym.experiments.cells import EVALUATED, Bench, Cell, Experiment, load, save
from llmsched_gym.experiments.play import code_of, content_elsewhere, play_cell
from llmsched_gym.experiments.tables import Measured, Played, comparisons, write_tables
from llmsched_gym.files import staged
from llmsched_gym.notes import counted, during
from llmsched_gym.processes import WorkerDied, map_processes, map_ray, start_ray

Play = Callable[[Bench, Sequence[Cell], Callable[[int], None]], Any]
Written = TypeVar("Written")


def run_experiment(
    experiment: Experiment,
    output_dir: Path,
    processes: int,
    settings: dict[str, Any],
    *,
    report: bool = False,
    ray: str | None = None,
) -> float:
    """Play what is not played yet, write tables and figures, print the tables of the main study.

    Parameters
    ----------
    output_dir
        This run's alone (:func:`llmsched_gym.files.locked`).
    processes
        That play.
    settings
        For ``summary.json``.
    report
        Whether to write ``report.html``, too.
    ray
        The address of a Ray cluster that plays instead of processes of this machine; or "local".

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

    def write(folder: Path, contents: dict[Cell, Any]) -> tuple[list[dict[str, Any]], Any]:
        measured = measured_in(experiment, contents)
        bench = experiment.bench
        compared = comparisons(measured, bench.cluster.name, bench.seed)
        summary = _write(folder, experiment, contents, measured, settings)
        if report:
            _report(folder, experiment, compared, settings["experiment"]["name"])
        return summary, compared

    summary, compared = finish(experiment, output_dir, processes, write, ray)
    _print(experiment, compared, output_dir)
    main = (row for row in summary if (row["study"], row["policy"]) == ("main", EVALUATED))
    return float(np.mean([row["mean_jct_s"] for row in main]))


def finish(
    experiment: Experiment,
    output_dir: Path,
    processes: int,
    write: Callable[[Path, dict[Cell, Any]], Written],
    ray: str | None = None,
) -> Written:
    """Play what is not played yet, then let ``write`` fill a folder that replaces the results.

    Options and errors are those of :func:`run_experiment`. Returns what ``write`` does.
    """
    console = Console(stderr=True)
    try:
        with _playing(ray, processes) as play:
            experiment.bench.folder.mkdir(parents=True, exist_ok=True)
            contents = _play_all(experiment, play, console)
        with _status(console, "writing tables and figures"), staged(output_dir) as folder:
            return write(folder, contents)
    except OSError as error:
        raise InputError(f"output_dir: {one_line(error)}") from error
    except WorkerDied as error:
        raise WorkerDied(f"{error}; the same command goes on") from None
    except BaseException as error:
        if interrupted(error):
            raise KeyboardInterrupt("run the same command to go on") from None
        raise


@contextmanager
def _status(console: Console, text: str) -> Iterator[None]:
    """Show a text; without a terminal as a line."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        with during(lambda: text):
            yield


@contextmanager
def _playing(address: str | None, processes: int) -> Iterator[Play]:
    """What plays cells and keeps them in their files: processes, or a Ray cluster."""
    if address is None:
        yield lambda bench, cells, done: map_processes(play_cell, bench, cells, processes, done)
        return
    try:
        ray = start_ray(address)
    except (ImportError, OSError) as error:
        raise InputError(f"experiment.ray: {one_line(error)}") from error

    def play(bench: Bench, cells: Sequence[Cell], done: Callable[[int], None]) -> None:
        given = [(cell, code_of(cell.variant.policy)) for cell in cells]
        for index, content in map_ray(content_elsewhere, bench, given, ray):
            save(bench, cells[index], content)
            done(index)

    try:
        yield play
    finally:
        ray.shutdown()


def _play_all(experiment: Experiment, play: Play, console: Console) -> dict[Cell, Any]:
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

        play(bench, todo, done)
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


def measured_in(experiment: Experiment, contents: dict[Cell, Any]) -> list[Measured]:
    """What the cells of an experiment say of each row."""
    return [
        Measured(
            row.study,
            row.place,
            row.label,
            row.cells[0].variant.belief,
            tuple(episode for cell in row.cells for episode in _played(contents[cell])),
        )
        for row in experiment.rows
    ]


def _write(
    folder: Path,
    experiment: Experiment,
    contents: dict[Cell, Any],
    measured: Sequence[Measured],
    settings: dict[str, Any],
) -> list[dict[str, Any]]:
    """Write tables, then figures; the rows of ``summary.csv``."""
    from llmsched_gym.experiments.figures import draw_all  # matplotlib takes a while

    quality = (row for cell in experiment.quality for rows in contents[cell] for row in rows)
    bench = experiment.bench
    summary = write_tables(folder, measured, quality, bench.cluster.name, bench.seed)
    about = {"settings": settings, "clairvoyant": [REFERENCE], "notes": experiment.notes}
    (folder / "summary.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    draw_all(folder)
    return summary


def _report(
    folder: Path, experiment: Experiment, compared: Sequence[Comparison], name: str
) -> None:
    cluster, seed = experiment.bench.cluster, experiment.bench.seed
    where = (
        f"{cluster.name} ({cluster.engines} engines x {cluster.max_batch} slots, "
        f"{cluster.regular_executors} regular executors), seed {seed}"
    )
    title = f"Experiment {' '.join(name.split())}\n{where}"
    report_places(title, compared, folder / "report.html", _notes(experiment))


def _played(content: Iterable[dict[str, Any]]) -> Iterator[Played]:
    for episode in content:
        yield Played(
            episode["number"],
            episode["makespan_s"],
            episode["decision_us"],
            episode["bound_s"],
            np.array(episode["applications"], object)[episode["application"]],
            *(np.array(episode[name]) for name in ("arrival_s", "jct_s", "alone_s")),
        )


def _notes(experiment: Experiment) -> tuple[str, ...]:
    """What a reader of the results has to know."""
    cells = experiment.rows[0].cells
    return (
        f"{cells[-1].last + 1} episodes of {cells[0].num_jobs} jobs each, the same for all "
        "policies. Intervals: 95 % bootstrap over episodes, paired where policies are compared.",
        f"{REFERENCE}: SRTF that knows what is hidden; a reference, and not a bound.",
        *experiment.notes,
    )


def _print(experiment: Experiment, compared: Iterable[Comparison], output_dir: Path) -> None:
    """A table and a verdict for each workload at each load, the notes and where the files are."""
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = WIDTH
    for one in compared:
        output.print(one.table())
        output.print(f"- {printable(one.verdict)}\n", soft_wrap=not output.is_terminal)
    for note in _notes(experiment):
        output.print(f"- {printable(note)}", soft_wrap=not output.is_terminal)
    output.print(f"Files: {printable(str(output_dir))}", soft_wrap=True)
