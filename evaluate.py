"""Compare a scheduling policy with baselines on the same episodes.

    python evaluate.py policy=llmsched workload=mixed workload.load=1.3
    python evaluate.py --help

Episode i of every policy has the same jobs at the same times (common random numbers). The
clairvoyant reference, SRTF that knows what is hidden, runs beside them. Results do not depend on
the number of processes; only the wall-clock time of a decision differs from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

import command
from agents import find_policy, make_policy
from agents.base import policy_options
from configs import groups
from episodes import InputError, cores, map_processes, one_line, play
from experiments import Experiment, plan, run_experiment
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.results import (
    Episode,
    Setting,
    results_table,
    staged,
    summarise,
    write_results,
)

SETTINGS = (
    *("policy", "workload", "cluster", "belief", "baselines", "episodes", "num_jobs", "seed"),
    *("max_stages", "processes", "output_dir", "experiment"),
)
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
REFERENCE = "srtf_oracle"


@dataclass(frozen=True)
class Run:
    """One policy to evaluate.

    Attributes
    ----------
    label : its name in the results.
    policy, options : for ``make_policy``.
    reference : whether it sees the hidden truth, as the clairvoyant reference does.
    """

    label: str
    policy: str
    options: dict[str, Any]
    reference: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate: the first run is the policy, then its baselines, then the reference."""

    runs: tuple[Run, ...]
    env: LLMSchedEnv
    oracle: LLMSchedEnv
    episodes: int
    seed: int
    processes: int
    load: float | None

    def environment(self, run: Run) -> LLMSchedEnv:
        """The environment of a run."""
        return self.oracle if run.reference else self.env

    def clairvoyant(self) -> list[str]:
        """Labels of the runs that read what nobody could know."""
        return [
            run.label
            for run in self.runs
            if self.environment(run).belief == "oracle" and find_policy(run.policy).needs_belief
        ]

    def setting(self) -> Setting:
        """Where the policies are compared."""
        env, cluster = self.env, self.env.cluster
        demand = f"{env.rate:g} jobs/s" if self.load is None else f"load {self.load:g}"
        title = (
            f"{env.workload.name} at {demand} on {cluster.name} "
            f"({cluster.engines} engines x {cluster.max_batch} slots, "
            f"{cluster.regular_executors} regular executors)\n"
            f"episodes: {self.episodes}, jobs each: {env.num_jobs}, belief {env.belief}, "
            f"seed {self.seed}"
        )
        return Setting(env.workload.name, cluster.name, self.load, self.seed, title)

    def notes(self) -> list[str]:
        """What a reader of the results has to know."""
        intervals = "Intervals: 95 % bootstrap over episodes, paired where policies are compared."
        return [
            intervals if self.episodes > 1 else "One episode: no intervals.",
            f"{REFERENCE}: SRTF that knows what is hidden; a reference, and not a bound.",
            *self._bottleneck(),
            *self.env.workload.notes,
            *self.env.notes,
        ]

    def _bottleneck(self) -> list[str]:
        """A word on tools if they are offered more work than LLM slots are."""
        env, executors = self.env, self.env.cluster.regular_executors
        busy = env.rate * float(env.bank.duration_s.sum()) / len(env.bank)
        if busy / executors <= max(1.0, self.load or 0.0):
            return []
        return [
            f"The {executors} regular executors are offered {busy / executors:.1f} times what they "
            "can serve: jobs wait for tools more than for LLM slots "
            f"(cluster.regular_executors={math.ceil(busy)} would serve them)."
        ]


# --- from settings to an evaluation ---------------------------------------------------------------


def build(settings: dict[str, Any]) -> Evaluation:
    """Make everything that the settings name; InputError for what is not right in them."""
    try:
        command.check_names(settings, SETTINGS)
        belief, belief_settings = command.belief_of(**_options(settings, "belief"))
        runs = _runs(_options(settings, "policy"), settings.get("baselines"), belief)
        episodes, num_jobs = (
            command.whole(settings, "episodes"),
            command.whole(settings, "num_jobs"),
        )
        seed = command.whole(settings, "seed", least=0)
        processes = _processes(settings)
        max_stages = command.whole(settings, "max_stages", optional=True)
        workload, load, rate = command.workload_of(**_options(settings, "workload"))
        cluster = command.cluster_of(**_options(settings, "cluster"))
        command.output_folder(settings)
        env, oracle = (
            LLMSchedEnv(
                workload,
                cluster,
                num_jobs=num_jobs,
                load=load,
                arrival_rate=rate,
                belief=name,
                belief_settings=belief_settings,
                max_stages=max_stages,
                strict=True,
            )
            for name in (belief, "oracle")
        )
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from error
    return Evaluation(runs, env, oracle, episodes, seed, processes, load if rate is None else None)


