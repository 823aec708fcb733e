# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls, no-disallow-incomplete-defs
"""The layout of an observation, against a slow and plain reading of the same state."""

from pathlib import Path

import numpy as np
import pytest

from llmsched_gym.cluster.simulator import can_run, can_wait
from llmsched_gym.env.features import STAGE, describe
from llmsched_gym.env.scheduling import LLMSchedEnv

DOCS = Path(__file__).parents[2] / "docs" / "observation.md"


def test_docs_print_the_tables_of_the_code():
    assert describe().strip() in DOCS.read_text()


def shown(env):
    """The rows an observation must have: (stage, is placeholder), and the edges between them."""
    state, templates = env.state, env.scenario.templates
    stages = state.stages
    complete = stages["completed_tasks"] == stages["num_tasks"]
    rows = []
    for job in state.active[: state.clock["active"][0]]:
        first = state.jobs["first_stage"][job]
        for stage in range(first, first + state.jobs["num_stages"][job]):
            if stages["visible"][stage] and not complete[stage]:
                rows.append((stage, False))
                canonical = stages["canonical"][stage]
                if np.diff(templates.reveals_of[canonical : canonical + 2]):
                    rows.append((stage, True))
    place = {row: number for number, row in enumerate(rows)}
    edges = set()
    for (stage, placeholder), row in place.items():
        if placeholder:
            edges.add((place[stage, False], row))
            continue
        for parent in state.parents[state.parents_of[stage] : state.parents_of[stage + 1]]:
            while not stages["visible"][parent]:
                parent = stages["revealed_by"][parent]
            if not complete[parent]:
                edges.add((place[parent, False], row))
        canonical = stages["canonical"][stage]
        awaits = templates.awaits[
            templates.awaits_of[canonical] : templates.awaits_of[canonical + 1]
        ]
        for other, other_row in place.items():
            same_job = stages["job"][other[0]] == stages["job"][stage]
            if same_job and other[1] and stages["canonical"][other[0]] in awaits:
                edges.add((other_row, row))
    return rows, edges


def descendants(edges, row):
    below = {target for source, target in edges if source == row}
    for target in list(below):
        below |= descendants(edges, target)
    return below


@pytest.mark.parametrize("workload", ["planning", "chain_like", "predefined"])
def test_rows_edges_and_masks_are_those_of_the_state(workload):
    env = LLMSchedEnv(workload, num_jobs=20, load=3.0, belief="none")
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    for decision in range(400):
        legal = np.flatnonzero(observation["action_mask"])
        observation, _, done, _, _ = env.step(int(rng.choice(legal)))
        if done:
            break
        if decision % 10:
            continue
        rows, edges = shown(env)
        assert observation["stage_mask"].sum() == len(rows)
        assert observation["stages"][: len(rows), STAGE["is_dynamic"]].tolist() == [
            float(placeholder) for _, placeholder in rows
        ]
        used = observation["edges"][observation["edge_mask"] == 1]
        assert len(used) == len(edges)
        assert {tuple(edge) for edge in used.tolist()} == edges
        assert observation["stages"][: len(rows), STAGE["descendants"]].tolist() == [
            len(descendants(edges, row)) for row in range(len(rows))
        ]
        assert observation["action_mask"][: len(rows)].tolist() == [
            int(not placeholder and can_run(env.state, stage)) for stage, placeholder in rows
        ]
        assert not observation["action_mask"][len(rows) : -1].any()
        assert observation["action_mask"][-1] == can_wait(env.state)
