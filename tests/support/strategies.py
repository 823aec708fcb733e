"""Jobs for tests: Hypothesis strategies for random valid ones, and short ways to write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import strategies as st

from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage, Task

NAMES = ("plan", "call", "check")
DURATIONS_S = (0.0, 0.25, 0.5, 1.0)  # coincidences are the interesting case


def llm(
    name: str = "call", parents: Sequence[int] = (), revealed_by: int | None = None, tasks: int = 1
) -> Stage:
    """A stage of LLM tasks, 10 tokens in and 5 out."""
    return Stage(name, Kind.LLM, tuple(parents), (LLMTask(10, 5),) * tasks, revealed_by)


def tool(
    name: str = "tool", parents: Sequence[int] = (), revealed_by: int | None = None, tasks: int = 1
) -> Stage:
    """A stage of regular tasks, one second each."""
    return Stage(name, Kind.REGULAR, tuple(parents), (RegularTask(1.0),) * tasks, revealed_by)


def completed_sets(job: Job) -> Iterator[frozenset[int]]:
    """Every set of stages that may be complete at one time (up to 2 ** stages of them)."""
    sets = [frozenset[int]()]
    for index in job.topological_order():
        sets += [done | {index} for done in sets if done.issuperset(job.stages[index].parents)]
    return iter(sets)


@st.composite
def jobs(
    draw: st.DrawFn,
    max_stages: int = 8,
    max_tasks: int = 4,
    max_tokens: int = 60,
    applications: Sequence[str] = ("a", "b"),
    job_id: str = "job",
) -> Job:
    """A job of random shape: any graph, any reveals, stages in any order, few stage names.

    Tasks have 1 to `max_tokens` tokens each way, or last from 0 to 2 seconds, often equally long.
    """
    count = draw(st.integers(1, max_stages))
    parents = [draw(_some_of(range(index), most=3)) for index in range(count)]
    ancestors: list[set[int]] = []
    for row in parents:
        ancestors.append(set(row).union(*(ancestors[parent] for parent in row)))
    stages = []
    for index in range(count):
        kind = draw(st.sampled_from([Kind.LLM, Kind.REGULAR]))
        task = _llm_tasks(max_tokens) if kind == Kind.LLM else _regular_tasks()
        stages.append(
            Stage(
                name=draw(st.sampled_from(NAMES)),
                kind=kind,
                parents=tuple(parents[index]),
                tasks=tuple(draw(st.lists(task, min_size=1, max_size=max_tasks))),
                revealed_by=draw(st.sampled_from([None, *sorted(ancestors[index])])),
            )
        )
    return Job(
        application=draw(st.sampled_from(applications)),
        job_id=job_id,
        stages=_renumbered(stages, draw(st.permutations(range(count)))),
    )


@st.composite
def job_lists(
    draw: st.DrawFn,
    min_size: int = 1,
    max_size: int = 6,
    max_stages: int = 8,
    max_tasks: int = 4,
    max_tokens: int = 60,
    applications: Sequence[str] = ("a", "b"),
) -> list[Job]:
    """Some random jobs; their identifiers are job-0, job-1, ..."""
    one = jobs(max_stages, max_tasks, max_tokens, applications)
    drawn = draw(st.lists(one, min_size=min_size, max_size=max_size))
    return [replace(job, job_id=f"job-{number}") for number, job in enumerate(drawn)]


@st.composite
def banks(
    draw: st.DrawFn,
    min_size: int = 1,
    max_size: int = 6,
    max_stages: int = 8,
    max_tasks: int = 4,
    max_tokens: int = 60,
    applications: Sequence[str] = ("a", "b"),
) -> JobBank:
    """Some random jobs, packed."""
    return JobBank.from_jobs(
        draw(job_lists(min_size, max_size, max_stages, max_tasks, max_tokens, applications))
    )


def _some_of(values: range, most: int) -> st.SearchStrategy[list[int]]:
    if not values:
        return st.just([])
    return st.lists(st.sampled_from(values), max_size=most, unique=True)


def _llm_tasks(max_tokens: int) -> st.SearchStrategy[Task]:
    tokens = st.integers(1, max_tokens)
    return st.builds(LLMTask, tokens, tokens)


def _regular_tasks() -> st.SearchStrategy[Task]:
    duration_s = st.sampled_from(DURATIONS_S) | st.floats(0.0, 2.0, allow_subnormal=False)
    return st.builds(RegularTask, duration_s)


def _renumbered(stages: Sequence[Stage], order: Sequence[int]) -> tuple[Stage, ...]:
    """The same stages, stage `order[i]` at index i."""
    place = {index: position for position, index in enumerate(order)}

    def moved(index: int) -> Stage:
        stage = stages[index]
        return replace(
            stage,
            parents=tuple(place[parent] for parent in stage.parents),
            revealed_by=None if stage.revealed_by is None else place[stage.revealed_by],
        )

    return tuple(moved(index) for index in order)
