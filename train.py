"""Learn a scheduler.

    python train.py agent=decima workload=mixed belief=prior
    python train.py --help

The seed determines what is learnt. A run that was interrupted or killed goes on from its last
checkpoint with ``resume=true``, to the same weights as one that was not.
"""

from __future__ import annotations

import importlib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

import command
from agents.decima.options import DecimaOptions
from agents.logs import LOGGERS
from agents.ppo.options import PPOOptions
from agents.training import Training, TrainingError
from configs import training_groups
from episodes import InputError, one_line
from llmsched_gym.env.scenario import Scenario

SETTINGS = (
    *("agent", "workload", "cluster", "belief", "num_jobs", "max_stages", "seed"),
    *("minutes", "checkpoint_minutes", "resume", "logger", "wandb", "rollout", "ray", "output_dir"),
)

Learn = Callable[[Training], dict[str, float]]

# --- agents: what each is made of its options -----------------------------------------------------


AGENTS: dict[str, tuple[Callable[..., Any], str]] = {  # its options, and the module that trains it
    "decima": (DecimaOptions, "agents.decima.ppo"),
    "ppo": (PPOOptions, "agents.ppo.training"),
}


def learner(name: str, **options: Any) -> Learn:
    """What trains an agent; ValueError for bad options."""
    options_of, module = AGENTS[name]
    made = options_of(**options)

    def learn(training: Training) -> dict[str, float]:
        try:
            train = importlib.import_module(module).train  # torch takes seconds
        except ImportError as error:
            raise TrainingError(
                f"agent={name}: it needs {error.name}: pip install 'llmsched-gym[train]'"
            ) from error
        jct_s: dict[str, float] = train(training, made)
        return jct_s

    return learn


# --- from settings to a training run --------------------------------------------------------------


def build(settings: dict[str, Any]) -> tuple[Learn, Training]:
    """Make everything that the settings name; InputError for what is not right in them."""
    choices = training_groups()
    try:
        command.check_names(settings, SETTINGS)
        learn = learner(**command.options(settings, "agent", choices["agent"]))
        rollout = command.options(settings, "rollout", choices["rollout"])
        training = Training(
            environment=_environment(settings, choices),
            seed=command.whole(settings, "seed", least=0),
            workers=command.whole(rollout, "num_workers"),
            rollout=rollout["name"],
            ray_address=settings["ray"]["address"],
            minutes=_positive(settings, "minutes", optional=True),
            checkpoint_minutes=_positive(settings, "checkpoint_minutes"),
            resume=_flag(settings, "resume"),
            folder=command.output_folder(settings),
            logger=_logger(settings),
            settings=settings,
        )
        Scenario(**training.environment)  # tells what is wrong with it before anything begins
    except (ValueError, OSError) as error:
        raise InputError(one_line(error)) from error
    return learn, training


def _environment(settings: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the environment."""
    groups = {
        name: command.options(settings, name, choices[name])
        for name in ("workload", "cluster", "belief")
    }
    belief, belief_settings = command.belief_of(**groups["belief"])
    workload, load, rate = command.workload_of(**groups["workload"])
    return {
        "workload": workload,
        "cluster": command.cluster_of(**groups["cluster"]),
        "num_jobs": command.whole(settings, "num_jobs"),
        "load": load,
        "arrival_rate": rate,
        "belief": belief,
        "belief_settings": belief_settings,
        "max_stages": command.whole(settings, "max_stages", optional=True),
    }


def _positive(settings: dict[str, Any], name: str, optional: bool = False) -> Any:
    value: Any = settings.get(name)
    if value is None and optional:
        return None
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 < value < math.inf:
        raise ValueError(f"{name}: {value!r} is not a positive number")
    return float(value)


def _flag(settings: dict[str, Any], name: str) -> bool:
    value = settings.get(name)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {value!r} is neither true nor false")
    return value


def _logger(settings: dict[str, Any]) -> str:
    if settings.get("logger") not in LOGGERS:
        raise ValueError(f"logger: choose from {', '.join(LOGGERS)}")
    return str(settings["logger"])


# --- the command ----------------------------------------------------------------------------------


def train(settings: dict[str, Any]) -> None:
    """Train and print what it led to; InputError for bad settings."""
    with Console(stderr=True).status("reading the workload, fitting the belief"):
        learn, training = build(settings)
    try:
        with _ended_by_sigterm():
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


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """What ends jobs on most clusters works like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@hydra.main(config_path="pkg://configs", config_name="train", version_base="1.3")
def _run(config: DictConfig) -> None:
    with command.one_line_errors("train.py"):
        train(command.named_settings(config))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with these arguments: see :func:`command.run`."""
    command.run("train.py", _run, training_groups(), argv)


if __name__ == "__main__":
    main(sys.argv[1:])
