"""Learn a scheduler.

    python train.py agent=decima workload=mixed belief=prior
    python train.py --help

The seed determines what is learnt. A run that was interrupted or killed goes on from its last
checkpoint with ``resume=true``, to the same weights as one that was not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from llmsched_gym.agents.learning.custom import CUSTOM
from llmsched_gym.agents.learning.logs import LOGGERS
from llmsched_gym.agents.learning.registry import Learn, make_learner
from llmsched_gym.agents.learning.run import Training, TrainingError
from llmsched_gym.commands.entry import one_line_errors, run_command
from llmsched_gym.commands.groups import training_groups
from llmsched_gym.commands.progress import reading, tell_of_compiling
from llmsched_gym.commands.settings import (
    environment,
    logged_settings,
    named_settings,
    options,
)
from llmsched_gym.env.named import SCENARIOS, named_scenario
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.errors import InputError, one_line
from llmsched_gym.settings import Count, Flag, Folder, Number, Positive, Settings, Text


class RolloutSettings(Settings):
    """The options of the group ``rollout``."""

    name: str
    num_workers: Count


class RaySettings(Settings):
    """The settings below ``ray``."""

    address: Text | None


class WandbSettings(Settings):
    """The settings below ``wandb``."""

    project: Text
    mode: Text | None


class TrainSettings(Settings):
    """The settings of ``configs/train.yaml``."""

    agent: Any = None
    workload: Any = None
    cluster: Any = None
    belief: Any = None
    scenario: Any = None
    scenarios: Any = None
    num_jobs: Count
    max_stages: Count | None
    reward: Text
    seed: Number
    minutes: Positive | None
    checkpoint_minutes: Positive
    resume: Flag
    logger: Text
    wandb: WandbSettings
    rollout: Any
    ray: RaySettings
    output_dir: Folder


# --- from settings to a training run --------------------------------------------------------------


def build(given: dict[str, Any], logged: dict[str, Any]) -> tuple[Learn, Training]:
    """Make everything that the settings name; InputError for what is not right in them."""
    choices = training_groups()
    try:
        settings = TrainSettings.read(given)
        own = isinstance(settings.agent, dict) and settings.agent.get("name") == CUSTOM
        learn = make_learner(**options("agent", settings.agent, choices["agent"], more=own))
        rollout = options("rollout", settings.rollout, choices["rollout"])
        if settings.logger not in LOGGERS:
            raise ValueError(f"logger: choose from {', '.join(LOGGERS)}")
        named = environment(settings.workload, settings.cluster, settings.belief, choices) | {
            "num_jobs": settings.num_jobs,
            "max_stages": settings.max_stages,
            "reward": settings.reward,
        }
        first, *others = several(settings, named)
        training = Training(
            environment=first,
            seed=settings.seed,
            workers=RolloutSettings.read(rollout).num_workers,
            rollout=rollout["name"],
            ray_address=settings.ray.address,
            minutes=settings.minutes,
            checkpoint_minutes=settings.checkpoint_minutes,
            resume=settings.resume,
            folder=settings.output_dir,
            logger=settings.logger,
            settings=logged,
            wandb=given["wandb"],
            also=others,
        )
        for one in training.environments:
            Scenario(**one)  # tells what is wrong with it before anything begins
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from error
    return learn, training


def several(settings: TrainSettings, named: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of the environments to learn from: the one that is named, or those of the
    tasks of the suite, whose workload, load and cluster replace its own.
    """
    names = list(SCENARIOS) if settings.scenarios == "all" else settings.scenarios
    if names is None:
        return [named]
    if not isinstance(names, list) or not names or len({*map(str, names)}) < len(names):
        raise ValueError(f"scenarios: {names!r} is neither all nor a list of different names")
    if settings.scenario is not None:
        raise ValueError(f"scenarios: with scenario={settings.scenario}, choose one of the two")
    jobs = {"arrival_rate": None, "num_jobs": settings.num_jobs}
    return [named | named_scenario(name).options() | jobs for name in names]


# --- the command ----------------------------------------------------------------------------------


def train(given: dict[str, Any], logged: dict[str, Any] | None = None) -> float:
    """Train and print what it led to; InputError for bad settings.

    What is logged and kept of the settings is ``logged``, if that is given. Returns the best mean
    JCT on the held-out episodes in seconds, which a sweeper may minimise.
    """
    tell_of_compiling()
    with reading("reading the workload, fitting the belief"):
        learn, training = build(given, given if logged is None else logged)
    with reading("loading torch"), suppress(ImportError):  # who needs it says that it is not there
        import torch  # noqa: F401
    try:
        jct_s = learn(training)
    except (TrainingError, OSError) as error:
        raise InputError(one_line(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command with resume=true goes on") from None
    output = Console(highlight=False, markup=False)
    table = Table("policy", "mean JCT (s)", title="Held-out episodes")
    for policy, mean_s in jct_s.items():
        table.add_row(policy, f"{mean_s:.1f}")
    output.print(table)
    output.print(f"Files: {training.folder}", soft_wrap=True)
    return next(iter(jct_s.values()))


@hydra.main(config_path="pkg://llmsched_gym.configs", config_name="train", version_base="1.3")
def _run(config: DictConfig) -> float | None:
    with one_line_errors("train.py"):
        return train(named_settings(config), logged_settings(config))
    return None  # after an error, which ends the process


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments: see :func:`llmsched_gym.commands.entry.run_command`."""
    run_command("train.py", _run, training_groups(), argv)


if __name__ == "__main__":
    main()
