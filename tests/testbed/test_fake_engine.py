"""The engine of the fake server against hand-worked cases and a count token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.testbed.fake import Engine, Sequence
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage
from support.naive import DECIDE, NaiveCluster

MS = 10**9  # ticks
EXCLUSIVE = LatencyProfile(
    "by hand", a=10, c=1, d=0.01, p0=20, e=5, f=0.5, g=0.001, kv_capacity_tokens=10_000
)
MIXED = replace(EXCLUSIVE, prefill="mixed", token_budget=64)


def iteration(engine: Engine) -> float:
    """Play one: its ms."""
    ticks = engine.begin()
    engine.end()
    return ticks / MS


def submit(engine: Engine, prompt: int, output: int) -> Sequence:
    sequence = Sequence(prompt, output)
    engine.submit(sequence)
    return sequence


# --- By hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [EXCLUSIVE, MIXED])
def test_a_lone_request(profile: LatencyProfile) -> None:
    engine = Engine(profile, 4)
    one = submit(engine, 20, 3)
    assert iteration(engine) == 20  # p0, since 5 + 10 + 0.4 is less
    assert one.tokens == 1
    assert iteration(engine) == pytest.approx(10 + 1 + 0.21)
    assert iteration(engine) == pytest.approx(10 + 1 + 0.22)
    assert one.done
    assert iteration(engine) == 0


def test_an_exclusive_prefill_makes_the_others_wait() -> None:
    engine = Engine(EXCLUSIVE, 4)
    one = submit(engine, 100, 9)
    assert iteration(engine) == pytest.approx(5 + 50 + 10)
    two, three = submit(engine, 60, 2), submit(engine, 40, 1)
    assert iteration(engine) == pytest.approx(5 + 50 + 10)  # 100 tokens together
    assert (one.tokens, two.tokens, three.tokens) == (1, 1, 1)
    assert three.done
    assert iteration(engine) == pytest.approx(10 + 2 + 0.01 * (101 + 61))
    assert two.done
    assert iteration(engine) == pytest.approx(10 + 1 + 0.01 * 102)


def test_a_mixed_prefill_takes_what_the_budget_leaves() -> None:
    engine = Engine(MIXED, 4)
    one = submit(engine, 40, 9)
    assert iteration(engine) == pytest.approx(5 + 20 + 1.6)
    two, three = submit(engine, 100, 5), submit(engine, 30, 5)
    # 63 tokens of the budget of 64 are left beside the one who decodes.
    assert iteration(engine) == pytest.approx(5 + 31.5 + 0.001 * 63**2 + 1 + 0.41)
    assert (one.tokens, two.prefilled, two.tokens) == (2, 63, 0)
    # 37 tokens after 63, and 26 of the next.
    pairs = (100**2 - 63**2) + 26**2
    assert iteration(engine) == pytest.approx(5 + 31.5 + 0.001 * pairs + 1 + 0.42)
    assert (one.tokens, two.tokens, three.prefilled) == (3, 1, 26)
    # Two decode; 4 tokens cost less than p0.
    assert iteration(engine) == pytest.approx(20 + 2 + 0.01 * (43 + 101))
    assert (one.tokens, two.tokens, three.tokens) == (4, 2, 1)
    assert iteration(engine) == pytest.approx(10 + 3 + 0.01 * (44 + 102 + 31))
    assert engine.count()["n_decode_total"] == 5


def test_a_prompt_waits_in_a_mixed_engine_if_the_budget_is_used_up() -> None:
    engine = Engine(replace(MIXED, token_budget=3), 2)
    submit(engine, 7, 1)
    two = submit(engine, 1, 1)
    assert [iteration(engine) for _ in range(3)] == [20, 20, 20]
    assert two.done  # 3 + 3 + 1 tokens of the first, and one of the second


def test_who_comes_during_an_iteration_joins_at_its_end() -> None:
    engine = Engine(EXCLUSIVE, 4)
    submit(engine, 10, 5)
    engine.begin()
    late = submit(engine, 10, 5)
    assert [one is late for one in engine.end()] == [False]
    assert engine.begin() == 20 * MS
    assert engine.end() == [late]


def test_beyond_the_slots_requests_wait_in_order() -> None:
    engine = Engine(EXCLUSIVE, 2)
    asked = [submit(engine, 1, output) for output in (2, 3, 1, 1, 1)]
    first: dict[int, int] = {}
    for step in range(20):
        if not engine.begin():
            break
        for one in engine.end():
            first.setdefault(asked.index(one), step)
    assert first == {0: 0, 1: 0, 2: 2, 3: 3, 4: 4}  # prompts go before whoever decodes
    counted = engine.count()
    assert (counted["requests_deferred_total"], counted["requests_processing_max"]) == (3, 2)
    assert (counted["prompt_tokens_total"], counted["tokens_predicted_total"]) == (5, 8)
    assert (counted["requests_processing"], counted["requests_deferred"]) == (0, 0)


def test_beyond_the_kv_cache_requests_wait_as_well() -> None:
    engine = Engine(replace(EXCLUSIVE, kv_capacity_tokens=100), 8)
    one, two = submit(engine, 50, 2), submit(engine, 49, 1)
    iteration(engine)
    assert (one.tokens, two.tokens) == (1, 0)
    iteration(engine)
    iteration(engine)
    assert two.done


@pytest.mark.parametrize("profile", [EXCLUSIVE, MIXED])
def test_who_is_gone_leaves_at_the_next_boundary(profile: LatencyProfile) -> None:
    engine = Engine(profile, 1)
    one, two = submit(engine, 10, 100), submit(engine, 10, 2)
    iteration(engine)
    engine.begin()
    one.gone = True
    assert engine.end() == []
    assert engine.begin() == 20 * MS
    assert engine.end() == [two]
    two.gone = True
    assert engine.begin() == 0


@pytest.mark.parametrize("slots", [0, -1, 1.5, True])
def test_an_engine_has_slots(slots: int) -> None:
    with pytest.raises(ValueError, match="slots: .* is not a whole number above 0"):
        Engine(EXCLUSIVE, slots)


def test_an_engine_has_room_for_prompts() -> None:
    with pytest.raises(ValueError, match="64 tokens an iteration leave none for prompts beside 64"):
        Engine(MIXED, 64)


# --- Token by token -------------------------------------------------------------------------------


@dataclass(eq=False)
class Counted:
    """A request whose work is counted one token at a time."""

    prompt: int
    output: int
    came: int  # before the iteration of this number
    taken: list[int] = field(default_factory=list)  # iteration of each prompt token
    given: list[int] = field(default_factory=list)  # iteration of each output token


def counted_ms(requests: list[Counted], profile: LatencyProfile, slots: int) -> list[float]:
    """ms of each iteration; all that has to be known follows from when tokens were worked on."""
    times: list[float] = []
    while any(len(one.given) < one.output for one in requests):
        now = len(times)
        here = [one for one in requests if one.came <= now and len(one.given) < one.output][:slots]
        if not here:
            times.append(0)
            continue
        decoding = [one for one in here if one.given]
        fresh = [one for one in here if not one.given]
        if profile.mixed:
            assert profile.token_budget is not None
            places = profile.token_budget - len(decoding)
        else:
            places = sum(one.prompt for one in fresh)
            decoding = [] if fresh else decoding
        attention = took = 0
        for one in fresh:
            while places and len(one.taken) < one.prompt:
                attention += 2 * len(one.taken) + 1
                one.taken.append(now)
                places, took = places - 1, took + 1
        if not profile.mixed:
            attention = took**2
        work = profile.e + profile.f * took + profile.g * attention
        ms = max(profile.p0, work) if took else profile.a
        if not took or profile.mixed:
            held = sum(len(one.taken) + len(one.given) for one in decoding)
            ms += profile.c * len(decoding) + profile.d * held
        for one in [*decoding, *(one for one in fresh if len(one.taken) == one.prompt)]:
            one.given.append(now)
        times.append(ms)
    return times


coefficients = st.floats(0, 5).map(lambda x: round(x, 3))


@st.composite
def profiles(draw: st.DrawFn) -> LatencyProfile:
    numbers: dict[str, Any] = {name: draw(coefficients) for name in "cdefg"}
    a, p0 = (draw(st.floats(0.1, 30).map(lambda x: round(x, 3))) for _ in range(2))
    mixed = draw(st.booleans())
    return LatencyProfile(
        "drawn",
        a=a,
        p0=p0,
        **numbers,
        kv_capacity_tokens=10**6,
        prefill="mixed" if mixed else "exclusive",
        token_budget=draw(st.integers(5, 60)) if mixed else None,
    )


asked = st.lists(
    st.tuples(st.integers(1, 80), st.integers(1, 12), st.integers(0, 15)), min_size=1, max_size=12
)


@given(profiles(), st.integers(1, 4), asked)
def test_iterations_are_those_counted_token_by_token(
    profile: LatencyProfile, slots: int, asked: list[tuple[int, int, int]]
) -> None:
    asked.sort(key=lambda one: one[2])  # in the order in which they come
    requests = [Counted(*one) for one in asked]
    expected = counted_ms(requests, profile, slots)
    engine = Engine(profile, slots)
    sequences = [Sequence(one.prompt, one.output) for one in requests]
    given: dict[Sequence, list[int]] = {one: [] for one in sequences}
    for number, ms in enumerate(expected):
        for request, sequence in zip(requests, sequences, strict=True):
            if request.came == number:
                engine.submit(sequence)
        assert engine.begin() == pytest.approx(ms * MS, rel=1e-9, abs=100)
        for sequence in engine.end():
            given[sequence].append(number)
    assert engine.begin() == 0
    assert [given[one] for one in sequences] == [one.given for one in requests]
    counted = engine.count()
    assert counted["prompt_tokens_total"] == sum(one.prompt for one in requests)
    assert counted["tokens_predicted_total"] == sum(one.output for one in requests)
    assert counted["n_decode_total"] == sum(ms > 0 for ms in expected)
    assert counted["requests_processing_max"] <= slots


@given(profiles(), st.integers(1, 300), st.integers(1, 40))
def test_a_lone_request_takes_its_service_demand(
    profile: LatencyProfile, prompt: int, output: int
) -> None:
    engine, total = Engine(profile, 4), 0
    submit(engine, prompt, output)
    while ticks := engine.begin():
        total += ticks
        engine.end()
    assert total == profile.demand_ticks(prompt, output)


@given(st.integers(2, 50), st.integers(1, 200))
def test_chunks_pay_together_the_attention_of_the_whole_prompt(budget: int, prompt: int) -> None:
    profile = replace(MIXED, p0=1e-6, e=0, f=0, g=0.25, token_budget=budget)
    engine = Engine(profile, 1)
    submit(engine, prompt, 1)
    times = [iteration(engine) for _ in range(math.ceil(prompt / budget))]
    assert sum(times) == pytest.approx(0.25 * prompt**2)
    assert engine.begin() == 0


@given(profiles(), st.integers(1, 4), asked)
def test_a_client_that_keeps_the_slots_busy_sees_the_late_joins_of_the_simulator(
    profile: LatencyProfile, slots: int, asked: list[tuple[int, int, int]]
) -> None:
    sizes = [(prompt, output) for prompt, output, _ in asked]
    stage = Stage("work", Kind.LLM, (), tuple(LLMTask(*size) for size in sizes))
    late = replace(profile, joins="late")
    cluster = NaiveCluster([Job("a", "job", (stage,))], [0], {"a": 16}, late, 1, slots, 1)
    status = cluster.start()
    while status == DECIDE:
        status = cluster.step((0, 0))

    engine = Engine(profile, slots)
    sequences = [Sequence(*size) for size in sizes]
    ends: dict[Sequence, int] = {}
    waiting, now = list(sequences), 0

    def send(most: int) -> None:
        while waiting and most and len(sequences) - len(waiting) - len(ends) < slots:
            engine.submit(waiting.pop(0))
            most -= 1

    while len(ends) < len(sequences):
        ticks = engine.begin()  # before anybody hears of the end of the last one
        if not ticks:
            send(1)  # at an engine at rest, which does not wait for others
            ticks = engine.begin()
        send(slots)
        now += ticks
        ends |= {one: now for one in engine.end() if one.done}
    assert [ends[one] for one in sequences] == [run.end for run in cluster.runs[0, 0]]
    assert engine.count()["requests_deferred_total"] == 0