def build_experiment(settings: dict[str, Any], overridden: Sequence[str]) -> tuple[Experiment, int]:
    """Make the experiment that the settings name, and say in how many processes it runs.

    InputError for what is not right in them.

    ``overridden`` are the names given on the command line: some mean nothing to an experiment.
    """
    try:
        command.check_names(settings, SETTINGS)
        for name in overridden:
            if name in NOT_OF_EXPERIMENTS:
                instead = NOT_OF_EXPERIMENTS[name]
                raise ValueError(f"{name}: not an option of an experiment, which has {instead}")
        processes = _processes(settings)
        workload = _options(settings, "workload")
        del workload["load"], workload["arrival_rate"]
        made = plan(
            settings["experiment"],
            workload,
            command.cluster_of(**_options(settings, "cluster")),
            command.belief_of(**_options(settings, "belief"))[1],
            command.whole(settings, "seed", least=0),
            command.output_folder(settings) / "cells",
        )
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from error
    return made, processes


def _processes(settings: dict[str, Any]) -> int:
    return command.whole(settings, "processes", optional=True) or cores()


def _options(settings: dict[str, Any], group: str) -> dict[str, Any]:
    """The options of a group; for a policy, maybe more than it has."""
    return command.options(settings, group, groups()[group], more=group == "policy")


def _runs(policy: dict[str, Any], baselines: Any, belief: str) -> tuple[Run, ...]:
    """The policy, its baselines and the reference; none twice."""
    options = dict(policy)
    name = options.pop("name")
    if name == "custom":
        name = options.pop("path")
    if not isinstance(baselines, list):
        raise ValueError(f"baselines: {baselines!r} is not a list such as [fcfs,fair]")
    runs = {name: Run(name, name, options)}
    for baseline in map(str, baselines):
        changed = baseline == name and options != policy_options(find_policy(name))
        label = f"{name} (defaults)" if changed else baseline
        runs.setdefault(label, Run(label, baseline, {}))
    for run in runs.values():
        if make_policy(run.policy, **run.options).needs_belief and belief == "none":
            raise ValueError(
                f"policy {run.policy}: needs belief=bayes, prior or oracle; with belief=none take "
                "policies that do without, such as policy=fair baselines=[fcfs]"
            )
    return (*runs.values(), Run(REFERENCE, "srtf", {}, reference=True))


# --- episodes -------------------------------------------------------------------------------------


def play_all(evaluation: Evaluation, played: Callable[[], None]) -> list[Episode]:
    """All episodes of all runs, in order; calls ``played`` after each."""
    todo = [(run, number) for run in evaluation.runs for number in range(evaluation.episodes)]
    return map_processes(_play, evaluation, todo, evaluation.processes, lambda _index: played())


def _play(evaluation: Evaluation, todo: tuple[Run, int]) -> Episode:
    run, number = todo
    policy = make_policy(run.policy, **run.options)
    return play(evaluation.environment(run), policy, run.label, evaluation.seed, number)


# --- the command ----------------------------------------------------------------------------------


def evaluate(settings: dict[str, Any]) -> None:
    """Evaluate, write the files and print the table; InputError for bad settings."""
    console = Console(stderr=True)
    with console.status("reading the workload, fitting the belief"):
        evaluation = build(settings)
    output_dir = Path(settings["output_dir"])
    try:
        with staged(output_dir) as folder:
            episodes = _play_with_progress(evaluation, console)
            summaries = summarise(episodes, evaluation.clairvoyant(), reference=REFERENCE)
            shown = {k: v for k, v in settings.items() if k not in ("processes", "output_dir")}
            setting, notes = evaluation.setting(), evaluation.notes()
            write_results(folder, episodes, summaries, setting, settings=shown, notes=notes)
    except OSError as error:
        raise InputError(f"output_dir: {one_line(error)}") from error
    output = Console(highlight=False, markup=False)
    if not output.is_terminal:
        output.width = 120
    output.print(results_table(summaries, setting.title))
    for note in notes:
        output.print(f"- {note}")
    output.print(f"Files: {output_dir}", soft_wrap=True)


def experiment(settings: dict[str, Any], overridden: Sequence[str]) -> None:
    """Do a whole experiment, or what is left of it; InputError for bad settings."""
    with Console(stderr=True).status("reading the workloads, fitting the beliefs"):
        made, processes = build_experiment(settings, overridden)
    names = ("experiment", "workload", "cluster", "belief", "seed")
    about = {name: settings[name] for name in names}
    run_experiment(made, command.output_folder(settings), processes, about)


def _play_with_progress(evaluation: Evaluation, console: Console) -> list[Episode]:
    with Progress(console=console, disable=not console.is_terminal) as progress:
        total = len(evaluation.runs) * evaluation.episodes
        task = progress.add_task(f"{total} episodes", total=total)
        return play_all(evaluation, lambda: progress.advance(task))


@hydra.main(config_path="pkg://configs", config_name="evaluate", version_base="1.3")
def _run(config: DictConfig) -> None:
    with command.one_line_errors("evaluate.py"):
        settings = command.named_settings(config)
        if "experiment" in settings:
            experiment(settings, [_name(one) for one in HydraConfig.get().overrides.task])
        else:
            evaluate(settings)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments: see :func:`command.run`."""
    command.run("evaluate.py", _run, groups(), argv)


def _name(override: str) -> str:
    """What an override such as ``+name=value`` sets."""
    return override.partition("=")[0].lstrip("+~")


if __name__ == "__main__":
    main()
