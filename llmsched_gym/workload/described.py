"""Applications described in a few lines of YAML, or by a dictionary alike, and jobs of them.

    application: helper
    stages:
      - llm: think
        prompt_tokens: {lognormal: {median: 900, sigma: 0.5}}
        output_tokens: {uniform: [20, 200]}
      - tool: look_up
        tasks: {choice: {1: 0.7, 2: 0.2, 5: 0.1}}
        seconds: {lognormal: {median: 0.4, sigma: 0.6, most: 20}}

``docs/bring_your_own.md`` has every field.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from llmsched_gym.checks import is_number, is_whole
from llmsched_gym.workload.inputs import (
    fault_of_name,
    given_path,
    other_than_file,
    printable,
    shown,
)
from llmsched_gym.workload.job import (
    MAX_DURATION_S,
    MAX_STAGES,
    MAX_TOKENS,
    Job,
    Kind,
    LLMTask,
    RegularTask,
    Stage,
    Task,
)

FORMAT = "docs/bring_your_own.md, application"
SUFFIXES = (".yaml", ".yml")
MOST_TASKS = 1000  # of a stage
MOST_TASKS_OF_A_JOB = 20_000
MOST_ROUNDS = 500  # of a loop
MOST_PLANNED = 100  # stages of a plan
MOST_DEEP = 8  # loops in loops
MOST_SIGMA = 5.0
KINDS = ("llm", "tool", "loop", "plan")
ORDERS = ("parallel", "sequence")

Description = str | os.PathLike[str] | Mapping[str, Any]


class DescriptionError(ValueError):
    """A malformed description; the message is ``file: field: what is wrong``."""


@dataclass(frozen=True)
class Amount:
    """A random number: how it is drawn, and the range that it is in."""

    draw: Callable[[np.random.Generator], float]
    low: float
    high: float

    def whole(self, rng: np.random.Generator, least: int, most: int, factor: float = 1.0) -> int:
        """A whole number in this range."""
        return int(min(max(np.rint(self.draw(rng) * factor), least), most))


@dataclass(frozen=True)
class Node:
    """A stage, or a loop or a plan, which stand for several.

    Attributes
    ----------
    kind : of ``KINDS``.
    name : of it.
    parents : numbers of the nodes before it in the same list.
    amounts : by field: ``tasks``, ``prompt_tokens``, ``output_tokens``, ``seconds``, ``count``.
    sized : whether tokens and seconds are multiplied by the size of the job.
    nodes : of a loop or a plan.
    again, least, most : of a loop: the probability of another round, and how many there are.
    weight : of a stage in a plan.
    sequence : of a plan: whether its stages wait for each other.
    """

    kind: str
    name: str
    parents: tuple[int, ...] = ()
    amounts: Mapping[str, Amount] | None = None
    sized: bool = False
    nodes: tuple[Node, ...] = ()
    again: float = 0.0
    least: int = 1
    most: int = 1
    weight: float = 1.0
    sequence: bool = False

    def amount(self, name: str) -> Amount:
        """One of its amounts."""
        assert self.amounts is not None
        return self.amounts[name]


@dataclass(frozen=True)
class Described:
    """An application: ``draw(rng, job_id)`` makes a job of it, as those of ``APPLICATIONS`` do.

    Attributes
    ----------
    application : its name.
    seed : determines the jobs of a workload.
    size : a factor of each job.
    nodes : its stages.
    """

    application: str
    seed: int
    size: Amount
    nodes: tuple[Node, ...]

    def draw(self, rng: np.random.Generator, job_id: str) -> Job:
        """One job."""
        growing = _Growing(rng, self.size.draw(rng), [])
        growing.add(self.nodes, (), None)
        return Job(self.application, job_id, tuple(growing.stages))

    def jobs(self, entropy: int, stream: int, name: str, count: int) -> Iterator[Job]:
        """As many jobs, other ones for each stream, whose ids begin with the name."""
        rng = np.random.default_rng(np.random.SeedSequence((entropy, self.seed, stream)))
        for number in range(count):
            yield self.draw(rng, f"{name}-{number}")


# --- from a description to a job ------------------------------------------------------------------


@dataclass
class _Growing:
    """A job of which some stages are there."""

    rng: np.random.Generator
    size: float
    stages: list[Stage]

    def add(self, nodes: Sequence[Node], before: tuple[int, ...], revealer: int | None) -> int:
        """Add the stages of a list, which wait for those before; returns the last node's last."""
        ends: list[tuple[tuple[int, ...], int]] = []  # whom to wait for, and who reveals
        for node in nodes:
            waits = tuple(sorted({index for number in node.parents for index in ends[number][0]}))
            waits = waits or before
            parent = ends[node.parents[0]][1] if node.parents else -1
            if node.kind == "loop":
                ends.append(self._loop(node, waits, parent, revealer))
            elif node.kind == "plan":
                ends.append((self._plan(node, waits, parent), parent))
            else:
                index = self._stage(node, waits, revealer)
                ends.append(((index,), index))
        return ends[-1][1]

    def _stage(self, node: Node, parents: tuple[int, ...], revealer: int | None) -> int:
        factor = self.size if node.sized else 1.0
        count = node.amount("tasks").whole(self.rng, 1, MOST_TASKS)
        tasks = tuple(self._task(node, factor) for _ in range(count))
        kind = Kind.LLM if node.kind == "llm" else Kind.REGULAR
        self.stages.append(Stage(node.name, kind, parents, tasks, revealer))
        return len(self.stages) - 1

    def _task(self, node: Node, factor: float) -> Task:
        if node.kind == "llm":
            fields = ("prompt_tokens", "output_tokens")
            return LLMTask(
                *(node.amount(name).whole(self.rng, 1, MAX_TOKENS, factor) for name in fields)
            )
        seconds = node.amount("seconds").draw(self.rng) * factor
        return RegularTask(round(float(min(seconds, MAX_DURATION_S)), 6))

    def _loop(
        self, node: Node, waits: tuple[int, ...], parent: int, revealer: int | None
    ) -> tuple[tuple[int, ...], int]:
        """Rounds; each but the first is revealed by the last stage of the one before."""
        last = parent
        for number in range(node.most):
            if number >= node.least and self.rng.random() >= node.again:
                break
            first = len(self.stages)
            known = revealer if number == 0 and node.least else last
            last = self.add(node.nodes, waits, known)
            waits = self._leaves(first)
        return waits, last

    def _plan(self, node: Node, waits: tuple[int, ...], parent: int) -> tuple[int, ...]:
        """Stages that the parent reveals; whoever waits for the plan waits for these."""
        count = node.amount("count").whole(self.rng, 0, MOST_PLANNED)
        weights = np.array([one.weight for one in node.nodes])
        chosen = self.rng.choice(len(node.nodes), size=count, p=weights / weights.sum())
        first, after = len(self.stages), waits
        for number in chosen.tolist():
            index = self._stage(node.nodes[number], after, parent)
            after = (index,) if node.sequence else after
        return self._leaves(first) if count else waits

    def _leaves(self, first: int) -> tuple[int, ...]:
        """The stages from this one on that no other waits for."""
        waited = {parent for stage in self.stages[first:] for parent in stage.parents}
        return tuple(index for index in range(first, len(self.stages)) if index not in waited)


