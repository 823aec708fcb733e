"""LLMSchedEnv: at every moment, which stage of which job gets the next free slot."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from operator import itemgetter
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.cluster.simulator import DECIDE, FINISHED, TRUNCATED
from llmsched_gym.cluster.state import CLOCK, ClusterState, Table, copy_running
from llmsched_gym.env.actions import InvalidAction, number_of, why_invalid
from llmsched_gym.env.driver import Driver, Simulated
from llmsched_gym.env.outcome import episode_metrics, job_table
from llmsched_gym.env.pictures import Pictures
from llmsched_gym.env.reward import Reward
from llmsched_gym.env.scenario import (
    REWARDED,
    Scenario,
    check_flag,
    episode_options,
    seed_of,
    wanted_of,
)
from llmsched_gym.env.view import Seen, View, look
from llmsched_gym.rendering.modes import RENDER_FPS, RENDER_MODES, check_render_mode, render
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload

# Of a row of CLOCK: all of it in one call is faster than three of its fields.
_rewarded = itemgetter(*(CLOCK.names.index(name) for name in REWARDED))  # type: ignore[union-attr]


class Snapshot(NamedTuple):
    """A moment of an :class:`LLMSchedEnv`; only its :meth:`restore` needs to look inside."""

    kind: tuple[Any, ...]
    state: ClusterState
    status: int
    seen: Seen
    rng: Mapping[str, Any]


class LLMSchedEnv(Pictures, gymnasium.Env[dict[str, NDArray[Any]], int]):
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
    columns : which of the costly columns of the observation are worked out, a list with any of
        "gittins_s" and "uncertainty_reduction"; the others are 0. None: both.
    reward : "jct", "makespan", "completions", "slowdown", "slo" or "slo:FACTOR"; a function of a
        ``Step``, or its "module:function". See ``env.reward`` for what each of them is.
    max_jobs, max_stages : rows of the observation; None is a size that cannot overflow. With
        smaller ones the oldest jobs are shown.
    render_mode : None, "ansi" (text) or "rgb_array" (a picture, uint8 [720, 1280, 3]).
    strict : raise on an illegal action instead of waiting.
    time_limit : seconds after which the episode is truncated, or None.
    driver : who runs the tasks (``env.driver``), the simulator by default.

    Raises
    ------
    ValueError
        for an unknown name, a number of another type or out of range, a task larger than an
        engine's KV capacity, or a ``max_stages`` that cannot hold a single job. The message begins
        with the name of the option.
    InvalidAction
        from :meth:`step`, if strict.
    RewardError
        from :meth:`step`, a ValueError: for a reward that is no finite number.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        workload: str | Workload = "mixed",
        cluster: str | Cluster = "a100_llama2_7b",
        num_jobs: int = 100,
        load: float = 1.3,
        arrival_rate: float | None = None,
        belief: str = "bayes",
        belief_settings: BeliefSettings | None = None,
        columns: Sequence[str] | None = None,
        reward: str | Reward = "jct",
        max_jobs: int | None = None,
        max_stages: int | None = None,
        render_mode: str | None = None,
        strict: bool = False,
        time_limit: float | None = None,
        driver: Driver | None = None,
    ) -> None:
        check_render_mode(render_mode)
        self.scenario = scenario = Scenario(
            workload=workload,
            cluster=cluster,
            num_jobs=num_jobs,
            load=load,
            arrival_rate=arrival_rate,
            belief=belief,
            belief_settings=belief_settings,
            columns=columns,
            reward=reward,
            max_jobs=max_jobs,
            max_stages=max_stages,
            time_limit=time_limit,
        )
        self.num_jobs, self.rate, self.belief = scenario.num_jobs, scenario.rate, belief
        self.max_jobs, self.max_stages = scenario.max_jobs, scenario.max_stages
        self.notes = scenario.notes
        self.observation_space: spaces.Space[Any] = scenario.observation_space
        self.action_space: spaces.Space[Any] = scenario.action_space
        self.render_mode = render_mode
        check_flag("strict", strict)
        self.strict = strict
        self._driver: Driver = Simulated() if driver is None else driver
        self._state: ClusterState | None = None
        self._steps, self._last_step = 0, math.inf

    @property
    def workload(self) -> Workload:
        """What arrives."""
        return self.scenario.workload

    @property
    def cluster(self) -> Cluster:
        """What runs it."""
        return self.scenario.cluster

    @property
    def bank(self) -> JobBank:
        """The jobs that episodes draw from."""
        return self.workload.bank

    @property
    def state(self) -> ClusterState:
        """The cluster, hidden truth included: for tools and tests, not for policies.

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

        Options of this one episode are ``time_limit``, seconds after which it is truncated, and
        ``columns``, instead of those of the environment.

        Raises
        ------
        ValueError
            for any other option, a bad value of one, and a seed that is not a whole number of at
            least 0.
        """
        limit = episode_options(options, "columns")
        columns = (options or {}).get("columns")
        wanted = self.scenario.wanted if columns is None else wanted_of(columns)
        super().reset(seed=seed_of(seed))
        self._state = self.scenario.draw(self.np_random, limit)
        self._view = View(self.scenario, self._state, wanted, self._recording)
        self._steps, self._last_step = 0, _steps_allowed(self)
        self._status = self._driver.start(self._state)
        return self._observe(), self._info()

    def step(
        self, action: Any
    ) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Run one task of the stage in row ``action``, or wait (the last action).

        An action is an integer, or an integer array of shape () or (1,), see ``env.actions``. What
        is none, and what is illegal, sets ``info["invalid_action"]`` and waits; while nothing runs
        and nothing will arrive it runs the first legal stage instead.

        Raises
        ------
        InvalidAction
            for an illegal action, if ``strict``.
        RuntimeError
            before the first reset.
        """
        state, chosen = self.state, number_of(action)
        invalid = not 0 <= chosen <= self.max_stages or not self._mask[chosen]
        if invalid and self.strict:
            view = self._view
            raise InvalidAction(why_invalid(state, view.shown.rows, int(view.used[0]), action))
        if invalid:  # waits; where nothing could end a wait, the first legal stage runs
            chosen = self.max_stages if self._mask[-1] else int(self._mask.argmax())
        clock = state.clock[0]
        before = _rewarded(clock.item())
        stage = -1 if chosen == self.max_stages else int(self._view.shown.rows[chosen])
        self._status = status = self._driver.step(state, stage)
        self._steps += 1
        after = _rewarded(clock.item())
        reward = self.scenario.reward_of_one(before, after, state.jobs)
        observation, info = self._observe(), self._info()
        if invalid:
            info["invalid_action"] = True
        return observation, reward, status == FINISHED, status == TRUNCATED, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Booleans [max_stages + 1]: the legal actions, as sb3-contrib asks for them.

        Raises
        ------
        RuntimeError
            before the first reset, as all that is read of an episode.
        """
        self.state  # noqa: B018 (raises before the first reset)
        return self._mask.astype(np.bool_)

    def render(self) -> Any:
        """The cluster now: a text in mode "ansi", uint8 [720, 1280, 3] in mode "rgb_array"."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render() without a render mode: make(..., render_mode="rgb_array")'
            )
            return None
        applications = self.bank.applications
        return render(self.state, self.scenario.templates, applications, self.render_mode)

    def metrics(self) -> dict[str, Any]:
        """What the last ``info`` of an episode has, of the jobs that have completed so far."""
        return episode_metrics(self.state, self.bank.applications)

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
        wanted = self.scenario.wanted if self._state is None else self._view.wanted
        return look(self.scenario, self.state if state is None else state, wanted)._asdict()

    def snapshot(self) -> Snapshot:
        """The present moment, to come back to with :meth:`restore` as often as need be.

        It holds the episode and the state of ``np_random``, and can be pickled.

        Raises
        ------
        RuntimeError
            before the first reset, and for a cluster that is not simulated.
        """
        self._check_simulated()
        rng = self.np_random.bit_generator.state
        return Snapshot(
            self._kind(), copy_running(self.state), self._status, self._view.saved(), rng
        )

    def restore(self, snapshot: Snapshot) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Go on from a snapshot of this environment or of one made with the same options.

        Returns
        -------
        The observation and the info of that moment.

        Raises
        ------
        ValueError
            for a snapshot of an environment with other tables.
        RuntimeError
            for a cluster that is not simulated.
        """
        self._check_simulated()
        if not isinstance(snapshot, Snapshot) or snapshot.kind != self._kind():
            raise ValueError("snapshot: it is not of an environment with the same options")
        scratch = None if self._state is None else self._view._scratch
        self._view = View.of(self.scenario, snapshot.seen, scratch)
        self._state, self._status = copy_running(snapshot.state), snapshot.status
        self.np_random.bit_generator.state = snapshot.rng
        return self._observe(), self._info()

    def __deepcopy__(self, memo: dict[int, Any]) -> LLMSchedEnv:
        """An environment that goes on alike; what never changes is shared."""
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        memo[id(self.observation_space)] = self.observation_space
        if self._state is not None:
            memo[id(self._state)] = copy_running(self._state)
            memo[id(self.np_random)] = _twin(self.np_random)
        twin.__dict__ = {name: deepcopy(value, memo) for name, value in self.__dict__.items()}
        return twin

    def _check_simulated(self) -> None:
        if not isinstance(self._driver, Simulated):
            raise RuntimeError("only a simulated cluster can go back to a moment: this one is not")

    def _kind(self) -> tuple[Any, ...]:
        """What environments have in common that can restore each other's snapshots."""
        one = self.scenario
        sizes = self.num_jobs, self.max_jobs, self.max_stages, one.max_edges
        return self.workload.name, len(self.bank), self.cluster, self.belief, *sizes

    def _observe(self) -> dict[str, NDArray[Any]]:
        out = self._view.observe(self.state, self._status == DECIDE)
        self._mask = out.action_mask.copy()  # what legality is judged by, whatever callers write
        return out._asdict()

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"action_mask": self._mask.copy()}
        if self._status != DECIDE or self._steps >= self._last_step:
            info |= self.metrics()
        return info


def _twin(rng: np.random.Generator) -> np.random.Generator:
    """What deepcopy makes of a generator, five times as fast."""
    bits = rng.bit_generator
    try:
        twin = type(bits)(np.random.SeedSequence(**bits.seed_seq.state))  # type: ignore[attr-defined]
    except (AttributeError, TypeError):  # a generator that somebody else has made
        return deepcopy(rng)
    twin.state = bits.state
    return np.random.Generator(twin)


def _steps_allowed(env: LLMSchedEnv) -> float:
    """After how many steps a ``TimeLimit`` round the environment truncates, infinity without one.

    Gymnasium tells an environment nothing of its wrappers, yet the info of that step should say
    how the episode went. So this looks for the wrapper among the callers of ``reset()``.
    """
    steps, frame = math.inf, sys._getframe(2)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, TimeLimit) and caller.unwrapped is env:
            steps = min(steps, caller._max_episode_steps)
        frame = frame.f_back  # type: ignore[assignment]
    return steps
