"""The experiments of the paper: policies, workloads, loads and variants in one command.

    python evaluate.py experiment=paper

An experiment consists of *cells*: a few episodes of one policy in one place. Each is played once,
whatever number of studies it belongs to, and kept in a file of its own as soon as it is finished;
all tables and figures are made from these files. An experiment that was interrupted goes on where
it was when the same command is run again.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agents import find_policy, make_policy
from agents.base import policy_options
from episodes import InputError, episode_seeds, interrupted, map_processes, one_line, play
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.belief_quality import belief_rows
from llmsched_gym.cluster.latency import Cluster
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.experiment_figures import draw_all
from llmsched_gym.experiment_tables import (
    EVALUATED,
    REFERENCE,
    SJF,
    Measured,
    Place,
    Played,
    workload_tables,
    write_tables,
)
from llmsched_gym.metrics import EmptyCluster
from llmsched_gym.results import staged
from llmsched_gym.workload.mixes import Workload, make_workload

OPTIONS = (
    *("name", "episodes", "num_jobs", "workloads", "loads", "policies", "engines"),
    *("engines_policies", "epsilon", "fraction", "ablations", "belief_episodes", "belief_num_jobs"),
)
BLOCK = 5  # episodes of a cell
SUFFIXES = (".py", ".yaml", ".json", ".safetensors")  # of what results depend on
QUALITY = "belief"  # the cells that judge beliefs
ROOT = Path(__file__).parent


# --- what to play ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A policy and what it is shown; ``options`` are those that differ from the defaults."""

    policy: str
    options: tuple[tuple[str, Any], ...]
    belief: str
    settings: BeliefSettings


@dataclass(frozen=True)
class Cell:
    """Episodes ``first`` to ``last`` of a variant in a place: the unit of work."""

    place: Place
    variant: Variant
    num_jobs: int
    first: int
    last: int

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        place = self.place
        return f"{place.workload} load {place.load:g} {place.engines} engines {self.variant.policy}"


@dataclass(frozen=True)
class Row:
    """A policy's label in a place of a study, and its cells."""

    study: str
    place: Place
    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, eq=False)
class Bench:
    """All that the cells of an experiment have in common: what a process needs to play them.

    Attributes
    ----------
    workloads, cluster, seed : by label; with the number of engines of the main study; of all.
    folder : of the files of cells.
    digests : of each workload's jobs and arrivals.
    made_by : a digest of the code.
    """

    workloads: dict[str, Workload]
    cluster: Cluster
    seed: int
    folder: Path
    digests: dict[str, str]
    made_by: str

    def settings(self, cell: Cell) -> dict[str, Any]:
        """All that the outcome of a cell depends on, but the code."""
        latency = self.cluster.latency
        cluster = {
            "decode": latency.decode_coefficients,
            "prefill": latency.prefill_coefficients,
            "kv_capacity_tokens": latency.kv_capacity_tokens,
            "max_batch": self.cluster.max_batch,
            "regular_executors": self.cluster.regular_executors,
        }
        jobs = self.digests[cell.place.workload]
        return {"cell": asdict(cell), "cluster": cluster, "jobs": jobs, "seed": self.seed}

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        text = json.dumps(self.settings(cell), sort_keys=True)
        title = "".join(x if x.isalnum() or x in "._" else "-" for x in cell.title)
        mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.folder / f"{title}_{cell.first}-{cell.last}_{mark}.cell"


