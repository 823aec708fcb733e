"""Compare a scheduling policy with baselines on the same episodes.

    python evaluate.py policy=llmsched workload=mixed workload.load=1.3
    python evaluate.py --help

Episode i of every policy has the same jobs at the same times (common random numbers). The
clairvoyant reference, SRTF that knows what is hidden, runs beside them. Results do not depend on
the number of processes; only the wall-clock time of a decision differs from run to run.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from rich.console import Console
from rich.progress import Progress

from agents import find_policy, make_policy
from agents.base import policy_options
from configs import groups, register_groups
from episodes import InputError, cores, interrupted, map_processes, one_line, play
from experiments import Experiment, plan, run_experiment
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.latency import Cluster, load_cluster
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.results import (
    Episode,
    Setting,
    results_table,
    staged,
    summarise,
    write_results,
)
from llmsched_gym.workload.mixes import Workload, make_workload

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
FLAGS = ("--help", "-h", "--multirun", "-m", "--config-dir=PATH")


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
        _check_names(settings)
        belief, belief_settings = _belief(**_options(settings, "belief"))
        runs = _runs(_options(settings, "policy"), settings.get("baselines"), belief)
        episodes, num_jobs = _whole(settings, "episodes"), _whole(settings, "num_jobs")
        seed = _whole(settings, "seed", least=0)
        processes = _processes(settings)
        max_stages = _whole(settings, "max_stages", optional=True)
        workload, load, rate = _workload(**_options(settings, "workload"))
        cluster = _cluster(**_options(settings, "cluster"))
        _output_dir(settings)
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
        raise InputError(_one_line(error)) from error
    return Evaluation(runs, env, oracle, episodes, seed, processes, load if rate is None else None)


def build_experiment(settings: dict[str, Any], overridden: Sequence[str]) -> tuple[Experiment, int]:
    """Make the experiment that the settings name, and say in how many processes it runs.

    InputError for what is not right in them.

    ``overridden`` are the names given on the command line: some mean nothing to an experiment.
    """
    try:
        _check_names(settings)
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
            _cluster(**_options(settings, "cluster")),
            _belief(**_options(settings, "belief"))[1],
            _whole(settings, "seed", least=0),
            _output_dir(settings) / "cells",
        )
    except (ValueError, OSError) as error:
        raise InputError(_one_line(error)) from error
    return made, processes


def _check_names(settings: dict[str, Any]) -> None:
    for name in sorted(settings.keys() - set(SETTINGS)):  # by +name=value on the command line
        raise ValueError(f"unknown option {name!r}; valid here: {', '.join(SETTINGS)}")


def _output_dir(settings: dict[str, Any]) -> Path:
    name = settings.get("output_dir")
    if not isinstance(name, str) or not name:
        raise ValueError("output_dir: it needs the name of a folder")
    return Path(name)


def _processes(settings: dict[str, Any]) -> int:
    return _whole(settings, "processes", optional=True) or cores()


def _whole(settings: dict[str, Any], name: str, least: int = 1, optional: bool = False) -> Any:
    value = settings.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
    return value


def _options(settings: dict[str, Any], group: str) -> dict[str, Any]:
    """The options of a group, none missing and, but for policies, none unknown."""
    given, choices = settings.get(group), groups()[group]
    if not isinstance(given, dict) or given.get("name") not in choices:
        raise ValueError(f"{group}: choose from {', '.join(sorted(choices))}")
    known: Any = OmegaConf.to_container(OmegaConf.create(choices[given["name"]]))
    unknown = sorted(given.keys() - known.keys())
    if unknown and group != "policy":
        raise ValueError(f"unknown option '{group}.{unknown[0]}'; valid here: {', '.join(known)}")
    return known | given


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


def _workload(
    name: str, load: float, arrival_rate: float | None, **options: Any
) -> tuple[Workload, float, float | None]:
    return make_workload(name, **options), load, arrival_rate


def _cluster(name: str, path: str | None = None, **sizes: int | None) -> Cluster:
    given = {size: value for size, value in sizes.items() if value is not None}
    return load_cluster(name if path is None else Path(path), **given)


def _belief(name: str, **options: Any) -> tuple[str, BeliefSettings]:
    return name, BeliefSettings(**options)


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
        raise InputError(f"output_dir: {_one_line(error)}") from error
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
    run_experiment(made, _output_dir(settings), processes, about)


def _play_with_progress(evaluation: Evaluation, console: Console) -> list[Episode]:
    with Progress(console=console, disable=not console.is_terminal) as progress:
        total = len(evaluation.runs) * evaluation.episodes
        task = progress.add_task(f"{total} episodes", total=total)
        return play_all(evaluation, lambda: progress.advance(task))


@hydra.main(config_path="pkg://configs", config_name="evaluate", version_base="1.3")
def _run(config: DictConfig) -> None:
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        assert isinstance(settings, dict)
        named = {str(key): value for key, value in settings.items()}
        if "experiment" in named:
            experiment(named, [_name(one) for one in HydraConfig.get().overrides.task])
        else:
            evaluate(named)
    except (InputError, OmegaConfBaseException) as error:
        _fail(error)
    except Exception as error:  # a bug, maybe in a custom policy; Hydra would cut its traceback
        if interrupted(error):
            raise KeyboardInterrupt from None
        traceback.print_exc()
        sys.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, by default those of the process.

    Exits with code 2 and one line on stderr for bad input, where HYDRA_FULL_ERROR=1 in the
    environment adds the traceback; and with code 130 and one line after Ctrl-C.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    arguments.sort(key=lambda argument: not argument.startswith("-"))  # argparse: flags first
    for argument in arguments:
        if argument.startswith("-") and not _is_flag(argument):
            _fail(InputError(f"unknown flag {argument!r}, choose from {', '.join(FLAGS)}"))
    global _full_errors
    _full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    sys.argv = [sys.argv[0], *arguments]
    register_groups()
    try:
        _run()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        _fail(error)
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "no results are written"
        print(f"evaluate.py: interrupted, {what}", file=sys.stderr)
        sys.exit(130)


_full_errors = False


def _is_flag(argument: str) -> bool:
    return argument in FLAGS or argument.startswith("--config-dir=")


def _name(override: str) -> str:
    """What an override such as ``+name=value`` sets."""
    return override.partition("=")[0].lstrip("+~")


def _fail(error: Exception) -> NoReturn:
    if _full_errors:
        traceback.print_exception(error)
    print(f"evaluate.py: {_one_line(error)}", file=sys.stderr)
    sys.exit(2)


def _one_line(error: Exception) -> str:
    """The message of an error in one line, for those of Hydra with the valid choices."""
    cause = error.__cause__ or error
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}: unknown {name!r}, choose from {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not of the form name=value: {error.message.splitlines()[0]}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        valid = ", ".join(str(key) for key in cause.parent_node or () if key != "hydra")
        return f"unknown option {cause.full_key!r}; valid here: {valid}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key or 'configuration'}: {str(cause.msg).splitlines()[0]}"
    return one_line(error)


if __name__ == "__main__":
    main()
