"""What a policy is, and the registry of policies by name.

A new policy is one function of the observation::

    from llmsched_gym.agents.base import Observation, PriorityPolicy, Scores, job_feature, register

    @register("youngest")
    class Youngest(PriorityPolicy):
        \"\"\"The job that arrived last goes first.\"\"\"

        def priority(self, observation: Observation) -> Scores:
            return -job_feature(observation, "age_s")

A class outside this package needs no registration: ``python evaluate.py policy=custom
policy.path=my_module:Youngest``, or ``make_policy("my_module:Youngest")``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.env.features import JOB, STAGE
from llmsched_gym.errors import InputError, MissingExtra, PolicyError, nearest, raised
from llmsched_gym.imports import import_for

Observation = Mapping[str, NDArray[Any]]
Scores = NDArray[Any]
Actions = int | NDArray[np.intp]

_LOWEST = np.finfo(np.float64).min


class Policy(ABC):
    """Chooses actions from observations, and from nothing else.

    Attributes
    ----------
    name : what the registry and the results call it.
    needs_belief : whether it reads expected demands, which are all zero with ``belief="none"``.
        None, what a class is that says nothing, is taken as a yes where that does no harm: it is
        shown the belief that is asked for, and marked as clairvoyant where that is the oracle. No
        is not inherited: a subclass may read more.
    reads : which costly columns of the observation it reads (``env.features.COSTLY``): evaluations
        show it zeros in the others, which need not be worked out then. None, what a class is that
        says nothing, is all of them; nothing, ``()``, if it needs no belief. Not inherited either.
    rng : its only source of randomness, seeded by :meth:`reset`.
    """

    name: ClassVar[str] = ""
    needs_belief: ClassVar[bool | None] = None
    reads: ClassVar[Collection[str] | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.needs_belief is False and "needs_belief" not in vars(cls):
            cls.needs_belief = None
        if "reads" not in vars(cls):
            cls.reads = () if cls.needs_belief is False else None

    @cached_property
    def rng(self) -> np.random.Generator:
        """A generator with seed 0 until :meth:`reset` gives another."""
        return np.random.default_rng(0)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; policies with a memory clear it here, after ``super().reset(seed)``."""
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def act(self, observation: Observation) -> Actions:
        """Choose a legal action.

        Parameters
        ----------
        observation
            As the environment gives it, or with leading batch dimensions.

        Returns
        -------
        The action, or an array of actions with the batch dimensions of the observation.
        """


class PriorityPolicy(Policy):
    """Runs the legal stage of the highest priority, and waits only if no stage is legal.

    Ties go to the lowest row: the job that arrived first, and of its stages the first in
    topological order.
    """

    @abstractmethod
    def priority(self, observation: Observation) -> Scores:
        """One number per stage row, the highest runs first.

        Parameters
        ----------
        observation
            With any leading batch dimensions. Its tables hold the rows in use only, as many as
            the fullest of the batch has; ``action_mask`` is whole, see :func:`runnable`.

        Returns
        -------
        An array [..., stage rows]. Rows that are not legal may hold anything; NaN counts as lowest.
        """

    def act(self, observation: Observation) -> Actions:
        """Choose the legal row of the highest priority, else wait."""
        mask = observation["action_mask"]
        if mask.ndim > 1:
            return self._act_batch(observation)
        used = rows_in_use(observation)
        rows = runnable(used).nonzero()[0]
        if not rows.size:
            return int(mask.size - 1)
        priority = self.priority(used)[rows]
        return int(rows[np.fmax(priority, _LOWEST).argmax()])

    def _act_batch(self, observation: Observation) -> NDArray[np.intp]:
        used = rows_in_use(observation)
        legal = runnable(used)
        actions = np.full(legal.shape[:-1], observation["action_mask"].shape[-1] - 1, np.intp)
        if legal.any():
            priority = np.where(legal, np.fmax(self.priority(used), _LOWEST), -np.inf)
            np.copyto(actions, priority.argmax(axis=-1), where=legal.any(axis=-1))
        return actions