# --- reading --------------------------------------------------------------------------------------


def read_description(source: Description) -> Described:
    """The application that a YAML file or a dictionary describes.

    Raises
    ------
    DescriptionError
        for what is wrong in it: one line, ``file: field: what``.
    FileNotFoundError
        if there is no such file.
    """
    if isinstance(source, Mapping):
        return _named("workload", lambda: _described(source))
    path = given_path("path", source)
    try:
        kind = other_than_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"path: no such file: {printable(path)}") from None
    if kind:
        raise DescriptionError(f"{printable(path)}: {kind}, not a file")

    def read() -> Described:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError:
            raise
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise DescriptionError(f"line {line}: {error.problem}") from None
        except Exception as error:  # tags and scalars that yaml makes ValueError, ... of
            raise DescriptionError(f"YAML: {error}") from None
        return _described(content)

    return _named(printable(path), read)


def _named(where: str, read: Callable[[], Described]) -> Described:
    try:
        return read()
    except DescriptionError as error:
        raise DescriptionError(f"{where}: {' '.join(str(error).split())} (see {FORMAT})") from None
    except RecursionError:
        raise DescriptionError(f"{where}: too deeply nested (see {FORMAT})") from None


def _described(content: Any) -> Described:
    given = _fields(content, "", ("application", "stages"), ("seed", "size"))
    if fault := fault_of_name(given["application"]):
        raise DescriptionError(f"application: {fault}")
    if not is_whole(given.get("seed", 0), 0, 2**63):
        raise DescriptionError(f"seed: {shown(given['seed'])} is not a whole number of at least 0")
    size = _amount(given.get("size", 1), "size", 0.0, 1e6)
    nodes = _nodes(given["stages"], "stages", set(), 0)
    for what, worst, most in zip(
        ("stages", "tasks"), _worst(nodes), (MAX_STAGES, MOST_TASKS_OF_A_JOB), strict=True
    ):
        if worst > most:
            raise DescriptionError(f"stages: a job could have {worst} {what}, more than {most}")
    return Described(given["application"], int(given.get("seed", 0)), size, nodes)


