"""Jobs: what makes them valid, their order, and the names by which they are compared."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import (
    MAX_STAGES,
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
        (with_task(RegularTask(4.1e6), Kind.REGULAR), "duration_s: 4100000.0 is not a time in sec"),
        (with_task(RegularTask(True), Kind.REGULAR), "duration_s: True is not a time in seconds"),
        (with_task(RegularTask("1"), Kind.REGULAR), "duration_s: '1' is not a time"),  # type: ignore[arg-type]
        (with_task(RegularTask(None), Kind.REGULAR), "duration_s: None is not a time"),  # type: ignore[arg-type]
        (with_task(RegularTask(10**5000), Kind.REGULAR), "duration_s: a number of thousands of di"),
        (with_task(LLMTask(10**5000, 1)), "prompt_tokens: a number of thousands of digits is not"),
        (with_task(LLMTask(np.bool_(True), 1)), "prompt_tokens: .*True.* is not a whole number"),  # type: ignore[arg-type]
        (with_task(LLMTask("5", 1)), "prompt_tokens: '5' is not a whole number"),  # type: ignore[arg-type]
        (with_task(LLMTask(1, None)), "output_tokens: None is not a whole number"),  # type: ignore[arg-type]
        (with_task((5, 5)), r"tasks\[0\]: \(5, 5\) is neither an LLMTask nor"),  # type: ignore[arg-type]
        (({"name": "x"},), r"stages\[0\]: \{'name': 'x'\} is not a Stage"),
        ((Stage("x", "llm", (), (LLMTask(1, 1),)),), r"stages\[0\].kind: 'llm' is neither"),  # type: ignore[arg-type]
        ((Stage("x", True, (), (RegularTask(1),)),), r"stages\[0\].kind: True is neither"),  # type: ignore[arg-type]
        ((llm(5),), r"stages\[0\].name: 5 is not text"),  # type: ignore[arg-type]
        ((llm("\x1b[31m"),), r"stages\[0\].name: '\\x1b\[31m' has characters that cannot be pri"),
        ((llm("\ud800"),), r"stages\[0\].name: '\\ud800' has characters that cannot be printed"),
        ((llm("a" * 256),), r"stages\[0\].name: 'aaaaaaaaaaaaaaaaaaaa'... is longer than 255"),
        ((llm(), llm(parents=(True,))), r"stages\[1\].parents: stages\[True\] does not exist"),
        ((llm(), llm(parents=("0",))), r"stages\[1\].parents: stages\['0'\] does not exist"),  # type: ignore[arg-type]
        ((llm(), llm(parents=(0,), revealed_by=0.0)), r"revealed_by: stages\[0.0\] does not"),  # type: ignore[arg-type]
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
    names: dict[str, Any] = {"application": "app", "job_id": "job", field: ""}
    with pytest.raises(InvalidJob, match=f"^{field}: empty name"):
        Job(**names, stages=(llm(),))


@pytest.mark.parametrize("field", ["application", "job_id"])
@pytest.mark.parametrize(
    "name", ["a\tb", "\x00", "\x7f", "\x9b2J", "\u2028", "\udfff", "a" * 256, 3, None]
)
def test_names_of_jobs_can_be_printed(field: str, name: Any) -> None:
    names = {"application": "app", "job_id": "job", field: name}
    with pytest.raises(InvalidJob, match=f"^{field}: ") as error:
        Job(**names, stages=(llm(),))
    assert str(error.value).isprintable()
    assert Job("日本語 🙂 é", "$_$ #1", (llm("=~!"),))


def test_numbers_of_numpy_are_numbers() -> None:
    stages = (
        Stage("call", Kind.LLM, (), (LLMTask(np.int64(3), np.uint8(4)),)),  # type: ignore[arg-type]
        Stage("tool", Kind.REGULAR, (np.int64(0),), (RegularTask(np.float32(0.5)),), np.int8(0)),  # type: ignore[arg-type]
    )
    bank = JobBank.from_jobs([Job("app", "job", stages, arrival_s=np.float64(2.0))])
    assert bank.job(0).stages[0].tasks == (LLMTask(3, 4),)
    assert bank.job(0).stages[1].tasks == (RegularTask(0.5),)


@pytest.mark.parametrize("arrival_s", ["1", True, float("nan"), float("inf"), -2e20, 10**400])
def test_arrivals_are_times(arrival_s: Any) -> None:
    with pytest.raises(InvalidJob, match=r"^arrival_s: .* is not a time in seconds$"):
        Job("app", "job", (llm(),), arrival_s)


def chain(length: int, revealed: bool) -> tuple[Stage, ...]:
    return tuple(
        llm("step", (k - 1,) if k else (), k - 1 if k and revealed else None) for k in range(length)
    )


@pytest.mark.parametrize("revealed", [False, True])
def test_long_chains_are_packed_in_seconds_and_longer_ones_refused(revealed: bool) -> None:
    begin = time.perf_counter()
    bank = JobBank.from_jobs([Job("app", "job", chain(3000, revealed))])
    assert len(bank.stage_name) == 3000
    assert bank.job(0).stages[-1].name == "step"
    with pytest.raises(InvalidJob, match=f"^stages: 4001 are more than the {MAX_STAGES} that a jo"):
        Job("app", "job", chain(4001, revealed))
    assert time.perf_counter() - begin < 30


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
