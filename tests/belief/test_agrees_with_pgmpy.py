# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls
"""The compiled posterior against pgmpy's variable elimination, on running jobs."""

import numpy as np
import pytest

from llmsched_gym.belief.profile import BeliefSettings, load_or_fit
from llmsched_gym.cluster.state import TICKS_PER_SECOND
from llmsched_gym.env.scheduling import LLMSchedEnv


def nearest_bin(bins, value):
    """State of a value: the bin with the least distance to it, the first one at equal distance."""
    distance = np.maximum(bins.least[1:] - value, value - bins.most[1:])
    return 1 + int(np.argmin(np.maximum(distance, 0)))


def evidence_of(env, network, job):
    """Allowed states [variable -> set] by a plain reading of what is visible of a job."""
    state, templates = env.state, env._templates
    first = templates.first[state.jobs["application"][job]]
    begin = state.jobs["first_stage"][job]
    visible = {}
    for stage in range(begin, begin + state.jobs["num_stages"][job]):
        if state.stages["visible"][stage] and state.stages["canonical"][stage] >= 0:
            visible[state.stages["canonical"][stage] - first] = state.stages[stage]
    allowed = {}
    undetermined = set(range(len(network.demand)))
    progress = True
    while progress:  # determined at arrival, or by revealers that can reveal nothing any more
        progress = False
        for c in sorted(undetermined):
            row = templates.revealers[
                templates.revealers_of[first + c] : templates.revealers_of[first + c + 1]
            ]
            open_ = [
                r - first
                for r in row
                if r - first in undetermined
                or (
                    r - first in visible
                    and visible[r - first]["completed_tasks"] < visible[r - first]["num_tasks"]
                )
            ]
            if c in visible or not open_:
                undetermined.discard(c)
                progress = True
    for c in range(len(network.demand)):
        demand, fanout = network.demand[c], network.fanout[c]
        states = network.states[demand]
        if c in visible:
            stage = visible[c]
            done = stage["completed_tasks"] == stage["num_tasks"]
            seconds = stage["demand"] / TICKS_PER_SECOND
            allowed[demand] = (
                {nearest_bin(network.demand_bins[c], seconds)} if done else set(range(1, states))
            )
            if fanout >= 0:
                allowed[fanout] = {nearest_bin(network.fanout_bins[c], stage["num_tasks"])}
        elif c not in undetermined:
            allowed[demand] = {0}
            if fanout >= 0:
                allowed[fanout] = {0}
    return allowed, visible, undetermined


def named(network):
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


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["planning", "chain_like", "predefined"])
def test_presence_of_every_stage_of_running_jobs(workload):
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination

    env = LLMSchedEnv(workload, num_jobs=12, load=2.0, belief="bayes")
    profile = load_or_fit(env.workload.past, env.cluster.latency, BeliefSettings())
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    compared = 0
    done = False
    for decision in range(2000):
        legal = np.flatnonzero(observation["action_mask"])
        observation, _, done, _, _ = env.step(int(rng.choice(legal)))
        if done:
            break
        if decision % 5:
            continue
        job = int(rng.choice(env.state.active[: env.state.clock["active"][0]]))
        network = profile.networks[env.bank.applications[env.state.jobs["application"][job]]]
        allowed, _, undetermined = evidence_of(env, network, job)
        asked = sorted(undetermined)[:3]
        if not asked:
            continue
        hard = {f"v{v}": next(iter(s)) for v, s in allowed.items() if len(s) == 1}
        soft = [
            TabularCPD(f"v{v}", len(column), column)
            for v, s in allowed.items()
            if len(s) > 1
            for column in [[[float(x in s)] for x in range(network.states[v])]]
        ]
        for c in asked:
            # pgmpy leaves virtual evidence in the model: each question needs a new one
            answer = VariableElimination(named(network)).query(
                [f"v{network.demand[c]}"], evidence=hard, virtual_evidence=soft, show_progress=False
            )
            believed = env._stage_beliefs[job][c]
            assert believed["presence"] == pytest.approx(1 - answer.values[0], abs=1e-9)
            compared += 1
    assert compared > 5 or workload == "predefined"