def _worst(nodes: Sequence[Node]) -> tuple[int, int]:
    """The most stages and tasks that a job can have of these."""
    stages = tasks = 0
    for node in nodes:
        if node.kind == "loop":
            inner, rounds = _worst(node.nodes), node.most
        elif node.kind == "plan":
            most = int(min(node.amount("count").high, MOST_PLANNED))
            inner, rounds = (1, max(_worst([one])[1] for one in node.nodes)), most
        else:
            inner, rounds = (1, int(min(node.amount("tasks").high, MOST_TASKS))), 1
        stages, tasks = stages + rounds * inner[0], tasks + rounds * inner[1]
    return stages, tasks


def _nodes(content: Any, where: str, names: set[str], deep: int) -> tuple[Node, ...]:
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise DescriptionError(f"{where}: {shown(content)} is not a list of stages")
    if deep > MOST_DEEP:
        raise DescriptionError(f"{where}: more than {MOST_DEEP} loops in each other")
    nodes: list[Node] = []
    for number, one in enumerate(content):
        nodes.append(_node(one, f"{where}[{number}]", nodes, names, deep))
    return tuple(nodes)


def _node(
    content: Any,
    where: str,
    before: Sequence[Node],
    names: set[str],
    deep: int,
    planned: bool = False,
) -> Node:
    kinds = [kind for kind in KINDS if isinstance(content, Mapping) and kind in content]
    if len(kinds) != 1 or (planned and kinds[0] not in ("llm", "tool")):
        valid = " or ".join(KINDS[:2] if planned else KINDS)
        raise DescriptionError(f"{where}: needs a name under one of {valid}, once")
    kind, name = kinds[0], content[kinds[0]]
    if fault := fault_of_name(name) or ("#" in name and f'{name!r} contains "#"') or None:
        raise DescriptionError(f"{where}.{kind}: {fault}")
    if name in names:
        raise DescriptionError(f"{where}.{kind}: the name {name!r} is there twice")
    names.add(name)
    required, optional = FIELDS[kind]
    optional = (*optional, "weight") if planned else (*optional, "parents")
    given = _fields(content, where, (kind, *required), optional)
    parents = () if planned else _parents(given, where, before)
    if kind == "loop":
        return _loop(given, where, before, parents, names, deep)
    if kind == "plan":
        return _plan(given, where, before, parents, names, deep)
    tokens = dict.fromkeys(("prompt_tokens", "output_tokens"), (1, MAX_TOKENS, True))
    ranges = tokens if kind == "llm" else {"seconds": (0, MAX_DURATION_S, False)}
    ranges = ranges | {"tasks": (1, MOST_TASKS, True)}
    return Node(
        kind,
        name,
        parents,
        {
            field: _amount(given.get(field, 1), f"{where}.{field}", *ranges[field])
            for field in ranges
        },
        sized=_flag(given.get("sized", False), f"{where}.sized"),
        weight=_number(given.get("weight", 1), f"{where}.weight", 1e-9, 1e9),
    )


FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # required and optional
    "llm": (("prompt_tokens", "output_tokens"), ("tasks", "sized")),
    "tool": (("seconds",), ("tasks", "sized")),
    "loop": (("again", "most", "stages"), ("least",)),
    "plan": (("count", "of"), ("order",)),
}


def _parents(given: Mapping[str, Any], where: str, before: Sequence[Node]) -> tuple[int, ...]:
    """Numbers of the nodes that are named, by default the one above."""
    if "parents" not in given:
        return (len(before) - 1,) if before else ()
    value = given["parents"]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DescriptionError(f"{where}.parents: {shown(value)} is not a list of names")
    number = {node.name: index for index, node in enumerate(before)}
    for name in value:
        if not isinstance(name, str) or name not in number:
            valid = ", ".join(number) or "there is none"
            raise DescriptionError(
                f"{where}.parents: {shown(name)} is not above it in the same list; valid: {valid}"
            )
    return tuple(sorted({number[name] for name in value}))


def _check_revealer(
    where: str, what: str, before: Sequence[Node], parents: tuple[int, ...]
) -> None:
    if len(parents) != 1 or before[parents[0]].kind == "plan":
        raise DescriptionError(
            f"{where}.parents: {what} is revealed by the end of one stage or loop, its only parent"
        )


def _loop(
    given: Mapping[str, Any],
    where: str,
    before: Sequence[Node],
    parents: tuple[int, ...],
    names: set[str],
    deep: int,
) -> Node:
    most = _whole(given["most"], f"{where}.most", 1, MOST_ROUNDS)
    least = _whole(given.get("least", 1), f"{where}.least", 0, most)
    if least == 0:
        _check_revealer(where, "a loop that may have no round", before, parents)
    nodes = _nodes(given["stages"], f"{where}.stages", names, deep + 1)
    if nodes[-1].kind not in ("llm", "tool"):
        raise DescriptionError(
            f"{where}.stages: its last one reveals whether there is another round, so it must be "
            "llm or tool"
        )
    again = _number(given["again"], f"{where}.again", 0, 1)
    return Node("loop", given["loop"], parents, nodes=nodes, again=again, least=least, most=most)


def _plan(
    given: Mapping[str, Any],
    where: str,
    before: Sequence[Node],
    parents: tuple[int, ...],
    names: set[str],
    deep: int,
) -> Node:
    _check_revealer(where, "a plan", before, parents)
    of = given["of"]
    if not isinstance(of, Sequence) or isinstance(of, str) or not of:
        raise DescriptionError(f"{where}.of: {shown(of)} is not a list of stages")
    order = given.get("order", "parallel")
    if order not in ORDERS:
        raise DescriptionError(f"{where}.order: {shown(order)}, choose from {', '.join(ORDERS)}")
    return Node(
        "plan",
        given["plan"],
        parents,
        {"count": _amount(given["count"], f"{where}.count", 0, MOST_PLANNED, True)},
        nodes=tuple(
            _node(one, f"{where}.of[{number}]", (), names, deep, planned=True)
            for number, one in enumerate(of)
        ),
        sequence=order == "sequence",
    )


# --- amounts --------------------------------------------------------------------------------------


