from __future__ import annotations

import pickle
import random
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from llmsched_gym.cluster import engines, simulator
from llmsched_gym.cluster.latency import JOINS, PREFILLS, LatencyProfile
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.cluster.simulator import DECIDE, FINISHED, TRUNCATED
from llmsched_gym.cluster.state import (
    ENGINE,
    EVIDENCE,
    LATENCY,
    NO_CHANGE,
    PROGRESS,
    STARTED,
    ClusterState,
    copy_state,
    new_state,
)
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Kind, LLMTask, RegularTask
from support.hand import TEN, begin, call, finish, job, ms, one_engine, play, runnable, tool
from support.naive import NaiveCluster, lone_task_ticks
from support.strategies import banks

ROUND_MS = (125.0, 250.0)  # iterations that end together with arrivals and tools
TOKENS = st.sampled_from([2, 8, 25])  # few, for the naive simulator counts each


@dataclass(frozen=True)
class Episode:
    """What happens, and a policy: run a random stage, or wait with a given probability."""

    bank: JobBank
    indices: tuple[int, ...]
    arrival_s: tuple[float, ...]
    cluster: Cluster
    time_limit_s: float | None = None
    waiting: float = 0.0
    seed: int = 0

    def state(self) -> ClusterState:
        canonical = np.full(len(self.bank.stage_kind), -1)
        return new_state(
            self.bank, self.indices, self.arrival_s, self.cluster, canonical, self.time_limit_s
        )

    def naive(self) -> NaiveCluster:
        limits = dict(zip(self.bank.applications, map(int, self.bank.output_limit), strict=True))
        limit = self.time_limit_s
        return NaiveCluster(
            [self.bank.job(index) for index in self.indices],
            [round(time * TICKS_PER_SECOND) for time in self.arrival_s],
            limits,
            self.cluster.latency,
            self.cluster.engines,
            self.cluster.max_batch,
            self.cluster.regular_executors,
            None if limit is None else round(limit * TICKS_PER_SECOND),
        )

    def where(self) -> list[tuple[int, int]]:
        """(job, stage) of each row of the table of stages."""
        sizes = [len(self.bank.job(index).stages) for index in self.indices]
        return [(j, s) for j, size in enumerate(sizes) for s in range(size)]


TRAITS = [(prefill, joins) for prefill in PREFILLS for joins in JOINS]


@st.composite
def latencies(
    draw: st.DrawFn, capacity: int, max_batch: int, traits: tuple[str, str] | None = None
) -> LatencyProfile:
    """With the traits that are given, or any; budgets from the smallest that leaves a token."""
    one = draw(costs(max(capacity, 2)))
    prefill, joins = traits or draw(st.sampled_from(TRAITS))
    beyond = draw(st.sampled_from([1, 1, 2, 5, 40])) if prefill == "mixed" else 0
    budget = max_batch + beyond if prefill == "mixed" else None
    return replace(one, prefill=prefill, token_budget=budget, joins=joins)


@st.composite
def costs(draw: st.DrawFn, capacity: int) -> LatencyProfile:
    if draw(st.booleans()):  # iterations coincide with the multiples of 1/8 s below
        times = st.sampled_from(ROUND_MS)
        a, p0 = draw(times), draw(times)
        c, d, e, f = (draw(st.sampled_from([0.0, 0.0, x])) for x in (125.0, 12.5, 125.0, 31.25))
        return LatencyProfile("round", a, c, d, p0, e, f, 0.0, capacity)
    ms = st.floats(0.0, 50.0, allow_subnormal=False)
    a, p0 = draw(st.floats(0.01, 50.0)), draw(st.floats(0.01, 50.0))
    c, d, e, f, g = (draw(ms) / scale for scale in (1, 100, 1, 10, 1000))
    return LatencyProfile("odd", a, c, d, p0, e, f, g, capacity)


