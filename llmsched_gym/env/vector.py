"""LLMSchedVectorEnv: many clusters, advanced and observed in compiled calls on several cores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from llmsched_gym.belief.networks import new_scratch
from llmsched_gym.cluster.simulator import DECIDE, FINISHED, TRUNCATED
from llmsched_gym.cluster.state import ClusterState, episode, new_states
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.env.actions import InvalidAction, why_invalid
from llmsched_gym.env.advance import BEGIN, LEAVE, STEP, advance_many
from llmsched_gym.env.features import Observation, empty_observation
from llmsched_gym.env.observation import new_shown
from llmsched_gym.env.outcome import episode_metrics, job_table
from llmsched_gym.env.reward import Step
from llmsched_gym.env.scenario import Scenario, episode_options
from llmsched_gym.processes import cores

# Fewer are not worth a thread: to wake one takes as long as their steps.
CLUSTERS_A_THREAD = 96
BELIEVING_CLUSTERS_A_THREAD = 12

Infos = dict[str, Any]


class LLMSchedVectorEnv(VectorEnv[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[Any]]):
    """``num_envs`` clusters: number i is, step by step, :class:`LLMSchedEnv` with the same seed.

    Parameters
    ----------
    num_envs : clusters N.
    autoreset_mode : what a step does to a cluster whose episode was over. "NextStep" (default): it
        begins the next episode, whatever the action. "SameStep": the next episode has begun
        already, and ``infos`` has ``final_obs`` and ``final_info``. "Disabled": nothing; it stays
        over, with reward 0, until it is reset.
    copy : True (default): arrays handed out stay as they are; those that nobody holds any more are
        used again. False: every step overwrites the arrays of the last one.
    threads : how many cores to use; None for all that this process may use. With fewer than 12
        clusters a thread (96 with ``belief="none"``), less.
    strict : raise on an illegal action instead of waiting.
    options : the other options of :class:`LLMSchedEnv`.

    Raises
    ------
    ValueError
        as :class:`LLMSchedEnv`, and for a number below 1.
    InvalidAction
        from :meth:`step`, if strict.

    Notes
    -----
    ``reset(seed=s)`` gives cluster i the seed s + i, a list gives each its own. Its ``options`` are
    ``reset_mask``, bool [N], the clusters to reset, and ``time_limit``, see
    :meth:`LLMSchedEnv.reset`.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        threads: int | None = None,
        strict: bool = False,
        render_mode: None = None,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: {num_envs} is below 1")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: {threads} is below 1")
        if render_mode is not None:
            raise ValueError(f"render_mode: {render_mode!r}, but many clusters show no picture")
        self.num_envs, self.copy, self.strict = num_envs, copy, strict
        self.render_mode = None
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.scenario = Scenario(**options)
        self.single_observation_space = self.scenario.observation_space
        self.single_action_space = self.scenario.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._set_up_clusters()
        self._set_up_threads(threads)
        self._buffers: list[_Buffer] = []

    def _set_up_clusters(self) -> None:
        scenario, count = self.scenario, self.num_envs
        self._states = new_states(scenario.bank, scenario.cluster, scenario.num_jobs, count)
        self._stage_beliefs, self._job_beliefs = scenario.new_beliefs(count)
        self._shown = new_shown(
            scenario.max_stages,
            scenario.num_jobs,
            self._states.stages.shape[1],
            scenario.rows_of_a_job,
            scenario.edges_of_a_job,
            count,
        )
        self._so_far = self._read_clocks()
        self._status = np.full(count, FINISHED, np.int64)
        self._mask = np.zeros((count, scenario.max_stages + 1), np.int8)
        self._used = np.zeros((count, 3), np.int64)  # rows, edges and jobs shown
        self._sizes = np.zeros((count, 2), np.int64)  # stages and tasks of each episode
        self._generators: list[np.random.Generator | None] = [None] * count

    def _set_up_threads(self, threads: int | None) -> None:
        networks = self.scenario.networks
        least = CLUSTERS_A_THREAD if networks is None else BELIEVING_CLUSTERS_A_THREAD
        most = max(1, self.num_envs // least)
        self.threads = min(cores() if threads is None else threads, most)
        self._scratches = [networks and new_scratch(networks) for _ in range(self.threads)]
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    # --- Gymnasium ----------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, NDArray[Any]], Infos]:
        """Begin new episodes, in all clusters or in those of ``options["reset_mask"]``.

        Raises
        ------
        ValueError
            for as many seeds or masks as there are not clusters, and an unknown option.
        """
        options = dict(options or {})
        members = self._masked(options.pop("reset_mask", None))
        limit = episode_options(options)
        for number, one in zip(members.tolist(), self._seeds(seed)[members], strict=True):
            if one is not None or self._generators[number] is None:
                self._generators[number], _ = seeding.np_random(one)
            self._draw(number, limit)
        buffer = self._free_buffer()
        todo = np.zeros(self.num_envs, np.int64)
        todo[members] = BEGIN
        self._advance(todo, todo, buffer)
        infos = self._infos(buffer)
        self._add_metrics(infos, members[self._status[members] != DECIDE])
        return buffer.out._asdict(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        dict[str, NDArray[Any]], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos
    ]:
        """Run one task, or wait, in each cluster: see :meth:`LLMSchedEnv.step`."""
        over = self._status != DECIDE
        stages, invalid = self._read_actions(np.asarray(actions), ~over)
        todo = np.full(self.num_envs, STEP, np.int64)
        if over.any():
            again = self.autoreset_mode == AutoresetMode.NEXT_STEP
            todo[over] = BEGIN if again else LEAVE
            for number in np.flatnonzero(todo == BEGIN).tolist():
                self._draw(number)
        before, buffer = self._so_far, self._free_buffer()
        self._advance(todo, stages, buffer)
        rewards = np.where(over, 0.0, self._rewards(before))
        terminations, truncations = self._status == FINISHED, self._status == TRUNCATED
        infos = self._infos(buffer)
        if invalid.any():
            infos |= {"invalid_action": invalid, "_invalid_action": invalid.copy()}
        ended = np.flatnonzero((todo != LEAVE) & (self._status != DECIDE))
        if len(ended):
            self._end(ended, infos, buffer)
        return buffer.out._asdict(), rewards, terminations, truncations, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Booleans [num_envs, max_stages + 1]: the legal actions."""
        return self._mask.astype(np.bool_)

    def job_table(self, number: int) -> dict[str, NDArray[Any]]:
        """:meth:`LLMSchedEnv.job_table` of one cluster."""
        return job_table(self.state(number), self.scenario.bank.applications)

    def state(self, number: int) -> ClusterState:
        """One simulated cluster, hidden truth included: for tools and tests, not for policies."""
        state = episode(self._states, number)
        stages, tasks = self._sizes[number]
        return state._replace(stages=state.stages[:stages], tasks=state.tasks[:tasks])

    def close_extras(self, **_: Any) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    # --- the parts of a step ------------------------------------------------------------------

    def _masked(self, mask: NDArray[np.bool_] | None) -> NDArray[np.intp]:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"options: reset_mask must be {self.num_envs} booleans, one of them true, "
                f"got {mask.dtype} {mask.shape}"
            )
        if (self._sizes[~mask, 0] == 0).any():
            raise ValueError("options: reset_mask leaves out a cluster that was never reset")
        return np.flatnonzero(mask)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> NDArray[Any]:
        seeds = np.full(self.num_envs, None, object)
        if isinstance(seed, (int, np.integer)):
            seeds[:] = [int(seed) + number for number in range(self.num_envs)]
        elif seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"seed: {len(seed)} seeds for {self.num_envs} clusters")
            seeds[:] = [None if one is None else int(one) for one in seed]
        return seeds

    def _draw(self, number: int, time_limit: float | None = None) -> None:
        """Draw the next episode of a cluster."""
        generator = self._generators[number]
        if generator is None:
            raise RuntimeError("call reset() first")
        state = self.scenario.draw(generator, time_limit)
        for table, drawn in zip(self._states, state, strict=True):
            table[number, : len(drawn)] = drawn
        self._sizes[number] = len(state.stages), len(state.tasks)

    def _read_actions(
        self, actions: NDArray[Any], asked: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What each cluster dispatches (a stage, or -1 to wait), and whose action is illegal.

        As in a single environment an illegal action waits or, where nothing could end a wait, runs
        the first legal stage.
        """
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions: {self.num_envs} are needed, got shape {actions.shape}")
        every, last = np.arange(self.num_envs), self.scenario.max_stages
        chosen = np.where((actions >= 0) & (actions <= last), actions, last).astype(np.int64)
        invalid = asked & ((chosen != actions) | (self._mask[every, chosen] == 0))
        if invalid.any():
            if self.strict:
                self._refuse(actions, invalid)
            instead = np.where(self._mask[:, -1] != 0, last, self._mask.argmax(axis=1))
            chosen = np.where(invalid, instead, chosen)
        stages = self._shown.rows[every, np.minimum(chosen, last - 1)]
        return np.where(chosen == last, -1, stages), invalid

    def _refuse(self, actions: NDArray[Any], invalid: NDArray[np.bool_]) -> None:
        number = int(invalid.argmax())
        rows, used = self._shown.rows[number], int(self._used[number, 0])
        reason = why_invalid(self.state(number), rows, used, int(actions[number]))
        raise InvalidAction(f"cluster {number}: {reason}")

    def _advance(self, todo: NDArray[np.int64], stages: NDArray[np.int64], buffer: _Buffer) -> None:
        """Step or begin the clusters as ``todo`` says, then observe all of them."""
        taken = np.zeros(1, np.int64)
        others = [
            self._pool.submit(self._share, thread, todo, stages, buffer, taken)
            for thread in range(1, self.threads)
            if self._pool is not None
        ]
        self._share(0, todo, stages, buffer, taken)
        for other in others:
            other.result()
        self._mask[:] = buffer.out.action_mask  # what legality is judged by
        self._used[:] = buffer.used
        self._so_far = self._read_clocks()

    def _share(
        self,
        thread: int,
        todo: NDArray[np.int64],
        stages: NDArray[np.int64],
        buffer: _Buffer,
        taken: NDArray[np.int64],
    ) -> None:
        """One thread's share of :meth:`_advance`."""
        advance_many(
            self._states,
            self.scenario.templates,
            self.scenario.networks,
            self._stage_beliefs,
            self._job_beliefs,
            self._scratches[thread],
            self.scenario.mode,
            self._shown,
            todo,
            stages,
            self._status,
            buffer.used,
            buffer.out,
            taken,
        )

    def _read_clocks(self) -> Step:
        """Seconds, job seconds and completed jobs since the episodes began: [num_envs] each."""
        clock = self._states.clock[:, 0]
        return Step(
            clock["now"] / TICKS_PER_SECOND, clock["job_seconds"].copy(), clock["finished"].copy()
        )

    def _rewards(self, before: Step) -> NDArray[np.float64]:
        since = (now - then for now, then in zip(self._so_far, before, strict=True))
        return np.asarray(self.scenario.reward(Step(*since)), np.float64)

    def _end(self, ended: NDArray[np.intp], infos: Infos, buffer: _Buffer) -> None:
        """Report the episodes that are over; in mode SameStep, begin the next ones."""
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            self._add_metrics(infos, ended)
            return
        for number in ended.tolist():
            final = {key: array[number].copy() for key, array in buffer.out._asdict().items()}
            info = {"action_mask": final["action_mask"].copy()} | self._metrics(number)
            self._add_info(infos, {"final_obs": final, "final_info": info}, number)
            self._draw(number)
        todo = np.zeros(self.num_envs, np.int64)
        todo[ended] = BEGIN
        self._advance(todo, todo, buffer)
        self._add_metrics(infos, ended[self._status[ended] != DECIDE])

    def _infos(self, buffer: _Buffer) -> Infos:
        return {"action_mask": buffer.out.action_mask, "_action_mask": np.ones(self.num_envs, bool)}

    def _add_metrics(self, infos: Infos, ended: NDArray[np.intp]) -> None:
        for number in ended.tolist():
            self._add_info(infos, self._metrics(number), number)

    def _metrics(self, number: int) -> Infos:
        return episode_metrics(self.state(number), self.scenario.bank.applications)

    def _free_buffer(self) -> _Buffer:
        """Arrays that nobody else holds, or new ones."""
        for buffer in self._buffers:
            if not self.copy or buffer.is_free():
                return buffer
        scenario = self.scenario
        sizes = scenario.max_stages, scenario.max_edges, scenario.max_jobs
        self._buffers.append(_Buffer(empty_observation(*sizes, self.num_envs)))
        return self._buffers[-1]


class _Buffer:
    """An observation of all clusters, and how many of its rows each one uses."""

    def __init__(self, out: Observation) -> None:
        self.out = out
        self.used = np.zeros((len(out.cluster), 3), np.int64)
        self._alone = self._references()

    def is_free(self) -> bool:
        """Whether nobody else holds an array of it, or a view of one."""
        return self._references() == self._alone

    def _references(self) -> list[int]:
        return [sys.getrefcount(array) for array in self.out]
