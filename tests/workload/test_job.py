"""Jobs: what makes them valid, their order, and the names by which they are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import (
    MAX_TOKENS,
    InvalidJob,
    Job,
    Kind,
    LLMTask,
    RegularTask,
    Stage,
    Task,
)
from support.strategies import completed_sets, jobs, llm, tool


def with_task(task: Task, kind: Kind = Kind.LLM) -> tuple[Stage, ...]:
    return (Stage("call", kind, (), (task,)),)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "stages: a job needs at least one stage"),
        ((llm(""),), r"stages\[0\].name: '' is empty"),
        ((llm("a#1"),), r"stages\[0\].name: 'a#1' is empty or contains"),
        ((Stage("x", Kind.DYNAMIC, (), (LLMTask(1, 1),)),), r"stages\[0\].kind"),
        ((Stage("x", Kind.LLM, (), ()),), r"stages\[0\].tasks: a stage needs at least one task"),
        (with_task(LLMTask(0, 1)), r"stages\[0\].tasks\[0\].prompt_tokens: 0 is not between"),
        (with_task(LLMTask(1, 0)), r"output_tokens: 0 is not between 1"),
        (with_task(LLMTask(-3, 1)), "prompt_tokens: -3"),
        (with_task(LLMTask(1, MAX_TOKENS + 1)), "output_tokens: 2147483648"),
        (with_task(LLMTask(True, 1)), "prompt_tokens: True is not a whole number"),
        (with_task(LLMTask(1.0, 1)), "prompt_tokens: 1.0 is not a whole number"),  # type: ignore[arg-type]
        (with_task(RegularTask(1.0)), r"tasks\[0\]: a regular task in a stage of kind LLM"),
        (with_task(LLMTask(1, 1), Kind.REGULAR), "an LLM task in a stage of kind REGULAR"),
        (with_task(RegularTask(-1.0), Kind.REGULAR), r"tasks\[0\].duration_s: -1.0 is not a time"),
        (with_task(RegularTask(float("nan")), Kind.REGULAR), "duration_s: nan is not a time"),
        (with_task(RegularTask(float("inf")), Kind.REGULAR), "duration_s: inf is not a time"),
        ((llm(parents=(1,)),), r"stages\[0\].parents: stages\[1\] does not exist"),
        ((llm(parents=(-1,)),), r"stages\[0\].parents: stages\[-1\] does not exist"),
        ((llm(), llm(parents=(0, 0))), r"stages\[1\].parents: names stages\[0\] twice"),
        ((llm(parents=(0,)),), r"stages\[0\].parents: the graph has a cycle"),
        ((llm(), llm(parents=(2,)), llm(parents=(1,))), r"stages\[1\].parents: .* cycle"),
        ((llm(), llm(parents=(0,), revealed_by=7)), r"stages\[1\].revealed_by: stages\[7\] does"),
        ((llm(), llm(revealed_by=0)), r"stages\[1\].revealed_by: stages\[0\] is no ancestor"),
        ((llm(revealed_by=0),), r"stages\[0\].revealed_by: stages\[0\] is no ancestor"),
    ],
)
def test_invalid_jobs_are_refused_by_stage_and_field(
    stages: tuple[Stage, ...], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        Job("app", "job", stages)


@pytest.mark.parametrize("field", ["application", "job_id"])
def test_names_of_jobs_are_not_empty(field: str) -> None:
    names = {"application": "app", "job_id": "job", field: ""}
    with pytest.raises(InvalidJob, match=f"^{field}: empty name"):
        Job(**names, stages=(llm(),))


def test_numpy_integers_are_whole_numbers() -> None:
    assert Job("app", "job", with_task(LLMTask(np.int64(3), np.int64(4))))  # type: ignore[arg-type]


def test_order_takes_the_lowest_free_index_first() -> None:
    job = Job("app", "job", (llm(parents=(3,)), llm(parents=(2,)), llm(), llm()))
    assert job.topological_order() == (2, 1, 3, 0)


@given(jobs())
def test_order_puts_parents_first(job: Job) -> None:
    order = job.topological_order()
    assert sorted(order) == list(range(len(job.stages)))
    for index, stage in enumerate(job.stages):
        assert all(order.index(parent) < order.index(index) for parent in stage.parents)


@given(jobs())
def test_ancestors_are_what_parents_lead_to(job: Job) -> None:
    for index, found in enumerate(job.ancestors()):
        expected: set[int] = set()
        unseen = list(job.stages[index].parents)
        while unseen:
            expected.add(unseen[-1])
            unseen += job.stages[unseen.pop()].parents
        assert found == expected


def test_names_of_a_loop() -> None:
    stages = [llm("thought"), tool("search", (0,))]
    for first in (1, 3):
        stages += [llm("thought", (first,), first), tool("search", (first + 1,), first)]
    job = Job("web_search", "job", tuple(stages))
    assert job.canonical_names() == (
        "thought#1",
        "search#1",
        "thought#2",
        "search#2",
        "thought#3",
        "search#3",
    )


def test_names_of_a_plan_and_its_join_known_at_arrival() -> None:
    job = Job("app", "job", (llm("plan"), tool("a", (0,), 0), tool("a", (1,), 0), llm("a", (2,))))
    assert job.canonical_names() == ("plan#1", "a#2", "a#3", "a#1")  # what is known first, first


def test_what_side_by_side_plans_reveal_is_named_after_the_plan() -> None:
    both = Job(
        "app",
        "job",
        (llm("plan"), llm("plan"), tool("a", (0,), 0), tool("a", (1,), 1), llm("join", (2, 3))),
    )
    assert both.canonical_names() == ("plan#1", "plan#2", "a#1@plan#1", "a#1@plan#2", "join#1")
    one = Job("app", "job", (llm("plan"), llm("plan"), tool("a", (1,), 1), llm("join", (0, 2))))
    assert one.canonical_names() == ("plan#1", "plan#2", "a#1@plan#2", "join#1")


@given(jobs())
def test_names_are_unique_and_begin_with_the_stage_name(job: Job) -> None:
    names = job.canonical_names()
    assert len(set(names)) == len(names)
    assert [name.partition("#")[0] for name in names] == [stage.name for stage in job.stages]


@given(jobs(max_stages=7, max_tasks=1))
def test_names_never_depend_on_what_is_hidden(job: Job) -> None:
    names = job.canonical_names()
    for done in completed_sets(job):
        visible = [
            index
            for index, stage in enumerate(job.stages)
            if stage.revealed_by is None or stage.revealed_by in done
        ]
        seen = only(job, visible)
        assert seen.canonical_names() == tuple(names[index] for index in visible)


def only(job: Job, visible: list[int]) -> Job:
    """What is seen of the job: a hidden parent counts as the visible stage its reveal waits for.

    A stage still comes after its revealer when all between them is hidden.
    """

    def nearest(index: int | None) -> int:
        assert index is not None
        return index if index in visible else nearest(job.stages[index].revealed_by)

    stages = []
    for stage in (job.stages[index] for index in visible):
        parents = {visible.index(nearest(parent)) for parent in stage.parents}
        revealer = None if stage.revealed_by is None else visible.index(stage.revealed_by)
        if revealer is not None:
            parents.add(revealer)
        stages.append(replace(stage, parents=tuple(sorted(parents)), revealed_by=revealer))
    return replace(job, stages=tuple(stages))


@pytest.mark.parametrize("tool_first", [True, False])
def test_what_is_known_together_is_counted_in_the_order_that_is_seen(tool_first: bool) -> None:
    """Whether the first "end" waits for a hidden tool, or the hidden tool for the second."""
    tools = (tool("tool", (0, 2), 0),) if tool_first else ()
    join = llm("end", (0, 3) if tool_first else (0,))
    job = Job("app", "job", (llm("plan"), join, llm("end", (0,)), *tools))
    assert job.canonical_names()[:3] == ("plan#1", "end#1", "end#2")


@given(jobs())
def test_names_go_with_the_stages_when_a_job_is_packed(job: Job) -> None:
    bank = JobBank.from_jobs([job])
    names = job.canonical_names()
    assert bank.job(0).canonical_names() == names
    assert [bank.stage_names[name] for name in bank.stage_name] == list(names)
