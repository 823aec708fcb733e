"""What is believed and shown of one cluster, brought up to date as it goes on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_gym.belief.inference import update
from llmsched_gym.belief.networks import Beliefs, Scratch, new_scratch
from llmsched_gym.cluster.state import EVIDENCE, ClusterState, Table, copied, copy_state
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.features import JOB, Observation, empty_observation
from llmsched_gym.env.observation import Shown, new_shown, observe
from llmsched_gym.env.scenario import Scenario

_DEMAND = [JOB[name] for name in ("demand_s", "demand_low_s", "demand_high_s")]


class Believed(NamedTuple):
    """What an observation said of the remaining demand of the jobs in it."""

    time_s: float
    jobs: NDArray[np.int64]  # [jobs]
    demand_s: NDArray[np.float32]  # [jobs, 3]: E[rem], and the ends of its interval


class Seen(NamedTuple):
    """What is believed and shown of a cluster: what a :class:`View` consists of."""

    stage_beliefs: Table
    job_beliefs: Table
    shown: Shown
    used: NDArray[np.int64]
    wanted: int
    history: tuple[Believed, ...] | None = None


class View:
    """A view of an episode from its beginning on.

    Parameters
    ----------
    scenario : what the episode was drawn from.
    state : of the cluster.
    wanted : the costly columns that are wanted, as ``belief.inference`` takes them.

    Attributes
    ----------
    stage_beliefs, job_beliefs : BELIEF_STAGE [jobs, stages], BELIEF_JOB [jobs].
    shown : what each job shows.
    used : int64 [3], rows, edges and jobs of the last observation.
    history : what was believed so far, one entry a moment; None where nobody asked for it.
        Nothing in it ever changes, so copies share it.
    """

    def __init__(
        self, scenario: Scenario, state: ClusterState, wanted: int, recording: bool = False
    ) -> None:
        self.scenario, self.wanted = scenario, wanted
        self.stage_beliefs, self.job_beliefs = scenario.new_beliefs()
        self.shown = new_shown(
            scenario.max_stages,
            scenario.num_jobs,
            len(state.stages),
            scenario.rows_of_a_job,
            scenario.edges_of_a_job,
        )
        self.used = np.zeros(3, np.int64)
        self.history: tuple[Believed, ...] | None = () if recording else None
        self._scratch: Scratch | None = None

    @property
    def scratch(self) -> Scratch:
        """Working space of the beliefs: none of it lasts, so that no copy has it."""
        if self._scratch is None:
            assert self.scenario.networks is not None
            self._scratch = new_scratch(self.scenario.networks)
        return self._scratch

    def __getstate__(self) -> dict[str, Any]:
        """All but the working space."""
        return self.__dict__ | {"_scratch": None}

    def saved(self) -> Seen:
        """A copy of what is believed and shown."""
        return self._copied(self._seen())

    @classmethod
    def of(cls, scenario: Scenario, seen: Seen, scratch: Scratch | None = None) -> View:
        """A view that goes on from what another one :meth:`saved`, which stays as it is."""
        view = cls.__new__(cls)
        view.scenario, view._scratch = scenario, scratch
        seen = view._copied(seen)
        view.stage_beliefs, view.job_beliefs, view.shown, view.used = seen[:4]
        view.wanted, view.history = seen.wanted, seen.history
        return view

    def _seen(self) -> Seen:
        beliefs = self.stage_beliefs, self.job_beliefs
        return Seen(*beliefs, self.shown, self.used, self.wanted, self.history)

    def _copied(self, seen: Seen) -> Seen:
        if self.scenario.networks is not None:  # without them nothing is ever believed
            seen = seen._replace(
                stage_beliefs=copied(seen.stage_beliefs), job_beliefs=copied(seen.job_beliefs)
            )
        shown = Shown._make(table.copy() for table in seen.shown)
        return seen._replace(shown=shown, used=seen.used.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> View:
        return View.of(self.scenario, self._seen())

    def observe(self, state: ClusterState, asked: bool) -> Observation:
        """Update what is believed, and show it.

        ``asked`` is whether a decision is due.
        """
        self.believe(state)
        out = self.show(state, asked)
        if self.history is not None:
            self._keep(self.history, state, out)
        return out

    def _keep(self, history: tuple[Believed, ...], state: ClusterState, out: Observation) -> None:
        """Add what an observation says to the history; of each moment the last one counts."""
        shown = int(self.used[2])
        time_s = float(state.clock["now"][0]) / TICKS_PER_SECOND
        now = Believed(time_s, state.active[:shown].copy(), out.jobs[:shown, _DEMAND])
        earlier = history[:-1] if history and history[-1].time_s == time_s else history
        self.history = (*earlier, now)

    def believe(self, state: ClusterState) -> None:
        """Update what is believed of the jobs that changed, if anything is."""
        scenario = self.scenario
        if scenario.networks is not None:
            beliefs = Beliefs(self.stage_beliefs, self.job_beliefs, self.scratch)
            believing = scenario.templates, scenario.networks, beliefs, scenario.mode
            update(state, *believing, self.wanted)

    def show(self, state: ClusterState, asked: bool) -> Observation:
        """The observation of a state; afterwards no job of it counts as changed."""
        scenario = self.scenario
        out = empty_observation(scenario.max_stages, scenario.max_edges, scenario.max_jobs)
        self.used[:] = 0
        observe(
            state,
            scenario.templates,
            self.stage_beliefs,
            self.job_beliefs,
            self.shown,
            asked,
            self.used,
            out,
        )
        return out


def look(scenario: Scenario, state: ClusterState, wanted: int, asked: bool = True) -> Observation:
    """The observation of a state as if nobody had looked before; the state stays as it is."""
    state = copy_state(state)
    arrived = int(state.clock["arrived"][0])
    state.jobs["changed"][:arrived] = EVIDENCE
    state.changed[:arrived] = np.arange(arrived)
    state.clock["changed"][0] = arrived
    return View(scenario, state, wanted).observe(state, asked)
