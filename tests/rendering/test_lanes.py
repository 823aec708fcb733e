"""Lanes: which are shown, and that bars are where tasks ran."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.cluster.timeline import timeline
from llmsched_gym.rendering.canvas import Canvas, cut, width_of
from llmsched_gym.rendering.colours import JOB_COLOURS, ink_on, job_colour, tint
from llmsched_gym.rendering.lanes import AXIS, LABELS, LEAST, Rows, draw_lanes, nice
from llmsched_gym.workload.job import LLMTask
from support.hand import call, job, one_engine, play, tool


@given(st.integers(1, 300), st.integers(1, 3000), st.integers(1, 6000), st.integers(150, 800))
def test_as_many_lanes_as_there_is_room_for(
    engines: int, slots: int, tools: int, height: int
) -> None:
    rows = Rows.fit(engines, slots, tools, height)
    assert 1 <= rows.engines <= engines
    assert 1 <= rows.slots <= slots
    assert 1 <= rows.tools <= tools
    assert rows.height + AXIS <= height + 1e-6
    assert rows.lane >= LEAST * 0.9
    if engines * slots + tools < 40 and height > 500:
        assert (rows.engines, rows.slots, rows.tools) == (engines, slots, tools)


def test_bars_are_where_and_when_tasks_ran() -> None:
    # Iterations of 10 + 2b ms, prompts 30 ms: the calls end at 32 + 20 * 14 and 32 + 9 * 14 ms.
    long, short = LLMTask(10, 22), LLMTask(10, 10)
    tasks = timeline(play([job(call(long)), job(call(short)), job(tool(0.1))], [0, 0, 100],
                          one_engine(regular_executors=1)))  # fmt: skip
    canvas = Canvas(LABELS + 400, 300)
    rows = draw_lanes(canvas, tasks, (0, 0, LABELS + 400, 300), (0.0, 0.4))
    picture = canvas.array()

    def colour(time_s: float, y: float) -> tuple[int, ...]:
        return tuple(picture[int(y + 3), int(LABELS + time_s / 0.4 * 400)].tolist())

    for task in range(3):
        y = float(rows.tops_of(tasks)[task])
        fill = job_colour(task) if tasks.llm[task] else tint(task)
        start, end = float(tasks.start_s[task]), float(tasks.end_s[task])
        for time_s in np.linspace(start + 0.01, end - 0.01, 9):
            assert colour(time_s, y) == fill
        for time_s in (start - 0.01, end + 0.01):
            if 0 <= time_s < 0.4:
                assert colour(time_s, y) != fill


def test_of_a_window_only_what_ran_in_it_is_drawn() -> None:
    tasks = timeline(play([job(tool(0.1)), job(tool(0.1))], [0, 500], one_engine()))
    canvas = Canvas(LABELS + 400, 300)
    draw_lanes(canvas, tasks, (0, 0, LABELS + 400, 300), (0.3, 0.7))
    colours = {tuple(pixel) for pixel in canvas.array().reshape(-1, 3).tolist()}
    assert tint(1) in colours
    assert tint(0) not in colours


def test_neighbours_in_time_have_colours_of_their_own() -> None:
    several = len(JOB_COLOURS)
    assert len({job_colour(number) for number in range(several)}) == several
    assert job_colour(several) == job_colour(0)
    for number in range(several):
        fill, ink = (np.array(one) @ (0.299, 0.587, 0.114)
                     for one in (job_colour(number), ink_on(job_colour(number))))  # fmt: skip
        assert abs(fill - ink) > 70, "numbers are legible"


@pytest.mark.parametrize(("least", "step"), [(1, 1), (1.1, 2), (3, 5), (7, 10), (0.02, 0.02)])
def test_steps_of_axes_are_round(least: float, step: float) -> None:
    assert nice(least) == pytest.approx(step)


def test_texts_are_cut_and_cannot_command() -> None:
    assert cut("short", 13, 100) == "short"
    long = cut("a very long name of an application" * 40, 13, 100)
    assert long.endswith("…")
    assert width_of(long, 13) <= 100
    assert "\x1b" not in cut("\x1b[31m", 13, 200)
    assert cut("a\nb", 13, 100) == "a b"
