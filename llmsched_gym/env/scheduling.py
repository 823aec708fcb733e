"""LLMSchedEnv: at every moment, which stage of which job gets the next free slot."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.simulator import DECIDE, FINISHED, TRUNCATED, start, step
from llmsched_gym.cluster.state import ClusterState, Table
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.actions import InvalidAction, why_invalid
from llmsched_gym.env.outcome import episode_metrics, job_table
from llmsched_gym.env.rendering import render_ansi
from llmsched_gym.env.reward import Step
from llmsched_gym.env.scenario import Scenario, episode_options
from llmsched_gym.env.view import View, look
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload


class LLMSchedEnv(gymnasium.Env[dict[str, NDArray[Any]], int]):
    """A GPU cluster that serves compound LLM jobs, one scheduling decision a step.

    An episode draws its whole workload at reset, so the same seed gives the same jobs to every
    policy. A step runs one task of a stage, or waits for the next event; the simulator then goes
    on to the next moment at which some task could be started.

    Parameters
    ----------
    workload : a name from ``WORKLOADS`` or a :class:`Workload`; "traces" needs the latter.
    cluster : a preset's name, a YAML file or a :class:`Cluster`.
    num_jobs : jobs an episode.
    load : offered load of the LLM slots (see docs/model.md), ignored if ``arrival_rate`` is given.
    arrival_rate : jobs per second, or None.
    belief : "none", "prior", "bayes" or "oracle": what the observation says about hidden demand.
    belief_settings : how networks are fitted and read.
    reward : "jct", "makespan" or "completions".
    max_jobs, max_stages : rows of the observation; None is a size that cannot overflow. With
        smaller ones the oldest jobs are shown.
    render_mode : None or "ansi".
    strict : raise on an illegal action instead of waiting.
    time_limit : seconds after which the episode is truncated, or None.

    Raises
    ------
    ValueError
        for an unknown name, a number out of range, a task larger than an engine's KV capacity, or
        a ``max_stages`` that cannot hold a single job.
    InvalidAction
        from :meth:`step`, if strict.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        workload: str | Workload = "mixed",
        cluster: str | Cluster = "a100_llama2_7b",
        num_jobs: int = 100,
        load: float = 1.3,
        arrival_rate: float | None = None,
        belief: str = "bayes",
        belief_settings: BeliefSettings | None = None,
        reward: str = "jct",
        max_jobs: int | None = None,
        max_stages: int | None = None,
        render_mode: str | None = None,
        strict: bool = False,
        time_limit: float | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode: unknown {render_mode!r}, choose from ansi or None")
        self.scenario = scenario = Scenario(
            workload=workload,
            cluster=cluster,
            num_jobs=num_jobs,
            load=load,
            arrival_rate=arrival_rate,
            belief=belief,
            belief_settings=belief_settings,
            reward=reward,
            max_jobs=max_jobs,
            max_stages=max_stages,
            time_limit=time_limit,
        )
        self.workload, self.cluster = scenario.workload, scenario.cluster
        self.num_jobs, self.rate, self.belief = num_jobs, scenario.rate, belief
        self.max_jobs, self.max_stages = scenario.max_jobs, scenario.max_stages
        self.notes = scenario.notes
        self.observation_space: spaces.Space[Any] = scenario.observation_space
        self.action_space: spaces.Space[Any] = scenario.action_space
        self.render_mode = render_mode
        self.strict = strict
        self._state: ClusterState | None = None

    @property
    def bank(self) -> JobBank:
        """The jobs that episodes draw from."""
        return self.workload.bank

    @property
    def state(self) -> ClusterState:
        """The simulated cluster, hidden truth included: for tools and tests, not for policies.

        Raises
        ------
        RuntimeError
            before the first reset.
        """
        if self._state is None:
            raise RuntimeError("call reset() first")
        return self._state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Draw a new episode; the seed determines its jobs and their arrivals.

        ``options={"time_limit": seconds}`` truncates this one episode.

        Raises
        ------
        ValueError
            for any other option.
        """
        super().reset(seed=seed)
        self._state = self.scenario.draw(self.np_random, episode_options(options))
        self._view = View(self.scenario, self._state)
        status = start(self._state)
        return self._observe(status), self._info(status)

    def step(
        self, action: int
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Run one task of the stage in row ``action``, or wait (the last action).

        An illegal action sets ``info["invalid_action"]`` and waits; while nothing runs and nothing
        will arrive it runs the first legal stage instead.

        Raises
        ------
        InvalidAction
            for an illegal action, if ``strict``.
        """
        state = self.state
        invalid = not 0 <= action <= self.max_stages or not self._mask[action]
        if invalid and self.strict:
            view = self._view
            raise InvalidAction(why_invalid(state, view.shown.rows, int(view.used[0]), int(action)))
        if invalid:  # waits; where nothing could end a wait, the first legal stage runs
            action = self.max_stages if self._mask[-1] else int(self._mask.argmax())
        clock = state.clock[0]
        before = clock["now"], clock["job_seconds"], clock["finished"]
        stage = -1 if action == self.max_stages else int(self._view.shown.rows[action])
        status = step(state, stage)
        reward = self.scenario.reward(
            Step(
                elapsed_s=float(clock["now"] - before[0]) / TICKS_PER_SECOND,
                job_seconds=float(clock["job_seconds"] - before[1]),
                completed_jobs=int(clock["finished"] - before[2]),
            )
        )
        observation = self._observe(status)
        info = self._info(status)
        if invalid:
            info["invalid_action"] = True
        return observation, reward, status == FINISHED, status == TRUNCATED, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Booleans [max_stages + 1]: the legal actions, as sb3-contrib asks for them."""
        return self._mask.astype(np.bool_)

    def render(self) -> str | None:  # type: ignore[override]
        """The cluster as text, in render mode "ansi"."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() without a render mode: make(..., render_mode="ansi")')
            return None
        return render_ansi(self.state, self.bank.applications)

    def job_table(self) -> dict[str, NDArray[Any]]:
        """Per job of the episode: application, arrival_s, completion_s and jct_s.

        A job that has not completed has NaN.
        """
        return job_table(self.state, self.bank.applications)

    def beliefs(self) -> tuple[Table, Table]:
        """What is believed of every job: BELIEF_STAGE [jobs, stages], BELIEF_JOB [jobs].

        The stages of a job are those of its application's template; see ``belief.networks`` for
        the columns. For tools and tests: policies see observations.
        """
        self.state  # noqa: B018 (raises before the first reset)
        return self._view.stage_beliefs.copy(), self._view.job_beliefs.copy()

    def look(self, state: ClusterState | None = None) -> dict[str, NDArray[Any]]:
        """The observation of a state, by default of this moment's, all of it worked out anew.

        Nothing changes by looking: ``state`` may be any state of an episode of this environment.
        """
        return look(self.scenario, self.state if state is None else state)._asdict()

    def _observe(self, status: int) -> dict[str, NDArray[Any]]:
        out = self._view.observe(self.state, status == DECIDE)
        self._mask = out.action_mask.copy()  # what legality is judged by, whatever callers write
        return out._asdict()

    def _info(self, status: int) -> dict[str, Any]:
        info: dict[str, Any] = {"action_mask": self._mask.copy()}
        if status != DECIDE:
            info |= episode_metrics(self.state, self.bank.applications)
        return info
