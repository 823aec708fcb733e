"""A training run from its first iteration to its last, whatever is learnt by: held-out evaluations,
logs, and checkpoints to go on from.
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from llmsched_gym.agents.learning import checkpoint
from llmsched_gym.agents.learning.episodes import Act
from llmsched_gym.agents.learning.held_out import COMPARED, HeldOut
from llmsched_gym.agents.learning.logs import Screen, open_log, shown
from llmsched_gym.agents.learning.run import Training, TrainingError
from llmsched_gym.checks import is_whole
from llmsched_gym.errors import one_line

BEST, STATE = "best.safetensors", "training.safetensors"
FREE = (  # settings that may change when training goes on
    *("resume", "minutes", "checkpoint_minutes", "output_dir"),
    *("logger", "wandb", "rollout.name", "ray"),
)
COUNTERS = ("iteration", "decisions", "seconds", "best_jct_s", "compared_jct_s")

Row = dict[str, Any]
N = TypeVar("N", bound=nn.Module)

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(kw_only=True)
class Counted(ABC):
    """What training counts, whatever is learnt.

    Attributes
    ----------
    iteration : the last one that is done, -1 before number 0, which only evaluates.
    decisions : how many episodes have taken.
    seconds : of wall-clock time, over all that was interrupted and resumed.
    best_jct_s : the least mean JCT on the held-out episodes so far, of weights that were learnt.
    compared_jct_s : of other policies on these episodes.
    """

    iteration: int = -1
    decisions: int = 0
    seconds: float = 0.0
    best_jct_s: float = math.inf
    compared_jct_s: dict[str, float] = field(default_factory=dict)

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """All that going on takes, as tensors and as what JSON can hold."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """The opposite of :meth:`snapshot`; ValueError for what is none of such a learner."""

    @abstractmethod
    def candidate(self) -> Any:
        """What is judged on the held-out episodes, and kept where it is the best so far.

        Its ``state_dict()`` is what is kept, and its ``options`` are what to make the like with.
        """

    def counters(self) -> dict[str, Any]:
        """What it has counted."""
        return {name: getattr(self, name) for name in COUNTERS}

    def go_on_at(self, counters: Mapping[str, Any]) -> None:
        """Go on counting there; ValueError for counters that no learner has counted."""
        _check_counters(counters)
        for name in COUNTERS:
            setattr(self, name, counters[name])

    def count(self, decisions: int, begin: float, collected: float) -> Row:
        """Count an iteration that is over; returns how fast it was, for the logs.

        Parameters
        ----------
        decisions : that its episodes took.
        begin, collected : when it began, and when it had all of them, by ``time.perf_counter``.
        """
        end = time.perf_counter()
        self.iteration += 1
        self.decisions += decisions
        return {
            "decisions_per_s": decisions / (end - begin),
            "collect_s": collected - begin,
            "update_s": end - collected,
        }


@dataclass
class Learner(Counted, Generic[N]):
    """What training changes.

    Attributes
    ----------
    network : what schedules; its ``options`` are what to make such a network with.
    module : all that is trained, the network in it.
    optimizer : Adam.
    """

    network: N
    module: nn.Module
    optimizer: torch.optim.Optimizer

    def candidate(self) -> N:
        """The network, as it is now."""
        return copy.deepcopy(self.network).to("cpu")

    def snapshot(self) -> Snapshot:
        """All that going on takes, as tensors and as what JSON can hold."""
        tensors = {
            f"network.{name}": tensor.to("cpu", copy=True)
            for name, tensor in self.module.state_dict().items()
        }
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{k}": v.to("cpu", copy=True) for k, v in state.items()}
        return tensors, self.counters()

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """The opposite of :meth:`snapshot`; ValueError for what is none of such a learner."""
        weights: dict[str, Tensor] = {}
        adam: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part == "network":
                weights[rest] = tensor
            elif part == "adam":
                number, _, slot = rest.partition(".")
                adam[int(number)][slot] = tensor
        checkpoint.check_tensors(weights, self.module.state_dict())
        _check_adam(adam, list(self.module.parameters()))
        self.go_on_at(counters)
        self.module.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(adam), "param_groups": groups})


def _check_adam(adam: Mapping[int, Mapping[str, Tensor]], weights: Sequence[Tensor]) -> None:
    """ValueError unless these are numbers that Adam keeps of all these weights, or of none yet."""
    if adam and adam.keys() != set(range(len(weights))):
        raise ValueError("it does not have the state of Adam for each weight")
    for number, slots in adam.items():
        weight = weights[number]
        wanted = {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight}
        checkpoint.check_tensors(slots, wanted)
        if slots["step"] < 0 or (slots["exp_avg_sq"] < 0).any():
            raise ValueError("the state of Adam holds a number that is negative")


def _check_counters(counters: Mapping[str, Any]) -> None:
    """ValueError for counters that no learner has counted."""
    compared = counters.get("compared_jct_s")
    times = [counters.get("seconds"), counters.get("best_jct_s")]
    times += list(compared.values()) if isinstance(compared, dict) else [None]
    if not (is_whole(counters.get("iteration"), -1) and is_whole(counters.get("decisions"), 0)):
        raise ValueError("it does not say how far training was")
    if not all(isinstance(s, int | float) and not isinstance(s, bool) and s >= 0 for s in times):
        raise ValueError("a time is not a number of seconds")


@dataclass(frozen=True)
class Course:
    """A training run of one kind of learner.

    Attributes
    ----------
    kind : of the learner: the name of the policy that runs its checkpoints.
    training, held_out : the run, and the episodes it is judged by.
    greedy : how a candidate of this kind acts when it is judged.
    iterations, evaluate_every : as in the learner's options.
    columns : of the logs, "iteration", "decisions" and "jct_s" among them.
    """

    kind: str
    training: Training
    held_out: HeldOut
    greedy: Callable[[Any], Act]
    iterations: int
    evaluate_every: int
    columns: Sequence[str]


def last_state(training: Training, kind: str) -> Snapshot | None:
    """What the run in ``training.folder`` has left to go on from, if there is one.

    Raises
    ------
    TrainingError
        for a checkpoint that is damaged, was made with other settings, or would be overwritten.
    """
    path = training.folder / STATE
    if not path.exists():
        return None
    if not training.resume:
        raise TrainingError(
            f"{path}: there is a training run already; resume=true goes on with it, or choose "
            "another output_dir"
        )
    try:
        tensors, meta = checkpoint.load(path, _kind_of_state(kind))
    except checkpoint.CheckpointError as error:
        raise TrainingError(str(error)) from error
    check_same(path, meta.get("settings"), training.settings)
    return tensors, meta


def go_on_from(learner: Counted, state: Snapshot | None, training: Training) -> None:
    """Bring a learner to the state of the last checkpoint, if there is one.

    Raises
    ------
    TrainingError
        for the state of another learner, or one that no training leads to.
    """
    if state is None:
        return
    try:
        learner.restore(*state)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        path = training.folder / STATE
        raise TrainingError(f"{path}: cannot go on from it: {one_line(error)}") from error


def check_same(path: Path, made: Any, given: Any, name: str = "") -> None:
    """TrainingError if settings differ, but for those that make no difference."""
    if name in FREE or made == given:
        return
    if not (isinstance(made, dict) and isinstance(given, dict)):
        raise TrainingError(f"{path}: made with {name}={made}, cannot go on with {name}={given}")
    for key in sorted(made.keys() | given.keys()):
        check_same(path, made.get(key), given.get(key), f"{name}.{key}".lstrip("."))


def learn(learner: Counted, iterate: Callable[[], Row], course: Course) -> dict[str, float]:
    """Go on until the last iteration or the end of the time.

    The best of the weights that were learnt are kept. Where the time is over before any of them are
    evaluated, those that there are are evaluated and kept, unless nothing is learnt yet. What a run
    goes on from does not know of it, and goes on as if it had not ended.

    Parameters
    ----------
    iterate : does an iteration, counts it in the learner and returns what happened, for the logs.

    Returns
    -------
    Mean JCT on the held-out episodes in seconds, of the learner at its best and of other policies.
    """
    folder, done = course.training.folder, max(0, learner.iteration)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context(open_log(course.training, learner.iteration))
        screen = stack.enter_context(shown(course.iterations, done))

        def go_on() -> None:
            row = _next(learner, iterate, course, screen)
            log.row(row)
            screen.row(row)

        _repeat(go_on, learner, course)
        if math.isinf(learner.best_jct_s):
            _evaluate(learner, course, screen)
        label = course.kind if learner.iteration else f"{course.kind}, not trained"
        compared = {name: learner.compared_jct_s[name] for name in COMPARED}
        result = {label: learner.best_jct_s} | compared
        log.table("held_out", [{"policy": k, "mean_jct_s": v} for k, v in result.items()])
        log.curve(course.kind, compared)
        if learner.iteration:
            log.checkpoint(folder / BEST)
        else:
            screen.say(f"0 iterations: nothing learnt, no {BEST}; resume=true goes on from {STATE}")
    return result


def _repeat(go_on: Callable[[], None], learner: Counted, course: Course) -> None:
    """Go on until the end, with checkpoints every few minutes and, however it ends, at the end."""
    training = course.training
    saved = time.monotonic()
    end = math.inf if training.minutes is None else saved + 60 * training.minutes
    state: Snapshot | None = None
    try:
        while learner.iteration < course.iterations and (
            learner.iteration < 0 or time.monotonic() < end
        ):
            go_on()
            state = learner.snapshot()
            if time.monotonic() - saved > 60 * training.checkpoint_minutes:
                _save_state(state, course)
                saved = time.monotonic()
    finally:  # an interrupt leaves a learner in the middle of an iteration: it does not count
        if state is not None:
            _save_state(state, course)


def _next(learner: Counted, iterate: Callable[[], Row], course: Course, screen: Screen) -> Row:
    """Do an iteration; the first, number 0, only evaluates what there is."""
    begin = time.monotonic()
    happened: Row = {}
    if learner.iteration >= 0:
        with screen.during(f"iteration {learner.iteration + 1} of {course.iterations}"):
            happened = iterate()
    else:
        episodes = f"{course.held_out.episodes} held-out episodes"
        for name in COMPARED:
            with screen.during(f"evaluating {name} on {episodes}"):
                learner.compared_jct_s[name] = course.held_out.mean_jct_of(name)
        learner.iteration = 0
    if course.training.environment.get("reward", "jct") != "jct":
        happened.pop("mean_jobs", None)  # what is learnt from does not tell it
    number = learner.iteration
    if number % course.evaluate_every == 0 or number == course.iterations:
        happened["jct_s"] = _evaluate(learner, course, screen)
        if number == 0:
            learner.best_jct_s = math.inf  # of random weights, which are nobody's best
    learner.seconds += time.monotonic() - begin
    counted = {"iteration": number, "seconds": learner.seconds, "decisions": learner.decisions}
    return dict.fromkeys(course.columns) | happened | counted


def _evaluate(learner: Counted, course: Course, screen: Screen) -> float:
    """The mean JCT on the held-out episodes, seconds; keeps the best weights that were learnt."""
    network = learner.candidate()
    with screen.during(f"evaluating {course.held_out.episodes} held-out episodes"):
        jct_s = course.held_out.mean_jct_s(course.greedy(network))
    if jct_s < learner.best_jct_s:
        learner.best_jct_s = jct_s
        if not learner.iteration:
            return jct_s
        about = {
            "kind": course.kind,
            "network": network.options,
            "settings": course.training.settings,
            "iteration": learner.iteration,
            "held_out_jct_s": jct_s,
        }
        checkpoint.save(course.training.folder / BEST, network.state_dict(), about)
    return jct_s


def _save_state(state: Snapshot, course: Course) -> None:
    tensors, counters = state
    about = {"kind": _kind_of_state(course.kind), "settings": course.training.settings}
    checkpoint.save(course.training.folder / STATE, tensors, about | counters)


def _kind_of_state(kind: str) -> str:
    return f"{kind} training"
