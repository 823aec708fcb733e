"""Learners of one's own: what ``python train.py agent=custom agent.path=my_module:Mine`` trains.

They get what the learners that ship get: held-out evaluations, checkpoints, logs, the learning
curve, and a run that goes on after an interrupt. ``examples/linear_es.py`` is one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from llmsched_gym.agents.base import Policy, made_of, policy_options
from llmsched_gym.agents.learning.options import check_numbers
from llmsched_gym.agents.learning.run import Training
from llmsched_gym.errors import nearest, one_line
from llmsched_gym.imports import import_for

CUSTOM = "custom"  # the choice of agent, and the kind of checkpoints


class CustomLearner(Policy):
    """A policy that learns.

    Its constructor has an option ``checkpoint=None`` beside its own, which it hands to
    :meth:`load` when all else is set up: with it ``python evaluate.py policy=custom
    policy.path=my_module:Mine +policy.checkpoint=outputs/mine/best.safetensors`` plays what was
    learnt. What :meth:`act` does is what is judged: it is asked for whole batches, and for the
    best that is known, without exploring.

    Attributes
    ----------
    columns : names of the numbers that :meth:`iterate` returns, for the logs, beside "decisions"
        and, if it likes, "return" (of an episode) and "mean_jobs" (in the system).
    """

    columns: ClassVar[tuple[str, ...]] = ()

    def begin(self, training: Training) -> None:
        """Get ready to learn, once in each run, before :meth:`load_state_dict` and the first
        iteration.

        Parameters
        ----------
        training
            ``training.environment`` are the arguments of the environment, to make clusters with:
            ``LLMSchedVectorEnv(16, threads=training.workers, **training.environment)``.
        """

    @abstractmethod
    def iterate(self, rng: np.random.Generator) -> Mapping[str, float]:
        """Collect some episodes and learn from them.

        Parameters
        ----------
        rng
            The only source of randomness, of jobs too (as the seed of a reset): each iteration has
            one of its own.

        Returns
        -------
        What happened: "decisions", the number of decisions learnt from, and any of ``columns``.
        """

    @abstractmethod
    def state_dict(self) -> Mapping[str, Any]:
        """Names to arrays or tensors: what it acts by, and all that goes on to the next iteration.

        A run that was interrupted gets to the same end if nothing else does.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the tensors (of torch, on the CPU) that :meth:`state_dict` gave.

        May raise ValueError, TypeError, LookupError or RuntimeError for those of something else.
        """

    def load(self, checkpoint: str | Path | None) -> None:
        """Take what ``train.py`` has kept in a file such as best.safetensors; None: do nothing.

        Raises
        ------
        CheckpointError
            a ValueError, if there is no such file or it is not of this learner.
        """
        if checkpoint is None:
            return
        from llmsched_gym.agents.learning.checkpoint import CheckpointError, load

        tensors, _ = load(Path(checkpoint), CUSTOM)
        try:
            self.load_state_dict(tensors)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {one_line(error)}"
            name = type(self).__name__
            raise CheckpointError(f"{checkpoint}: not of such a {name}: {what}") from error


@dataclass(frozen=True)
class CustomOptions:
    """How a learner of one's own is trained.

    Attributes
    ----------
    path : of the class, ``module:Class``.
    iterations : how often it iterates.
    evaluate_every : iterations between held-out evaluations.
    evaluation_episodes : episodes of each.
    of_class : options of its constructor.

    Raises
    ------
    ValueError
        for a number out of its range, and a class or an option that there is not.
    PolicyError
        for what its module raises.
    """

    path: str
    iterations: int = 20
    evaluate_every: int = 5
    evaluation_episodes: int = 32
    of_class: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """These options, and all others for the constructor of the class."""
        own = {name: options.pop(name) for name in DEFAULTS if name in options}
        return cls(path=options.pop("path"), **own, of_class=options)

    def __post_init__(self) -> None:
        check_numbers(_Numbers(**{name: getattr(self, name) for name in DEFAULTS}), (), ())
        known = policy_options(find_learner(self.path))
        if known.get("checkpoint", "") is not None:
            raise ValueError(
                f"agent {self.path}: its constructor needs an option checkpoint=None, which it "
                "hands to self.load(), so that policy=custom can play what it learnt"
            )
        if "checkpoint" in self.of_class:
            raise ValueError("agent.checkpoint: training begins anew, or goes on with resume=true")

    def make(self) -> CustomLearner:
        """The learner; ValueError for options it has not, PolicyError for what it raises."""
        return made_of(f"agent {self.path}", find_learner(self.path), self.of_class)


@dataclass(frozen=True)
class _Numbers:
    """Those of the options that are numbers."""

    iterations: int
    evaluate_every: int
    evaluation_episodes: int


DEFAULTS = {name: getattr(CustomOptions, name) for name in _Numbers.__dataclass_fields__}


def find_learner(path: str) -> type[CustomLearner]:
    """The class at ``module:Class``, looked for as Python does, and in the working directory.

    Raises
    ------
    ValueError
        if there is none.
    PolicyError
        for what its module raises.
    """
    module_name, colon, name = str(path).partition(":")
    if not colon:
        raise ValueError(f"agent.path: {path!r} is not of the form my_module:MyLearner")
    module = import_for(f"agent {path}", module_name)
    there = {
        key: one
        for key, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, CustomLearner)
    }
    if name not in there:
        raise ValueError(
            f"agent {path}: {module_name} has no subclass {name!r} of "
            f"llmsched_gym.agents.CustomLearner{nearest(name, there)}"
        )
    return there[name]
