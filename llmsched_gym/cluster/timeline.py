"""Who ran where and when: what has happened on a cluster so far, one row a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import NEVER, TICKS_PER_SECOND
from llmsched_gym.compiled import kernel
from llmsched_gym.workload.job import Kind

if TYPE_CHECKING:
    import pandas as pd

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
COLUMNS = ("job", "stage", "task", "kind", "executor", "lane", "start_s", "end_s")


@dataclass(frozen=True, eq=False)
class Timeline:
    """The tasks that have started, in order of their start; the clusters may be real or simulated.

    N tasks have started, of the J jobs of an episode.

    Attributes
    ----------
    job, stage, task : int64 [N]: the job, the stage's number in its job, the task's in its stage.
    kind : int64 [N], ``Kind.LLM`` or ``Kind.REGULAR``.
    executor : int64 [N], the engine or the regular executor.
    lane : int64 [N], the slot of the engine: the lowest that was free at its start. Regular
        executors have one, 0. (Engines do not number their slots, so this is a way to draw them.)
    start_s, end_s : float64 [N], seconds; ``end_s`` is NaN while a task runs.
    arrival_s, completion_s : float64 [J], seconds, NaN where it has not happened.
    application : int64 [J].
    now_s : the moment.
    engines, slots, regular_executors : the size of the cluster; ``slots`` of one engine.
    """

    job: IntArray
    stage: IntArray
    task: IntArray
    kind: IntArray
    executor: IntArray
    lane: IntArray
    start_s: FloatArray
    end_s: FloatArray
    arrival_s: FloatArray
    completion_s: FloatArray
    application: IntArray
    now_s: float
    engines: int
    slots: int
    regular_executors: int

    @property
    def llm(self) -> NDArray[np.bool_]:
        """Whether a task ran on an engine: bool [N]."""
        return self.kind == Kind.LLM

    @property
    def jct_s(self) -> FloatArray:
        """Completion times of the jobs that have completed, in their order: at most [J]."""
        jct = self.completion_s - self.arrival_s
        return jct[~np.isnan(jct)]

    @property
    def in_system(self) -> IntArray:
        """The jobs that have arrived and not completed."""
        return np.flatnonzero(~np.isnan(self.arrival_s) & np.isnan(self.completion_s))

    def at(self, time_s: float) -> Timeline:
        """The timeline as it was at an earlier moment."""
        begun = self.start_s <= time_s
        columns: dict[str, Any] = {name: getattr(self, name)[begun] for name in COLUMNS}
        columns["end_s"] = _until(columns["end_s"], time_s)
        return Timeline(
            **columns,
            arrival_s=_until(self.arrival_s, time_s),
            completion_s=_until(self.completion_s, time_s),
            application=self.application,
            now_s=min(self.now_s, float(time_s)),
            engines=self.engines,
            slots=self.slots,
            regular_executors=self.regular_executors,
        )

    def frame(self) -> pd.DataFrame:
        """The columns of the tasks as a pandas table."""
        import pandas as pd

        return pd.DataFrame({name: getattr(self, name) for name in COLUMNS})


def timeline(state: ClusterState) -> Timeline:
    """What has happened so far; the state may be at any moment of an episode.

    Raises
    ------
    ValueError
        if more tasks ran on an engine at one time than it has slots.
    """
    order = _in_order(state)
    tasks = state.tasks[order]
    stages = state.stages[tasks["stage"]]
    llm = stages["kind"] == Kind.LLM
    engines, slots = state.sequences.shape
    lane = np.zeros(len(order), np.int64)
    lane[llm] = _lanes(tasks[llm], engines, slots)
    clock = state.clock[0]
    arrived = np.arange(len(state.jobs)) < clock["arrived"]
    return Timeline(
        job=stages["job"],
        stage=tasks["stage"] - state.jobs["first_stage"][stages["job"]],
        task=order - stages["first_task"],
        kind=stages["kind"],
        executor=tasks["executor"],
        lane=lane,
        start_s=tasks["start"] / TICKS_PER_SECOND,
        end_s=_seconds(tasks["end"], tasks["end"] >= 0),
        arrival_s=_seconds(state.jobs["arrival"], arrived),
        completion_s=_seconds(state.jobs["completion"], state.jobs["completion"] >= 0),
        application=state.jobs["application"],
        now_s=float(clock["now"]) / TICKS_PER_SECOND,
        engines=engines,
        slots=slots,
        regular_executors=len(state.executors),
    )


def _in_order(state: ClusterState) -> IntArray:
    """The tasks that have started, by start; one of no length goes before what follows on it."""
    started = np.flatnonzero(state.tasks["start"] >= 0)
    start, end = state.tasks["start"][started], state.tasks["end"][started]
    return started[np.lexsort((start != end, start))]


def _lanes(tasks: NDArray[np.void], engines: int, slots: int) -> IntArray:
    lane = np.full(len(tasks), -1)
    busy_until = np.zeros((engines, slots), np.int64)
    end = np.where(tasks["end"] >= 0, tasks["end"], NEVER)
    executor, start = (np.ascontiguousarray(tasks[name]) for name in ("executor", "start"))
    _fill_lanes(executor, start, end, busy_until, lane)
    if (lane < 0).any():
        crowded = tasks["executor"][lane < 0][0]
        raise ValueError(f"state: engine {crowded} has {slots} slots, and more tasks ran at once")
    return lane


@kernel
def _fill_lanes(
    executor: IntArray, start: IntArray, end: IntArray, busy_until: IntArray, lane: IntArray
) -> None:
    """Give each task the lowest lane of its engine that is free, -1 where none is."""
    slots = busy_until.shape[1]
    for task in range(len(start)):
        free = 0
        while free < slots and busy_until[executor[task], free] > start[task]:
            free += 1
        if free < slots:
            busy_until[executor[task], free] = end[task]
            lane[task] = free


def _seconds(ticks: IntArray, known: NDArray[np.bool_]) -> FloatArray:
    return np.where(known, ticks / TICKS_PER_SECOND, np.nan)


def _until(times_s: FloatArray, time_s: float) -> FloatArray:
    return np.where(times_s <= time_s, times_s, np.nan)
