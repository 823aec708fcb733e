"""Gantt charts, graphs and beliefs as figures: what they say, and that it fits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.cluster.timeline import Timeline, timeline
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.rendering import (
    BeliefHistory,
    JobGraph,
    Node,
    Status,
    draw_belief_history,
    draw_job_graph,
    gantt,
)
from llmsched_gym.workload.job import Kind, LLMTask
from support.hand import begin, call, finish, job, one_engine, play, tool


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    return [text for text in found if text]


def drawn(figure: Figure) -> np.ndarray:
    """The pixels; every text of the figure lies inside."""
    file = io.BytesIO()
    figure.savefig(file)
    file.seek(0)
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        for text in axes.texts:
            if text.get_clip_on():
                continue
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= width + 1
            assert box.y0 >= 0
            assert box.y1 <= height + 1
    return imread(file)


def two_jobs() -> Timeline:
    jobs = [job(call(LLMTask(10, 20))), job(tool(0.5, 0.25))]
    return timeline(play(jobs, [0, 100], one_engine(regular_executors=1)))


def test_bars_have_the_times_of_the_tasks() -> None:
    tasks = two_jobs()
    figure = gantt(tasks, "one")
    bars = [
        np.asarray(path.vertices)[:4]
        for collection in figure.axes[0].collections
        if isinstance(collection, PolyCollection)
        for path in collection.get_paths()
    ]
    spans = sorted((bar[:, 0].min(), bar[:, 0].max()) for bar in np.asarray(bars))
    np.testing.assert_allclose(spans, sorted(zip(tasks.start_s, tasks.end_s, strict=True)))
    assert texts(figure)[-1] == "2 of 2 jobs done by 1 s, mean completion time 0.5 s"
    assert len(drawn(figure).shape) == 3


def test_policies_share_an_axis_of_time() -> None:
    tasks = two_jobs()
    figure = gantt({"$first_": tasks, "_second\n" + "x" * 200: tasks.at(0.3)}, until_s=0.4)
    limits = {axes.get_xlim() for axes in figure.axes}
    assert limits == {(0.0, 0.4)}
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "$first_: 1 of 2 jobs done by 0 s, mean completion time 0.3 s"
    assert titles[1].startswith("_second xxx")
    assert len(titles[1]) < 140
    drawn(figure)
    with pytest.raises(ValueError, match="^timelines: at least one"):
        gantt({})


def test_before_anything_runs_there_is_a_figure_too() -> None:
    state = begin([job(call(LLMTask(10, 5)))], [0], one_engine())
    drawn(gantt(timeline(state)))
    finish(state)
    drawn(gantt(timeline(state).at(0)))


@pytest.mark.parametrize(
    "sizes",
    [
        {"engines": 200, "max_batch": 4, "regular_executors": 5000},
        {"engines": 2, "max_batch": 2000, "regular_executors": 64},
    ],
)
def test_no_cluster_makes_a_figure_taller_than_a_screen(sizes: dict[str, Any]) -> None:
    env = LLMSchedEnv("planning", load_cluster("constant", **sizes), num_jobs=5, belief="none")
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        observation, *_ = env.step(int(observation["action_mask"].argmax()))
    for figure in (env.gantt(), gantt(dict.fromkeys("abc", env.timeline()))):
        assert figure.get_figheight() <= 9
        drawn(figure)


# --- the graph of a job ---------------------------------------------------------------------------


def chain(length: int, wide: int = 1) -> JobGraph:
    """A plan, and stages in ``length - 1`` columns of ``wide``; statuses by turns."""
    statuses = (Status.DONE, Status.RUNNING, Status.READY, Status.WAITING, Status.PLACEHOLDER)
    places = [(0, 0)] + [(column, row) for column in range(1, length) for row in range(wide)]
    nodes = []
    for number in range(len(places)):
        status = statuses[number % 5]
        kind = Kind.DYNAMIC if status == Status.PLACEHOLDER else Kind(number % 2)
        nodes.append(Node(number, status, kind, tasks=number, started=1))
    edges = [
        (a, b)
        for a, (column, _) in enumerate(places)
        for b, (other, _) in enumerate(places)
        if other == column + 1
    ]
    return JobGraph(3, tuple(nodes), tuple(edges), np.array(places))


@pytest.mark.parametrize(("length", "wide"), [(1, 1), (3, 2), (8, 1), (20, 3), (60, 1), (3, 40)])
def test_graphs_of_any_shape_fit(length: int, wide: int) -> None:
    graph = chain(length, wide)
    figure = draw_job_graph(graph, {0: "$plan_1", 1: "a name that is " + "very " * 9 + "long"})
    assert figure.get_figheight() <= 10
    assert figure.get_figwidth() <= 14
    drawn(figure)
    if wide < 5 and length < 40:
        assert sum("\n" in text for text in texts(figure)) == len(graph.nodes)
        assert texts(figure)[0].startswith("$plan_1\n")


# --- beliefs --------------------------------------------------------------------------------------


def history(completed: int) -> BeliefHistory:
    time_s = np.linspace(10, 20, 50)
    expected = np.linspace(9, 0, 50)
    marks = tuple((10 + 10 * k / completed, f"stage_{k} $") for k in range(completed))
    return BeliefHistory(1, "app", time_s, expected, expected / 2, 2 * expected, marks)


@pytest.mark.parametrize("completed", [1, 7, 400])
def test_labels_of_completions_do_not_overlap(completed: int) -> None:
    figure = draw_belief_history(history(completed), "a job")
    drawn(figure)
    places = sorted(text.xy[0] for text in figure.axes[0].texts)  # type: ignore[attr-defined]
    assert len(places) == min(completed, 34) or len(places) <= 34
    assert (np.diff(places) > 0.29).all()
    assert len([line for line in figure.axes[0].lines if line.get_linestyle() == ":"]) == completed


def test_a_history_of_one_moment() -> None:
    moment = np.ones(1)
    one = BeliefHistory(0, "a", moment, moment, moment, moment, ())
    drawn(draw_belief_history(one))
