"""LLMSchedVectorEnv: many clusters, advanced and observed in compiled calls on several cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gymnasium import logger
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from llmsched_gym.belief.networks import Scratch, new_scratch
from llmsched_gym.checks import is_whole
from llmsched_gym.cluster.simulator import FINISHED, TRUNCATED
from llmsched_gym.cluster.state import ClusterState, episode, new_states
from llmsched_gym.env.actions import InvalidAction, numbers_of, why_invalid
from llmsched_gym.env.advance import BEGIN, LEAVE, STEP, advance_many
from llmsched_gym.env.features import Observation, empty_observation
from llmsched_gym.env.observation import new_shown
from llmsched_gym.env.outcome import episode_metrics, job_table
from llmsched_gym.env.scenario import (
    REWARDED,
    Scenario,
    check_count,
    check_flag,
    episode_options,
    seed_of,
)
from llmsched_gym.processes import cores
from llmsched_gym.rendering.modes import RENDER_FPS, RENDER_MODES, check_render_mode, render

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
    render_mode : None, or that of the pictures or texts of all clusters, see :class:`LLMSchedEnv`.
    max_episode_steps : decisions after which an episode is truncated, None for any number.
    options : the other options of :class:`LLMSchedEnv`.

    Raises
    ------
    ValueError
        as :class:`LLMSchedEnv`, and for a number of the wrong type or below 1.
    InvalidAction
        from :meth:`step`, if strict.
    RuntimeError
        from whatever reads an episode, before the first reset.

    Notes
    -----
    ``reset(seed=s)`` gives cluster i the seed s + i, a list gives each its own. Its ``options`` are
    ``reset_mask``, bool [N], the clusters to reset, and ``time_limit``, see
    :meth:`LLMSchedEnv.reset`.

    It can be copied, pickled and used after a fork: copies go on alike, without the threads and the
    arrays handed out, which each process makes for itself.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's own form)
        "render_modes": list(RENDER_MODES),
        "render_fps": RENDER_FPS,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        threads: int | None = None,
        strict: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **options: Any,
    ) -> None:
        check_count("num_envs", num_envs)
        for name, count in (("threads", threads), ("max_episode_steps", max_episode_steps)):
            if count is not None:
                check_count(name, count)
        check_flag("copy", copy)
        check_flag("strict", strict)
        check_render_mode(render_mode)
        num_envs = self.num_envs = int(num_envs)
        self.copy, self.strict = copy, strict
        self.render_mode = render_mode
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
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
        self._states = self._new_states()
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
        self._taken = np.zeros(count, np.int64)  # steps of the episode
        self._mask = np.zeros((count, scenario.max_stages + 1), np.int8)
        self._used = np.zeros((count, 3), np.int64)  # rows, edges and jobs shown
        self._sizes = np.zeros((count, 2), np.int64)  # stages and tasks of each episode
        self._generators: list[np.random.Generator | None] = [None] * count

    def _new_states(self) -> ClusterState:
        one = self.scenario
        return new_states(one.bank, one.cluster, one.num_jobs, self.num_envs)

    def _put(self, number: int, state: ClusterState) -> None:
        """Make a state that of a cluster."""
        for table, one in zip(self._states, state, strict=True):
            table[number, : len(one)] = one

    def _set_up_threads(self, threads: int | None) -> None:
        networks = self.scenario.networks
        least = CLUSTERS_A_THREAD if networks is None else BELIEVING_CLUSTERS_A_THREAD
        most = max(1, self.num_envs // least)
        self.threads = min(cores() if threads is None else int(threads), most)
        self._forget_threads()

    def _forget_threads(self) -> None:
        """Nobody but this process can use its threads, nor a copy their working space."""
        self._pool: ThreadPoolExecutor | None = None
        self._pool_of = -1  # the process
        self._scratches: list[Scratch | None] = []

    def _crew(self) -> ThreadPoolExecutor | None:
        """The other threads, if there are any, and working space for all."""
        if self._pool_of != os.getpid():  # the first step, or the first one after a fork
            networks = self.scenario.networks
            self._scratches = [networks and new_scratch(networks) for _ in range(self.threads)]
            self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
            self._pool_of = os.getpid()
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        """All but threads and arrays handed out; of the states, nothing but what is in use."""
        mine: dict[str, Any] = {"_pool": None, "_pool_of": -1, "_scratches": [], "_buffers": []}
        begun = np.flatnonzero(self._sizes[:, 0]).tolist()
        return self.__dict__ | mine | {"_states": {number: self.state(number) for number in begun}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._states = self._new_states()
        for number, drawn in state["_states"].items():
            self._put(number, drawn)

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
            for as many seeds or masks as there are not clusters, a seed that is not a whole number
            of at least 0, and an unknown option.
        """
        limit = episode_options(options, "reset_mask")
        members = self._masked((options or {}).get("reset_mask"))
        for number, one in zip(members.tolist(), self._seeds(seed)[members], strict=True):
            if one is not None or self._generators[number] is None:
                self._generators[number], _ = seeding.np_random(one)
            self._draw(number, limit)
        buffer = self._free_buffer()
        todo = np.zeros(self.num_envs, np.int64)
        todo[members] = BEGIN
        self._advance(todo, todo, buffer)
        infos = self._infos(buffer)
        self._add_metrics(infos, members[self._over()[members]])
        return buffer.out._asdict(), infos

    def step(
        self, actions: Any
    ) -> tuple[
        dict[str, NDArray[Any]], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos
    ]:
        """Run one task, or wait, in each cluster: see :meth:`LLMSchedEnv.step`.

        ``actions`` are one a cluster, int [num_envs] or [num_envs, 1], or a sequence of single
        ones; what is no action (see ``env.actions``) is illegal in its cluster.
        """
        self._check_begun()
        over = self._over()
        stages, invalid = self._read_actions(actions, ~over)
        todo = np.full(self.num_envs, STEP, np.int64)
        if over.any():
            again = self.autoreset_mode == AutoresetMode.NEXT_STEP
            todo[over] = BEGIN if again else LEAVE
            for number in np.flatnonzero(todo == BEGIN).tolist():
                self._draw(number)
        before, buffer = self._so_far, self._free_buffer()
        self._taken += todo == STEP
        self._advance(todo, stages, buffer)
        rewards = self.scenario.rewards(before, self._so_far, self._states.jobs, ~over)
        terminations, truncations = self._status == FINISHED, self._truncated()
        infos = self._infos(buffer)
        if invalid.any():
            infos |= {"invalid_action": invalid, "_invalid_action": invalid.copy()}
        ended = np.flatnonzero((todo != LEAVE) & self._over())
        if len(ended):
            self._end(ended, infos, buffer)
        return buffer.out._asdict(), rewards, terminations, truncations, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Booleans [num_envs, max_stages + 1]: the legal actions."""
        self._check_begun()
        return self._mask.astype(np.bool_)

    def job_table(self, number: int) -> dict[str, NDArray[Any]]:
        """:meth:`LLMSchedEnv.job_table` of one cluster."""
        return job_table(self.state(number), self.scenario.bank.applications)

    def metrics(self, number: int) -> Infos:
        """:meth:`LLMSchedEnv.metrics` of one cluster."""
        return episode_metrics(self.state(number), self.scenario.bank.applications)

    def state(self, number: int) -> ClusterState:
        """One simulated cluster, hidden truth included: for tools and tests, not for policies."""
        stages, tasks = self._sizes[number]
        if not stages:
            raise RuntimeError("call reset() first")
        return _trimmed(episode(self._states, number), stages, tasks)

    def render(self) -> tuple[Any, ...] | None:
        """What :meth:`LLMSchedEnv.render` gives, of each cluster."""
        if self.render_mode is None:
            logger.warn('render() without a render mode: make_vec(..., render_mode="rgb_array")')
            return None
        templates, applications = self.scenario.templates, self.scenario.bank.applications
        states = map(self.state, range(self.num_envs))
        return tuple(render(state, templates, applications, self.render_mode) for state in states)

    def close_extras(self, **_: Any) -> None:
        """End the threads."""
        pool = getattr(self, "_pool", None)  # none if the constructor has failed
        if pool is not None and self._pool_of == os.getpid():
            pool.shutdown()
        self._forget_threads()

    # --- the parts of a step ------------------------------------------------------------------

    def _check_begun(self) -> None:
        if not self._sizes[:, 0].all():
            raise RuntimeError("call reset() first")

    def _truncated(self) -> NDArray[np.bool_]:
        truncated: NDArray[np.bool_] = self._status == TRUNCATED
        if self.max_episode_steps is not None:
            truncated |= self._taken >= self.max_episode_steps
        return truncated

    def _over(self) -> NDArray[np.bool_]:
        """Whose episode has ended, or has not begun."""
        return self._truncated() | (self._status == FINISHED)

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

    def _seeds(self, seed: Any) -> NDArray[Any]:
        count = self.num_envs
        if seed is None or is_whole(seed, 0):
            given = [None if seed is None else int(seed) + number for number in range(count)]
        elif not hasattr(seed, "__len__") or len(seed) != count:
            got = f"{len(seed)} seeds" if hasattr(seed, "__len__") else repr(seed)
            raise ValueError(f"seed: {got} for {count} clusters")
        else:
            given = [seed_of(one) for one in seed]
        seeds = np.full(count, None, object)
        seeds[:] = given
        return seeds

    def _draw(self, number: int, time_limit: float | None = None) -> None:
        """Draw the next episode of a cluster."""
        generator = self._generators[number]
        if generator is None:
            raise RuntimeError("call reset() first")
        state = self.scenario.draw(generator, time_limit)
        self._put(number, state)
        self._sizes[number] = len(state.stages), len(state.tasks)
        self._taken[number] = 0

    def _read_actions(
        self, actions: Any, asked: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What each cluster dispatches (a stage, or -1 to wait), and whose action is illegal.

        As in a single environment an illegal action waits or, where nothing could end a wait, runs
        the first legal stage.
        """
        numbers = numbers_of(actions, self.num_envs)
        every, last = np.arange(self.num_envs), self.scenario.max_stages
        chosen = np.where((numbers >= 0) & (numbers <= last), numbers, last)
        invalid = asked & ((chosen != numbers) | (self._mask[every, chosen] == 0))
        if invalid.any():
            if self.strict:
                self._refuse(actions, invalid)
            instead = np.where(self._mask[:, -1] != 0, last, self._mask.argmax(axis=1))
            chosen = np.where(invalid, instead, chosen)
        stages = self._shown.rows[every, np.minimum(chosen, last - 1)]
        return np.where(chosen == last, -1, stages), invalid

    def _refuse(self, actions: Any, invalid: NDArray[np.bool_]) -> None:
        number = int(invalid.argmax())
        rows, used = self._shown.rows[number], int(self._used[number, 0])
        reason = why_invalid(self.state(number), rows, used, actions[number])
        raise InvalidAction(f"cluster {number}: {reason}")

    def _advance(self, todo: NDArray[np.int64], stages: NDArray[np.int64], buffer: _Buffer) -> None:
        """Step or begin the clusters as ``todo`` says, then observe all of them."""
        taken, pool = np.zeros(1, np.int64), self._crew()
        others = [
            pool.submit(self._share, thread, todo, stages, buffer, taken)
            for thread in range(1, self.threads)
            if pool is not None
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
            self.scenario.wanted,
            self._shown,
            todo,
            stages,
            self._status,
            buffer.used,
            buffer.out,
            taken,
        )

    def _read_clocks(self) -> tuple[NDArray[Any], ...]:
        """Ticks, job seconds and completed jobs since the episodes began: [num_envs] each."""
        clock = self._states.clock[:, 0]
        return tuple(clock[name].copy() for name in REWARDED)

    def _end(self, ended: NDArray[np.intp], infos: Infos, buffer: _Buffer) -> None:
        """Report the episodes that are over; in mode SameStep, begin the next ones."""
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            self._add_metrics(infos, ended)
            return
        for number in ended.tolist():
            final = {key: array[number].copy() for key, array in buffer.out._asdict().items()}
            info = {"action_mask": final["action_mask"].copy()} | self.metrics(number)
            self._add_info(infos, {"final_obs": final, "final_info": info}, number)
            self._draw(number)
        todo = np.zeros(self.num_envs, np.int64)
        todo[ended] = BEGIN
        self._advance(todo, todo, buffer)
        self._add_metrics(infos, ended[self._over()[ended]])

    def _infos(self, buffer: _Buffer) -> Infos:
        return {"action_mask": buffer.out.action_mask, "_action_mask": np.ones(self.num_envs, bool)}

    def _add_metrics(self, infos: Infos, ended: NDArray[np.intp]) -> None:
        for number in ended.tolist():
            self._add_info(infos, self.metrics(number), number)

    def _free_buffer(self) -> _Buffer:
        """Arrays that nobody else holds, or new ones."""
        for buffer in self._buffers:
            if not self.copy or buffer.is_free():
                return buffer
        scenario = self.scenario
        sizes = scenario.max_stages, scenario.max_edges, scenario.max_jobs
        self._buffers.append(_Buffer(empty_observation(*sizes, self.num_envs)))
        return self._buffers[-1]


def _trimmed(state: ClusterState, stages: int, tasks: int) -> ClusterState:
    """A state of so many stages and tasks without the padding."""
    parents, reveals = state.parents_of[stages], state.reveals_of[stages]
    return state._replace(
        stages=state.stages[:stages],
        tasks=state.tasks[:tasks],
        parents_of=state.parents_of[: stages + 1],
        parents=state.parents[:parents],
        children_of=state.children_of[: stages + 1],
        children=state.children[:parents],
        reveals_of=state.reveals_of[: stages + 1],
        reveals=state.reveals[:reveals],
        ready=state.ready[:stages],
    )


def _autoreset_mode(mode: Any) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        valid = ", ".join(one.value for one in AutoresetMode)
        raise ValueError(f"autoreset_mode: unknown {mode!r}, choose from {valid}") from None


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
