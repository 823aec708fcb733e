"""Templates: what past jobs tell of an application, and how large an observation may become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from llmsched_gym.workload.bank import IntArray, JobBank
from llmsched_gym.workload.job import Job, Kind
from llmsched_gym.workload.template import (
    Template,
    awaited,
    canonical_stages,
    fit_templates,
    observation_bounds,
    template_table,
)
from llmsched_gym.workload.traces import read_traces
from support.strategies import completed_sets, job_lists, jobs, llm, tool

PLAN = (llm("plan"), tool("search", (0,), 0), llm("read", (1,), 0), llm("answer", (2,)))


def rounds(count: int) -> Job:
    """A loop: each round but the first is revealed by the one before; the end is known."""
    stages = [llm("round")]
    stages += [llm("round", (number,), number) for number in range(count - 1)]
    return Job("loop", f"loop-{count}", (*stages, llm("end", (count - 1,))))


def test_template_of_a_plan() -> None:
    short = Job("app", "2", (llm("plan"), llm("answer", (0,))))
    template = Template.from_jobs([Job("app", "1", PLAN), short])
    assert template.stages == ("plan#1", "search#1", "read#1", "answer#1")
    assert template.kinds == (Kind.LLM, Kind.REGULAR, Kind.LLM, Kind.LLM)
    assert list(map(set, template.revealers)) == [set(), {0}, {0}, set()]
    assert template.at_arrival == (True, False, False, True)
    assert list(map(set, template.awaits)) == [set(), set(), set(), {0}]


def test_template_orders_by_precedence_not_by_position() -> None:
    """The end of a loop is early on average, and yet comes after the rounds that are rare."""
    template = Template.from_jobs([rounds(count) for count in (1, 1, 1, 1, 2, 4)])
    assert template.stages == ("round#1", "round#2", "round#3", "round#4", "end#1")
    assert template.awaits[-1] == {0, 1, 2}


def test_majority_decides_where_jobs_disagree() -> None:
    ab = (tool("a"), tool("b", (0,)))
    ba = (tool("b"), tool("a", (0,)))
    several = [Job("app", str(number), (ab, ba, ab)[number]) for number in range(3)]
    assert Template.from_jobs(several).stages == ("a#1", "b#1")
    assert Template.from_jobs([*several, Job("app", "3", ba), Job("app", "4", ba)]).stages == (
        "b#1",
        "a#1",
    )


def test_orders_that_go_round_in_a_circle_are_no_error() -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "a")]
    circle = [Job("app", x + y, (tool(x), tool(y, (0,)))) for x, y in pairs]
    assert sorted(Template.from_jobs(circle).stages) == ["a#1", "b#1", "c#1"]


@given(jobs())
def test_template_of_one_job_is_that_job(job: Job) -> None:
    template = Template.from_jobs([job])
    names = job.canonical_names()
    row = {name: index for index, name in enumerate(template.stages)}
    assert sorted(names) == sorted(template.stages)
    waits = awaited(job)
    for index, (name, stage) in enumerate(zip(names, job.stages, strict=True)):
        here = row[name]
        assert all(row[names[parent]] < here for parent in stage.parents)
        assert template.kinds[here] == stage.kind
        assert template.at_arrival[here] == (stage.revealed_by is None)
        revealers = set() if stage.revealed_by is None else {row[names[stage.revealed_by]]}
        assert template.revealers[here] == revealers
        assert template.awaits[here] == {row[names[other]] for other in waits[index]}


@given(job_lists(min_size=2, max_size=4, max_tasks=1, applications=("a",)))
def test_order_of_past_jobs_does_not_matter_to_the_order_of_stages(past: list[Job]) -> None:
    assert Template.from_jobs(past).stages == Template.from_jobs(past[::-1]).stages


@pytest.mark.parametrize("past", [[], [Job("a", "1", (llm(),)), Job("b", "1", (llm(),))]])
def test_a_template_is_of_one_application(past: list[Job]) -> None:
    with pytest.raises(ValueError, match="one application expected"):
        Template.from_jobs(past)


def is_visible(job: Job, index: int, done: frozenset[int]) -> bool:
    revealer = job.stages[index].revealed_by
    return revealer is None or revealer in done


def nearest_visible(job: Job, index: int, done: frozenset[int]) -> int:
    while not is_visible(job, index, done):
        revealer = job.stages[index].revealed_by
        assert revealer is not None
        index = revealer
    return index


@given(jobs(max_stages=7, max_tasks=1))
def test_awaited_stages_are_those_that_some_hidden_parent_hangs_on(job: Job) -> None:
    expected: list[set[int]] = [set() for _ in job.stages]
    for done in completed_sets(job):
        for index, stage in enumerate(job.stages):
            if is_visible(job, index, done):
                expected[index] |= {
                    nearest_visible(job, parent, done)
                    for parent in stage.parents
                    if not is_visible(job, parent, done)
                }
    assert list(awaited(job)) == expected


@given(job_lists(max_size=4, max_tasks=1))
def test_table_packs_the_templates(past: list[Job]) -> None:
    bank = JobBank.from_jobs(past)
    templates = fit_templates(bank)
    applications = (*bank.applications, "never seen")
    table = template_table(applications, templates)
    assert list(table.first) == [
        0,
        *np.cumsum([len(templates[name].stages) for name in bank.applications]),
        table.first[-1],
    ]
    for number, name in enumerate(bank.applications):
        base, template = table.first[number], templates[name]
        for row, kind in enumerate(template.kinds):
            here = base + row
            assert table.kind[here] == kind
            assert table.at_arrival[here] == template.at_arrival[row]
            for part in ("revealers", "awaits"):
                expected = sorted(base + other for other in getattr(template, part)[row])
                assert packed_row(table, part, here) == expected
            for other in packed_row(table, "reveals", here):
                assert row in template.revealers[other - base]
    assert len(table.reveals) == len(table.revealers)
    assert all(array.dtype == np.int64 for array in table)


def packed_row(table: object, part: str, row: int) -> list[int]:
    starts: IntArray = getattr(table, f"{part}_of")
    values: IntArray = getattr(table, part)
    return sorted(values[starts[row] : starts[row + 1]].tolist())


@given(job_lists(max_size=3, max_tasks=1), job_lists(max_size=3, applications=("a", "c")))
def test_canonical_stages_carry_the_names(past: list[Job], evaluated: list[Job]) -> None:
    templates = fit_templates(JobBank.from_jobs(past))
    bank = JobBank.from_jobs(evaluated)
    first = template_table(bank.applications, templates).first
    canonical = canonical_stages(bank, templates)
    for job, application in enumerate(bank.job_application):
        template = templates.get(bank.applications[application])
        for stage in range(bank.job_stages[job], bank.job_stages[job + 1]):
            name = bank.stage_names[bank.stage_name[stage]]
            if template is None or name not in template.stages:
                assert canonical[stage] == -1
            else:
                assert template.stages[canonical[stage] - first[application]] == name


def bounds(bank: JobBank, templates: Mapping[str, Template]) -> tuple[int, int]:
    templates = dict(templates)
    table = template_table(bank.applications, templates)
    return observation_bounds(bank, table, canonical_stages(bank, templates))


class Shown:
    """What an observation shows of a job, said without arrays."""

    def __init__(self, job: Job, template: Template | None) -> None:
        self.job = job
        names = job.canonical_names()
        known = () if template is None else template.stages
        row = [known.index(name) if name in known else None for name in names]
        self.placeholder = set[int]()
        self.awaits = set[tuple[int, int]]()  # (revealer, stage that waits for its reveal)
        if template is not None:
            may_reveal = frozenset[int]().union(*template.revealers)
            self.placeholder = {i for i, r in enumerate(row) if r in may_reveal}
            self.awaits = {
                (s, v)
                for v, r in enumerate(row)
                if r is not None
                for s, other in enumerate(row)
                if other in template.awaits[r]
            }

    def size(self, done: frozenset[int]) -> tuple[int, int]:
        """Rows and edges once the stages ``done`` are complete."""
        job = self.job
        shown = {i for i in range(len(job.stages)) if is_visible(job, i, done)} - done
        hung = shown & self.placeholder
        edges = {
            (nearest_visible(job, parent, done), stage)
            for stage in shown
            for parent in job.stages[stage].parents
        }
        edges = {(u, v) for u, v in edges if u in shown}
        waiting = {(s, v) for s, v in self.awaits if s in hung and v in shown}
        return len(shown) + len(hung), len(edges) + len(hung) + len(waiting)


@given(
    job_lists(max_size=3, max_stages=7, max_tasks=1),
    job_lists(max_size=2, max_stages=7, max_tasks=1),
)
def test_bounds_hold_at_all_times_and_rows_are_reached(
    past: list[Job], evaluated: list[Job]
) -> None:
    templates = fit_templates(JobBank.from_jobs(past + evaluated[:1]))
    sizes = [
        Shown(job, templates.get(job.application)).size(done)
        for job in evaluated
        for done in completed_sets(job)
    ]
    rows, edges = bounds(JobBank.from_jobs(evaluated), templates)
    assert rows == max(rows for rows, _ in sizes)
    assert edges >= max(edges for _, edges in sizes)


def test_a_long_loop_needs_few_rows() -> None:
    past = JobBank.from_jobs([rounds(count) for count in (1, 20, 40)])
    assert bounds(past, fit_templates(past)) == (3, 3)  # a round, its placeholder, and the end
    assert bounds(past, {}) == (2, 1)  # no placeholder where nothing is known


def test_bounds_of_one_stage() -> None:
    bank = JobBank.from_jobs([Job("app", "job", (llm(),))])
    assert bounds(bank, fit_templates(bank)) == (1, 0)


def test_bounds_of_real_jobs_are_close(shared: Path) -> None:
    """Rows and edges that random schedules reach, application by application."""
    rng = np.random.default_rng(0)
    for file in sorted((shared / "traces").glob("*.jsonl")):
        bank = JobBank.from_jobs(read_traces(file))
        templates = fit_templates(bank)
        reached = np.max(
            [random_schedule(job, templates[job.application], rng) for job in bank.jobs()], axis=0
        )
        rows, edges = bounds(bank, templates)
        assert reached[0] <= rows <= 1.5 * reached[0], file.name
        assert reached[1] <= edges <= 2.0 * reached[1], file.name


def random_schedule(job: Job, template: Template, rng: np.random.Generator) -> tuple[int, int]:
    shown = Shown(job, template)
    done = frozenset[int]()
    sizes = [shown.size(done)]
    left = dict(enumerate(job.stages))
    while left:
        ready = [index for index, stage in left.items() if done.issuperset(stage.parents)]
        index = int(rng.choice(ready))
        del left[index]
        done |= {index}
        sizes.append(shown.size(done))
    rows, edges = zip(*sizes, strict=True)
    return max(rows), max(edges)
