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
from llmsched_gym.commands.settings import (
    Options,
    at_home,
    check_replaceable,
    check_written,
    options,
)
from llmsched_gym.errors import InputError, one_line, printable
from llmsched_gym.evaluation.comparison import Comparison, Evaluation, Run, check_runs, clairvoyants
from llmsched_gym.evaluation.tables import WIDTH
from llmsched_gym.files import locked
from llmsched_gym.notes import counted
from llmsched_gym.settings import Count, Flag, Folder, Number, Policies, Settings

# To what is measured:
OF_NO_MATTER = ("processes", "overwrite", "animation", "report", "output_dir")
EXPERIMENT = ("experiment", "workload", "cluster", "belief", "seed")  # what makes one
SUITE = ("experiment", "policy", "belief", "seed")  # what makes a run of the suite


class EvaluateSettings(Settings):
    """The settings of ``configs/evaluate.yaml``."""

    policy: Any = None
    workload: Any = None
    cluster: Any = None
    belief: Any = None
    scenario: Any = None
    baselines: Policies
    episodes: Count
    num_jobs: Count
    seed: Number
    max_stages: Count | None
    processes: Count | None
    overwrite: Flag
    animation: Flag
    report: Flag
    output_dir: Folder
    experiment: Any = None
    testbed: Any = None


def runs_of(settings: EvaluateSettings, belief: str) -> tuple[Run, ...]:
    """The policy, its baselines and the clairvoyant references; none twice."""
    references = clairvoyants(settings.testbed is not None)
    policy = options("policy", settings.policy, groups()["policy"], more=True)
    return check_runs([*_runs(policy, settings.baselines), *references], belief)


def one_policy(settings: EvaluateSettings) -> Options:
    """Name (or ``module:Class``) and options of the policy, all together."""
    policy = options("policy", settings.policy, groups()["policy"], more=True)
    name, changed = _named(policy)
    return {"name": name, **changed}


def shown_to(settings: EvaluateSettings, made: dict[str, Any], belief: str) -> dict[str, Any]:
    """The arguments of the environment of policies that have this belief."""
    sizes = {"num_jobs": settings.num_jobs, "max_stages": settings.max_stages}
    return made | sizes | {"belief": belief, "strict": True}


def load_of(made: dict[str, Any]) -> float | None:
    """The load, if it was asked for."""
    return made["load"] if made["arrival_rate"] is None else None


def _runs(policy: Options, baselines: Sequence[Any]) -> list[Run]:
    """The policy and its baselines; none twice, but for those with labels of their own."""
    name, changed = _named(policy)
    runs = {name: Run(name, name, changed)}
    for baseline in baselines:
        if isinstance(baseline, dict):
            run = _with_options(baseline)
            if run.label in runs:
                raise ValueError(
                    f"baselines: {run.label!r} is there twice, give each a label of its own: "
                    f"{{name: {run.policy}, label: mine}}"
                )
            runs[run.label] = run
            continue
        differs = str(baseline) == name and changed != policy_options(find_policy(name))
        label = f"{name} (defaults)" if differs else str(baseline)
        runs.setdefault(label, Run(label, str(baseline)))
    return list(runs.values())


def _named(policy: Options) -> tuple[str, Options]:
    """The name of a policy, or ``module:Class``, and its options."""
    changed = dict(policy)
    name = str(changed.pop("name"))
    if name == "custom":
        if not isinstance(changed.get("path"), str):
            raise ValueError("policy custom: it needs a path such as my_module:MyPolicy")
        name = changed.pop("path")
    return name, changed


def _with_options(baseline: Options) -> Run:
    """A baseline that is given options, or a label."""
    given = dict(baseline)
    label = given.pop("label", None)
    name, changed = _named(given)
    return Run(label or name, name, {key: at_home(value) for key, value in changed.items()})


@contextmanager
def progress_of(
    evaluation: Evaluation,
) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A progress bar on a terminal: what advances it by an episode, and what names it anew.

    Elsewhere there is a line every 10 s.
    """
    console = Console(stderr=True)
    total = len(evaluation.runs) * evaluation.episodes
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        counted(total, "episodes", wanted=not console.is_terminal) as count,
    ):
        task = progress.add_task(f"{total} episodes", total=total)

        def advance() -> None:
            progress.advance(task)
            count()

        yield advance, lambda what: progress.update(task, description=escape(printable(what)))


def show(result: Comparison, folder: Path) -> None:
    """Print the tables, the verdict, the notes and where the files are."""
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = WIDTH
    for table in (result.table(), *result.application_tables(output.width)):
        output.print(table)
        output.print()
    for note in (result.verdict, *result.notes) if result.verdict else result.notes:
        output.print(f"- {printable(note)}", soft_wrap=not output.is_terminal)
    output.print(f"Files: {printable(str(folder))}", soft_wrap=True)


def kept_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that results are kept with and told apart by."""
    if "experiment" in given:
        names = SUITE if "suite" in given["experiment"] else EXPERIMENT
        played = {name: given[name] for name in names}
        experiment = {k: v for k, v in played["experiment"].items() if k != "ray"}
        return played | {"experiment": experiment}
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