@dataclass(frozen=True)
class Experiment:
    """An experiment: the cells are in the order in which they are played."""

    bench: Bench
    rows: tuple[Row, ...]
    quality: tuple[Cell, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> list[Cell]:
        """Each once. The main study comes first, its first load and its first episodes before all.

        The judgement of beliefs comes before the other studies.
        """
        main = [row for row in self.rows if row.study == "main"]
        others = [row for row in self.rows if row.study != "main"]
        loads = {load: n for n, load in enumerate(dict.fromkeys(row.place.load for row in main))}

        def order(cell: Cell) -> tuple[int, int]:
            return loads[cell.place.load], cell.first

        first = sorted((cell for row in main for cell in row.cells), key=order)
        rest = (cell for row in others for cell in row.cells)
        return list(dict.fromkeys([*first, *self.quality, *rest]))

    def weight(self, cell: Cell) -> float:
        """About in proportion to the time that a cell takes: its decisions."""
        bank = self.bench.workloads[cell.place.workload].bank
        tasks = len(bank.prompt_tokens) / len(bank) * cell.num_jobs
        return tasks * (cell.last - cell.first + 1) * (4 if cell.variant.policy == QUALITY else 1)


def plan(
    options: dict[str, Any],
    workload: dict[str, Any],
    cluster: Cluster,
    belief: BeliefSettings,
    seed: int,
    folder: Path,
) -> Experiment:
    """Make the experiment that the options describe.

    Parameters
    ----------
    options
        The values of ``OPTIONS``, as in configs/experiment/paper.yaml.
    workload
        Options of ``make_workload`` for all workloads, the name among them.
    folder
        Of the cells.

    Raises
    ------
    ValueError, OSError, InputError
        for options that are not right, and traces that cannot be read.
    """
    _check(options)
    loads = [_number("loads", load) for load in _list(options, "loads", least=1)]
    policies = [EVALUATED, *map(str, _list(options, "policies")), SJF, REFERENCE]
    changed = _ablations(options, belief)
    variants = {name: _labelled(name, changed, belief) for name in dict.fromkeys(policies)}
    studies = _studies(options, changed, belief)
    workloads, notes = _workloads(options["workloads"], workload, belief)
    digests = {name: _digest(workload) for name, workload in workloads.items()}
    played = {v for named in (variants, *studies.values()) for v in named.values()}
    made_by = _fingerprint({variant.policy for variant in played})
    bench = Bench(workloads, cluster, seed, folder, digests, made_by)
    _try_out(bench, played, loads)

    def row(study: str, place: Place, label: str, variant: Variant) -> Row:
        cells = _blocks(place, variant, options["num_jobs"], options["episodes"])
        return Row(study, place, label, cells)

    rows = [
        row("main", Place(name, load, cluster.engines), label, variant)
        for load, name in product(loads, workloads)
        for label, variant in variants.items()
    ]
    for study, named in studies.items():
        sizes = _list(options, "engines") if study == "engines" else [cluster.engines]
        for name, size in product(workloads, sizes):
            place = Place(name, loads[0], size)
            rows += [row(study, place, label, variant) for label, variant in named.items()]
    quality = [
        cell
        for name in workloads
        for cell in _blocks(
            Place(name, loads[0], cluster.engines),
            replace(variants[EVALUATED], policy=QUALITY),
            options["belief_num_jobs"],
            options["belief_episodes"],
        )
    ]
    return Experiment(bench, tuple(rows), tuple(quality), notes)


def _ablations(options: dict[str, Any], belief: BeliefSettings) -> dict[str, Variant]:
    """LLMSched with other options, by label."""
    changes = options["ablations"] or {}
    if not isinstance(changes, dict) or not all(isinstance(c, dict) for c in changes.values()):
        raise ValueError("experiment.ablations: each needs options such as {epsilon: 0}")
    return {str(label): _variant(EVALUATED, belief, change) for label, change in changes.items()}


def _labelled(name: str, changed: dict[str, Variant], belief: BeliefSettings) -> Variant:
    return changed[name] if name in changed else _variant(name, belief)


def _studies(
    options: dict[str, Any], changed: dict[str, Variant], belief: BeliefSettings
) -> dict[str, dict[str, Variant]]:
    """The smaller studies that are asked for: their variants by label."""
    epsilon, fraction = (
        {
            f"{EVALUATED}_{study}={value}": _variant(EVALUATED, belief, {option: value})
            for value in _list(options, study)
        }
        for study, option in (("epsilon", "epsilon"), ("fraction", "explore_fraction"))
    )
    ablations = {EVALUATED: _variant(EVALUATED, belief)} | changed if changed else {}
    engines = {}
    if _list(options, "engines"):
        names = map(str, _list(options, "engines_policies"))
        engines = {name: _labelled(name, changed, belief) for name in names}
    studies = {"engines": engines, "ablations": ablations, "epsilon": epsilon, "fraction": fraction}
    return {study: variants for study, variants in studies.items() if variants}


def _variant(name: str, settings: BeliefSettings, changes: dict[str, Any] | None = None) -> Variant:
    """A policy by its label, with options of its own, of the belief, or "belief" itself."""
    policy, belief = ("srtf", "oracle") if name == REFERENCE else (name, "bayes")
    options = dict(changes or {})
    belief = str(options.pop("belief", belief))
    if belief not in BELIEFS:
        raise ValueError(f"belief: unknown {belief!r}, choose from {', '.join(BELIEFS)}")
    names = {field.name for field in fields(BeliefSettings)} & options.keys()
    settings = replace(settings, **{name: options.pop(name) for name in names})
    if not make_policy(policy, **options).needs_belief:
        belief = "none"  # it looks at nothing that a belief says, which takes time to work out
    defaults = policy_options(find_policy(policy))
    changed = tuple(sorted((k, v) for k, v in options.items() if v != defaults[k]))
    return Variant(policy, changed, belief, settings)


def _blocks(place: Place, variant: Variant, num_jobs: int, episodes: int) -> tuple[Cell, ...]:
    return tuple(
        Cell(place, variant, num_jobs, first, min(first + BLOCK, episodes) - 1)
        for first in range(0, episodes, BLOCK)
    )


def _workloads(
    names: list[Any] | None, options: dict[str, Any], belief: BeliefSettings
) -> tuple[dict[str, Workload], tuple[str, ...]]:
    """The workloads by name, and notes on what is left out."""
    if options["name"] == "traces":
        return _traced(names, options, belief)
    if not names:
        raise ValueError("experiment.workloads: name at least one")
    named = dict.fromkeys(map(str, names))
    if "traces" in named:
        raise ValueError("experiment.workloads: real jobs need experiment=traces")
    return {name: make_workload(**(options | {"name": name})) for name in named}, ()


def _traced(
    names: list[Any] | None, options: dict[str, Any], belief: BeliefSettings
) -> tuple[dict[str, Workload], tuple[str, ...]]:
    """All real jobs together, and each application alone that has enough past jobs."""
    everything = make_workload(**options)
    past, bank = everything.past, everything.bank
    notes, alone = [*everything.notes], []
    for name in bank.applications:
        counts = [
            int(np.count_nonzero(jobs.job_application == jobs.applications.index(name)))
            if name in jobs.applications
            else 0
            for jobs in (past, bank)
        ]
        if counts[0] >= belief.min_jobs:
            alone.append(name)
        else:
            notes.append(
                f"{name} is not shown alone: {counts[0]} past jobs, a belief needs "
                f"{belief.min_jobs}; {counts[1]} to evaluate"
            )
    chosen = ["traces", *alone] if names is None else list(dict.fromkeys(map(str, names)))
    for name in chosen:
        if name not in ("traces", *bank.applications):
            valid = ", ".join(("traces", *bank.applications))
            raise ValueError(f"experiment.workloads: unknown {name!r}, choose from {valid}")
    workloads = {}
    for name in chosen:
        only = {} if name == "traces" else {"applications": [name]}
        workloads[name] = replace(make_workload(**(options | only)), name=name)
    return workloads, tuple(notes)


def _try_out(bench: Bench, variants: Iterable[Variant], loads: Sequence[float]) -> None:
    """Fit each belief once, for all processes, and meet what is wrong with workloads early."""
    settings = {variant.settings for variant in variants if variant.belief != "none"}
    for name, one in product(bench.workloads, sorted(settings, key=repr)):
        _environment(bench, Place(name, loads[0], bench.cluster.engines), "bayes", one, 1)


def _check(options: dict[str, Any]) -> None:
    for name in sorted(options.keys() - set(OPTIONS)):
        raise ValueError(f"unknown option 'experiment.{name}'; valid here: {', '.join(OPTIONS)}")
    for name in sorted(set(OPTIONS) - options.keys()):
        raise ValueError(f"experiment.{name}: missing")
    for name in ("episodes", "num_jobs", "belief_num_jobs"):
        _whole(name, options[name])
    _whole("belief_episodes", options["belief_episodes"], least=0)
    for size in _list(options, "engines"):
        _whole("engines", size)


def _whole(name: str, value: Any, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"experiment.{name}: {value!r} is not a whole number of at least {least}")


def _number(name: str, value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or value <= 0:
        raise ValueError(f"experiment.{name}: {value!r} is not a positive number")
    return float(value)


def _list(options: dict[str, Any], name: str, least: int = 0) -> list[Any]:
    value = options[name]
    if not isinstance(value, list) or len(value) < least:
        wanted = "a list that is not empty" if least else "a list"
        raise ValueError(f"experiment.{name}: {value!r} is not {wanted}")
    return list(dict.fromkeys(value))


# --- what cells depend on -------------------------------------------------------------------------

OUTPUT = ("results.py", "figures.py", "experiment_tables.py", "experiment_figures.py")


def _fingerprint(policies: Iterable[str]) -> str:
    """Of all that is run when a cell is played, and of the libraries that it computes with.

    Of policies from elsewhere (``module:Class``) the file with the class counts.
    """
    digest = hashlib.sha256(platform.python_version().encode())
    for library in ("numba", "numpy", "pgmpy", "scipy", "torch"):
        with suppress(PackageNotFoundError):  # torch is not needed by most policies
            digest.update(f"{library} {version(library)}\n".encode())
    sources = {ROOT / "episodes.py", ROOT / "experiments.py"}
    sources |= {Path(inspect.getfile(find_policy(policy))) for policy in policies}
    for package in ("agents", "llmsched_gym"):
        sources |= {p for p in (ROOT / package).rglob("*") if p.suffix in SUFFIXES}
    for path in sorted(sources):
        if path.name not in OUTPUT:
            digest.update(f"{path.name}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(workload: Workload) -> str:
    """Of its jobs, its past jobs and its arrivals."""
    digest = hashlib.sha256(repr((workload.replay, type(workload.arrivals).__name__)).encode())
    drawn = workload.arrivals.draw(np.random.default_rng(0), 1000, 1.0)  # tells records apart
    digest.update(drawn.tobytes())
    for bank in (workload.bank, workload.past):
        for field in fields(bank):
            value = getattr(bank, field.name)
            digest.update(
                value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            )
    return digest.hexdigest()


# --- playing --------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _environment(
    bench: Bench, place: Place, belief: str, settings: BeliefSettings, num_jobs: int
) -> LLMSchedEnv:
    try:
        return LLMSchedEnv(
            bench.workloads[place.workload],
            replace(bench.cluster, engines=place.engines),
            num_jobs=num_jobs,
            load=place.load,
            belief=belief,
            belief_settings=settings,
            strict=True,
        )
    except ValueError as error:
        raise InputError(f"{place.workload}: {one_line(error)}") from error


@lru_cache(maxsize=64)
def _empty_cluster(bench: Bench, workload: str, engines: int) -> EmptyCluster:
    cluster = replace(bench.cluster, engines=engines)
    return EmptyCluster(bench.workloads[workload].bank, cluster)


def play_cell(bench: Bench, cell: Cell) -> None:
    """Play the episodes of a cell and keep them in its file."""
    numbers = range(cell.first, cell.last + 1)
    judged = cell.variant.policy == QUALITY
    content = [_judge(bench, cell, n) if judged else _play(bench, cell, n) for n in numbers]
    save(bench, cell, content)


def _play(bench: Bench, cell: Cell, number: int) -> dict[str, Any]:
    variant, place = cell.variant, cell.place
    env = _environment(bench, place, variant.belief, variant.settings, cell.num_jobs)
    policy = make_policy(variant.policy, **dict(variant.options))
    episode = play(env, policy, variant.policy, bench.seed, number)
    jobs = env.state.jobs
    alone = _empty_cluster(bench, place.workload, place.engines).alone_s(jobs["bank_job"])
    return {
        "number": number,
        "makespan_s": episode.makespan_s,
        "decision_us": episode.decision_us,
        "applications": env.bank.applications,
        "application": jobs["application"].tolist(),
        "arrival_s": episode.jobs["arrival_s"].tolist(),
        "jct_s": episode.jobs["jct_s"].tolist(),
        "alone_s": alone.tolist(),
    }


def _judge(bench: Bench, cell: Cell, number: int) -> list[dict[str, Any]]:
    """The rows of ``belief.csv`` of an episode that LLMSched serves."""
    bayes, prior, oracle = (
        _environment(bench, cell.place, belief, cell.variant.settings, cell.num_jobs)
        for belief in ("bayes", "prior", "oracle")
    )
    env_seed, policy_seed = episode_seeds(bench.seed, number)
    policy = make_policy(EVALUATED)
    policy.reset(policy_seed)
    return belief_rows({"bayes": bayes, "prior": prior}, oracle, policy, env_seed, number)


# --- the files of cells ---------------------------------------------------------------------------


def save(bench: Bench, cell: Cell, content: Any) -> None:
    """Write the file of a cell: whole, or not at all."""
    body = {"made_by": bench.made_by, "settings": bench.settings(cell), "content": content}
    packed = gzip.compress(json.dumps(body, sort_keys=True).encode(), 6, mtime=0)
    path = bench.path(cell)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(hashlib.sha256(packed).hexdigest().encode() + b"\n" + packed)
    part.replace(path)


def load(bench: Bench, cell: Cell) -> Any:
    """The content of a cell's file; None unless it is whole, of this cell and of this code."""
    try:
        checksum, _, packed = bench.path(cell).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.sha256(packed).hexdigest().encode() != checksum:
        return None
    body = json.loads(gzip.decompress(packed))
    made_by, settings = bench.made_by, json.loads(json.dumps(bench.settings(cell)))
    return body["content"] if (body["made_by"], body["settings"]) == (made_by, settings) else None


def _played(content: Iterable[dict[str, Any]]) -> Iterator[Played]:
    for episode in content:
        yield Played(
            episode["number"],
            episode["makespan_s"],
            episode["decision_us"],
            np.array(episode["applications"], object)[episode["application"]],
            *(np.array(episode[name]) for name in ("arrival_s", "jct_s", "alone_s")),
        )


# --- the command ----------------------------------------------------------------------------------


def run_experiment(
    experiment: Experiment, output_dir: Path, processes: int, settings: dict[str, Any]
) -> None:
    """Play what is not played yet, write tables and figures, print the tables of the main study.

    ``settings`` are for ``summary.json``.

    Raises
    ------
    InputError
        for what cannot be played or written.
    KeyboardInterrupt
        with a word on how to go on.
    """
    console = Console(stderr=True)
    try:
        experiment.bench.folder.mkdir(parents=True, exist_ok=True)
        contents = _play_all(experiment, processes, console)
        with console.status("writing tables and figures"), staged(output_dir) as folder:
            summary = _write(folder, experiment, contents, settings)
    except OSError as error:
        raise InputError(f"output_dir: {one_line(error)}") from error
    except BaseException as error:
        if interrupted(error):
            raise KeyboardInterrupt("run the same command to go on") from None
        raise
    _print(experiment, summary, output_dir)


def _play_all(experiment: Experiment, processes: int, console: Console) -> dict[Cell, Any]:
    """The contents of all cells; those that :func:`load` does not give are played now."""
    bench, cells = experiment.bench, experiment.cells
    for part in bench.folder.glob("*.part"):  # of a run that was killed
        part.unlink()
    contents = {cell: load(bench, cell) for cell in cells}
    todo = [cell for cell, content in contents.items() if content is None]
    with _progress(console) as progress:
        weights = [experiment.weight(cell) for cell in todo]
        task = progress.add_task("", total=sum(weights), cells=len(todo), left=len(todo))

        def done(index: int) -> None:
            _advance(progress, task, weights[index])

        map_processes(play_cell, bench, todo, processes, done)
    contents |= {cell: load(bench, cell) for cell in todo}
    for cell, content in contents.items():
        if content is None:
            raise InputError(f"{bench.path(cell)}: changed since it was written, run it again")
    return contents


def _progress(console: Console) -> Progress:
    """What is left, in cells and in time."""
    return Progress(
        TextColumn("{task.fields[left]} of {task.fields[cells]} cells left"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=600,
    )


def _advance(progress: Progress, task: TaskID, weight: float) -> None:
    left = next(one.fields["left"] for one in progress.tasks if one.id == task)
    progress.update(task, advance=weight, left=left - 1)


def _write(
    folder: Path, experiment: Experiment, contents: dict[Cell, Any], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    measured = [
        Measured(
            row.study,
            row.place,
            row.label,
            row.cells[0].variant.belief,
            tuple(episode for cell in row.cells for episode in _played(contents[cell])),
        )
        for row in experiment.rows
    ]
    quality = (row for cell in experiment.quality for rows in contents[cell] for row in rows)
    bench = experiment.bench
    summary = write_tables(folder, measured, quality, bench.cluster.name, bench.seed)
    about = {"settings": settings, "clairvoyant": [REFERENCE], "notes": experiment.notes}
    (folder / "summary.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    draw_all(folder)
    return summary


def _print(experiment: Experiment, summary: list[dict[str, Any]], output_dir: Path) -> None:
    output = Console(highlight=False, markup=False)
    if not output.is_terminal:
        output.width = 120
    for table in workload_tables(summary, {REFERENCE}):
        output.print(table)
    cells = experiment.rows[0].cells
    output.print(
        f"- {cells[-1].last + 1} episodes of {cells[0].num_jobs} jobs each, the same for all "
        "policies. Intervals: 95 % bootstrap over episodes, paired where policies are compared."
    )
    output.print(f"- {REFERENCE}: SRTF that knows what is hidden; a reference, and not a bound.")
    for note in experiment.notes:
        output.print(f"- {note}")
    output.print(f"Files: {output_dir}", soft_wrap=True)
