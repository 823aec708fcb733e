"""Logs of a training run: CSV always, TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llmsched_gym.agents.learning.run import Training, TrainingError
from llmsched_gym.files import replacing
from llmsched_gym.notes import during

Row = Mapping[str, Any]


class CSVLog:
    """``progress.csv`` with a row per iteration, and a file per table.

    Parameters
    ----------
    training : where and how.
    iteration : the last one whose row counts; later ones, of a run that went on after its last
        checkpoint and was killed, are dropped.
    """

    def __init__(self, training: Training, iteration: int) -> None:
        self._folder = training.folder
        self._path = training.folder / "progress.csv"
        self._columns: list[str] | None = None
        _drop_rows(self._path, iteration)

    def row(self, row: Row) -> None:
        """Log the numbers of ``row["iteration"]``; each row has the same columns, None is empty."""
        new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(dict(row))

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Log a table, in place of an earlier one of the same name."""
        _write_rows(self._folder / f"{name}.csv", list(rows[0]), rows)

    def curve(self, learner: str, compared_s: Mapping[str, float]) -> None:
        """Draw ``learning_curve.png``: all evaluations so far, and what others did on them."""
        from llmsched_gym.agents.learning.curve import learning_curve  # matplotlib takes a while

        with self._path.open(newline="", encoding="utf-8") as file:
            found = [row for row in csv.DictReader(file) if row["jct_s"]]
        figure = learning_curve(
            [int(row["decisions"]) for row in found],
            [float(row["jct_s"]) for row in found],
            compared_s,
            learner,
            f"{self._folder.name}: mean of the same whole episodes",
        )
        with replacing(self._folder / "learning_curve.png") as part:
            figure.savefig(part, format="png")

    def checkpoint(self, path: Path) -> None:
        """Keep a file with what is logged, where that is elsewhere."""

    def close(self, failed: bool) -> None:
        """Log no more."""


class TensorBoardLog(CSVLog):
    """Curves in ``tensorboard/``: ``tensorboard --logdir FOLDER``."""

    def __init__(self, training: Training, iteration: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        super().__init__(training, iteration)
        folder = str(training.folder / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=iteration + 1 if iteration else None)
        self._writer.add_text("settings", f"```\n{json.dumps(training.settings, indent=2)}\n```")

    def row(self, row: Row) -> None:  # noqa: D102 (inherited)
        super().row(row)
        for name, value in row.items():
            if value is not None and name != "iteration":
                self._writer.add_scalar(name, value, row["iteration"])

    def close(self, failed: bool) -> None:  # noqa: D102
        self._writer.close()


class WandbLog(CSVLog):
    """A run of Weights & Biases, with the settings, curves, tables and the best checkpoint.

    A run that is resumed goes on in the same run.
    """

    def __init__(self, training: Training, iteration: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        super().__init__(training, iteration)
        self._wandb = wandb
        options = training.wandb
        try:
            self._run = wandb.init(
                project=options.get("project"),
                mode=options.get("mode"),
                id=_run_id(training.folder / "wandb_run"),
                resume="allow",
                name=training.folder.name,
                dir=training.folder,
                config=training.settings,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.Error, ValueError) as error:
            said = " ".join(str(error).split())
            raise TrainingError(
                f"logger=wandb: {said} (wandb.mode=offline needs no account)"
            ) from error
        self._run.define_metric("*", step_metric="iteration")

    def row(self, row: Row) -> None:  # noqa: D102
        super().row(row)
        self._run.log({name: value for name, value in row.items() if value is not None})

    def table(self, name: str, rows: Sequence[Row]) -> None:  # noqa: D102
        super().table(name, rows)
        data: list[Any] = [list(row.values()) for row in rows]
        self._run.log({name: self._wandb.Table(columns=list(rows[0]), data=data)})

    def checkpoint(self, path: Path) -> None:  # noqa: D102
        artifact = self._wandb.Artifact(f"{path.stem}-{self._run.id}", type="model")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, failed: bool) -> None:  # noqa: D102
        self._run.finish(exit_code=int(failed))


LOGGERS: dict[str, type[CSVLog]] = {
    "csv": CSVLog,
    "tensorboard": TensorBoardLog,
    "wandb": WandbLog,
}


@contextmanager
def open_log(training: Training, iteration: int) -> Iterator[CSVLog]:
    """The log that ``training.logger`` names, going on after an iteration.

    Raises
    ------
    TrainingError
        if what it needs is not installed, or cannot be reached.
    """
    log = LOGGERS[training.logger](training, iteration)
    failed = True
    try:
        yield log
        failed = False
    finally:
        log.close(failed)


def _missing(package: str) -> TrainingError:
    return TrainingError(
        f"logger={package}: not installed: pip install 'llmsched-gym[train]', or logger=csv"
    )


def _run_id(path: Path) -> str:
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _drop_rows(path: Path, iteration: int) -> None:
    """Keep the rows up to an iteration; the last one may have been cut by a kill."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    header = lines[0] if lines else []
    whole = [dict(zip(header, line, strict=True)) for line in lines[1:] if len(line) == len(header)]
    kept = [
        row for row in whole if row["iteration"].isdigit() and int(row["iteration"]) <= iteration
    ]
    if kept:
        _write_rows(path, header, kept)
    else:
        path.unlink()


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


# --- on the screen --------------------------------------------------------------------------------


class Screen:
    """What training shows on stderr: a bar on a terminal, lines elsewhere.

    Parameters
    ----------
    progress : the bar, without a terminal not shown.
    task : of it.
    """

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._jct_s: float | None = None
        self._bar = progress.console.is_terminal

    def row(self, row: Row) -> None:
        """Show what an iteration did; without a terminal, if it has a ``jct_s``."""
        self._jct_s = row["jct_s"] or self._jct_s
        jct_s = f", held-out JCT {self._jct_s:.1f} s" if self._jct_s else ""
        text = _in_short(row) + jct_s
        self._progress.update(self._task, completed=row["iteration"], description=text)
        if not self._bar and row["jct_s"]:
            self.say(f"iteration {row['iteration']}: {text}")

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._progress.console.print(line, soft_wrap=True)

    @contextmanager
    def during(self, text: str) -> Iterator[None]:
        """Show what goes on; without a terminal at once and every 10 s."""
        if self._bar:
            self._progress.update(self._task, description=text)
        with during(lambda: text, wanted=not self._bar):
            yield


@contextmanager
def shown(iterations: int, done: int) -> Iterator[Screen]:
    """The screen of a training run of which so many iterations are done."""
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        *(TextColumn("iteration"), MofNCompleteColumn(), BarColumn(bar_width=20)),
        TextColumn("{task.description}"),
        *(TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Screen(progress, progress.add_task("", total=iterations, completed=done))


def _in_short(row: Row) -> str:
    if not row["decisions_per_s"]:
        return "not trained"
    parts = [f"{row['decisions']} decisions, {row['decisions_per_s']:.0f}/s"]
    if row["return"] is not None:
        parts.append(f"return {row['return']:.0f}")
    if row["mean_jobs"] is not None:
        parts.append(f"{row['mean_jobs']:.1f} jobs in the system")
    return ", ".join(parts)
