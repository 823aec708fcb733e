"""Plan the robustness study: the same jobs with beliefs fitted on another past, and other clusters.

python evaluate.py experiment=robustness
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.experiments.cells import Bench, Experiment, Place, Row
from llmsched_gym.experiments.plan import (
    blocks,
    digest,
    left_out,
    named_variants,
    try_out,
    variant_of,
    workloads_of,
)
from llmsched_gym.experiments.sources import fingerprint
from llmsched_gym.settings import Count, Names, Policies, Positive, Settings, Text
from llmsched_gym.workload.mixes import Workload

UNCHANGED = "unchanged"  # what changes are compared with
RULER = "fcfs"  # looks at no belief, so that no change of the past touches it


class Change(Settings):
    """What is other than in ``unchanged``: options of the workload, and a cluster."""

    past_jobs: Count | None = None
    past_mix: Text | None = None
    past_token_scale: Positive = 1.0
    cluster: Text | None = None


class RobustnessOptions(Settings):
    """What a run is made of, as in ``configs/experiment/robustness.yaml``."""

    name: Text
    changes: Any
    workloads: Names | None
    load: Positive
    episodes: Count
    num_jobs: Count
    policies: Policies
    ray: Text | None


@dataclass
class _Made:
    """The workloads by ``workload/change``, the cluster of each, and what to tell of them."""

    workloads: dict[str, Workload] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def plan_robustness(
    given: dict[str, Any],
    workload: dict[str, Any],
    cluster: Cluster,
    belief: BeliefSettings,
    seed: int,
    folder: Path,
) -> Experiment:
    """Make the experiment that the options describe: a study is a change.

    Parameters
    ----------
    given
        The values of :class:`RobustnessOptions`.
    workload
        Options of ``make_workload`` for all workloads, the name among them; those of a change come
        after them.
    cluster
        Of ``unchanged``. Others have as many engines and tools, and slots of their own.
    folder
        Of the cells.

    Raises
    ------
    ValueError, OSError, InputError
        for options that are not right, and traces that cannot be read.
    """
    options = RobustnessOptions.read(given, "experiment.")
    variants = named_variants(options.policies, belief)
    if not variants:
        raise ValueError("experiment.policies: name at least one")
    variants.setdefault(RULER, variant_of(RULER, belief))
    changes = _changes(options.changes)
    made = _made(options.workloads, changes, workload, cluster, belief)
    if not all(one.has_rate for one in made.workloads.values()):
        raise ValueError("workload.arrivals: an experiment has a load, and these have none")
    bench = Bench(
        made.workloads,
        cluster,
        seed,
        folder,
        {name: digest(one) for name, one in made.workloads.items()},
        fingerprint({variant.policy for variant in variants.values()}),
        made.clusters,
    )
    places = [Place(name, options.load, cluster.engines) for name in made.workloads]
    try_out(bench, places, variants.values())
    rows = tuple(
        Row(
            change_of(place)[1],
            place,
            label,
            blocks(place, variant, options.num_jobs, options.episodes),
        )
        for place in places
        for label, variant in variants.items()
    )
    return Experiment(bench, rows, (), tuple(dict.fromkeys(made.notes)))


def change_of(place: Place) -> tuple[str, str]:
    """The workload and the change that a place is."""
    workload, _, change = place.workload.rpartition("/")
    return workload, change


def _changes(given: Any) -> dict[str, Change]:
    """By label, ``unchanged`` first."""
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        raise ValueError("experiment.changes: each needs options such as {past_jobs: 50}")
    changes = {UNCHANGED: Change()}
    for label, options in given.items():
        if str(label) == UNCHANGED or "/" in str(label):
            raise ValueError(f"experiment.changes: {str(label)!r} cannot be the name of a change")
        changes[str(label)] = Change.read(options, f"experiment.changes.{label}.")
    return changes


def _made(
    names: Any,
    changes: dict[str, Change],
    workload: dict[str, Any],
    cluster: Cluster,
    belief: BeliefSettings,
) -> _Made:
    made = _Made()
    for label, change in changes.items():
        past = change.model_dump(exclude_unset=True)
        preset = past.pop("cluster", None)
        try:
            found, notes = workloads_of(names, workload | past, belief)
            here = cluster
            if preset is not None:
                engines, tools = cluster.engines, cluster.regular_executors
                here = load_cluster(preset, engines=engines, regular_executors=tools)
            made.notes += left_out(found.values(), here)
        except ValueError as error:
            if label == UNCHANGED:
                raise
            raise ValueError(f"experiment.changes.{label}: {error}") from error
        if label == UNCHANGED:  # the notes of the others tell what is other
            made.notes += notes
            names = list(found)
        for name, one in found.items():
            made.workloads[f"{name}/{label}"] = replace(one, name=name)
            made.clusters[f"{name}/{label}"] = here
    return made
