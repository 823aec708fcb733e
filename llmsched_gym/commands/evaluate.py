"""Compare a scheduling policy with baselines on the same episodes.

    python evaluate.py policy=llmsched workload=mixed workload.load=1.3
    python evaluate.py --help

How they are compared is in :mod:`llmsched_gym.evaluation.comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from llmsched_gym.agents.base import Policy
from llmsched_gym.commands.comparison import (
    EvaluateSettings,
    kept,
    kept_settings,
    load_of,
    one_policy,
    progress_of,
    runs_of,
    show,
    shown_to,
)
from llmsched_gym.commands.entry import one_line_errors, run_command
from llmsched_gym.commands.groups import groups
from llmsched_gym.commands.progress import compile_first, reading, tell_of_compiling
from llmsched_gym.commands.settings import (
    belief_of,
    cluster_of,
    environment,
    logged_settings,
    named_settings,
    options,
)
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.errors import InputError, one_line
from llmsched_gym.evaluation.comparison import Evaluation
from llmsched_gym.evaluation.reporting import report
from llmsched_gym.experiments.cells import Experiment
from llmsched_gym.experiments.plan import plan
from llmsched_gym.experiments.rankings import run_robustness
from llmsched_gym.experiments.robustness import plan_robustness
from llmsched_gym.experiments.run import run_experiment
from llmsched_gym.experiments.scores import run_suite
from llmsched_gym.experiments.suite import plan_suite
from llmsched_gym.files import staged
from llmsched_gym.processes import cores

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
    "animation": "figures of its own",
    "scenario": "experiment.workloads",
}
NOT_OF_ROBUSTNESS = NOT_OF_EXPERIMENTS | {
    **dict.fromkeys(("workload.load", "workload.arrival_rate"), "experiment.load"),
    **dict.fromkeys(("belief", "belief.name"), "experiment.policies"),
    "animation": "a picture of its own",
    "report": "tables and a picture of its own",
}
NOT_OF_SUITES = {
    **dict.fromkeys(("scenario", "workload", "cluster"), "experiment.scenarios"),
    **{name: NOT_OF_EXPERIMENTS[name] for name in ("episodes", "num_jobs", "max_stages")},
    **dict.fromkeys(("baselines", "belief", "belief.name"), "experiment.policies"),
    "animation": "a picture of its own",
}


# --- from settings to an evaluation ---------------------------------------------------------------


def build(given: dict[str, Any]) -> tuple[Evaluation, EvaluateSettings]:
    """Make everything that the settings name; InputError for what is not right in them."""
    try:
        settings = _settings(given)
        made = environment(settings.workload, settings.cluster, settings.belief, groups())
        runs = runs_of(settings, made["belief"])
        env, oracle = (
            LLMSchedEnv(**shown_to(settings, made, belief)) for belief in (made["belief"], "oracle")
        )
    except (ValueError, OSError, ImportError) as error:
        raise InputError(one_line(error)) from error
    processes = settings.processes or cores()
    return Evaluation(
        runs, env, oracle, settings.episodes, settings.seed, processes, load_of(made)
    ), settings


def build_experiment(
    given: dict[str, Any], overridden: Sequence[str]
) -> tuple[Experiment, EvaluateSettings]:
    """Make the experiment that the settings name; InputError for what is not right in them.

    ``overridden`` are the names given on the command line: some mean nothing to an experiment.
    """
    try:
        if "testbed" in given:
            raise ValueError("backend: experiments are played in the simulator, not on the testbed")
        kind = kind_of(given)
        for name in overridden:
            instead = _instead(name, kind)
            if instead is not None:
                raise ValueError(f"{name}: not an option of an experiment, which has {instead}")
        settings = _settings(given)
        belief = belief_of(**options("belief", settings.belief, groups()["belief"]))[1]
        folder = settings.output_dir / "cells"
        if kind == "suite":
            policy = one_policy(settings)
            return plan_suite(settings.experiment, policy, belief, settings.seed, folder), settings
        workload = options("workload", settings.workload, groups()["workload"])
        del workload["load"], workload["arrival_rate"]
        make = plan_robustness if kind == "changes" else plan
        made = make(
            settings.experiment,
            workload,
            cluster_of(**options("cluster", settings.cluster, groups()["cluster"])),
            belief,
            settings.seed,
            folder,
        )
    except (ValueError, OSError, ImportError) as error:
        raise InputError(one_line(error)) from error
    return made, settings


def kind_of(given: dict[str, Any]) -> str:
    """The option that only experiments of its kind have: "suite", "changes" or else "loads"."""
    options = given.get("experiment")
    found = (kind for kind in ("suite", "changes") if isinstance(options, dict) and kind in options)
    return next(found, "loads")


def _instead(name: str, kind: str) -> str | None:
    """What an experiment has in place of an option that it does not have."""
    if kind != "suite":
        return (NOT_OF_ROBUSTNESS if kind == "changes" else NOT_OF_EXPERIMENTS).get(name)
    group = name.partition(".")[0]
    whole = group in ("workload", "cluster")  # with all that is below: scenarios have their own
    return NOT_OF_SUITES.get(group if whole else name)


def _settings(given: dict[str, Any]) -> EvaluateSettings:
    """The settings, where what they need is installed."""
    settings = EvaluateSettings.read(given)
    if settings.report:
        import llmsched_gym.evaluation.report_figures  # noqa: F401 (needs an extra)
    return settings


# --- the command ----------------------------------------------------------------------------------


def evaluate(given: dict[str, Any], logged: dict[str, Any] | None = None) -> float:
    """Evaluate, write the files and print the table; InputError for bad settings.

    What is kept of the settings is ``logged``, if that is given. Returns the mean JCT of the policy
    in seconds, which a sweeper may minimise.
    """
    tell_of_compiling()
    with reading("reading the workload, fitting the belief"):
        evaluation, settings = build(given)
    shown = kept_settings(given if logged is None else logged)
    with kept(settings, shown), staged(settings.output_dir) as folder:
        if evaluation.processes > 1:
            runs = (evaluation.runs[0], evaluation.runs[-1])  # all that beliefs compile
            compile_first(replace(evaluation, runs=runs, episodes=1, processes=1).play)
        with progress_of(evaluation) as (advance, _name):
            result = evaluation.play(advance)
        result.write(folder, settings=shown)
        if settings.animation:
            with reading("drawing the animation"):
                draw_first_minutes(evaluation, folder)
        if settings.report:
            with reading("writing the report"):
                report(result, folder / "report.html", shown_runs(evaluation), evaluation.env)
    show(result, settings.output_dir)
    return result.mean_jct_s


def draw_first_minutes(evaluation: Evaluation, folder: Path) -> None:
    """Write the policy above its first baseline: animation.gif, and gantt.png of the same."""
    from llmsched_gym.evaluation.animation import animate, timelines  # what they need takes a while
    from llmsched_gym.plotting import save
    from llmsched_gym.rendering.gantt import gantt

    env, seed = evaluation.env, evaluation.seed
    policies = shown_runs(evaluation)
    animate(policies, env, folder / "animation.gif", seed=seed)
    tasks = timelines(policies, env, seed=seed)
    save(lambda: gantt(tasks, evaluation.setting().title), folder / "gantt.png")


def shown_runs(evaluation: Evaluation) -> dict[str, Policy]:
    """The policy and its first baseline, as new."""
    return {run.label: run.make() for run in evaluation.runs[:2] if not run.reference}


def experiment(
    given: dict[str, Any], overridden: Sequence[str], logged: dict[str, Any] | None = None
) -> float:
    """Do a whole experiment, or what is left of it; InputError for bad settings.

    What is kept of the settings is ``logged``, if that is given. Returns LLMSched's mean JCT in
    seconds over the places of the main study; of the suite, what :func:`run_suite` does, and of
    the robustness study what :func:`run_robustness` does.
    """
    tell_of_compiling()
    with reading("reading the workloads, fitting the beliefs"):
        made, settings = build_experiment(given, overridden)
    about = kept_settings(given if logged is None else logged)
    with kept(settings, about):
        where = settings.output_dir, settings.processes or cores(), about
        ray = given["experiment"]["ray"]
        kind = kind_of(given)
        if kind == "changes":
            return run_robustness(made, *where, ray)
        run = run_suite if kind == "suite" else run_experiment
        return run(made, *where, report=settings.report, ray=ray)


def _on_servers(given: dict[str, Any], logged: dict[str, Any]) -> float:
    try:
        from llmsched_gym.commands.servers import evaluate_on_servers
    except ImportError as error:  # without the extra `testbed`
        raise InputError(one_line(error)) from error
    return evaluate_on_servers(given, logged)


@hydra.main(config_path="pkg://llmsched_gym.configs", config_name="evaluate", version_base="1.3")
def _run(config: DictConfig) -> float | None:
    with one_line_errors("evaluate.py"):
        settings, logged = named_settings(config), logged_settings(config)
        if "experiment" in settings:
            overridden = [_name(one) for one in HydraConfig.get().overrides.task]
            return experiment(settings, overridden, logged)
        if "testbed" in settings:
            return _on_servers(settings, logged)
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
