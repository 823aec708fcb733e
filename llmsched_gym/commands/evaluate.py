"""Compare a scheduling policy with baselines on the same episodes.

    python evaluate.py policy=llmsched workload=mixed workload.load=1.3
    python evaluate.py --help

How they are compared is in :mod:`llmsched_gym.evaluation.comparison`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from llmsched_gym.agents.base import find_policy, policy_options
from llmsched_gym.commands.entry import one_line_errors, run_command
from llmsched_gym.commands.groups import groups
from llmsched_gym.commands.progress import reading
from llmsched_gym.commands.settings import (
    Options,
    belief_of,
    check_replaceable,
    check_written,
    cluster_of,
    environment,
    logged_settings,
    named_settings,
    options,
)
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, one_line, printable
from llmsched_gym.evaluation.comparison import CLAIRVOYANT, Comparison, Evaluation, Run, check_runs
from llmsched_gym.experiments.cells import Experiment
from llmsched_gym.experiments.plan import plan
from llmsched_gym.experiments.run import run_experiment
from llmsched_gym.files import locked, staged
from llmsched_gym.processes import cores
from llmsched_gym.settings import Count, Flag, Folder, Names, Number, Settings

EXPERIMENT = ("experiment", "workload", "cluster", "belief", "seed")  # what makes one
NOT_OF_EXPERIMENTS = {  # and what an experiment has instead
    "policy": "experiment.policies",
    "baselines": "experiment.policies",
    "workload": "experiment.workloads",
    "workload.name": "experiment.workloads",
    "workload.load": "experiment.loads",
    "workload.arrival_rate": "experiment.loads",
    "belief": "experiment.ablations",
    "belief.name": "experiment.ablations",
    "episodes": "experiment.episodes",
    "num_jobs": "experiment.num_jobs",
    "max_stages": "observations that show all",
}


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
    output_dir: Folder
    experiment: Any = None


# --- from settings to an evaluation ---------------------------------------------------------------


def build(given: dict[str, Any]) -> tuple[Evaluation, EvaluateSettings]:
    """Make everything that the settings name; InputError for what is not right in them."""
    try:
        settings = EvaluateSettings.read(given)
        policy = options("policy", settings.policy, groups()["policy"], more=True)
        belief = belief_of(**options("belief", settings.belief, groups()["belief"]))[0]
        runs = check_runs([*_runs(policy, settings.baselines), CLAIRVOYANT], belief)
        made = environment(settings.workload, settings.cluster, settings.belief, groups())
        env, oracle = (
            LLMSchedEnv(
                **made | {"belief": name},
                num_jobs=settings.num_jobs,
                max_stages=settings.max_stages,
                strict=True,
            )
            for name in (belief, "oracle")
        )
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from error
    load = made["load"] if made["arrival_rate"] is None else None
    processes = settings.processes or cores()
    return Evaluation(
        runs, env, oracle, settings.episodes, settings.seed, processes, load
    ), settings


def build_experiment(
    given: dict[str, Any], overridden: Sequence[str]
) -> tuple[Experiment, EvaluateSettings]:
    """Make the experiment that the settings name; InputError for what is not right in them.

    ``overridden`` are the names given on the command line: some mean nothing to an experiment.
    """
    try:
        for name in overridden:
            if name in NOT_OF_EXPERIMENTS:
                instead = NOT_OF_EXPERIMENTS[name]
                raise ValueError(f"{name}: not an option of an experiment, which has {instead}")
        settings = EvaluateSettings.read(given)
        workload = options("workload", settings.workload, groups()["workload"])
        del workload["load"], workload["arrival_rate"]
        made = plan(
            settings.experiment,
            workload,
            cluster_of(**options("cluster", settings.cluster, groups()["cluster"])),
            belief_of(**options("belief", settings.belief, groups()["belief"]))[1],
            settings.seed,
            settings.output_dir / "cells",
        )
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from error
    return made, settings


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


# --- the command ----------------------------------------------------------------------------------


def evaluate(given: dict[str, Any], logged: dict[str, Any] | None = None) -> float:
    """Evaluate, write the files and print the table; InputError for bad settings.

    What is kept of the settings is ``logged``, if that is given. Returns the mean JCT of the policy
    in seconds, which a sweeper may minimise.
    """
    with reading("reading the workload, fitting the belief"):
        evaluation, settings = build(given)
    shown = kept_settings(given if logged is None else logged)
    with _kept(settings, shown), staged(settings.output_dir) as folder:
        result = _play_with_progress(evaluation)
        result.write(folder, settings=shown)
    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = 120
    output.print(result.table())
    for note in result.notes:
        output.print(f"- {printable(note)}")
    output.print(f"Files: {printable(str(settings.output_dir))}", soft_wrap=True)
    return result.mean_jct_s


def kept_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings that results are kept with and told apart by."""
    if "experiment" in given:
        return {name: given[name] for name in EXPERIMENT}
    return {k: v for k, v in given.items() if k not in ("processes", "overwrite", "output_dir")}


@contextmanager
def _kept(settings: EvaluateSettings, shown: dict[str, Any]) -> Iterator[None]:
    """Keep ``output_dir`` to this run; InputError, before the work, if its results cannot be kept.

    ``shown`` are the settings that results there are told apart by.
    """
    try:
        with locked(settings.output_dir):
            try:
                check_written(shown)
                if not settings.overwrite:
                    check_replaceable(settings.output_dir, shown)
            except ValueError as error:
                raise InputError(one_line(error)) from error
            yield
    except OSError as error:
        raise InputError(f"output_dir: {one_line(error)}") from error


def experiment(
    given: dict[str, Any], overridden: Sequence[str], logged: dict[str, Any] | None = None
) -> float:
    """Do a whole experiment, or what is left of it; InputError for bad settings.

    What is kept of the settings is ``logged``, if that is given. Returns LLMSched's mean JCT in
    seconds over the places of the main study.
    """
    with reading("reading the workloads, fitting the beliefs"):
        made, settings = build_experiment(given, overridden)
    about = kept_settings(given if logged is None else logged)
    with _kept(settings, about):
        return run_experiment(made, settings.output_dir, settings.processes or cores(), about)


def _play_with_progress(evaluation: Evaluation) -> Comparison:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        total = len(evaluation.runs) * evaluation.episodes
        task = progress.add_task(f"{total} episodes", total=total)
        return evaluation.play(lambda: progress.advance(task))


@hydra.main(config_path="pkg://llmsched_gym.configs", config_name="evaluate", version_base="1.3")
def _run(config: DictConfig) -> float | None:
    with one_line_errors("evaluate.py"):
        settings, logged = named_settings(config), logged_settings(config)
        if "experiment" in settings:
            overridden = [_name(one) for one in HydraConfig.get().overrides.task]
            return experiment(settings, overridden, logged)
        return evaluate(settings, logged)
    return None  # after an error, which ends the process


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command: see :func:`llmsched_gym.commands.entry.run_command`."""
    run_command("evaluate.py", _run, groups(), argv)


def _name(override: str) -> str:
    """What an override such as ``+name=value`` sets."""
    return override.partition("=")[0].lstrip("+~")


if __name__ == "__main__":
    main()
