"""What notebooks ask of an environment: the episode so far, in pictures and numbers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from llmsched_gym.env.features import JOB
from llmsched_gym.env.scheduling import LLMSchedEnv

SMALL: dict[str, Any] = {"workload": "planning", "num_jobs": 6}


def first(observation: Any) -> int:
    return int(observation["action_mask"].argmax())


def test_all_pictures_at_any_moment_and_nothing_changes() -> None:
    seen, unseen = LLMSchedEnv(**SMALL), LLMSchedEnv(**SMALL)
    seen.record_beliefs()
    observation, _ = seen.reset(seed=1)
    unseen.reset(seed=1)
    over, steps = False, 0
    while not over:
        if steps % 10 == 0:
            job = int(seen.state.active[0])
            for figure in (seen.gantt(), seen.job_graph(job), seen.belief_history(job)):
                assert isinstance(figure, Figure)
                figure.canvas.draw()
        action = first(observation)
        observation, *mine = seen.step(action)
        other, *theirs = unseen.step(action)
        np.testing.assert_equal((observation, mine), (other, theirs))
        over, steps = bool(mine[1] or mine[2]), steps + 1
    assert len(seen.timeline().job) == seen.state.clock["dispatched"][0] == len(seen.state.tasks)


def test_histories_are_what_observations_said() -> None:
    env = LLMSchedEnv(**SMALL)
    env.record_beliefs()
    observation, _ = env.reset(seed=2)
    said: dict[int, dict[float, list[float]]] = {}
    over = False
    while not over:
        time_s = float(env.state.clock["now"][0]) / 1e12
        active = env.state.active[: int(env.state.clock["active"][0])]
        columns = [JOB[name] for name in ("demand_s", "demand_low_s", "demand_high_s")]
        for row, job in enumerate(active.tolist()):
            said.setdefault(job, {})[time_s] = observation["jobs"][row, columns].tolist()
        observation, _, terminated, truncated, _ = env.step(first(observation))
        over = terminated or truncated
    assert len(said) == 6
    for job, expected in said.items():
        found = env.beliefs_of(job)
        rows = np.column_stack([found.expected_s, found.low_s, found.high_s])
        assert found.time_s[:-1].tolist() == sorted(expected)
        np.testing.assert_array_equal(rows[:-1], [expected[time_s] for time_s in sorted(expected)])
        assert found.time_s[-1] == env.job_table()["completion_s"][job]
        assert rows[-1].tolist() == [0, 0, 0]
        ends = [time_s for time_s, _ in found.completed]
        assert ends == sorted(ends)
        assert ends[-1] == found.time_s[-1]
        assert len(ends) == env.state.jobs["num_stages"][job]


def test_copies_and_snapshots_go_on_with_the_history() -> None:
    env = LLMSchedEnv(**SMALL)
    env.record_beliefs()
    observation, _ = env.reset(seed=3)
    for _ in range(8):
        observation, *_ = env.step(first(observation))
    snapshot = pickle.loads(pickle.dumps(env.snapshot()))
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env)), LLMSchedEnv(**SMALL)]
    twins[2].restore(snapshot)

    def on(one: LLMSchedEnv) -> list[Any]:
        seen = one.look()
        for _ in range(5):
            seen, *_ = one.step(first(seen))
        found = one.beliefs_of(0)
        return [found.time_s, found.expected_s, found.low_s, found.high_s, found.completed]

    expected = on(env)
    for twin in twins:
        np.testing.assert_equal(on(twin), expected)
    env.restore(snapshot)
    np.testing.assert_equal(on(env), expected)


def test_nothing_is_kept_unless_asked_for() -> None:
    env = LLMSchedEnv(**SMALL)
    with pytest.raises(RuntimeError, match="reset"):
        env.timeline()
    env.reset(seed=0)
    assert env.snapshot().seen.history is None
    with pytest.raises(RuntimeError, match=r"^nothing was recorded of job 0: call record_beliefs"):
        env.belief_history(0)
    for job in (-1, 99, 0.5, "0"):
        with pytest.raises(ValueError, match=r"^job: .* is not one that has arrived, from 0 to 0"):
            env.job_graph(job)  # type: ignore[arg-type]
    blind = LLMSchedEnv(**SMALL, belief="none")
    with pytest.raises(ValueError, match="^belief: "):
        blind.record_beliefs()
