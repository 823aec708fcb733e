"""Actions: what counts as one, which are legal, and what is said of those that are not.

An action is an integer: Python's, numpy's, or an integer array of shape () or (1,), as vectorised
policies give it. Nothing is rounded: booleans and floats, whole ones too, are no actions, nor is
None, text or a longer array. What is no action is illegal, as is the number of a row that cannot
run.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.simulator import can_run
from llmsched_gym.cluster.state import ClusterState


class InvalidAction(ValueError):
    """An action that is not legal now, in a strict environment."""


def number_of(action: Any) -> int:
    """The number of an action, -1 for what is none."""
    if isinstance(action, (bool, np.bool_)):
        return -1
    if isinstance(action, np.ndarray):
        is_one = action.dtype.kind in "iu" and action.shape in ((), (1,))
        return int(action.item()) if is_one else -1
    try:
        return operator.index(action)
    except TypeError:
        return -1


def numbers_of(actions: Any, count: int) -> NDArray[np.int64]:
    """The numbers of the actions of ``count`` clusters, -1 for each that is none: int64 [count].

    An integer array of shape [count] or [count, 1], or a sequence of single actions.

    Raises
    ------
    ValueError
        if there are not as many.
    """
    if getattr(actions, "shape", (count,)) not in ((count,), (count, 1)):
        raise ValueError(f"actions: {count} are needed, one a cluster, got {_shown(actions)}")
    if isinstance(actions, np.ndarray) and actions.dtype.kind in "iu":
        return actions.reshape(count).astype(np.int64)
    single = list(actions) if np.iterable(actions) else []
    if len(single) != count:
        raise ValueError(f"actions: {count} are needed, one a cluster, got {_shown(actions)}")
    largest = np.iinfo(np.int64).max
    return np.array([min(max(number_of(one), -1), largest) for one in single], np.int64)


def why_invalid(state: ClusterState, rows: NDArray[np.int64], used: int, action: Any) -> str:
    """What is wrong with an action that is not legal.

    ``rows`` is ``Shown.rows`` [max_stages], of which the first ``used`` are in use.
    """
    wait, number = len(rows), number_of(action)
    if not 0 <= number <= wait:
        return f"action {_shown(action)}: valid actions are the integers 0 to {wait}"
    if number == wait:
        return f"action {number}: nothing to wait for, nothing runs and nothing will arrive"
    stage = int(rows[number]) if number < used else -1
    if stage < 0:
        return f"row {number}: no stage that can run (unused row or placeholder)"
    row = state.stages[stage]
    if row["unfinished_parents"]:
        return f"row {number}: the stage waits for {row['unfinished_parents']} parents"
    if row["started_tasks"] == row["num_tasks"]:
        return f"row {number}: all {row['num_tasks']} tasks of the stage have started"
    assert not can_run(state, stage)
    return f"row {number}: no executor of its kind can take a task now"


def _shown(action: Any) -> str:
    """An action of any type in a few words."""
    if isinstance(action, np.ndarray) and action.size != 1:
        return f"{action.dtype} of shape {action.shape}"
    text = " ".join(repr(action).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