@st.composite
def episodes(draw: st.DrawFn, traits: tuple[str, str] | None = None) -> Episode:
    bank = draw(banks(max_size=2, max_stages=6, max_tasks=3, max_tokens=draw(TOKENS)))
    count = draw(st.sampled_from([1, 2, 4, 6]))
    indices = draw(st.lists(st.integers(0, len(bank) - 1), min_size=count, max_size=count))
    eighths = draw(st.lists(st.integers(0, 16), min_size=count, max_size=count))
    arrival_s = np.sort(eighths) / 8 * draw(st.sampled_from([0.0, 1.0, 0.37, 0.07]))
    if limit := draw(st.sampled_from([0, 0, 0, 1, 3, 16])):  # then some write more than that
        bank = replace(bank, output_limit=np.full_like(bank.output_limit, limit))
    need = int(bank.prompt_tokens.max() + bank.output_limit.max())
    longest = int((bank.prompt_tokens + bank.output_tokens).max())
    capacity = draw(st.sampled_from([longest, max(need, longest), need + longest, 10**6]))
    max_batch = draw(st.sampled_from([1, 2, 3, 4]))
    cluster = Cluster(
        "drawn",
        draw(latencies(capacity, max_batch, traits)),
        engines=draw(st.sampled_from([1, 2, 3])),
        max_batch=max_batch,
        regular_executors=draw(st.sampled_from([1, 2, 3])),
    )
    return Episode(
        bank,
        tuple(indices),
        tuple(arrival_s.tolist()),
        cluster,
        time_limit_s=draw(st.sampled_from([None, None, None, None, 0.5, 2.0])),
        waiting=draw(st.sampled_from([0.0, 0.1, 0.6])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


class Lockstep:
    """The simulator and the naive one, asked to do the same, and compared at each decision."""

    def __init__(self, episode: Episode) -> None:
        self.where = episode.where()
        self.state, self.naive = episode.state(), episode.naive()
        self.met: set[str] = set()  # situations that are easy to get wrong
        self.status = simulator.start(self.state)
        assert self.naive.start() == self.status
        self.compare()

    def legal(self) -> list[int]:
        return [s for s in range(len(self.where)) if simulator.can_run(self.state, s)]

    def step(self, stage: int) -> None:
        before = self.state.clock["now"][0]
        self.status = simulator.step(self.state, stage)
        assert self.naive.step(None if stage < 0 else self.where[stage]) == self.status
        assert self.state.clock["now"][0] >= before
        self.compare()

    def compare(self) -> None:
        state, naive, clock = self.state, self.naive, self.state.clock[0]
        legal, ready = naive.legal(), naive.ready()
        assert clock["now"] == naive.now
        assert {self.where[s] for s in self.legal()} == legal
        assert {self.where[s] for s in state.ready[: clock["ready"]]} == ready
        assert simulator.can_wait(state) == clock["can_wait"] == naive.can_wait()
        assert engines.slowdown(state) == clock["slowdown"]
        assert clock["slowdown"] == pytest.approx(naive.slowdown(), rel=1e-9)
        assert clock["job_seconds"] == pytest.approx(naive.job_ticks / TICKS_PER_SECOND, rel=1e-9)
        assert state.active[: clock["active"]].tolist() == naive.in_system()
        visible = {self.where[s] for s in np.flatnonzero(state.stages["visible"])}
        assert visible == {(j, s) for j, s in self.where if naive.visible(j, s)}
        changed = state.changed[: clock["changed"]].tolist()
        assert [(j, state.jobs["changed"][j]) for j in changed] == list(naive.changes.items())
        state.jobs["changed"] = NO_CHANGE
        clock["changed"] = 0
        naive.changes.clear()
        for j, s in ready - legal:
            self.met.add(f"a {naive.jobs[j].stages[s].kind.name} stage waits for an executor")
            free = any(len(e.running) < naive.max_batch for e in naive.engines)
            if free and naive.jobs[j].stages[s].kind == Kind.LLM:
                self.met.add("KV tokens are short where slots are free")
        for engine in naive.engines:
            if engine.boundary is not None and set(engine.running) - set(engine.in_flight):
                self.met.add("a call joins an engine in mid-iteration")
            if len(engine.in_flight) > 1:
                self.met.add("an iteration serves several calls")
            if any(0 < run.prefilled < run.prompt for run in engine.running):
                self.met.add("a prompt is cut into chunks")
            begun = {run.tokens > 0 for run in engine.running if run.tokens or run.prefilled}
            if engine.boundary is not None and len(begun) > 1:
                self.met.add("an iteration serves prompts and decoding")
            if engine.boundary is None and {run.start for run in engine.running} - {naive.now}:
                self.met.add("the instant is a boundary between two iterations")

    def compare_outcome(self) -> None:
        """Every task's start, end and executor, every job's completion and slot time."""
        rows = [run for where in self.where for run in self.naive.runs[where]]
        for field in ("start", "end", "executor"):
            expected = [getattr(run, field) for run in rows]
            found = self.state.tasks[field]
            assert found.tolist() == [-1 if x is None else x for x in expected]
        completion = [-1 if x is None else x for x in self.naive.completion]
        assert self.state.jobs["completion"].tolist() == completion
        jobs, now = self.state.jobs, self.naive.now
        attained = jobs["attained"] + jobs["running_tasks"] * (now - jobs["attained_until"])
        assert attained.tolist() == [self.naive.slot_ticks(j) for j in range(len(jobs))]
        self.meet_outcome()

    def meet_outcome(self) -> None:
        naive = self.naive
        runs = [run for runs in naive.runs.values() for run in runs if run.end is not None]
        places = {(run.end, type(run.task), run.executor) for run in runs}
        llm, tool = ([end for end, kind, _ in places if kind is x] for x in (LLMTask, RegularTask))
        revealers = [stage.revealed_by for one in naive.jobs for stage in one.stages]
        met = {
            "jobs arrive together": len(set(naive.arrivals)) < len(naive.jobs),
            "calls on two engines end together": len(set(llm)) < len(llm),
            "two tools end together": len(set(tool)) < len(tool),
            "a call and a tool end together": set(llm) & set(tool),
            "a task ends as a job arrives": {*llm, *tool} & {*naive.arrivals} - {0},
            "a tool takes no time": any(run.start == run.end for run in runs),
            "several engines run": len({e for _, kind, e in places if kind is LLMTask}) > 1,
            "calls and tools run": llm and tool,
            "a stage is revealed": any(revealer is not None for revealer in revealers),
            "the time limit cuts it off": self.status == TRUNCATED,
        }
        self.met |= {situation for situation, true in met.items() if true}


SITUATIONS = 18  # that Lockstep can meet


def check_agreement(episode: Episode) -> set[str]:
    """Play an episode on both simulators; returns the situations it met."""
    both = Lockstep(episode)
    dice = random.Random(episode.seed)
    while both.status == DECIDE:
        legal = both.legal()
        assert legal
        wait = simulator.can_wait(both.state) and dice.random() < episode.waiting
        both.step(-1 if wait else dice.choice(legal))
    both.compare_outcome()
    return both.met


def test_agrees_with_the_naive_simulator() -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=180, derandomize=True)
    def check(episode: Episode) -> None:
        met.update(check_agreement(episode))

    for traits in TRAITS:
        given(episodes(traits))(check)()
    assert len(met) == SITUATIONS, f"not tested: only {met}"


@pytest.mark.slow
@pytest.mark.parametrize("traits", TRAITS, ids="-".join)
def test_agrees_with_the_naive_simulator_on_many_episodes(traits: tuple[str, str]) -> None:
    @given(episodes(traits))
    @settings(max_examples=1200)
    def check(episode: Episode) -> None:
        for situation in check_agreement(episode):
            event(situation)  # pytest --hypothesis-show-statistics

    check()


@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 1500)), min_size=1, max_size=4),
    st.lists(st.integers(0, 10**13), min_size=4, max_size=4),
    st.integers(1, 4).flatmap(lambda most: st.tuples(latencies(10**6, most), st.just(most))),
)
@settings(max_examples=60, derandomize=True)
def test_agrees_on_long_sequences_that_join_at_any_time(
    tokens: list[tuple[int, int]], ticks: list[int], engine: tuple[LatencyProfile, int]
) -> None:
    latency, max_batch = engine
    bank = JobBank.from_jobs(job(call(LLMTask(*pair))) for pair in tokens)
    arrival_s = sorted(tick / TICKS_PER_SECOND for tick in ticks[: len(tokens)])
    cluster = Cluster("one engine", latency, 1, max_batch, 1)
    check_agreement(Episode(bank, tuple(range(len(tokens))), tuple(arrival_s), cluster))


