"""LLMSchedEnv: at every moment, which stage of which job gets the next free slot."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from llmsched_gym.belief.inference import BAYES, NONE, ORACLE, PRIOR, compile_profile, update
from llmsched_gym.belief.networks import BELIEF_JOB, BELIEF_STAGE, new_beliefs
from llmsched_gym.belief.profile import BeliefSettings, load_or_fit
from llmsched_gym.cluster.latency import Cluster, load_cluster
from llmsched_gym.cluster.simulator import (
    DECIDE,
    FINISHED,
    TRUNCATED,
    can_run,
    start,
    step,
)
from llmsched_gym.cluster.state import TICKS_PER_SECOND, ClusterState, check_fits, new_state
from llmsched_gym.env.observation import (
    empty_observation,
    new_rows,
    observation_space,
    observe,
)
from llmsched_gym.env.rendering import render_ansi
from llmsched_gym.env.reward import REWARDS, Step
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.mixes import Workload, arrival_rate, make_workload
from llmsched_gym.workload.template import (
    canonical_stages,
    fit_templates,
    observation_bounds,
    template_table,
)

BELIEFS = {"none": NONE, "prior": PRIOR, "bayes": BAYES, "oracle": ORACLE}


class InvalidAction(ValueError):
    """An action that is not legal now, in a strict environment."""


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
        _check_options(num_jobs, belief, reward, max_jobs, render_mode, arrival_rate, time_limit)
        self.workload = make_workload(workload) if isinstance(workload, str) else workload
        self.cluster = load_cluster(cluster)
        self.num_jobs = num_jobs
        self.render_mode = render_mode
        self.strict = strict
        self.time_limit = time_limit
        self.belief = belief
        check_fits(self.bank, self.cluster)
        self.rate = self._rate(load) if arrival_rate is None else arrival_rate
        self._reward = REWARDS[reward]
        self._mode = BELIEFS[belief]
        self._set_up_belief(belief_settings or BeliefSettings())
        self._set_up_spaces(max_jobs, max_stages)
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

    def _rate(self, load: float) -> float:
        llm = self.bank.output_tokens > 0
        seconds = self.cluster.latency.slot_seconds(
            self.bank.prompt_tokens[llm], self.bank.output_tokens[llm], self.cluster.max_batch
        )
        return arrival_rate(load, self.cluster.llm_slots, float(seconds.sum()) / len(self.bank))

    def _set_up_belief(self, settings: BeliefSettings) -> None:
        past = self.workload.past
        profile = None
        if self.belief != "none":
            profile = load_or_fit(past, self.cluster.latency, settings)
        templates = fit_templates(past) if profile is None else profile.templates
        self.notes: tuple[str, ...] = () if profile is None else profile.notes
        self._templates = template_table(self.bank.applications, templates)
        self._canonical = canonical_stages(self.bank, templates)
        self._networks = (
            None if profile is None else compile_profile(profile, self.bank.applications)
        )

    def _set_up_spaces(self, max_jobs: int | None, max_stages: int | None) -> None:
        rows, edges = observation_bounds(self.bank, self._templates, self._canonical)
        self._rows_of_a_job = rows
        self.max_jobs = self.num_jobs if max_jobs is None else max_jobs
        self.max_stages = self.max_jobs * rows if max_stages is None else max_stages
        if self.max_stages < rows:
            raise ValueError(
                f"max_stages: {self.max_stages} cannot hold a single job, which needs up to {rows}"
            )
        self.max_edges = max(1, edges) * min(self.max_jobs, max(1, self.max_stages // 2))
        self.observation_space: spaces.Space[Any] = observation_space(
            self.max_stages, self.max_edges, self.max_jobs
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(self.max_stages + 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Draw a new episode; the seed determines its jobs and their arrivals."""
        super().reset(seed=seed)
        picked, arrival_s = self.workload.draw(self.np_random, self.num_jobs, self.rate)
        state = new_state(
            self.bank, picked, arrival_s, self.cluster, self._canonical, self.time_limit
        )
        self._state = state
        self._rows = new_rows(self.max_stages, len(state.stages), self._rows_of_a_job)
        self._set_up_beliefs()
        status = start(state)
        return self._observe(status), self._info(status)

    def _set_up_beliefs(self) -> None:
        if self._networks is None:
            widest = int(np.diff(self._templates.first).max(initial=1))
            self._beliefs = None
            self._stage_beliefs = np.zeros((self.num_jobs, widest), BELIEF_STAGE)
            self._job_beliefs = np.zeros(self.num_jobs, BELIEF_JOB)
        else:
            self._beliefs = new_beliefs(self.num_jobs, self._networks)
            self._stage_beliefs = self._beliefs.stages
            self._job_beliefs = self._beliefs.jobs

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
            raise InvalidAction(self._why_invalid(int(action)))
        if invalid:  # waits; where nothing could end a wait, the first legal stage runs
            action = self.max_stages if self._mask[-1] else int(self._mask.argmax())
        clock = state.clock[0]
        before = clock["now"], clock["job_seconds"], clock["finished"]
        stage = -1 if action == self.max_stages else int(self._rows.stage[action])
        status = step(state, stage)
        reward = self._reward(
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
        jobs = self.state.jobs
        arrival = jobs["arrival"] / TICKS_PER_SECOND
        done = jobs["completion"] >= 0
        completion = np.where(done, jobs["completion"] / TICKS_PER_SECOND, np.nan)
        jct = np.where(done, (jobs["completion"] - jobs["arrival"]) / TICKS_PER_SECOND, np.nan)
        return {
            "application": np.array(self.bank.applications)[jobs["application"]],
            "arrival_s": arrival,
            "completion_s": completion,
            "jct_s": jct,
        }

    def _observe(self, status: int) -> dict[str, NDArray[Any]]:
        state = self.state
        if state.clock["changed"][0] > 0:
            if self._beliefs is not None and self._networks is not None:
                update(state, self._templates, self._networks, self._beliefs, self._mode)
            _forget_changes(state)
        out = empty_observation(self.max_stages, self.max_edges, self.max_jobs)
        self._used = observe(
            state,
            self._templates,
            self._stage_beliefs,
            self._job_beliefs,
            self._rows,
            status == DECIDE,
            out,
        )
        self._mask = out.action_mask.copy()  # what legality is judged by, whatever callers write
        return out._asdict()

    def _info(self, status: int) -> dict[str, Any]:
        info: dict[str, Any] = {"action_mask": self._mask.copy()}
        if status != DECIDE:
            info |= self._episode_metrics()
        return info

    def _episode_metrics(self) -> dict[str, Any]:
        table = self.job_table()
        jct = table["jct_s"][~np.isnan(table["jct_s"])]
        end = float(self.state.clock["now"][0]) / TICKS_PER_SECOND
        p50, p95, p99 = np.percentile(jct, (50, 95, 99)) if len(jct) else (np.nan,) * 3
        return {
            "mean_jct_s": float(jct.mean()) if len(jct) else float("nan"),
            "p50_jct_s": float(p50),
            "p95_jct_s": float(p95),
            "p99_jct_s": float(p99),
            "makespan_s": end,
            "jobs_completed": len(jct),
            "decisions": int(self.state.clock["dispatched"][0]),
            **self._utilisation(end),
            "application_jct_s": self._application_jct(table),
        }

    def _utilisation(self, end: float) -> dict[str, float]:
        """Share of slot time in use from the start of the episode to its end."""
        tasks = self.state.tasks
        started = tasks["start"] >= 0
        now = self.state.clock["now"][0]
        last = np.where(tasks["end"] >= 0, tasks["end"], now)
        busy = np.where(started, last - tasks["start"], 0) / TICKS_PER_SECOND
        llm = self.state.stages["kind"][tasks["stage"]] == 0
        span = max(end, 1e-12)
        return {
            "llm_utilisation": float(busy[llm].sum() / (span * self.cluster.llm_slots)),
            "regular_utilisation": float(
                busy[~llm].sum() / (span * self.cluster.regular_executors)
            ),
        }

    def _application_jct(self, table: dict[str, NDArray[Any]]) -> dict[str, float]:
        done = ~np.isnan(table["jct_s"])
        return {
            name: float(table["jct_s"][done & (table["application"] == name)].mean())
            for name in sorted(set(table["application"][done].tolist()))
        }

    def _why_invalid(self, action: int) -> str:
        if not 0 <= action <= self.max_stages:
            return f"action {action}: valid actions are 0 to {self.max_stages}"
        if action == self.max_stages:
            return f"action {action}: nothing to wait for, nothing runs and nothing will arrive"
        stage = int(self._rows.stage[action]) if action < self._used else -1
        if stage < 0:
            return f"row {action}: no stage that can run (unused row or placeholder)"
        row = self.state.stages[stage]
        if row["unfinished_parents"]:
            return f"row {action}: the stage waits for {row['unfinished_parents']} parents"
        if row["started_tasks"] == row["num_tasks"]:
            return f"row {action}: all {row['num_tasks']} tasks of the stage have started"
        assert not can_run(self.state, stage)
        return f"row {action}: no executor of its kind can take a task now"


def _forget_changes(state: ClusterState) -> None:
    count = int(state.clock["changed"][0])
    state.jobs["changed"][state.changed[:count]] = 0
    state.clock["changed"][0] = 0


def _check_options(
    num_jobs: int,
    belief: str,
    reward: str,
    max_jobs: int | None,
    render_mode: str | None,
    arrival_rate: float | None,
    time_limit: float | None,
) -> None:
    if num_jobs < 1:
        raise ValueError(f"num_jobs: {num_jobs} is below 1")
    if max_jobs is not None and max_jobs < 1:
        raise ValueError(f"max_jobs: {max_jobs} is below 1")
    if belief not in BELIEFS:
        raise ValueError(f"belief: unknown {belief!r}, choose from {', '.join(BELIEFS)}")
    if reward not in REWARDS:
        raise ValueError(f"reward: unknown {reward!r}, choose from {', '.join(REWARDS)}")
    if render_mode not in (None, *LLMSchedEnv.metadata["render_modes"]):
        raise ValueError(f"render_mode: unknown {render_mode!r}, choose from ansi or None")
    if arrival_rate is not None and not (np.isfinite(arrival_rate) and arrival_rate > 0):
        raise ValueError(f"arrival_rate: {arrival_rate} is not a positive rate in jobs/s")
    if time_limit is not None and not (np.isfinite(time_limit) and time_limit > 0):
        raise ValueError(f"time_limit: {time_limit} is not a positive time in seconds")
