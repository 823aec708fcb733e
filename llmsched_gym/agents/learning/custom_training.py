"""Training a learner of one's own, as those that ship are trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmsched_gym.agents.base import Observation
from llmsched_gym.agents.learning.course import (
    Counted,
    Course,
    Row,
    Snapshot,
    go_on_from,
    last_state,
    learn,
)
from llmsched_gym.agents.learning.custom import CUSTOM, CustomLearner, CustomOptions
from llmsched_gym.agents.learning.episodes import Act
from llmsched_gym.agents.learning.held_out import HeldOut
from llmsched_gym.agents.learning.run import (
    ACTIONS,
    HELD_OUT,
    Training,
    TrainingError,
    check_one,
    random_stream,
)
from llmsched_gym.checks import is_whole
from llmsched_gym.errors import InputError, PolicyError, nearest, one_line, raised

COLUMNS = ("iteration", "seconds", "decisions", "return", "mean_jobs", "jct_s", "decisions_per_s")
GIVEN = ("decisions", "return", "mean_jobs")  # what an iteration says, beside columns of its own


def train(training: Training, options: CustomOptions) -> dict[str, float]:
    """Train until the last iteration or the end of the time, see
    :func:`llmsched_gym.agents.ppo.training.train`.

    Raises
    ------
    TrainingError
        if it cannot begin or go on, or does not do what a learner has to.
    PolicyError
        for what the learner raises.
    """
    check_one(training, CUSTOM)
    if training.rollout != "threads":
        raise TrainingError(
            f"rollout: a learner of one's own collects as it likes, so {training.rollout} is of no "
            "use, choose threads"
        )
    state = last_state(training, CUSTOM)
    learner = Custom(options)
    held_out = HeldOut(training.environments, options.evaluation_episodes)
    course = Course(
        CUSTOM,
        training,
        held_out,
        learner.greedy,
        options.iterations,
        options.evaluate_every,
        (*COLUMNS, *learner.own.columns),
    )
    learner.call("begin", training)
    go_on_from(learner, state, training)
    return learn(learner, partial(learner.iterate, training.seed), course)


class Custom(Counted):
    """A learner of one's own, and what it has counted.

    Attributes
    ----------
    own : the learner.
    options : what to make the like with.
    """

    def __init__(self, options: CustomOptions) -> None:
        super().__init__()
        try:
            self.own: CustomLearner = options.make()
        except ValueError as error:
            raise TrainingError(one_line(error)) from error
        self.options = {"path": options.path, "options": dict(options.of_class)}

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the learner returns; what it raises is told as its own."""
        try:
            return getattr(self.own, method)(*arguments)
        except (InputError, PolicyError):
            raise
        except BaseException as error:
            where = f"agent {self.options['path']}: {method} in iteration {self.iteration + 1}"
            raise raised(where, error) from error

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of what the learner acts by and goes on from."""
        state, tensors = self.call("state_dict"), {}
        self._require(isinstance(state, Mapping), "state_dict() does not give names to arrays")
        for name, value in state.items():
            try:
                tensors[str(name)] = torch.as_tensor(value).detach().to("cpu", copy=True)
            except (TypeError, ValueError, RuntimeError):
                self._require(False, f"state_dict(): {name!r} is neither an array nor a tensor")
        return tensors

    def snapshot(self) -> Snapshot:
        """All that going on takes, as tensors and as what JSON can hold."""
        return self.state_dict(), self.counters()

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """The opposite of :meth:`snapshot`; its errors are those of the learner."""
        self.go_on_at(counters)
        self.own.load_state_dict(tensors)

    def candidate(self) -> Custom:
        """Itself: nothing is learnt while it is judged."""
        return self

    def greedy(self, _candidate: Custom) -> Act:
        """How it acts when it is judged, beginning an episode."""
        self.call("reset", HELD_OUT)

        def act(observation: Observation) -> NDArray[np.int64]:
            acted = np.asarray(self.call("act", observation))
            wanted = observation["action_mask"].shape[:-1]
            said = f"act() gives actions {acted.shape} to observations of {wanted} clusters"
            self._require(acted.shape == wanted, said)
            return acted

        return act

    def iterate(self, seed: int) -> Row:
        """Do an iteration; returns what happened, for the logs."""
        begin = time.perf_counter()
        happened = self.call("iterate", random_stream(seed, ACTIONS, self.iteration))
        self._require(isinstance(happened, Mapping), "iterate() does not give names to numbers")
        row, known = dict(happened), (*GIVEN, *self.own.columns)
        for name, value in row.items():
            hint = nearest(name, known)
            self._require(name in known, f"iterate() gives {name!r}{hint}, which columns has not")
            number = isinstance(value, int | float | np.number)
            self._require(number, f"iterate() gives {name}={value!r}, no number")
        decisions = row.pop("decisions", None)
        good = is_whole(decisions, 0)
        self._require(good, f"iterate() gives decisions={decisions!r}, not how many there were")
        speed = self.count(int(decisions), begin, begin)
        return row | {"decisions_per_s": speed["decisions_per_s"]}

    def _require(self, good: bool, said: str) -> None:
        if not good:
            raise TrainingError(f"agent {self.options['path']}: {said}")
