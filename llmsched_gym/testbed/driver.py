"""The live driver: an episode is played in real time, its LLM tasks by servers.

**Time.** An episode begins with its clock at 0. Jobs arrive at the times that were drawn; a regular
task ends its own duration after it began; an LLM task completes when its stream ends. As in the
simulator the clock of the state moves from event to event and an agent is asked only after one that
is *external*, a completed task, an arrival, or a server that is back. While an agent thinks the
clock stands still, but nothing else does: what has happened meanwhile is applied afterwards at its
own time, in order, before the agent is asked again.

**No threads.** Everything runs in an event loop inside ``start`` and ``step``. Between two steps
servers go on and sockets buffer; the tokens that come while an agent thinks get the time at which
it has decided. That is exact to its thinking time, 0.05 to 0.2 ms with the policies here.

**Failures.** A request that fails but may be sent again keeps its slot and goes to the same server
after 0.1, 0.2, 0.4, ... seconds; until a token comes from there nothing new is placed on it. After
``retries`` of these the episode ends with an error; so it does at once if sending again is of no
use. A task is never handed to another server: one that is lost for good changes the cluster, and
what would be measured is another experiment.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from heapq import heappop, heappush
from typing import Any, NoReturn

from llmsched_gym.cluster.simulator import DECIDE
from llmsched_gym.cluster.state import ClusterState, copy_state
from llmsched_gym.cluster.ticks import NO_LIMIT, TICKS_PER_SECOND
from llmsched_gym.errors import InputError, one_line
from llmsched_gym.testbed.client import Answer, Client, Rejected, Unavailable
from llmsched_gym.testbed.clock import WallClock
from llmsched_gym.testbed.events import (
    ARRIVE,
    ASK,
    COMPLETE,
    DOWN,
    FINISH,
    START,
    STATUS,
    TRUNCATE,
    UP,
    Event,
    decision_needed,
    happen,
    next_task,
)
from llmsched_gym.testbed.log import EventLog, Request
from llmsched_gym.testbed.prompts import prompt_ids
from llmsched_gym.testbed.servers import Servers
from llmsched_gym.workload.job import Kind

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0  # before a request is sent again
_TURNS = 4  # of the event loop, from bytes in a socket to an event: select, read, parse, done
_KEYS = itertools.count(1)  # of prompts: every request of a process has one of its own


class LiveDriver:
    """Plays episodes on servers (a ``Driver``), one at a time.

    Parameters
    ----------
    servers : the LLM engines.
    """

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self._episode: _Episode | None = None
        self._runner: asyncio.Runner | None = None
        self._status = DECIDE

    @property
    def log(self) -> EventLog:
        """The log of the episode, RuntimeError before the first."""
        if self._episode is None:
            raise RuntimeError("call reset() first")
        return self._episode.log

    def warm_up(self, state: ClusterState) -> None:
        """Compile what an episode calls, on a copy of a state: no job waits for that later."""
        state = copy_state(state)
        happen(state, Event(0, ARRIVE))
        happen(state, Event(0, ASK))
        decision_needed(state)

    def start(self, state: ClusterState) -> int:
        """See ``Driver``; what runs of an episode before is cancelled.

        Raises
        ------
        InputError
            if a server fails for good: one line.
        RuntimeError
            where an event loop runs already, as in a notebook.
        """
        check_no_loop_runs()
        self.close()
        self._status, self._episode = DECIDE, _Episode(self.servers, state)
        self._runner = asyncio.Runner()
        return self._run(self._episode.begin())

    def step(self, state: ClusterState, stage: int) -> int:
        """See ``Driver`` and :meth:`start`."""
        if self._episode is None or self._episode.state is not state:
            raise RuntimeError("call reset() first")
        if self._runner is None and self._status == DECIDE:
            raise RuntimeError("the episode has been given up: call reset()")
        return self._status if self._runner is None else self._run(self._episode.advance(stage))

    def close(self) -> None:
        """Cancel all requests and close all connections; the log stays."""
        runner, self._runner = self._runner, None
        if runner is not None and self._episode is not None:
            try:
                with suppress(RuntimeError):  # an interrupt at the end of a step may have left the
                    runner.run(asyncio.sleep(0))  # loop about to stop
                runner.run(self._episode.leave())
            finally:
                runner.close()

    def _run(self, play: Coroutine[Any, Any, int]) -> int:
        outcome = _outcome(play)
        try:
            assert self._runner is not None
            status = self._runner.run(outcome)
            if isinstance(status, KeyboardInterrupt):
                raise status
            self._status = status
        except BaseException:
            self.close()
            outcome.close()  # either may not have begun
            play.close()
            raise
        if self._status != DECIDE:
            self.close()
        return self._status

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an episode that runs on servers cannot be copied or pickled")


class _Episode:
    """One episode; whatever awaits anything here runs in the event loop of the driver."""

    def __init__(self, servers: Servers, state: ClusterState) -> None:
        self.state = state
        self.log = EventLog(tuple(servers.urls), servers.slots, len(state.jobs), len(state.tasks))
        self._servers = servers
        self._clock = servers.clock or WallClock()
        self._clients: list[Client] = []
        self._open = AsyncExitStack()
        self._work: set[asyncio.Task[None]] = set()
        self._due: list[tuple[int, int, int]] = []  # a heap of (tick, kind, what) not yet applied
        self._held: list[dict[int, int]] = [{} for _ in servers.urls]  # tokens of tasks, by engine
        self._down: set[int] = set()
        self._back = False  # whether a server came back since the last decision
        self._failed: Exception | None = None
        self._over = False  # whether the time limit has passed
        self._woken = asyncio.Event()

    # --- From decision to decision ----------------------------------------------------------------

    async def begin(self) -> int:
        """To the first decision: what ends the step."""
        for url in self._servers.urls:
            model, timeout_s = self._servers.model, self._servers.timeout_s
            client = Client(url, model=model, clock=self._clock, timeout_s=timeout_s)
            self._clients.append(await self._open.enter_async_context(client))
            try:  # it looks the model up now, and not when the first request is sent
                await client.check()
            except Unavailable:  # it may be back when it is needed
                pass
            except Rejected as error:
                raise InputError(one_line(error)) from error
        self._origin = self._clock.now()
        self._do(self._arrivals())
        if self.state.clock["limit"][0] < NO_LIMIT:
            self._do(self._limit())
        return await self._advance(wait=False)

    async def advance(self, stage: int) -> int:
        """Start the next task of a stage, or wait if it is negative; on to the next decision."""
        if stage >= 0:
            task = next_task(self.state, stage)
            executor = self._record(START, task)
            llm = self.state.stages["kind"][stage] == Kind.LLM
            self._do(self._ask(task, executor) if llm else self._run(task))
        return await self._advance(wait=stage < 0)

    async def leave(self) -> None:
        """Cancel whatever runs, and close all connections."""
        # An interrupt may have hit a task of the client: nobody is to be told of that.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        work = asyncio.all_tasks() - {asyncio.current_task()}
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self._open.aclose()

    async def _advance(self, wait: bool) -> int:
        clock = self.state.clock[0]
        while clock["finished"] < clock["num_jobs"]:
            await self._notice(wait)
            if self._apply():
                wait = False
            if self._over or self._tick() > clock["limit"]:
                self._record(TRUNCATE, tick=int(clock["limit"]))
                return STATUS[TRUNCATE]
            if not wait and decision_needed(self.state):
                self._record(ASK)
                return STATUS[ASK]
            wait = True
        self._record(FINISH)
        return STATUS[FINISH]

    async def _notice(self, wait: bool) -> None:
        """Take in what has happened by now, and if nothing has, wait for something."""
        if wait:
            await self._woken.wait()
        self._woken.clear()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if self._failed is not None:
            raise self._failed

    def _apply(self) -> bool:
        """Apply all events that have happened, in order; whether an agent may have to be asked."""
        external, self._back = self._back, False
        while self._due and self._due[0][0] <= self.state.clock["limit"][0]:
            tick, kind, what = heappop(self._due)
            self._record(kind, what, tick)
            external = True
        return external

    def _record(self, kind: int, what: int = -1, tick: int = 0) -> int:
        """Let something happen to the state, now unless it is said when, and log it."""
        now = max(tick, int(self.state.clock["now"][0]))  # an event that is noticed late is late
        held = tuple(sum(one.values()) for one in self._held) if kind in STATUS else ()
        event = Event(now, kind, what, held=held)
        event = event._replace(executor=happen(self.state, event))
        self.log.rows.append(event)
        return event.executor

    # --- What happens meanwhile -------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):  # an interrupt has ended the event loop already
            self._failed = error
        self._woken.set()

    def _happens(self, kind: int, what: int, tick: int) -> None:
        heappush(self._due, (tick, kind, what))  # completions before arrivals
        self._woken.set()

    def _seconds(self, ticks: int) -> float:
        """The time of the clock at a tick of the episode."""
        return self._origin + ticks / TICKS_PER_SECOND

    def _tick(self, time: float | None = None) -> int:
        """The tick of a time of the clock, by default of now."""
        time = self._clock.now() if time is None else time
        return round((time - self._origin) * TICKS_PER_SECOND)

    async def _arrivals(self) -> None:
        for job, arrival in enumerate(self.state.jobs["arrival"].tolist()):
            await self._clock.sleep_until(self._seconds(arrival))
            self._happens(ARRIVE, job, arrival)

    async def _limit(self) -> None:
        await self._clock.sleep_until(self._seconds(int(self.state.clock["limit"][0])))
        self._over = True

    async def _run(self, task: int) -> None:
        """A regular task."""
        begin, ticks = self._tick(), int(self.state.tasks["demand"][task])
        if self._servers.tools == "process":
            await _sleeping_process(ticks / TICKS_PER_SECOND)
            self._happens(COMPLETE, task, self._tick())
        else:
            await self._clock.sleep_until(self._seconds(begin + ticks))
            self._happens(COMPLETE, task, begin + ticks)

    async def _ask(self, task: int, engine: int) -> None:
        """An LLM task: a request that is sent until it yields what is asked for."""
        for attempt in itertools.count(1):
            self._held[engine][task] = int(self.state.tasks["prompt_tokens"][task])
            try:
                answer = await self._request(task, engine)
                break
            except (Unavailable, Rejected) as error:
                if isinstance(error, Rejected) or attempt > self._servers.retries:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    where = f"{self._named(task)}, sent {times}"
                    raise InputError(f"{one_line(error)} ({where})") from error
            if engine not in self._down:
                self._down.add(engine)
                self._record(DOWN, engine)
            await asyncio.sleep(min(FIRST_PAUSE_S * 2 ** min(attempt - 1, 9), LONGEST_PAUSE_S))
        del self._held[engine][task]
        self._happens(COMPLETE, task, self._tick(answer.end_s))

    async def _request(self, task: int, engine: int) -> Answer:
        """Send a request once; whatever becomes of it is logged."""
        row, held = self.state.tasks[task], self._held[engine]
        prompt, output = int(row["prompt_tokens"]), int(row["output_tokens"])
        token_s: list[float] = []

        def token(count: int) -> None:
            token_s.append(self._clock.now())
            held[task] = prompt + count
            if engine in self._down:
                self._comes_back(engine)

        def log(sent_s: float, end_s: float, token_s: Sequence[float], failed: str = "") -> None:
            sent_s, end_s, *stamps = (time - self._origin for time in (sent_s, end_s, *token_s))
            request = Request(task, engine, prompt, output, sent_s, end_s, tuple(stamps), failed)
            self.log.requests.append(request)

        sent_s, failed = self._clock.now(), "cancelled"
        try:
            ids = prompt_ids(next(_KEYS), prompt)
            answer = await self._clients[engine].generate(ids, output, token)
            failed = ""
        except (Unavailable, Rejected) as error:
            failed = one_line(error)
            raise
        finally:
            if failed:
                log(sent_s, self._clock.now(), token_s, failed)
        log(answer.sent_s, answer.end_s, answer.token_s)
        return answer

    def _comes_back(self, engine: int) -> None:
        """A token has come from a server that was down."""
        self._down.discard(engine)
        self._record(UP, engine)
        self._back = True
        self._woken.set()

    def _named(self, task: int) -> str:
        state = self.state
        stage = int(state.tasks["stage"][task])
        job = int(state.stages["job"][stage])
        first = int(state.jobs["first_stage"][job]), int(state.stages["first_task"][stage])
        return f"job {job}, stage {stage - first[0]}, task {task - first[1]}"


async def _outcome(play: Coroutine[Any, Any, int]) -> int | KeyboardInterrupt:
    """What comes of a step; an interrupt is no exception of a task, which nobody would look at."""
    try:
        return await play
    except KeyboardInterrupt as error:
        return error


async def _sleeping_process(seconds: float) -> None:
    """Run a process that sleeps.

    Raises
    ------
    InputError
        if there is no such command, or it fails.
    """
    try:
        process = await asyncio.create_subprocess_exec("sleep", f"{seconds:.9f}")
    except OSError as error:
        raise InputError(f"tools: sleep: {one_line(error)}") from error
    try:
        if await process.wait() != 0:
            raise InputError(f"tools: sleep ended with status {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def check_no_loop_runs() -> None:
    """RuntimeError where an event loop runs already: there can be no second one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop runs here, as in a notebook: play in another thread")
