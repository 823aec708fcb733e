"""Plan the suite: policies on every named scenario, beside SJF and the clairvoyant references.

python evaluate.py experiment=suite policy=llmsched
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.named import PRESET, SCENARIOS, SUITE
from llmsched_gym.evaluation.results import REFERENCES, SJF
from llmsched_gym.experiments.cells import Bench, Experiment, Place, Row, Variant
from llmsched_gym.experiments.plan import blocks, digest, named_variants, try_out, variant_of
from llmsched_gym.experiments.sources import fingerprint
from llmsched_gym.settings import Count, Names, Policies, Settings, Text
from llmsched_gym.workload.inputs import unknown

STUDY = "suite"
ENDS = (SJF, *REFERENCES)


class SuiteOptions(Settings):
    """What a run of the suite is made of, as in ``configs/experiment/suite.yaml``."""

    name: Text
    suite: Text
    scenarios: Names | None
    episodes: Count
    num_jobs: Count | None
    policies: Policies | None
    ray: Text | None


def plan_suite(
    given: dict[str, Any], policy: dict[str, Any], belief: BeliefSettings, seed: int, folder: Path
) -> Experiment:
    """Make the experiment that the options describe.

    Parameters
    ----------
    given
        The values of :class:`SuiteOptions`.
    policy
        Name and options of the policy that plays where ``policies`` is None.
    folder
        Of the cells.

    Raises
    ------
    ValueError, InputError
        for options that are not right.
    """
    options = SuiteOptions.read(given, "experiment.")
    if options.suite != SUITE:
        raise ValueError(f"experiment.suite: here is {SUITE}, not {options.suite!r}")
    names = list(SCENARIOS) if options.scenarios is None else options.scenarios
    if not names:
        raise ValueError("experiment.scenarios: name at least one")
    for name in names:
        if name not in SCENARIOS:
            raise unknown("experiment.scenarios", name, SCENARIOS)
    variants = _variants([policy] if options.policies is None else options.policies, belief)
    made = {name: SCENARIOS[name].options() for name in names}
    workloads = {name: one["workload"] for name, one in made.items()}
    bench = Bench(
        workloads,
        load_cluster(PRESET),
        seed,
        folder,
        {name: digest(workload) for name, workload in workloads.items()},
        fingerprint({variant.policy for variant in variants.values()}),
        {name: one["cluster"] for name, one in made.items()},
    )
    places = [Place(name, SCENARIOS[name].load, SCENARIOS[name].engines) for name in names]
    try_out(bench, places, variants.values())
    rows = []
    for place in places:
        num_jobs = options.num_jobs or SCENARIOS[place.workload].num_jobs
        for label, variant in variants.items():
            cells = blocks(place, variant, num_jobs, options.episodes)
            rows.append(Row(STUDY, place, label, cells))
    return Experiment(bench, tuple(rows), (), ())


def _variants(policies: Sequence[Any], belief: BeliefSettings) -> dict[str, Variant]:
    """The policies by label, then those that scores are made with."""
    variants = named_variants(policies, belief, REFERENCES)
    return variants | {name: variant_of(name, belief) for name in ENDS}