@given(latencies(10**6, 8), st.integers(1, 500), st.integers(1, 200))
@settings(max_examples=50, derandomize=True)
def test_a_lone_task_takes_its_demand(latency: LatencyProfile, prompt: int, output: int) -> None:
    state = play([job(call(LLMTask(prompt, output)))], [0.0], Cluster("one", latency))
    assert state.tasks["end"][0] == state.tasks["demand"][0] == state.stages["demand"][0]
    assert state.tasks["end"][0] == latency.demand_ticks(prompt, output)
    assert state.tasks["end"][0] == lone_task_ticks(latency, prompt, output)


@given(
    a=st.integers(1, 10**11),
    d=st.integers(0, 10**7),
    b=st.integers(1, 256),
    kv=st.integers(1, 10**6),
    count=st.integers(1, 10**5),
    off=st.sampled_from([-1, 0]),
)
@settings(max_examples=1000, derandomize=True)
def test_counting_whole_iterations_is_exact(
    a: int, d: int, b: int, kv: int, count: int, off: int
) -> None:
    def ticks(m: int) -> int:
        return m * (a + d * kv) + d * b * m * (m - 1) // 2

    assume(ticks(count + 1) < 2**63)  # what the simulator counts with
    latency, engine = np.zeros(1, LATENCY)[0], np.zeros(1, ENGINE)[0]
    latency["a"], latency["d"], engine["decoding"], engine["kv"] = a, d, b, kv
    elapsed = max(0, ticks(count) + off)
    m = engines._whole_iterations(latency, engine, elapsed)
    assert ticks(m) <= elapsed < ticks(m + 1)


