"""The learners by name: what ``python train.py agent=NAME`` trains."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmsched_gym.agents.learning.custom import CUSTOM, CustomOptions
from llmsched_gym.agents.learning.run import Training, TrainingError
from llmsched_gym.files import locked

Learn = Callable[[Training], dict[str, float]]


@dataclass(frozen=True)
class Registered:
    """A kind of learner.

    Attributes
    ----------
    options : a dataclass, whose constructor raises ValueError for bad options.
    module : has ``train(training, options)``, which trains and returns the mean JCT in seconds by
        policy. It is imported when it is needed, for torch takes seconds.
    """

    options: type[Any]
    module: str


LEARNERS: dict[str, Registered] = {}


def register_learner(name: str, options: type[Any], module: str) -> None:
    """List a learner in ``LEARNERS``; what its checkpoints do is the policy of the same name.

    Raises
    ------
    ValueError
        if the name is taken.
    """
    if name in LEARNERS:
        raise ValueError(f"agent: the name {name!r} is taken by {LEARNERS[name].module}")
    LEARNERS[name] = Registered(options, module)


def make_learner(name: str, **options: Any) -> Learn:
    """What trains an agent: a function of a run, which keeps the folder of the run to itself.

    ``make_learner("custom", path="my_module:Mine")`` trains a learner of one's own,
    :class:`llmsched_gym.agents.learning.custom.CustomLearner`.

    The function raises :class:`llmsched_gym.files.FolderInUse`, an OSError, if another run writes
    there.

    Raises
    ------
    ValueError
        for an unknown name and bad options.
    """
    if name == CUSTOM:
        module = f"{__package__}.custom_training"
        made = CustomOptions.of(**options)
    elif name in LEARNERS:
        module = LEARNERS[name].module
        made = LEARNERS[name].options(**options)
    else:
        valid = ", ".join(sorted([*LEARNERS, CUSTOM]))
        raise ValueError(f"agent: unknown {name!r}, choose from {valid}")

    def learn(training: Training) -> dict[str, float]:
        try:
            train = importlib.import_module(module).train
        except ImportError as error:
            raise TrainingError(
                f"agent={name}: it needs {error.name}: pip install 'llmsched-gym[train]'"
            ) from error
        with locked(training.folder):
            jct_s: dict[str, float] = train(training, made)
        return jct_s

    return learn
