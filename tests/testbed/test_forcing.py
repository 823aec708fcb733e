from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.ticks import TICKS_PER_SECOND
from llmsched_gym.testbed.fake import Engine, Sequence
from llmsched_gym.testbed.forcing import teacher_forced
from llmsched_gym.testbed.log import EventLog, Request

EXCLUSIVE = LatencyProfile("x", 10.0, 1.0, 0.01, 12.0, 5.0, 0.3, 0.0, 10**6)
MIXED = replace(EXCLUSIVE, prefill="mixed", token_budget=2048)


def played(
    profile: LatencyProfile, slots: int, asked: list[tuple[float, int, int]], noise_s: float = 0.0
) -> EventLog:
    """The log of an engine that takes exactly what its profile says: (sent_s, prompt, output)."""
    engine, rng = Engine(profile, slots), np.random.default_rng(0)
    waiting = sorted(enumerate(asked), key=lambda one: one[1][0])
    sequences = {task: Sequence(prompt, output) for task, (_, prompt, output) in waiting}
    times: dict[int, list[float]] = {task: [] for task in sequences}
    now = 0.0
    while waiting or engine.running or engine.waiting:
        if not engine.running and not engine.waiting:
            now = max(now, waiting[0][1][0])
        while waiting and waiting[0][1][0] <= now:
            engine.submit(sequences[waiting.pop(0)[0]])
        now += engine.begin() / TICKS_PER_SECOND
        for one in engine.end():
            task = next(task for task, sequence in sequences.items() if sequence is one)
            times[task].append(now + rng.uniform(0, noise_s))
    requests = [
        Request(task, 0, prompt, output, sent_s, times[task][-1], tuple(times[task]))
        for task, (sent_s, prompt, output) in enumerate(asked)
    ]
    return EventLog(("http://127.0.0.1:1",), slots, 1, len(asked), requests=requests)


asked_of_engines = st.lists(
    st.tuples(st.floats(0, 2), st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=20
)


@given(asked_of_engines, st.integers(1, 6), st.sampled_from([EXCLUSIVE, MIXED]))
def test_an_engine_that_is_like_its_profile_is_predicted_exactly(
    asked: list[tuple[float, int, int]], slots: int, profile: LatencyProfile
) -> None:
    forced = teacher_forced(played(profile, slots, asked), profile)
    expected = [task for task, (_, _, output) in enumerate(asked) if output > 1]
    assert forced.task.tolist() == expected
    assert np.abs(forced.errors).max(initial=0) < 1e-6


def test_prompts_that_are_cut_into_chunks() -> None:
    profile = replace(MIXED, token_budget=20)
    asked = [(0.0, 5, 60), (0.0, 5, 60), (0.2, 100, 5), (0.5, 7, 9)]
    forced = teacher_forced(played(profile, 4, asked), profile)
    assert forced.predicted_s == pytest.approx(forced.measured_s, rel=1e-6)
    uncut = teacher_forced(played(profile, 4, asked), MIXED)
    assert uncut.errors[0] > 0.01  # one long iteration, and not six short ones


def test_the_wrong_trait_is_seen() -> None:
    asked = [(0.03 * n, 30, 10) for n in range(40)]
    log = played(MIXED, 4, asked)
    assert teacher_forced(log, MIXED).bias == pytest.approx(0, abs=1e-9)
    assert teacher_forced(log, EXCLUSIVE).bias > 0.05


def test_a_slow_engine_is_a_bias() -> None:
    asked = [(0.03 * n, 30, 10) for n in range(40)]
    slow = replace(MIXED, a=12.0, c=1.2, d=0.012, p0=14.4, e=6.0, f=0.36)
    forced = teacher_forced(played(slow, 4, asked, noise_s=0.002), MIXED)
    assert forced.bias == pytest.approx(1 / 1.2 - 1, abs=0.01)
    assert np.median(np.abs(forced.errors)) == pytest.approx(1 - 1 / 1.2, abs=0.02)


def test_requests_that_failed_are_neighbours_only() -> None:
    asked = [(0.0, 10, 20), (0.0, 10, 20), (0.0, 10, 1)]
    log = played(MIXED, 4, asked)
    log.requests[1] = replace(log.requests[1], failed="cut")
    forced = teacher_forced(log, MIXED)
    assert forced.task.tolist() == [0]
    assert forced.errors == pytest.approx([0], abs=1e-6)
    log.requests[0] = replace(log.requests[0], output_tokens=21)  # two came at once
    nothing = teacher_forced(log, MIXED)
    assert len(nothing.task) == 0
    assert np.isnan(nothing.bias)
