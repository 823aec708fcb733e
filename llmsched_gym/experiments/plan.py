"""Plan an experiment: policies, workloads, loads and variants in one command.

python evaluate.py experiment=paper
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from llmsched_gym.agents.base import find_policy, make_policy, policy_options
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.limits import fitted
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.scenario import BELIEFS
from llmsched_gym.errors import MissingExtra
from llmsched_gym.evaluation.results import OF_REFERENCES, REFERENCE, SJF
from llmsched_gym.experiments.cells import (
    EVALUATED,
    QUALITY,
    Bench,
    Cell,
    Experiment,
    Place,
    Row,
    Variant,
)
from llmsched_gym.experiments.play import environment
from llmsched_gym.experiments.sources import fingerprint
from llmsched_gym.settings import (
    Count,
    Counts,
    Names,
    Number,
    Numbers,
    Policies,
    Positives,
    Settings,
    Text,
)
from llmsched_gym.workload.mixes import Workload, make_workload

BLOCK = 5  # episodes of a cell


class Options(Settings):
    """What an experiment is made of, as in ``configs/experiment/paper.yaml``."""

    name: Text
    episodes: Count
    num_jobs: Count
    workloads: Names | None
    loads: Positives
    policies: Policies
    engines: Counts
    engines_policies: Names
    epsilon: Numbers
    fraction: Numbers
    ablations: Any
    belief_episodes: Number
    belief_num_jobs: Count
    ray: Text | None


def plan(
    given: dict[str, Any],
    workload: dict[str, Any],
    cluster: Cluster,
    belief: BeliefSettings,
    seed: int,
    folder: Path,
) -> Experiment:
    """Make the experiment that the options describe.

    Parameters
    ----------
    given
        The values of :class:`Options`.
    workload
        Options of ``make_workload`` for all workloads, the name among them.
    folder
        Of the cells.

    Raises
    ------
    ValueError, OSError, InputError
        for options that are not right, and traces that cannot be read.
    """
    options = Options.read(given, "experiment.")
    changed = _ablations(options, belief)
    studies = _studies(options, changed, belief)
    workloads, notes = workloads_of(options.workloads, workload, belief)
    variants, missing = _compared(options, changed, belief, list(workloads))
    if not all(workload.has_rate for workload in workloads.values()):
        raise ValueError("workload.arrivals: an experiment compares loads, and these have none")
    digests = {name: digest(workload) for name, workload in workloads.items()}
    played = {v for named in (*variants.values(), *studies.values()) for v in named.values()}
    made_by = fingerprint({variant.policy for variant in played})
    bench = Bench(workloads, cluster, seed, folder, digests, made_by)
    try_out(bench, [Place(name, options.loads[0], cluster.engines) for name in workloads], played)
    notes = tuple(dict.fromkeys((*notes, *missing, *left_out(workloads.values(), cluster))))
    rows = (*_main_rows(options, bench, variants), *_study_rows(options, bench, studies))
    quality = replace(variant_of(EVALUATED, belief), policy=QUALITY)
    return Experiment(bench, rows, _quality_cells(options, bench, quality), notes)


def _main_rows(
    options: Options, bench: Bench, variants: dict[str, dict[str, Variant]]
) -> Iterator[Row]:
    """The policies of every workload at every load."""
    for load, name in product(options.loads, bench.workloads):
        for label, variant in variants[name].items():
            yield _row(options, "main", Place(name, load, bench.cluster.engines), label, variant)


def _study_rows(
    options: Options, bench: Bench, studies: dict[str, dict[str, Variant]]
) -> Iterator[Row]:
    """The smaller studies, at the first load."""
    for study, named in studies.items():
        sizes = options.engines if study == "engines" else (bench.cluster.engines,)
        for name, size in product(bench.workloads, sizes):
            place = Place(name, options.loads[0], size)
            for label, variant in named.items():
                yield _row(options, study, place, label, variant)


def _row(options: Options, study: str, place: Place, label: str, variant: Variant) -> Row:
    cells = blocks(place, variant, options.num_jobs, options.episodes)
    return Row(study, place, label, cells)


def _quality_cells(options: Options, bench: Bench, variant: Variant) -> tuple[Cell, ...]:
    """Those that judge beliefs."""
    return tuple(
        cell
        for name in bench.workloads
        for cell in blocks(
            Place(name, options.loads[0], bench.cluster.engines),
            variant,
            options.belief_num_jobs,
            options.belief_episodes,
        )
    )


def _compared(
    options: Options, changed: dict[str, Variant], belief: BeliefSettings, workloads: list[str]
) -> tuple[dict[str, dict[str, Variant]], list[str]]:
    """The policies of the main study by workload and label: names, and names with options.

    And a line on each that needs a package which is not installed.
    """
    evaluated, missing = variant_of(EVALUATED, belief), list[str]()
    compared = {workload: {EVALUATED: evaluated} for workload in workloads}
    for one in options.policies:
        given = dict(one) if isinstance(one, dict) else {}
        named = _names(given.pop("workloads", workloads))
        here = [variants for workload, variants in compared.items() if workload in named]
        if not here:
            continue
        name = str(given.pop("name", one))
        label = str(given.pop("label", name))
        if given and any(label in variants for variants in here):
            raise ValueError(
                f"experiment.policies: {label!r} is there twice, give each a label of its own"
            )
        try:
            if given or label != name:
                variant = with_options(given, f"experiment.policies.{label}", name, belief)
            else:
                variant = _labelled(name, changed, belief)
        except MissingExtra as error:
            missing.append(f"{label} is left out: {error}")
            continue
        for variants in here:
            variants[label] = variant
    for name in (SJF, REFERENCE):
        variant = variant_of(name, belief)
        for variants in compared.values():
            variants.setdefault(name, variant)
    return compared, missing


def _names(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"experiment.policies: workloads: {value!r} is not a list of names")
    return value


def _ablations(options: Options, belief: BeliefSettings) -> dict[str, Variant]:
    """LLMSched with other options, or what else is named, by label."""
    changes = options.ablations or {}
    if not isinstance(changes, dict) or not all(isinstance(c, dict) for c in changes.values()):
        raise ValueError("experiment.ablations: each needs options such as {epsilon: 0}")
    variants = {}
    for label, change in changes.items():
        given = dict(change)
        name = str(given.pop("name", EVALUATED))
        variants[str(label)] = with_options(given, f"experiment.ablations.{label}", name, belief)
    return variants


def with_options(given: dict[str, Any], what: str, policy: str, belief: BeliefSettings) -> Variant:
    """A policy with options that a configuration gives; ``what`` names them in errors."""
    for name, value in given.items():
        if isinstance(value, list | dict):
            raise ValueError(f"{what}.{name}: {value!r} is no value")
    return variant_of(policy, belief, given)


def named_variants(
    policies: Iterable[Any], belief: BeliefSettings, taken: Collection[str] = ()
) -> dict[str, Variant]:
    """The policies of a list by label: names, and names with options.

    ValueError for a label that is there twice, or among those ``taken``.
    """
    variants: dict[str, Variant] = {}
    for one in policies:
        given = dict(one) if isinstance(one, dict) else {"name": str(one)}
        name = str(given.pop("name"))
        label = str(given.pop("label", name))
        if label in variants or label in taken:
            raise ValueError(
                f"experiment.policies: {label!r} is there twice, give each a label of its own"
            )
        variants[label] = with_options(given, f"experiment.policies.{label}", name, belief)
    return variants


def _labelled(name: str, changed: dict[str, Variant], belief: BeliefSettings) -> Variant:
    return changed[name] if name in changed else variant_of(name, belief)


def _studies(
    options: Options, changed: dict[str, Variant], belief: BeliefSettings
) -> dict[str, dict[str, Variant]]:
    """The smaller studies that are asked for: their variants by label."""
    epsilon, fraction = (
        {
            f"{EVALUATED}_{study}={value}": variant_of(EVALUATED, belief, {option: value})
            for value in getattr(options, study)
        }
        for study, option in (("epsilon", "epsilon"), ("fraction", "explore_fraction"))
    )
    ablations = {EVALUATED: variant_of(EVALUATED, belief)} | changed if changed else {}
    engines = {}
    if options.engines:
        names = map(str, options.engines_policies)
        engines = {name: _labelled(name, changed, belief) for name in names}
    studies = {"engines": engines, "ablations": ablations, "epsilon": epsilon, "fraction": fraction}
    return {study: variants for study, variants in studies.items() if variants}


def variant_of(
    name: str, settings: BeliefSettings, changes: dict[str, Any] | None = None
) -> Variant:
    """A policy by its label, with options of its own, of the belief, or "belief" itself."""
    policy, belief = ("srtf", "oracle") if name in OF_REFERENCES else (name, "bayes")
    options = OF_REFERENCES.get(name, {}) | (changes or {})
    belief = str(options.pop("belief", belief))
    if belief not in BELIEFS:
        raise ValueError(f"belief: unknown {belief!r}, choose from {', '.join(BELIEFS)}")
    names = {field.name for field in fields(BeliefSettings)} & options.keys()
    settings = replace(settings, **{name: options.pop(name) for name in names})
    if make_policy(policy, **options).needs_belief is False:
        belief = "none"  # it looks at nothing that a belief says, which takes time to work out
    defaults = policy_options(find_policy(policy))
    changed = tuple(sorted((k, v) for k, v in options.items() if v != defaults[k]))
    return Variant(policy, changed, belief, settings, _files(options.values()))


def _files(values: Iterable[Any]) -> str:
    """A digest of the files that options name; of none it is empty."""
    paths = [Path(value) for value in values if isinstance(value, str)]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def blocks(place: Place, variant: Variant, num_jobs: int, episodes: int) -> tuple[Cell, ...]:
    """The cells of a variant in a place: at most ``BLOCK`` episodes each."""
    return tuple(
        Cell(place, variant, num_jobs, first, min(first + BLOCK, episodes) - 1)
        for first in range(0, episodes, BLOCK)
    )


def workloads_of(
    names: Sequence[Any] | None, options: dict[str, Any], belief: BeliefSettings
) -> tuple[dict[str, Workload], tuple[str, ...]]:
    """The workloads by name, and notes on what is left out.

    Without names, of traces all; ValueError for names that are not there.
    """
    if options["name"] == "traces":
        return _traced(names, options, belief)
    if not names:
        raise ValueError("experiment.workloads: name at least one")
    named = dict.fromkeys(map(str, names))
    if "traces" in named:
        raise ValueError("experiment.workloads: real jobs need experiment=traces")
    made = {name: make_workload(**(options | {"name": name})) for name in named}
    notes = dict.fromkeys(note for workload in made.values() for note in workload.notes)
    return made, tuple(notes)


def _traced(
    names: Sequence[Any] | None, options: dict[str, Any], belief: BeliefSettings
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


def left_out(workloads: Iterable[Workload], cluster: Cluster) -> Iterator[str]:
    """Notes on the jobs that are too large for the cluster."""
    for workload in workloads:
        yield from fitted(workload, cluster).notes[len(workload.notes) :]


def try_out(bench: Bench, places: Iterable[Place], variants: Iterable[Variant]) -> None:
    """Fit each belief once, for all processes, and meet what is wrong with workloads early."""
    settings = {variant.settings for variant in variants if variant.belief != "none"}
    for place, one in product(places, sorted(settings, key=repr)):
        environment(bench, place, "bayes", one, 1)


# --- What cells depend on -------------------------------------------------------------------------


def digest(workload: Workload) -> str:
    """Of its jobs, its past jobs and its arrivals."""
    found = hashlib.sha256(repr((workload.replay, type(workload.arrivals).__name__)).encode())
    drawn = workload.arrivals.draw(np.random.default_rng(0), 1000, 1.0)  # tells records apart
    found.update(drawn.tobytes())
    for bank in (workload.bank, workload.past):
        for field in fields(bank):
            if field.name == "sources":  # a trace may move
                continue
            value = getattr(bank, field.name)
            found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()
