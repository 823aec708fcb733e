"""What past jobs taught: a template and a Bayesian network per application, and its file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.checks import is_positive, is_whole
from llmsched_gym.files import replacing
from llmsched_gym.workload.job import Kind
from llmsched_gym.workload.template import Template

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BeliefSettings:
    """How the networks are fitted and what is computed with them.

    Parameters
    ----------
    bins : quantile bins of a stage's demand (K), besides the state "absent". 1 to 100, default 6.
    fanouts : states of a stage's number of tasks, besides 0: one per value, or quantile bins if
        there are more values than this. 1 to 100, default 8.
    max_parents : parents of a variable at most, 1 to 4, default 2.
    min_jobs : an application with fewer past jobs gets a plain prior without edges. 2 to 10**9,
        default 20.
    prior_jobs : weight, in jobs, of the prior in every row of a conditional table. Above 0, up to
        10**6, default 1.
    low, high : the quantiles that bound a stage's demand, 0 to 1, default 0.05 and 0.95.
    reachable : how many reachable stages the uncertainty reduction looks at (M), 0 to 4, default 4.
    structural : whether it counts what a stage's completion reveals, default True.
    prompts : whether the prompt lengths of ready stages are evidence, default True; the paper's
        evidence is False.

    Raises
    ------
    ValueError
        if a number is out of its range.
    """

    bins: int = 6
    fanouts: int = 8
    max_parents: int = 2
    min_jobs: int = 20
    prior_jobs: float = 1.0
    low: float = 0.05
    high: float = 0.95
    reachable: int = 4
    structural: bool = True
    prompts: bool = True

    def __post_init__(self) -> None:
        for name, (least, most) in _WHOLE.items():
            value = getattr(self, name)
            if not is_whole(value, least, most):
                raise ValueError(
                    f"{name}: {value!r} is not a whole number between {least} and {most}"
                )
        if not is_positive(self.prior_jobs) or self.prior_jobs > MOST_PRIOR_JOBS:
            raise ValueError(
                f"prior_jobs: {self.prior_jobs!r} is not a number above 0, {MOST_PRIOR_JOBS:.0e} "
                "at most"
            )
        for name in ("low", "high"):
            value = getattr(self, name)
            known = isinstance(value, int | float) and not isinstance(value, bool)
            if not known or not 0 <= value <= 1:
                raise ValueError(f"{name}: {value!r} is not a number between 0 and 1")
        if self.low > self.high:
            raise ValueError(f"low, high: {self.low} <= {self.high} does not hold")
        for name in ("structural", "prompts"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: {getattr(self, name)!r} is neither True nor False")


_WHOLE = {  # the ranges of settings, which bound the sizes of tables
    "bins": (1, 100),
    "fanouts": (1, 100),
    "max_parents": (1, 4),
    "min_jobs": (2, 10**9),
    "reachable": (0, 4),
}
MOST_PRIOR_JOBS = 1e6


@dataclass(frozen=True)
class Bins:
    """The states of one variable: state 0 is "absent", state k >= 1 holds values of bin k.

    Attributes
    ----------
    least, mean, most : float64 [states], of the past values in each bin; 0 for state 0.
    tasks : float64 [states], the mean number of tasks of the past stages in each bin.
    variance : float64 [states], mean squared distance of the past values from ``given``.
    """

    least: FloatArray
    mean: FloatArray
    most: FloatArray
    tasks: FloatArray
    variance: FloatArray

    @classmethod
    def fit(cls, values: FloatArray, tasks: FloatArray, bins: int) -> Bins:
        """Quantile bins of the values (any number of them), fewer if few values are distinct."""
        if len(values) == 0:
            values, tasks = np.zeros(1), np.ones(1)
        distinct = np.unique(values)
        if len(distinct) <= bins:
            number = np.searchsorted(distinct, values)
        else:
            inner = np.quantile(values, np.arange(1, bins) / bins)
            _, number = np.unique(np.searchsorted(inner, values), return_inverse=True)
        groups = [number == bin_ for bin_ in range(number.max() + 1)]

        def of(column: FloatArray, statistic: Callable[..., Any]) -> FloatArray:
            return np.array([0.0, *(statistic(column[group]) for group in groups)])

        least, mean, most = (of(values, f) for f in (np.min, np.mean, np.max))
        fitted = cls(least, mean, most, of(tasks, np.mean), np.zeros(len(groups) + 1))
        error = values - fitted.given(tasks)[np.arange(len(values)), number + 1]
        return replace(fitted, variance=of(error**2, np.mean))

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def edges(self) -> FloatArray:
        """The values halfway between neighbouring bins, float64 [states - 2]."""
        return (self.most[1:-1] + self.least[2:]) / 2

    def state(self, values: FloatArray) -> IntArray:
        """The states of values that are present: each goes to the nearest bin."""
        return 1 + np.searchsorted(self.edges, values)

    def given(self, tasks: FloatArray) -> FloatArray:
        """The mean of each bin for a number of tasks: [len(tasks), states].

        Inside a bin, demand is proportional to the number of tasks as far as the bin reaches.
        """
        ratio = np.divide(
            tasks[:, None], self.tasks, out=np.zeros((len(tasks), len(self))), where=self.tasks > 0
        )
        return np.clip(self.mean * ratio, self.least, self.most)


@dataclass(frozen=True)
class Network:
    """The Bayesian network of one application; variables are numbered in topological order.

    Attributes
    ----------
    demand : int64 [C], the demand variable of each canonical stage (of the template).
    fanout : int64 [C], its fan-out variable, -1 if the number of tasks does not vary.
    prompt : int64 [C], the variable of its prompt length, -1 if it tells nothing of the others.
    demand_bins : the states of each stage's demand, in seconds at batch size 1.
    fanout_bins : the states of each stage's number of tasks.
    prompt_bins : the states of each stage's mean number of prompt tokens per task.
    parents : for each variable, its parents in ascending order.
    tables : for each variable, P(variable | parents); the last axis is the variable itself, the
        others are its parents.
    """

    demand: IntArray
    fanout: IntArray
    prompt: IntArray
    demand_bins: tuple[Bins, ...]
    fanout_bins: tuple[Bins, ...]
    prompt_bins: tuple[Bins, ...]
    parents: tuple[tuple[int, ...], ...]
    tables: tuple[FloatArray, ...]

    @property
    def states(self) -> tuple[int, ...]:
        """Number of states of each variable."""
        return tuple(table.shape[-1] for table in self.tables)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """All edges (parent, child)."""
        return [(parent, child) for child, row in enumerate(self.parents) for parent in row]

    def to_pgmpy(self) -> Any:
        """The same network as a ``pgmpy.models.DiscreteBayesianNetwork`` over variable numbers."""
        from pgmpy.factors.discrete import TabularCPD
        from pgmpy.models import DiscreteBayesianNetwork

        model = DiscreteBayesianNetwork(self.edges)
        model.add_nodes_from(range(len(self.tables)))
        for variable, (parents, table) in enumerate(zip(self.parents, self.tables, strict=True)):
            model.add_cpds(
                TabularCPD(
                    variable,
                    table.shape[-1],
                    table.reshape(-1, table.shape[-1]).T,
                    evidence=list(parents),
                    evidence_card=list(table.shape[:-1]),
                )
            )
        return model


@dataclass(frozen=True)
class TaskDemand:
    """What is known of a stage that no network knows: the past demand per task and per job.

    Both are float64 [2 kinds]: seconds at batch size 1 of one task, and of all tasks of a job.
    """

    mean: FloatArray
    variance: FloatArray
    low: FloatArray
    high: FloatArray
    per_job: FloatArray


@dataclass(frozen=True)
class BeliefProfile:
    """What past jobs taught: a template and a network per application.

    Attributes
    ----------
    settings : what it was fitted with.
    templates, networks : by application.
    tasks : by application, demand of a task of each kind; under ``""`` over all applications.
    notes : which applications fell back to a plain prior, and why.
    """

    settings: BeliefSettings
    templates: dict[str, Template]
    networks: dict[str, Network]
    tasks: dict[str, TaskDemand]
    notes: tuple[str, ...]

    def missing(self, applications: Iterable[str]) -> tuple[str, ...]:
        """One note for each application without any past job."""
        return tuple(
            f"{name}: no past jobs; demand by kind of stage over all applications"
            for name in applications
            if name not in self.networks
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file (arrays, and JSON for the rest), all of it or nothing.

        Its members are numbered, for the names of applications may be anything; a checksum over all
        of them is in one more.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for number, network in enumerate(self.networks.values()):
            for key, array in _network_arrays(network).items():
                arrays[f"network{number}/{key}"] = array
        for number, demand in enumerate(self.tasks.values()):
            for key in _TASK_DEMAND_FIELDS:
                arrays[f"tasks{number}/{key}"] = getattr(demand, key)
        header = {
            "settings": asdict(self.settings),
            "templates": {name: _template_json(row) for name, row in self.templates.items()},
            "parents": {name: network.parents for name, network in self.networks.items()},
            "tasks": list(self.tasks),
            "notes": self.notes,
        }
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        arrays["checksum"] = _checksum(arrays)
        with replacing(Path(path)) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BeliefProfile:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            if the file is not a belief profile, or not as it was written.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            if not np.array_equal(arrays.pop("checksum"), _checksum(arrays)):
                raise ValueError("wrong checksum")
            header = json.loads(arrays["header"].tobytes())
            profile = cls(
                settings=BeliefSettings(**header["settings"]),
                templates={
                    name: _template_from_json(name, row)
                    for name, row in header["templates"].items()
                },
                networks={
                    name: _network_from_arrays(f"network{number}/", arrays, parents)
                    for number, (name, parents) in enumerate(header["parents"].items())
                },
                tasks={
                    name: TaskDemand(
                        **{key: arrays[f"tasks{number}/{key}"] for key in _TASK_DEMAND_FIELDS}
                    )
                    for number, name in enumerate(header["tasks"])
                },
                notes=tuple(header["notes"]),
            )
            profile._check()
        except OSError:
            raise
        except Exception as error:  # whatever a damaged archive makes numpy, zlib or json raise
            why = " ".join(str(error).split())
            raise ValueError(f"{path}: not a belief profile ({why})") from error
        return profile

    def _check(self) -> None:
        """ValueError for numbers that no fit leads to: what computes with them trusts them."""
        if self.networks.keys() != self.templates.keys() or "" not in self.tasks:
            raise ValueError("an application has no network, no template or no tasks")
        for name, network in self.networks.items():
            _check_template(self.templates[name])
            _check_network(network, len(self.templates[name].stages))
        for demand in self.tasks.values():
            for key in _TASK_DEMAND_FIELDS:
                _check_numbers(getattr(demand, key), (2,))


# --- Files ----------------------------------------------------------------------------------------


_TASK_DEMAND_FIELDS = ("mean", "variance", "low", "high", "per_job")


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _check_template(template: Template) -> None:
    stages = len(template.stages)
    rows = (template.kinds, template.revealers, template.at_arrival, template.awaits)
    numbers = {other for row in (*template.revealers, *template.awaits) for other in row}
    if any(len(row) != stages for row in rows) or not numbers <= set(range(stages)):
        raise ValueError(f"{template.application}: its template names stages that are not there")


def _check_network(network: Network, stages: int) -> None:
    """ValueError unless the parts of a network are of one piece, and its tables probabilities."""
    states, number = network.states, len(network.tables)
    named = (
        (network.demand, network.demand_bins),
        (network.fanout, network.fanout_bins),
        (network.prompt, network.prompt_bins),
    )
    owned = np.concatenate([network.demand, *(row[row >= 0] for row, _ in named[1:])])
    sizes = {len(row) for pair in named for row in pair}
    if sizes != {stages} or not np.array_equal(np.sort(owned), np.arange(number)):
        raise ValueError("stages and variables do not belong together")
    for variables, rows in named:
        for variable, bins in zip(variables.tolist(), rows, strict=True):
            if variable >= 0 and len(bins) != states[variable]:
                raise ValueError("a variable has other states than its bins")
            for field in _BIN_FIELDS:
                _check_numbers(getattr(bins, field), (len(bins),))
    for variable, (parents, table) in enumerate(zip(network.parents, network.tables, strict=True)):
        if not all(0 <= parent < variable for parent in parents):
            raise ValueError("a parent does not come before its child")
        _check_numbers(table, (*(states[parent] for parent in parents), states[variable]))
        if table.shape[-1] < 2 or not np.allclose(table.sum(axis=-1), 1.0, rtol=0.0, atol=1e-9):
            raise ValueError("probabilities do not add up to 1")


def _check_numbers(array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float64 or array.shape != shape:
        raise ValueError(f"numbers of shape {array.shape} instead of {shape}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError("a number is negative or not finite")


def _template_json(template: Template) -> dict[str, Any]:
    return {
        "stages": template.stages,
        "kinds": [int(kind) for kind in template.kinds],
        "revealers": [sorted(rows) for rows in template.revealers],
        "at_arrival": template.at_arrival,
        "awaits": [sorted(rows) for rows in template.awaits],
    }


def _template_from_json(application: str, row: dict[str, Any]) -> Template:
    return Template(
        application=application,
        stages=tuple(row["stages"]),
        kinds=tuple(map(Kind, row["kinds"])),
        revealers=tuple(map(frozenset, row["revealers"])),
        at_arrival=tuple(row["at_arrival"]),
        awaits=tuple(map(frozenset, row["awaits"])),
    )


_BINS = ("demand_bins", "fanout_bins", "prompt_bins")
_BIN_FIELDS = ("least", "mean", "most", "tasks", "variance")


def _network_arrays(network: Network) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(network, name) for name in ("demand", "fanout", "prompt")
    }
    for name in _BINS:
        rows: tuple[Bins, ...] = getattr(network, name)
        arrays[f"{name}/states"] = np.array([len(bins) for bins in rows], np.int64)
        for field in _BIN_FIELDS:
            arrays[f"{name}/{field}"] = np.concatenate([getattr(bins, field) for bins in rows])
    arrays["shapes"] = np.concatenate([np.array(table.shape) for table in network.tables])
    arrays["tables"] = np.concatenate([table.ravel() for table in network.tables])
    return arrays


def _network_from_arrays(
    prefix: str, arrays: dict[str, NDArray[Any]], parents: Sequence[Sequence[int]]
) -> Network:
    bins = {}
    for name in _BINS:
        cuts = np.cumsum(arrays[f"{prefix}{name}/states"])[:-1]
        columns = [np.split(arrays[f"{prefix}{name}/{field}"], cuts) for field in _BIN_FIELDS]
        bins[name] = tuple(Bins(*row) for row in zip(*columns, strict=True))
    shapes, flat = list(map(int, arrays[f"{prefix}shapes"])), arrays[f"{prefix}tables"]
    tables = []
    for row in parents:
        shape, shapes = shapes[: len(row) + 1], shapes[len(row) + 1 :]
        tables.append(flat[: np.prod(shape)].reshape(shape))
        flat = flat[np.prod(shape) :]
    return Network(
        demand=arrays[f"{prefix}demand"],
        fanout=arrays[f"{prefix}fanout"],
        prompt=arrays[f"{prefix}prompt"],
        demand_bins=bins["demand_bins"],
        fanout_bins=bins["fanout_bins"],
        prompt_bins=bins["prompt_bins"],
        parents=tuple(tuple(row) for row in parents),
        tables=tuple(tables),
    )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in ("fit_profile", "load_or_fit"):  # they were here, and users' code may say so
            return getattr(import_module("llmsched_gym.belief.fitting"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
