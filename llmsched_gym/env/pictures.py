"""Pictures of an episode, for notebooks: what an environment offers beside ``render()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmsched_gym.checks import is_whole
from llmsched_gym.cluster.state import ClusterState
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.cluster.timeline import Timeline, timeline
from llmsched_gym.env.scenario import Scenario
from llmsched_gym.env.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmsched_gym.rendering.history import BeliefHistory


class Pictures:
    """Mixin of :class:`~llmsched_gym.env.scheduling.LLMSchedEnv`: the episode so far, in pictures.

    All may be asked for at any moment after the first reset, and none changes anything. Jobs are
    numbered in order of arrival, from 0.
    """

    scenario: Scenario
    _view: View
    _recording = False  # whether the views of episodes keep what is believed

    @property
    def state(self) -> ClusterState:
        """The cluster."""
        raise NotImplementedError

    def timeline(self) -> Timeline:
        """Who ran where and when, so far."""
        return timeline(self.state)

    def gantt(self) -> Figure:
        """Who ran where and when, so far: a figure of the engines' slots and the tools.

        :func:`llmsched_gym.rendering.gantt` puts the timelines of several policies in one.
        """
        from llmsched_gym.rendering.gantt import gantt

        return gantt(
            self.timeline(), f"{self.scenario.workload.name}, {self.scenario.cluster.name}"
        )

    def job_graph(self, job: int) -> Figure:
        """What is seen of a job: its stages and what they do, and what may follow.

        Raises
        ------
        ValueError
            for a job that there is not, or that has not arrived.
        """
        from llmsched_gym.rendering.graph import job_graph
        from llmsched_gym.rendering.graph_figure import draw_job_graph

        job = self._arrived(job)
        graph = job_graph(self.state, self.scenario.templates, job)
        names = {node.stage: self._stage_name(job, node.stage) for node in graph.nodes}
        return draw_job_graph(graph, names, f"job {job}, {self._application(job)}")

    def record_beliefs(self) -> None:
        """Keep what is believed of every job in the system, from the next observation on.

        It costs some microseconds a step, and goes with snapshots and copies.

        Raises
        ------
        ValueError
            if nothing is believed: ``belief="none"``.
        """
        if self.scenario.networks is None:
            raise ValueError('belief: with "none" there is nothing to record')
        self._recording = True

    def belief_history(self, job: int) -> Figure:
        """What was believed of a job's remaining demand over time, see :meth:`record_beliefs`.

        Raises
        ------
        ValueError
            for a job that there is not, or that has not arrived.
        RuntimeError
            if nothing was recorded of it.
        """
        from llmsched_gym.rendering.history import draw_belief_history

        history = self.beliefs_of(job)
        title = f"job {history.job}, {history.application}: what is believed of it"
        return draw_belief_history(history, title)

    def beliefs_of(self, job: int) -> BeliefHistory:
        """The numbers behind :meth:`belief_history`; it raises the same."""
        from llmsched_gym.rendering.history import BeliefHistory

        job = self._arrived(job)
        kept = [(one.time_s, *one.demand_s[one.jobs == job]) for one in self._view.history or ()]
        rows = [(time_s, *belief[0]) for time_s, *belief in kept if belief]
        if not rows:
            raise RuntimeError(f"nothing was recorded of job {job}: call record_beliefs(), reset()")
        completion = int(self.state.jobs["completion"][job])
        if completion >= 0:
            rows.append((completion / TICKS_PER_SECOND, 0.0, 0.0, 0.0))
        time_s, expected_s, low_s, high_s = np.array(rows, np.float64).T
        application, completed = self._application(job), self._completed(job)
        return BeliefHistory(job, application, time_s, expected_s, low_s, high_s, completed)

    def _arrived(self, job: int) -> int:
        arrived = int(self.state.clock["arrived"][0])
        if not is_whole(job, 0, arrived - 1):
            raise ValueError(f"job: {job!r} is not one that has arrived, from 0 to {arrived - 1}")
        return int(job)

    def _application(self, job: int) -> str:
        return self.scenario.bank.applications[self.state.jobs["application"][job]]

    def _stage_name(self, job: int, stage: int) -> str:
        bank = self.scenario.bank
        row = bank.job_stages[self.state.jobs["bank_job"][job]] + stage
        return bank.stage_names[bank.stage_name[row]].removesuffix("#1")

    def _completed(self, job: int) -> tuple[tuple[float, str], ...]:
        """When each stage of a job completed, and its name, in order."""
        tasks = self.timeline()
        found = []
        first = int(self.state.jobs["first_stage"][job])
        for stage in range(int(self.state.jobs["num_stages"][job])):
            row = self.state.stages[first + stage]
            if row["completed_tasks"] == row["num_tasks"]:
                end_s = tasks.end_s[(tasks.job == job) & (tasks.stage == stage)].max()
                found.append((float(end_s), self._stage_name(job, stage)))
        return tuple(sorted(found))
