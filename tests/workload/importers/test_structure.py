"""From spans with times and parents to a graph: by hand, and against what the rules say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.workload.importers.spans import Role, Span, jobs_of_spans
from llmsched_gym.workload.importers.structure import Work, stages_of
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage

SECOND = 10**9
ROLES = {"call": Role.CALL, "tool": Role.TOOL, "leaf": Role.LEAF, "wrapper": Role.WRAPPER}


def span(
    name: str, role: str, start: float, end: float | None, parent: str | None = None, **more: Any
) -> Span:
    """A span of trace t whose id is its name, unless one is given; times in seconds."""
    tokens = {"prompt_tokens": 10, "output_tokens": 5} if role == "call" else {}
    return Span(
        **{
            "trace": "t",
            "id": name,
            "parent": parent,
            "name": name,
            "role": ROLES[role],
            "start": round(start * SECOND),
            "end": None if end is None else round(end * SECOND),
            "place": "spans.jsonl:1",
            **tokens,
            **more,
        }
    )


def imported(spans: Iterable[Span]) -> tuple[Job, Tally]:
    tally = Tally()
    (job,) = jobs_of_spans(spans, tally, "app")
    return job, tally


def shape(spans: Iterable[Span]) -> dict[str, tuple[set[str], str | None, int]]:
    """Per stage name: the names of its parents, who reveals it, its number of tasks."""
    job, _ = imported(spans)
    names = [stage.name for stage in job.stages]
    assert len(set(names)) == len(names)
    return {
        stage.name: (
            {names[parent] for parent in stage.parents},
            None if stage.revealed_by is None else names[stage.revealed_by],
            len(stage.tasks),
        )
        for stage in job.stages
    }


def test_a_chain_by_time() -> None:
    spans = [
        span("agent", "wrapper", 0, 9),
        span("answer", "call", 6, 9, "agent"),
        span("plan", "call", 1, 2, "agent"),
        span("search", "tool", 2.5, 5, "agent"),
    ]
    assert shape(spans) == {
        "plan": (set(), None, 1),
        "search": ({"plan"}, "plan", 1),
        "answer": ({"search"}, "plan", 1),
    }
    job, tally = imported(spans)
    assert job.application == "agent"
    assert job.job_id == "t"
    assert job.arrival_s == 0.0
    assert job.stages[1] == Stage("search", Kind.REGULAR, (0,), (RegularTask(2.5),), 0)
    assert tally.guessed.counts == {
        "what a stage waits for: from times and from what holds it": 2,
        "stages revealed by the LLM stage before them": 2,
    }


def test_tools_held_by_a_call_wait_for_it() -> None:
    """Though they overlap: the ids say so."""
    spans = [
        span("chat", "call", 0, 5),
        span("search", "tool", 2, 4, "chat"),
        span("final", "call", 6, 7),
    ]
    assert shape(spans) == {
        "chat": (set(), None, 1),
        "search": ({"chat"}, "chat", 1),
        "final": ({"search"}, "chat", 1),
    }


def test_parallel_calls_of_one_name_are_tasks() -> None:
    spans = [
        span("map", "call", 0, 1),
        *(
            span("score", "call", 1 + i / 10, 3 + i, id=f"s{i}", output_tokens=i + 1)
            for i in (0, 1)
        ),
        span("reduce", "call", 5, 6),
    ]
    job, tally = imported(spans)
    assert [stage.name for stage in job.stages] == ["map", "score", "reduce"]
    assert job.stages[1].tasks == (LLMTask(10, 1), LLMTask(10, 2))
    assert job.stages[2].parents == (1,)
    assert tally.guessed.counts["parallel calls of one name: tasks of one stage"] == 2


def test_parallel_calls_that_others_wait_for_apart_are_stages() -> None:
    """Two branches of a call and a tool, each held by a wrapper."""
    spans = [
        span("root", "wrapper", 0, 9),
        *(span(f"branch{i}", "wrapper", 0, 9, "root") for i in (0, 1)),
        *(span("a", "tool", 0, 1 + i, f"branch{i}", id=f"a{i}") for i in (0, 1)),
        *(span("b", "tool", 3 + i, 5, f"branch{i}", id=f"b{i}") for i in (0, 1)),
        span("end", "call", 9, 10, "root"),
    ]
    job, _ = imported(spans)
    parents = {
        (stage.name, stage.parents): len(stage.tasks) for stage in job.stages if stage.name != "end"
    }
    assert parents == {("a", ()): 1, ("b", (0,)): 1, ("b", (1,)): 1}
    assert job.stages[-1].parents == (2, 3)


def test_a_join_waits_for_all_that_ended_before_it() -> None:
    spans = [
        span("plan", "call", 0, 1),
        span("web", "tool", 1, 2),
        span("math", "tool", 1, 4),
        span("late", "tool", 2, 3),
        span("join", "call", 4, 5),
    ]
    assert shape(spans)["join"][0] == {"math", "late"}  # web: late waits for it
    assert shape(spans)["late"][0] == {"web"}


def test_coarse_clocks_make_no_circles() -> None:
    spans = [span(f"tool{i}", "tool", 5, 5) for i in range(4)] + [span("call", "call", 5, 6)]
    assert shape(spans)["call"][0] == set()  # what starts at the same time is parallel


def test_wrappers_name_calls() -> None:
    spans = [
        span("root", "wrapper", 0, 9),
        span("planner", "wrapper", 0, 3, "root"),
        span("sequence", "wrapper", 0, 3, "planner"),
        span("ChatOpenAI", "call", 1, 2, "sequence"),
        span("search", "tool", 4, 5, "planner"),
        span("ChatOpenAI", "call", 6, 7, "root", id="second"),
    ]
    assert list(shape(spans)) == ["sequence/ChatOpenAI", "search", "ChatOpenAI"]


def test_what_holds_calls_is_no_tool_and_no_call() -> None:
    spans = [
        span("delegate", "tool", 0, 9),
        span("outer", "call", 1, 5, "delegate"),
        span("inner", "call", 2, 4, "outer"),
        span("fetch", "tool", 6, 8, "delegate"),
        span("http", "tool", 6, 7, "fetch"),
    ]
    job, tally = imported(spans)
    assert [stage.name for stage in job.stages] == ["inner", "fetch"]
    assert job.application == "app"  # the root is a tool
    assert tally.mended.counts == {"a call recorded twice, one in the other: the inner": 1}
    assert tally.skipped.counts == {"a tool within a tool, whose time has it": 1}
    assert tally.guessed.counts["a tool that holds calls: taken as a wrapper"] == 1


def test_a_call_whose_inner_calls_failed_counts_itself() -> None:
    spans = [
        span("outer", "call", 0, 5),
        span("attempt", "call", 1, 2, "outer", output_tokens=None),
    ]
    job, tally = imported(spans)
    assert [stage.name for stage in job.stages] == ["outer"]
    assert tally.skipped.counts == {"a call without token counts": 1}


def test_an_agent_as_a_tool_keeps_the_call_that_asked_for_it() -> None:
    spans = [
        span("chat", "call", 0, 9),
        span("delegate", "tool", 2, 8, "chat"),
        span("sub", "call", 3, 7, "delegate"),
    ]
    assert {name: row[0] for name, row in shape(spans).items()} == {
        "chat": set(),
        "delegate/sub": {"chat"},
    }


def test_what_is_missing_or_wrong_is_counted() -> None:
    spans = [
        span("root", "wrapper", 0, None),
        span("call", "call", 1, 2, "root"),
        span("call", "call", 1, 2, "root"),
        span("unfinished", "call", 2, None, "root"),
        span("unfinished tool", "tool", 2, None, "root"),
        span("without", "call", 2, 3, "root", prompt_tokens=None),
        span("nothing", "call", 2, 3, "root", output_tokens=0),
        span("lost", "tool", 3, 4, "nobody"),
        span("back", "tool", 6, 5, "root"),
        span("early", "tool", -1, 1, "root"),
        span("x", "tool", 6, 7, "y"),
        span("y", "wrapper", 6, 7, "x"),
        span("tab\t", "tool", 8, 9, "root"),
        span("#1", "tool", 9, 10, "root"),
    ]
    job, tally = imported(spans)
    assert {stage.name for stage in job.stages} == {
        *("call", "lost", "back", "early", "x", "tab", "_1")
    }
    assert next(one for one in job.stages if one.name == "back").tasks == (RegularTask(0.0),)
    assert job.arrival_s == -1.0
    assert tally.read == 14
    assert tally.skipped.counts == {
        "a span that occurs again": 1,
        "an unfinished call": 1,
        "an unfinished tool": 1,
        "a call without token counts": 2,
    }
    assert tally.mended.counts == {
        "a parent that is not there: taken as none": 1,
        "parents in a circle: cut": 1,
        "an end before the start: taken as 0 s": 1,
        "a start before that of its parent: left so": 1,
        "a name (stage) with signs that it may not have, or too long": 2,
    }


def test_a_finished_record_replaces_an_unfinished_one() -> None:
    spans = [span("call", "call", 0, None), span("call", "call", 0, 2)]
    assert len(imported(spans)[0].stages) == 1
    assert len(imported(spans[::-1])[0].stages) == 1


def test_a_trace_without_work_is_no_job_and_one_too_large_neither() -> None:
    tally = Tally()
    chain = [span(f"{i}", "tool", i, i + 1, trace="long") for i in range(4001)]
    assert list(jobs_of_spans([span("GET /", "wrapper", 0, 1), *chain], tally, "app")) == []
    assert tally.skipped.counts == {
        "a trace without a call or tool": 1,
        "a job that breaks a rule: stages: 4001 are more than the 4000 that a job may have": 1,
    }


def test_many_parallel_calls_are_one_stage_in_no_time() -> None:
    count = 20_000
    spans = [
        span("map", "call", 0, 1),
        *(span("score", "call", 2, 3, id=f"{i}") for i in range(count)),
        span("reduce", "call", 4, 5),
    ]
    job, _ = imported(spans)
    assert [len(stage.tasks) for stage in job.stages] == [1, count, 1]


def test_too_many_pairs_are_told() -> None:
    spans = [span(f"{i % 2}-{i}", "tool", i % 2 * 2, i % 2 * 2 + 1) for i in range(4000)]
    tally = Tally()
    assert list(jobs_of_spans(spans, tally, "app")) == []
    assert "more than 2000000 pairs" in str(tally.skipped)


def test_deep_trees_need_no_deep_stack() -> None:
    spans = [span(f"{i}", "wrapper", 0, 9, f"{i - 1}" if i else None) for i in range(5000)]
    job, _ = imported([*spans, span("call", "call", 1, 2, "4999")])
    assert job.stages[0].name == "4999/call"


# --- Any trace ------------------------------------------------------------------------------------


@st.composite
def traces(draw: st.DrawFn) -> list[Span]:
    """Spans with any parents (of circles, too, and of none), few times and names, in any order."""
    count = draw(st.integers(1, 12))
    times = st.integers(0, 6)
    spans = []
    for number in range(count):
        parent = draw(st.none() | st.integers(0, count))
        start, end = draw(times), draw(st.none() | times)
        spans.append(
            span(
                draw(st.sampled_from("ab")),
                draw(st.sampled_from(sorted(ROLES))),
                start,
                end,
                None if parent is None else f"{parent}",
                id=f"{number}",
            )
        )
    return draw(st.permutations(spans))


@given(spans=traces())
def test_any_trace_becomes_a_valid_job_or_none(spans: list[Span]) -> None:
    tally = Tally()
    jobs = list(jobs_of_spans(spans, tally, "app"))  # a Job checks itself
    assert len(jobs) <= 1
    assert tally.read == len(spans)
    kept = sum(len(stage.tasks) for job in jobs for stage in job.stages)
    finished = [one for one in spans if one.role != Role.WRAPPER and one.finished]
    assert kept <= len(finished)


@given(
    times=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=10),
    kinds=st.lists(st.sampled_from([Kind.LLM, Kind.REGULAR]), min_size=10, max_size=10),
)
def test_beside_each_other_works_wait_for_those_that_ended_before(
    times: list[tuple[int, int]], kinds: Sequence[Kind]
) -> None:
    """All that ended before, directly or not, and nothing else; a stage is revealed by a call."""
    works = {
        index: Work(f"{index}", kinds[index], start, start + length, 1, 1)
        for index, (start, length) in enumerate(times)
    }
    stages = stages_of(works, [[] for _ in works], list(works), Tally(), "")
    job = Job("app", "job", stages)
    ancestors = job.ancestors()
    for index, stage in enumerate(stages):
        own = works[int(stage.name)]
        before = {
            number
            for number, other in enumerate(stages)
            if (work := works[int(other.name)]).end <= own.start and work.start < own.start
        }
        assert ancestors[index] == before
        for parent in stage.parents:  # none that another parent has already
            others = set(stage.parents) - {parent}
            assert not any(parent in ancestors[other] for other in others)
        calls = [number for number in before if stages[number].kind == Kind.LLM]
        assert (stage.revealed_by is None) == (not calls)
        assert stage.revealed_by is None or stage.revealed_by in calls
