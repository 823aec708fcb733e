# mypy: no-disallow-untyped-defs, no-disallow-untyped-calls, no-disallow-incomplete-defs
"""Nothing but the oracle may depend on what has not been revealed.

At random moments of random episodes everything hidden is replaced: the tokens and durations of
tasks that have not completed, the prompts of stages that are not ready, every field of stages that
are not visible, and whole jobs that have not arrived. The observation must stay bit-identical.
"""

import numpy as np
import pytest

from llmsched_gym.cluster.state import copy_state
from llmsched_gym.env.features import JOB
from llmsched_gym.env.scheduling import LLMSchedEnv


def permute_hidden(state, rng):
    """Change whatever no scheduler may know of a state, in place."""
    stages, tasks, jobs = state.stages, state.tasks, state.jobs
    complete = stages["completed_tasks"] == stages["num_tasks"]
    visible = stages["visible"] == 1
    ready = visible & (stages["unfinished_parents"] == 0)
    shuffle(stages, "prompt_tokens", ~ready, rng)
    shuffle(stages, "demand", ~complete, rng)
    for field in ("kind", "canonical", "num_tasks"):
        for application in np.unique(jobs["application"]):
            same = jobs["application"][stages["job"]] == application
            shuffle(stages, field, ~visible & same, rng)
    for stage in np.flatnonzero(~visible):  # the order of hidden stages is hidden, too
        first, last = state.parents_of[stage], state.parents_of[stage + 1]
        hidden = [k for k in range(first, last) if not visible[state.parents[k]]]
        rng.shuffle(state.parents[hidden])
    unfinished = tasks["end"] < 0
    shuffle(tasks, "output_tokens", unfinished, rng)
    shuffle(tasks, "demand", unfinished, rng)
    later = np.arange(len(jobs)) >= state.clock["arrived"][0]
    jobs["arrival"][later] += rng.integers(1, 10**12)
    jobs["unfinished_stages"][:] = rng.integers(1, 100, len(jobs))


def shuffle(table, field, where, rng):
    rows = np.flatnonzero(where)
    table[field][rows] = table[field][rng.permutation(rows)]


def differing(env, workload_seed, moments=12):
    """Names of the arrays that changed when everything hidden was permuted."""
    rng = np.random.default_rng(workload_seed)
    observation, _ = env.reset(seed=workload_seed)
    changed: set[str] = set()
    for _ in range(moments):
        for _ in range(int(rng.integers(1, 40))):
            legal = np.flatnonzero(observation["action_mask"])
            observation, _, done, _, _ = env.step(int(rng.choice(legal)))
            if done:
                return changed
        true, scrambled = copy_state(env.state), copy_state(env.state)
        permute_hidden(scrambled, rng)
        before, after = env.look(true), env.look(scrambled)
        changed |= {key for key in before if before[key].tobytes() != after[key].tobytes()}
        observation = env.look(true)
    return changed


@pytest.mark.parametrize("belief", ["none", "prior", "bayes"])
@pytest.mark.parametrize("workload", ["planning", "chain_like", "predefined"])
def test_observation_ignores_what_is_hidden(workload, belief):
    env = LLMSchedEnv(workload, num_jobs=30, load=2.0, belief=belief)
    for seed in range(2):
        assert differing(env, seed) == set()


def test_prompts_of_ready_stages_are_believed():
    """What the tests above hide is part of the networks: a ready stage's prompt tells."""
    env = LLMSchedEnv("chain_like", num_jobs=30, load=2.0)
    env.reset(seed=0)
    changed = copy_state(env.state)
    ready = (changed.stages["visible"] == 1) & (changed.stages["unfinished_parents"] == 0)
    changed.stages["prompt_tokens"][ready] *= 9
    before, after = env.look(), env.look(changed)
    assert (before["jobs"][:, JOB["demand_s"]] != after["jobs"][:, JOB["demand_s"]]).any()


def test_the_test_sees_the_oracle():
    env = LLMSchedEnv("planning", num_jobs=30, load=2.0, belief="oracle")
    assert differing(env, 0) & {"stages", "jobs"}


@pytest.mark.parametrize("belief", ["prior", "bayes"])
def test_incremental_belief_equals_belief_from_nothing(belief):
    env = LLMSchedEnv("mixed", num_jobs=30, load=2.0, belief=belief)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        for _ in range(50):
            legal = np.flatnonzero(observation["action_mask"])
            observation, _, done, _, _ = env.step(int(rng.choice(legal)))
            assert not done
        afresh = env.look()
        for key in observation:
            np.testing.assert_array_equal(observation[key], afresh[key], err_msg=key)