# --- Invariants, on episodes too long for the naive simulator ---


@st.composite
def long_episodes(draw: st.DrawFn) -> Episode:
    bank = draw(banks(max_size=6, max_tokens=200))
    count = draw(st.integers(1, 30))
    indices = draw(st.lists(st.integers(0, len(bank) - 1), min_size=count, max_size=count))
    gaps = draw(st.lists(st.floats(0.0, 4.0), min_size=count, max_size=count))
    need = int(bank.prompt_tokens.max() + bank.output_limit.max())
    max_batch = draw(st.integers(1, 8))
    cluster = Cluster(
        "drawn",
        draw(latencies(draw(st.integers(need, 5 * need)), max_batch)),
        engines=draw(st.integers(1, 4)),
        max_batch=max_batch,
        regular_executors=draw(st.integers(1, 5)),
    )
    return Episode(
        bank,
        tuple(indices),
        tuple(np.cumsum(gaps).tolist()),
        cluster,
        waiting=draw(st.sampled_from([0.0, 0.3])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@given(long_episodes())
@settings(max_examples=40, derandomize=True)
def test_invariants(episode: Episode) -> None:
    state = episode.state()
    dice = random.Random(episode.seed)
    status, before = simulator.start(state), 0
    while status == DECIDE:
        ready = sorted(state.ready[: state.clock["ready"][0]].tolist())
        legal = [s for s in ready if simulator.can_run(state, s)]
        assert legal
        wait = simulator.can_wait(state) and dice.random() < episode.waiting
        status = simulator.step(state, -1 if wait else dice.choice(legal))
        assert before <= state.clock["now"][0]
        before = state.clock["now"][0]
    assert status == FINISHED
    check_each_task_ran_once_and_in_time(state)
    check_capacities(state, episode.cluster)
    jct_s = (state.jobs["completion"] - state.jobs["arrival"]) / TICKS_PER_SECOND
    assert state.clock["job_seconds"][0] == pytest.approx(jct_s.sum(), rel=1e-9)
    assert state.jobs["attained"].sum() == (state.tasks["end"] - state.tasks["start"]).sum()
    assert state.clock["regular_free"][0] == episode.cluster.regular_executors
    assert not state.engines["running"].any()
    assert not state.engines["reserved"].any()
    assert not state.engines["kv"].any()


def check_each_task_ran_once_and_in_time(state: ClusterState) -> None:
    tasks, stages = state.tasks, state.stages
    assert state.clock["dispatched"][0] == len(tasks)
    assert (tasks["end"] >= tasks["start"]).all()
    regular = stages["kind"][tasks["stage"]] == Kind.REGULAR
    assert (tasks["end"] - tasks["start"] == tasks["demand"])[regular].all()
    for s, stage in enumerate(stages):
        assert stage["completed_tasks"] == stage["num_tasks"] == stage["started_tasks"]
        mine = tasks[stage["first_task"] : stage["first_task"] + stage["num_tasks"]]
        assert (np.diff(mine["start"]) >= 0).all()
        assert mine["start"][0] >= state.jobs["arrival"][stage["job"]]
        before = {*state.parents[state.parents_of[s] : state.parents_of[s + 1]].tolist()}
        for other in (before | {int(stage["revealed_by"])}) - {-1}:
            assert tasks["end"][tasks["stage"] == other].max() <= mine["start"][0]
    for j, row in enumerate(state.jobs):
        assert row["completion"] == tasks["end"][stages["job"][tasks["stage"]] == j].max()


def check_capacities(state: ClusterState, cluster: Cluster) -> None:
    """No more slots, KV tokens and executors in use at any time than there are."""
    tasks, kind = state.tasks, state.stages["kind"][state.tasks["stage"]]
    need = tasks["prompt_tokens"] + state.stages["output_limit"][tasks["stage"]]
    for instant in np.unique(tasks["start"]):
        running = (tasks["start"] <= instant) & (instant < tasks["end"])
        for e in range(cluster.engines):
            here = running & (kind == Kind.LLM) & (tasks["executor"] == e)
            assert here.sum() <= cluster.max_batch
            assert need[here].sum() <= cluster.latency.kv_capacity_tokens
        used = tasks["executor"][running & (kind == Kind.REGULAR)]
        assert len(set(used)) == len(used)
        assert (used < cluster.regular_executors).all()


def test_a_copied_or_pickled_state_goes_on_alike_and_apart() -> None:
    jobs = [job(call(LLMTask(50, 30), LLMTask(20, 40)), tool(1.0, parents=(0,)))] * 3
    state = new_state(
        JobBank.from_jobs(jobs),
        [0, 1, 2],
        [0.0, 0.2, 0.9],
        load_cluster("constant"),
        np.full(6, -1),
    )
    assert simulator.start(state) == DECIDE
    simulator.step(state, int(state.ready[0]))
    copies = [copy_state(state), pickle.loads(pickle.dumps(state))]
    ends = []
    for one in (state, *copies):
        assert not (one.tasks["end"] >= 0).any()
        finish(one)
        ends.append(one.tasks["end"].tolist())
    assert ends[0] == ends[1] == ends[2]


# --- Worked out by hand, in ms ---


def test_one_task_alone() -> None:
    latency = replace(TEN, d=0.01)
    # prefill max(30, 10 + 0.1 * 400) = 50, then l(1, 401) = 16.01 and l(1, 402) = 16.02
    state = play([job(call(LLMTask(400, 3)))], [0], one_engine(latency))
    assert ms(state.jobs["completion"]) == [82.03]


def test_a_task_that_comes_mid_iteration_joins_at_its_end() -> None:
    # A: prefill 0-30, iterations 30-42, 42-54. B comes at 45, joins at 54, is prefilled 54-84 while
    # A waits; then both decode, 84-98, and both are done.
    state = play([job(call(LLMTask(1, 4))), job(call(LLMTask(1, 2)))], [0, 45], one_engine())
    assert ms(state.tasks["start"]) == [0, 45]
    assert ms(state.tasks["end"]) == [98, 98]


def test_a_task_that_comes_at_a_boundary_joins_at_once() -> None:
    # A: prefill 0-30, iteration 30-42. B is prefilled 42-72, both decode 72-86, A alone 86-98.
    state = play([job(call(LLMTask(1, 4))), job(call(LLMTask(1, 2)))], [0, 42], one_engine())
    assert ms(state.tasks["end"]) == [98, 86]


def test_a_task_that_comes_during_a_prefill_is_prefilled_next() -> None:
    # A is prefilled 0-30, B (10 + 0.1 * 500 = 60) 30-90; A gets its second token at 104, B both.
    state = play([job(call(LLMTask(1, 2))), job(call(LLMTask(500, 2)))], [0, 29], one_engine())
    assert ms(state.tasks["end"]) == [104, 104]


def test_prompts_that_join_together_are_prefilled_together() -> None:
    # 10 + 0.1 * (300 + 400) = 80; the one with a single output token is done then.
    state = play([job(call(LLMTask(300, 1), LLMTask(400, 2)))], [0], one_engine())
    assert ms(state.tasks["end"]) == [80, 92]


def test_what_becomes_ready_at_an_instant_joins_in_it() -> None:
    # A's iteration ends at 42, as does the tool of B, after which B's call joins.
    state = play(
        [job(call(LLMTask(1, 4))), job(tool(0.042), call(LLMTask(1, 2), parents=(0,)))],
        [0, 0],
        one_engine(),
    )
    assert ms(state.tasks["end"]) == [98, 42, 86]


def test_least_loaded_engine_lowest_index_first() -> None:
    state = play(
        [job(call(*[LLMTask(1, 10)] * 4, LLMTask(1, 1), LLMTask(1, 10))), job(call(LLMTask(1, 1)))],
        [0, 35],
        Cluster("hand", TEN, engines=3, max_batch=2, regular_executors=1),
    )
    # six tasks on three engines by turns; the fifth is done at 30, so engine 1 has one then
    assert state.tasks["executor"].tolist() == [0, 1, 2, 0, 1, 2, 1]


def test_regular_tasks_take_the_idle_executor_of_lowest_index() -> None:
    jobs = [job(tool(3, 1, 2)), job(tool(1)), job(tool(1))]
    cluster = Cluster("hand", TEN, regular_executors=3)
    state = play(jobs, [0, 1500, 2000], cluster)
    assert state.tasks["executor"].tolist() == [0, 1, 2, 1, 2]
    assert ms(state.tasks["end"]) == [3000, 1000, 2000, 2500, 3000]


def test_admission_reserves_the_prompt_and_the_output_limit() -> None:
    # "long" may write 500 tokens, so each of its calls reserves 600 of 1000, even those of 1 token
    jobs = [
        job(call(LLMTask(100, 1), LLMTask(100, 1)), application="long"),
        job(call(LLMTask(100, 500)), application="long"),
        job(call(LLMTask(390, 10), LLMTask(390, 10)), application="short"),
    ]
    state = begin(jobs, [0, 0, 0], one_engine())
    assert runnable(state) == [0, 1, 2]
    simulator.step(state, 0)
    assert runnable(state) == [2]
    assert simulator.step(state, 2) == DECIDE  # full to the last token, until the first is done
    assert ms(state.clock["now"]) == [59]  # 10 + 0.1 * (100 + 390)
    assert runnable(state) == [0, 1, 2]
    assert state.engines["reserved"].tolist() == [400]


def test_a_full_engine_takes_nobody() -> None:
    jobs = [job(call(*[LLMTask(1, 5)] * 3)), job(tool(1))]
    state = begin(jobs, [0, 0], one_engine(max_batch=2))
    simulator.step(state, 0)
    simulator.step(state, 0)
    assert runnable(state) == [1]
    assert not simulator.can_run(state, 0)


def test_only_existing_stages_can_run() -> None:
    state = begin([job(tool(1), tool(1, parents=(0,)))], [0], one_engine())
    assert [simulator.can_run(state, s) for s in (-1, 0, 1, 2, 99)] == [False, True, *[False] * 3]


def test_tools_of_zero_seconds_complete_before_anyone_is_asked_again() -> None:
    state = begin(
        [job(tool(0, 0), tool(0, parents=(0,)), tool(1, parents=(1,)))], [7], one_engine()
    )
    for expected in ([0], [0], [1], [2]):
        assert runnable(state) == expected
        assert ms(state.clock["now"]) == [7]
        status = simulator.step(state, expected[0])
    assert status == FINISHED
    assert ms(state.jobs["completion"]) == [1007]


def test_what_is_hidden_is_revealed_by_its_revealer_alone() -> None:
    plan, other = tool(1), tool(2)
    hidden = replace(call(LLMTask(1, 1), parents=(0, 1)), revealed_by=0)
    state = begin([job(plan, other, hidden)], [0], one_engine())
    simulator.step(state, 0)
    assert state.stages["visible"].tolist() == [1, 1, 0]
    assert simulator.step(state, -1) == DECIDE
    assert state.stages["visible"].tolist() == [1, 1, 1]
    assert runnable(state) == [1]


def test_waiting_goes_on_to_the_next_completion_or_arrival() -> None:
    jobs = [job(call(LLMTask(1, 4)), tool(1)), job(tool(1))]
    state = begin(jobs, [0, 40], one_engine())
    simulator.step(state, 0)
    instants = []
    for _ in range(2):
        assert simulator.can_wait(state)
        assert simulator.step(state, -1) == DECIDE
        instants += ms(state.clock["now"])
    assert instants == [40, 66]  # the ends of the prefill and of the iterations are no events
    assert not simulator.can_wait(state)


def test_slowdown_is_the_mean_over_busy_engines() -> None:
    latency = replace(TEN, d=0.1)
    cluster = Cluster("hand", latency, engines=2, max_batch=2, regular_executors=1)
    state = begin([job(call(*[LLMTask(50, 9)] * 3), tool(1))], [0], cluster)
    assert engines.slowdown(state) == 1
    simulator.step(state, 0)
    assert engines.slowdown(state) == 1  # one engine is idle, the other has one sequence
    simulator.step(state, 0)
    simulator.step(state, 0)
    # engine 0 holds two prompts: (10 + 4 + 10) / (10 + 2 + 5); engine 1 one
    assert engines.slowdown(state) == pytest.approx((24 / 17 + 1) / 2)


def test_the_clock_stops_at_the_time_limit() -> None:
    bank = JobBank.from_jobs([job(tool(1)), job(tool(1))])
    for limit_s, status in ((1.5, TRUNCATED), (2.0, FINISHED)):  # what is due at the limit happens
        state = new_state(bank, [0, 1], [0.0, 1.0], one_engine(), np.full(2, -1), limit_s)
        assert simulator.start(state) == DECIDE
        assert simulator.step(state, 0) == DECIDE
        assert simulator.step(state, 1) == status
        assert state.clock["now"][0] == limit_s * TICKS_PER_SECOND
        assert state.clock["job_seconds"][0] == pytest.approx(limit_s)  # one job at any time


def test_changes_tell_evidence_from_progress_and_starts() -> None:
    jobs = [job(tool(1, 2), tool(1, parents=(0,))), job(tool(9))]
    state = begin(jobs, [0, 1500], one_engine())

    def changes() -> list[tuple[int, int]]:
        listed = state.changed[: state.clock["changed"][0]].tolist()
        found = [(j, int(state.jobs["changed"][j])) for j in listed]
        state.jobs["changed"] = NO_CHANGE
        state.clock["changed"] = 0
        return found

    assert changes() == [(0, EVIDENCE)]  # it arrived
    simulator.step(state, 0)
    assert changes() == [(0, STARTED)]
    simulator.step(state, 0)  # both tasks run; the next decision is at 1.5 s
    assert changes() == [(0, PROGRESS), (1, EVIDENCE)]
    simulator.step(state, -1)
    assert ms(state.clock["now"]) == [2000]
    assert changes() == [(0, EVIDENCE)]
