"""The compiled posterior against pgmpy's variable elimination, on every fitted network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmsched_gym.belief.fitting import load_or_fit
from llmsched_gym.belief.networks import BAYES, Beliefs, Table
from llmsched_gym.belief.profile import BeliefProfile, Network
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.workload.applications import APPLICATIONS
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload, make_workload
from llmsched_gym.workload.template import canonical_stages
from support.enumeration import Expected, information
from support.moments import Believer, Moment

MOMENTS = 12  # of each application
QUESTIONS = 4  # at each moment
REMAINING = 3  # moments at which the job's sum is asked for
CLUSTER = load_cluster("constant")


def named(network: Network) -> Any:
    """The network in pgmpy with names for variables, as virtual evidence needs them."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork

    model = DiscreteBayesianNetwork([(f"v{a}", f"v{b}") for a, b in network.edges])
    model.add_nodes_from(f"v{v}" for v in range(len(network.tables)))
    for v, (parents, table) in enumerate(zip(network.parents, network.tables, strict=True)):
        states = table.shape[-1]
        model.add_cpds(
            TabularCPD(
                f"v{v}",
                states,
                table.reshape(-1, states).T,
                evidence=[f"v{parent}" for parent in parents],
                evidence_card=list(table.shape[:-1]),
            )
        )
    return model


def ask_pgmpy(
    network: Network, variables: list[int], allowed: dict[int, set[int]]
) -> NDArray[np.float64]:
    """P(variables | each variable in its allowed states)."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination

    hard = {
        f"v{v}": next(iter(some))
        for v, some in allowed.items()
        if len(some) == 1 and v not in variables
    }
    soft = [
        TabularCPD(f"v{v}", len(column), column)
        for v, some in allowed.items()
        if f"v{v}" not in hard
        for column in [[[float(x in some)] for x in range(network.states[v])]]
    ]
    # pgmpy leaves virtual evidence in the model: each question needs a new one.
    answer = VariableElimination(named(network)).query(
        [f"v{v}" for v in variables], evidence=hard, virtual_evidence=soft, show_progress=False
    )
    order = [answer.variables.index(f"v{v}") for v in variables]
    return np.transpose(answer.values, order)


def moments(bank: JobBank, application: str, rng: np.random.Generator) -> Iterator[Moment]:
    """Random jobs at random moments, forever; some tasks of what could run are complete."""
    mine = np.flatnonzero(bank.job_application == bank.applications.index(application))
    while True:
        job = bank.job(int(rng.choice(mine)))
        eagerness = rng.uniform(0.3, 1.0)
        completed: list[int] = []
        for stage in job.stages:
            ready = all(completed[p] == len(job.stages[p].tasks) for p in stage.parents)
            count = len(stage.tasks)
            done = count if rng.random() < eagerness else int(rng.integers(0, count))
            completed.append(done if ready else 0)
        yield Moment(job, tuple(completed), job.canonical_names())


def judge(profile: BeliefProfile, moment: Moment) -> Beliefs:
    """The beliefs about a job."""
    believer = Believer(profile, [moment], BAYES, CLUSTER)
    canonical = canonical_stages(JobBank.from_jobs([moment.job]), profile.templates)
    np.testing.assert_array_equal(believer.state.stages["canonical"], canonical)
    believer.show(0, moment)
    return believer.update()


def check_stage(expected: Expected, believed: Table, c: int) -> None:
    """The distribution of a stage's demand, and of its number of tasks where its mean depends."""
    network, fanout = expected.network, expected.fanout_asked(c)
    variables = [int(network.demand[c])] if fanout < 0 else [fanout, int(network.demand[c])]
    joint = ask_pgmpy(network, variables, expected.allowed)
    answers = expected.summary(c, joint.reshape(-1, joint.shape[-1]))
    for field, value in answers.items():
        assert believed[c][field] == pytest.approx(value, rel=1e-9, abs=1e-9), (c, field)


def check_reduction(expected: Expected, believed: Table, c: int) -> None:
    """What a ready stage would tell, with the ranges that are believed."""
    network, ranges = expected.network, believed["high_s"] - believed["low_s"]
    nearest = expected.nearest(c)
    total = 0.0
    if nearest:
        variables = [int(network.demand[y]) for y in (c, *nearest)]
        total = information(ask_pgmpy(network, variables, expected.allowed)) * ranges[nearest].sum()
    for z in expected.revealed(c):
        p = ask_pgmpy(network, [expected.shown(z)], expected.allowed)
        total += expected.structural_entropy(z, p) * ranges[z]
    assert believed[c]["reduction"] == pytest.approx(total, rel=1e-9, abs=1e-9), c


def check_remaining(expected: Expected, beliefs: Beliefs) -> None:
    """The expected remaining demand of the job: a sum over its stages."""
    network, total = expected.network, 0.0
    for c in sorted(expected.present | expected.undetermined):
        fanout = expected.fanout_asked(c)
        variables = [int(network.demand[c])] if fanout < 0 else [fanout, int(network.demand[c])]
        joint = ask_pgmpy(network, variables, expected.allowed)
        joint = joint.reshape(-1, joint.shape[-1])
        total += expected.left(c) * float((joint * expected.cells(c)).sum())
    row = beliefs.jobs[0]
    if row["skipped"] == 0:
        assert row["llm_s"] + row["regular_s"] == pytest.approx(total, rel=1e-9, abs=1e-9)


def check(workload: Workload, application: str) -> None:
    rng = np.random.default_rng(0)
    profile = load_or_fit(workload.past, CLUSTER.latency)
    drawn = moments(workload.bank, application, rng)
    stages = reductions = prompts = 0
    for number in range(MOMENTS):
        moment = next(drawn)
        expected, beliefs = Expected(profile, moment), judge(profile, moment)
        believed = np.array(beliefs.stages[0])
        known = [expected.allowed.get(v, {0}) for v in expected.network.prompt.tolist() if v >= 0]
        prompts += sum(len(states) == 1 and 0 not in states for states in known)
        if number < REMAINING:
            check_remaining(expected, beliefs)
        uncertain = sorted(expected.present | expected.undetermined)
        for c in map(int, rng.permutation(uncertain)[:QUESTIONS]):
            check_stage(expected, believed, c)
            stages += 1
        for c in map(int, rng.permutation(expected.ready())[:1]):
            check_reduction(expected, believed, c)
            reductions += believed[c]["reduction"] > 0
    assert stages >= MOMENTS
    told = (profile.networks[application].prompt >= 0).any()
    assert prompts > 0 or not told
    assert reductions > 0 or told or not profile.networks[application].edges


@pytest.mark.slow
@pytest.mark.parametrize("application", APPLICATIONS)
def test_generated_applications(application: str) -> None:
    check(make_workload(application), application)


@pytest.mark.slow
def test_traces(shared: Path) -> None:
    workload = make_workload("traces", path=shared / "traces")
    for application in workload.bank.applications:
        check(workload, application)
