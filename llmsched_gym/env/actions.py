"""Actions: which are legal, and what is said of those that are not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.simulator import can_run
from llmsched_gym.cluster.state import ClusterState


class InvalidAction(ValueError):
    """An action that is not legal now, in a strict environment."""


def why_invalid(state: ClusterState, rows: NDArray[np.int64], used: int, action: int) -> str:
    """What is wrong with an action that is not legal.

    ``rows`` is ``Shown.rows`` [max_stages], of which the first ``used`` are in use.
    """
    wait = len(rows)
    if not 0 <= action <= wait:
        return f"action {action}: valid actions are 0 to {wait}"
    if action == wait:
        return f"action {action}: nothing to wait for, nothing runs and nothing will arrive"
    stage = int(rows[action]) if action < used else -1
    if stage < 0:
        return f"row {action}: no stage that can run (unused row or placeholder)"
    row = state.stages[stage]
    if row["unfinished_parents"]:
        return f"row {action}: the stage waits for {row['unfinished_parents']} parents"
    if row["started_tasks"] == row["num_tasks"]:
        return f"row {action}: all {row['num_tasks']} tasks of the stage have started"
    assert not can_run(state, stage)
    return f"row {action}: no executor of its kind can take a task now"
