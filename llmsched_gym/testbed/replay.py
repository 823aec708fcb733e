"""Replay the log of an episode: the same observations, rewards and figures, without servers."""

from __future__ import annotations

from typing import NoReturn

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.errors import InputError
from llmsched_gym.testbed.events import (
    ARRIVE,
    ASK,
    COMPLETE,
    DOWN,
    FINISH,
    KINDS,
    START,
    STATUS,
    TRUNCATE,
    UP,
    Event,
    decision_needed,
    happen,
    next_task,
)
from llmsched_gym.testbed.log import EventLog


class Replay:
    """A ``Driver`` to which happens what a log says, as far as the same is done as then.

    An environment with the options of the one that was played, the same seed and this driver gives
    the same, to the last bit: ``LLMSchedEnv(workload, cluster, driver=Replay(log))``.

    Parameters
    ----------
    log : of one episode.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._at = 0

    def start(self, state: ClusterState) -> int:
        """See ``Driver``.

        Raises
        ------
        InputError
            if the log is of another workload or cluster, or does not fit together: one line.
        """
        log = self.log
        was = len(log.urls), log.slots, log.jobs, log.tasks
        now = (*state.sequences.shape, len(state.jobs), len(state.tasks))
        if was != now:
            raise InputError(
                "log: it has {} engines, {} slots, {} jobs, {} tasks, ".format(*was)
                + "the episode {}, {}, {} and {}".format(*now)
            )
        self._at, self._down = 0, set[int]()
        return self._go_on(state)

    def step(self, state: ClusterState, stage: int) -> int:
        """See ``Driver`` and :meth:`start`; InputError also for a decision that was another."""
        if self._at == len(self.log.rows):
            return STATUS[self.log.rows[-1].kind]
        if stage >= 0:
            task = next_task(state, stage)
            row = self.log.rows[self._at]
            if row.kind != START or row.what != task:
                self._refuse(f"then, {_said(row)}; now, task {task} starts")
            if happen(state, row) != row.executor:
                self._refuse(f"{_said(row)}, and not on executor {row.executor}")
            self._at += 1
        return self._go_on(state)

    def _go_on(self, state: ClusterState) -> int:
        while self._at < len(self.log.rows):
            row = self.log.rows[self._at]
            if not self._fits(state, row):
                self._refuse(f"{_said(row)}: it does not fit what was before")
            happen(state, row)
            self._at += 1
            if row.kind in STATUS:
                return STATUS[row.kind]
        raise InputError("log: it ends in the middle of the episode")

    def _fits(self, state: ClusterState, row: Event) -> bool:
        """Whether an event can happen to a state: nothing is checked where it is applied."""
        if row.kind == ARRIVE:
            return row.what == int(state.clock["arrived"][0])
        if row.kind == COMPLETE:
            task = state.tasks[row.what]
            return bool(task["start"] >= 0 and task["end"] < 0)
        if row.kind in (DOWN, UP):
            fits = (row.what in self._down) == (row.kind == UP)
            self._down ^= {row.what}
            return fits
        if row.kind == ASK:
            return bool(decision_needed(state))
        finished = state.clock["finished"][0] == state.clock["num_jobs"][0]
        return row.kind == TRUNCATE or (row.kind == FINISH and bool(finished))

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"log: event {self._at + 1} of {len(self.log.rows)}: {why}")


def _said(row: Event) -> str:
    return f"{KINDS[row.kind]} {row.what}".removesuffix(" -1")