def rows_in_use(observation: Observation) -> dict[str, NDArray[Any]]:
    """Views of the tables without the rows that nobody uses; at least one job row stays.

    An observation that cannot overflow has thousands of rows, of which a hundred are in use, and
    they come first.
    """
    stages = _count(observation["stage_mask"])
    jobs = max(1, _count(observation["job_mask"]))
    edges = _count(observation["edge_mask"])
    return {
        "stages": observation["stages"][..., :stages, :],
        "stage_job": observation["stage_job"][..., :stages],
        "stage_mask": observation["stage_mask"][..., :stages],
        "edges": observation["edges"][..., :edges, :],
        "edge_mask": observation["edge_mask"][..., :edges],
        "jobs": observation["jobs"][..., :jobs, :],
        "job_mask": observation["job_mask"][..., :jobs],
        "cluster": observation["cluster"],
        "action_mask": observation["action_mask"],
    }


def _count(mask: NDArray[Any]) -> int:
    if mask.ndim == 1:
        return int(np.count_nonzero(mask))
    return int(np.count_nonzero(mask, axis=-1).max(initial=0))


def runnable(observation: Observation) -> NDArray[np.bool_]:
    """The stages of which a task can be started now: bool [..., stage rows]."""
    rows = observation["stage_mask"].shape[-1]
    return np.not_equal(observation["action_mask"][..., :rows], 0)


def stage_feature(observation: Observation, name: str) -> Scores:
    """A column of ``stages``, named as in ``STAGE_FEATURES``: float32 [..., stage rows]."""
    return observation["stages"][..., STAGE[name]]


def job_feature(observation: Observation, name: str) -> Scores:
    """For each stage a column of its job, as in ``JOB_FEATURES``: float32 [..., stage rows]."""
    return of_job(observation, observation["jobs"][..., JOB[name]])


def of_job(observation: Observation, per_job: NDArray[Any]) -> NDArray[Any]:
    """Spread one value per job row [..., job rows] over the stages: [..., stage rows]."""
    stage_job = observation["stage_job"]
    if stage_job.ndim == 1:  # several times faster than the general way
        return per_job[stage_job]
    return np.take_along_axis(per_job, stage_job, axis=-1)


POLICIES: dict[str, type[Policy]] = {}

P = TypeVar("P", bound=type[Policy])
Made = TypeVar("Made", bound=Policy)


def register(name: str) -> Callable[[P], P]:
    """Class decorator: list a policy in ``POLICIES`` under ``name``.

    Raises
    ------
    ValueError
        if the name is taken.
    """

    def add(policy: P) -> P:
        if name in POLICIES:
            raise ValueError(f"policy: the name {name!r} is taken by {POLICIES[name].__qualname__}")
        policy.name = name
        POLICIES[name] = policy
        return policy

    return add


def policy_options(policy: type[Policy]) -> dict[str, Any]:
    """The options of a policy and their defaults: the parameters of its constructor."""
    return {p.name: p.default for p in inspect.signature(policy).parameters.values()}


def make_policy(name: str, **options: Any) -> Policy:
    """Make a policy by its name in ``POLICIES``, or by ``module:Class`` if it is not there.

    Raises
    ------
    ValueError
        for an unknown name, module, class or option, and a missing or bad value of an option.
    PolicyError
        for what its module or class raises.
    """
    return made_of(f"policy {name}", find_policy(name), options)


def made_of(what: str, policy: type[Made], options: Mapping[str, Any]) -> Made:
    """A policy of a class, which errors call ``what``; raises as :func:`make_policy`."""
    known = policy_options(policy)
    unknown = sorted(set(options) - set(known))
    if unknown:
        valid = f"valid options: {', '.join(known)}" if known else "it has no options"
        hint = nearest(unknown[0], known)
        raise ValueError(f"{what}: unknown option {unknown[0]!r}{hint}; {valid}")
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty]
    for key in missing:
        if key not in options:
            raise ValueError(f"{what}: option {key!r} has no default and is not given")
    try:
        return policy(**options)
    except MissingExtra as error:
        raise MissingExtra(f"{what}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
    except (InputError, PolicyError):
        raise
    except BaseException as error:
        raise raised(what, error) from error


def find_policy(name: str) -> type[Policy]:
    """The class registered as ``name``, or the one at ``module:Class``.

    A module is looked for as Python does, and in the working directory.

    Raises
    ------
    ValueError
        if there is none.
    PolicyError
        for what its module raises.
    """
    if name in POLICIES:
        return POLICIES[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        valid = ", ".join(sorted(POLICIES))
        hint = nearest(name, POLICIES)
        raise ValueError(
            f"policy: unknown {name!r}{hint}, choose from {valid}, or give module:Class"
        )
    found = getattr(import_for(f"policy {name}", module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise ValueError(
            f"policy {name}: {module_name} has no subclass {class_name!r} of "
            "llmsched_gym.agents.Policy"
        )
    return found