def _amount(value: Any, where: str, least: float, most: float, whole: bool = False) -> Amount:
    """A number, or one of the distributions."""
    if not isinstance(value, Mapping):
        number = _number(value, where, least, most, whole)
        return Amount(lambda rng: number, number, number)
    if len(value) != 1 or next(iter(value)) not in DISTRIBUTIONS:
        raise DescriptionError(
            f"{where}: {shown(value)} is neither a number nor one of {', '.join(DISTRIBUTIONS)}"
        )
    ((name, given),) = value.items()
    return DISTRIBUTIONS[name](given, f"{where}.{name}", least, most, whole)


def _uniform(given: Any, where: str, least: float, most: float, whole: bool) -> Amount:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise DescriptionError(f"{where}: {shown(given)} is not a pair [least, most]")
    low, high = (_number(one, where, least, most, whole) for one in given)
    if low > high:
        raise DescriptionError(f"{where}: {shown(low)} is above {shown(high)}")
    if whole:
        first, last = int(low), int(high)
        return Amount(lambda rng: float(rng.integers(first, last + 1)), low, high)
    return Amount(lambda rng: float(rng.uniform(low, high)), low, high)


def _lognormal(given: Any, where: str, least: float, most: float, whole: bool) -> Amount:
    fields = _fields(given, where, ("median", "sigma"), ("most",))
    median = _number(fields["median"], f"{where}.median", max(least, 1e-9), most)
    sigma = _number(fields["sigma"], f"{where}.sigma", 0, MOST_SIGMA)
    high = _number(fields.get("most", most), f"{where}.most", max(least, 1e-9), most)
    mean = math.log(median)
    return Amount(lambda rng: min(math.exp(rng.normal(mean, sigma)), high), least, high)


def _choice(given: Any, where: str, least: float, most: float, whole: bool) -> Amount:
    weighted = isinstance(given, Mapping)
    if not given or not (weighted or (isinstance(given, Sequence) and not isinstance(given, str))):
        raise DescriptionError(f"{where}: {shown(given)} is neither a list nor weights by number")
    numbers = [_number(one, where, least, most, whole) for one in given]
    weights = np.array(
        [_number(one, where, 0, 1e9) for one in given.values()] if weighted else [1.0] * len(given)
    )
    if not weights.sum() > 0:
        raise DescriptionError(f"{where}: no weight is above 0")
    shares = weights / weights.sum()
    return Amount(
        lambda rng: numbers[int(rng.choice(len(numbers), p=shares))], min(numbers), max(numbers)
    )


DISTRIBUTIONS: dict[str, Callable[[Any, str, float, float, bool], Amount]] = {
    "uniform": _uniform,
    "lognormal": _lognormal,
    "choice": _choice,
}


def _fields(
    content: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise DescriptionError(f"{where or 'description'}: {shown(content)} is not a mapping")
    dot = f"{where}." if where else ""
    for name in content:
        if name not in required + optional:
            known = name if isinstance(name, str) and not fault_of_name(name) else shown(name)
            valid = ", ".join(required + optional)
            raise DescriptionError(f"{dot}{known}: unknown field; valid: {valid}")
    for name in required:
        if name not in content:
            raise DescriptionError(f"{dot}{name}: missing")
    return content


def _number(value: Any, where: str, least: float, most: float, whole: bool = False) -> float:
    if whole:
        return _whole(value, where, int(least), int(most))
    if not is_number(value, least, most):
        raise DescriptionError(
            f"{where}: {shown(value)} is not a number from {least:g} to {most:g}"
            + (" (YAML: 1.0e-3, not 1e-3)" if isinstance(value, str) else "")
        )
    return float(value)


def _whole(value: Any, where: str, least: int, most: int) -> int:
    if not is_whole(value, least, most):
        raise DescriptionError(f"{where}: {shown(value)} is not a whole number, {least} to {most}")
    return int(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise DescriptionError(f"{where}: {shown(value)} is neither true nor false")
    return value
