"""What ``evaluate.py`` does the same wherever policies play: in the simulator and on servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from llmsched_gym.agents.base import find_policy, policy_options
from llmsched_gym.commands.groups import groups
from llmsched_gym.commands.settings import Options, check_replaceable, check_written, options
from llmsched_gym.errors import InputError, one_line, printable
from llmsched_gym.evaluation.comparison import CLAIRVOYANT, Comparison, Evaluation, Run, check_runs
from llmsched_gym.files import locked
from llmsched_gym.settings import Count, Flag, Folder, Names, Number, Settings

OF_NO_MATTER = ("processes", "overwrite", "animation", "output_dir")  # to what is measured
EXPERIMENT = ("experiment", "workload", "cluster", "belief", "seed")  # what makes one


class EvaluateSettings(Settings):
    """The settings of ``configs/evaluate.yaml``."""

    policy: Any = None
    workload: Any = None
    cluster: Any = None
    belief: Any = None
    baselines: Names
    episodes: Count
    num_jobs: Count
    seed: Number
    max_stages: Count | None
    processes: Count | None
    overwrite: Flag
    animation: Flag
    output_dir: Folder
    experiment: Any = None
    testbed: Any = None


def runs_of(settings: EvaluateSettings, belief: str) -> tuple[Run, ...]:
    """The policy, its baselines and the clairvoyant reference; none twice."""
    policy = options("policy", settings.policy, groups()["policy"], more=True)
    return check_runs([*_runs(policy, settings.baselines), CLAIRVOYANT], belief)


def shown_to(settings: EvaluateSettings, made: dict[str, Any], belief: str) -> dict[str, Any]:
    """The arguments of the environment of policies that have this belief."""
    sizes = {"num_jobs": settings.num_jobs, "max_stages": settings.max_stages}
    return made | sizes | {"belief": belief, "strict": True}


def load_of(made: dict[str, Any]) -> float | None:
    """The load, if it was asked for."""
    return made["load"] if made["arrival_rate"] is None else None


def _runs(policy: Options, baselines: Sequence[Any]) -> list[Run]:
    """The policy and its baselines; none twice."""
    changed = dict(policy)
    name = changed.pop("name")
    if name == "custom":
        name = changed.pop("path")
    runs = {name: Run(name, name, changed)}
    for baseline in map(str, baselines):
        differs = baseline == name and changed != policy_options(find_policy(name))
        label = f"{name} (defaults)" if differs else baseline
        runs.setdefault(label, Run(label, baseline))
    return list(runs.values())


@contextmanager
def progress_of(
    evaluation: Evaluation,
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A progress bar on a terminal: what advances it by an episode, and what names it anew."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        total = len(evaluation.runs) * evaluation.episodes
        task = progress.add_task(f"{total} episodes", total=total)
        yield (
            lambda: progress.advance(task),
            lambda what: progress.update(task, description=escape(printable(what))),
        )


def show(result: Comparison, folder: Path) -> None:
    """Print the table, the notes and where the files are."""
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = 120
    output.print(result.table())
    for note in result.notes:
        output.print(f"- {printable(note)}")
    output.print(f"Files: {printable(str(folder))}", soft_wrap=True)


def kept_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that results are kept with and told apart by."""
    if "experiment" in given:
        return {name: given[name] for name in EXPERIMENT}
    return {name: value for name, value in given.items() if name not in OF_NO_MATTER}


@contextmanager
def kept(settings: EvaluateSettings, shown: dict[str, Any], *more: str) -> Iterator[None]:
    """Keep ``output_dir`` to this run; InputError, before the work, if its results cannot be kept.

    ``shown`` are the settings that results there are told apart by; ``summary.json`` has those of
    results that are there, as do ``more`` files.
    """
    try:
        with locked(settings.output_dir):
            try:
                check_written(shown)
                for file in () if settings.overwrite else ("summary.json", *more):
                    check_replaceable(settings.output_dir, shown, file)
            except ValueError as error:
                raise InputError(one_line(error)) from error
            yield
    except OSError as error:
        raise InputError(f"output_dir: {one_line(error)}") from error
