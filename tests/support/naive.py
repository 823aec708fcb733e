"""The cluster once more, naively: plain objects, every token and every event in a loop.

Written from the rules in `llmsched_gym.cluster.simulator`, sharing nothing with it: an oracle for
tests. It recomputes from scratch whatever it needs to know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage, Task

DECIDE, FINISHED, TRUNCATED = 0, 1, 2
STARTED, PROGRESS, EVIDENCE = 1, 2, 3
SECOND = 10**12


@dataclass(eq=False)
class Run:
    """One task, and what became of it."""

    job: int
    stage: int
    task: Task
    limit: int
    start: int | None = None
    end: int | None = None
    executor: int | None = None
    tokens: int = 0  # generated so far
    prefilled: int = 0  # prompt tokens that mixed iterations have taken

    @property
    def held(self) -> int:
        return self._llm.prompt_tokens + self.tokens

    @property
    def need(self) -> int:
        return self._llm.prompt_tokens + self.limit

    @property
    def prompt(self) -> int:
        return self._llm.prompt_tokens

    @property
    def done(self) -> bool:
        return self.tokens == self._llm.output_tokens

    @property
    def _llm(self) -> LLMTask:
        assert isinstance(self.task, LLMTask)
        return self.task


@dataclass
class Engine:
    running: list[Run] = field(default_factory=list)  # all of them, in order of dispatch
    in_flight: list[Run] = field(default_factory=list)  # those that the iteration serves
    boundary: int | None = None  # when the iteration in flight ends


class NaiveCluster:
    """An episode with the same `start` and `step` as the simulator; stages are (job, stage).

    Parameters
    ----------
    jobs : in order of arrival; arrivals : ticks; limits : output limit per application.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        arrivals: Sequence[int],
        limits: dict[str, int],
        latency: LatencyProfile,
        engines: int,
        max_batch: int,
        executors: int,
        limit: int | None = None,
    ) -> None:
        self.jobs, self.arrivals, self.latency = jobs, arrivals, latency
        self.coefficients = [round(x * 10**9) for x in (latency.a, latency.c, latency.d)]
        self.max_batch, self.limit = max_batch, limit
        self.engines = [Engine() for _ in range(engines)]
        self.executors: list[Run | None] = [None] * executors
        self.runs = {
            (j, s): [
                Run(j, s, task, self.room(stage, limits[job.application])) for task in stage.tasks
            ]
            for j, job in enumerate(jobs)
            for s, stage in enumerate(job.stages)
        }
        self.now = 0
        self.job_ticks = 0  # time integral of the number of jobs in the system
        self.completion: list[int | None] = [None] * len(jobs)
        self.changes: dict[int, int] = {}  # per job the most of these, in order of occurrence

    def room(self, stage: Stage, limit: int) -> int:
        """The output limit of a stage: that of its application, or what long prompts leave."""
        prompts = [task.prompt_tokens for task in stage.tasks if isinstance(task, LLMTask)]
        return min(limit, self.latency.kv_capacity_tokens - max(prompts, default=0))

    # --- what is known ---

    def stage_complete(self, j: int, s: int) -> bool:
        return all(run.end is not None for run in self.runs[j, s])

    def arrived(self, j: int) -> bool:
        return self.arrivals[j] <= self.now

    def visible(self, j: int, s: int) -> bool:
        revealer = self.jobs[j].stages[s].revealed_by
        return self.arrived(j) and (revealer is None or self.stage_complete(j, revealer))

    def ready(self) -> set[tuple[int, int]]:
        return {
            (j, s)
            for (j, s), runs in self.runs.items()
            if self.visible(j, s)
            and any(run.start is None for run in runs)
            and all(self.stage_complete(j, parent) for parent in self.jobs[j].stages[s].parents)
        }

    def legal(self) -> set[tuple[int, int]]:
        """The stages whose next task can start now."""
        return {where for where in self.ready() if self._place(self._next(where)) is not None}

    def can_wait(self) -> bool:
        busy = any(engine.running for engine in self.engines) or any(self.executors)
        return busy or not all(self.arrived(j) for j in range(len(self.jobs)))

    def in_system(self) -> list[int]:
        return [j for j in range(len(self.jobs)) if self.arrived(j) and self.completion[j] is None]

    def slowdown(self) -> float:
        a, c, d = self.coefficients
        ratios = []
        for engine in self.engines:
            if engine.running:
                b = len(engine.running)
                kv = sum(run.held for run in engine.running)
                ratios.append((a + c * b + d * kv) / (a + c + d * kv / b))
        return sum(ratios) / len(ratios) if ratios else 1.0

    def slot_ticks(self, j: int) -> int:
        """Slot time that the tasks of a job have used."""
        return sum(
            (self.now if run.end is None else run.end) - run.start
            for (job, _), runs in self.runs.items()
            for run in runs
            if job == j and run.start is not None
        )

    # --- what happens ---

    def start(self) -> int:
        self._apply_arrivals()
        return self._advance()

    def step(self, where: tuple[int, int] | None) -> int:
        """Start the next task of a stage, or wait."""
        if where is None:
            if not self._next_external_instant():
                return TRUNCATED
        else:
            self._dispatch(self._next(where))
        return self._advance()

    def _advance(self) -> int:
        while not all(done is not None for done in self.completion):
            if self.legal():
                return DECIDE
            if not self._next_external_instant():
                return TRUNCATED
        return FINISHED

    def _next(self, where: tuple[int, int]) -> Run:
        return next(run for run in self.runs[where] if run.start is None)

    def _place(self, run: Run) -> int | None:
        if not isinstance(run.task, LLMTask):
            return self.executors.index(None) if None in self.executors else None
        able = [
            (len(engine.running), e)
            for e, engine in enumerate(self.engines)
            if len(engine.running) < self.max_batch
            and sum(other.need for other in engine.running) + run.need
            <= self.latency.kv_capacity_tokens
        ]
        return min(able)[1] if able else None

    def _dispatch(self, run: Run) -> None:
        run.start, run.executor = self.now, self._place(run)
        self.changes.setdefault(run.job, STARTED)
        assert run.executor is not None
        if isinstance(run.task, LLMTask):
            self.engines[run.executor].running.append(run)
            if self.latency.joins == "late":  # an engine at rest does not wait for others
                self._begin_iteration(self.engines[run.executor])
            return
        self.executors[run.executor] = run
        if _end(run) == self.now:
            self._apply_completions()

    def _next_external_instant(self) -> bool:
        external = False
        while not external:
            for engine in self.engines:
                self._begin_iteration(engine)
            later = [time for time in self.arrivals if time > self.now]
            later += [engine.boundary for engine in self.engines if engine.boundary is not None]
            later += [_end(run) for run in self.executors if run is not None]
            instant = min(later)
            truncated = self.limit is not None and instant > self.limit
            if truncated:
                assert self.limit is not None
                instant = self.limit
            self.job_ticks += len(self.in_system()) * (instant - self.now)
            self.now = instant
            if truncated:
                return False
            completed = self._apply_completions()
            external = self._apply_arrivals() or completed
        return True

    def _begin_iteration(self, engine: Engine) -> None:
        """At a boundary, once nothing more can happen at this instant: prefill or decode."""
        if engine.boundary is not None or not engine.running:
            return
        if self.latency.prefill == "mixed":
            self._begin_mixed(engine)
            return
        joining = [run for run in engine.running if run.tokens == 0]
        engine.in_flight = joining or list(engine.running)
        tokens = sum(run.held for run in engine.in_flight)
        if joining:
            ticks = self._prefill(tokens)
        else:
            a, c, d = self.coefficients
            ticks = a + c * len(engine.in_flight) + d * tokens
        engine.boundary = self.now + ticks

    def _begin_mixed(self, engine: Engine) -> None:
        """Hand out the budget token by token: first one to each who decodes, then the prompts."""
        budget = self.latency.token_budget
        assert budget is not None
        decoding = [run for run in engine.running if run.tokens > 0]
        waiting = [run for run in engine.running if run.tokens == 0]
        before = {run: run.prefilled for run in waiting}
        for _ in range(budget - len(decoding)):
            run = next((run for run in waiting if run.prefilled < run.prompt), None)
            if run is None:
                break
            run.prefilled += 1
        a, c, d = self.coefficients
        shared = c * len(decoding) + d * sum(run.held for run in decoding)
        took = sum(run.prefilled - before[run] for run in waiting)
        pairs = sum(run.prefilled**2 - before[run] ** 2 for run in waiting)
        engine.in_flight = decoding + [run for run in waiting if run.prefilled == run.prompt]
        engine.boundary = self.now + shared + (self._prefill(took, pairs) if took else a)

    def _prefill(self, n: int, pairs: int | None = None) -> int:
        p0, e, f, g = (
            x * 10**9 for x in (self.latency.p0, self.latency.e, self.latency.f, self.latency.g)
        )
        attention = g * n * n if pairs is None else g * pairs
        return math.floor(max(p0, e + f * n + attention) + 0.5)

    def _apply_completions(self) -> bool:
        completed = []
        for engine in self.engines:
            if engine.boundary == self.now:
                engine.boundary = None
                for run in engine.in_flight:
                    run.tokens += 1
                completed += [run for run in engine.running if run.done]
                engine.running = [run for run in engine.running if not run.done]
        for x, executor_run in enumerate(self.executors):
            if executor_run is not None and _end(executor_run) == self.now:
                completed.append(executor_run)
                self.executors[x] = None
        for run in completed:
            self._complete(run)
        if self.latency.joins == "late":  # engines go on before anybody can react
            for engine in self.engines:
                self._begin_iteration(engine)
        return bool(completed)

    def _apply_arrivals(self) -> bool:
        arriving = [j for j, time in enumerate(self.arrivals) if time == self.now]
        for j in arriving:
            self.changes[j] = EVIDENCE
        return bool(arriving)

    def _complete(self, run: Run) -> None:
        run.end = self.now
        evidence = self.stage_complete(run.job, run.stage)
        self.changes[run.job] = max(
            self.changes.get(run.job, 0), EVIDENCE if evidence else PROGRESS
        )
        if all(self.stage_complete(run.job, s) for s in range(len(self.jobs[run.job].stages))):
            self.completion[run.job] = self.now


def _end(run: Run) -> int:
    assert run.start is not None
    assert not isinstance(run.task, LLMTask)
    return run.start + round(run.task.duration_s * SECOND)


def lone_task_ticks(latency: LatencyProfile, prompt: int, output: int) -> int:
    """How long one LLM task takes by itself, token by token."""
    stage = Stage("call", Kind.LLM, (), (LLMTask(prompt, output),))
    alone = NaiveCluster([Job("a", "job", (stage,))], [0], {"a": output}, latency, 1, 1, 1)
    assert alone.start() == DECIDE
    assert alone.step((0, 0)) == FINISHED
    return alone.now
