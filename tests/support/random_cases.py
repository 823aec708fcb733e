"""Random networks, jobs and moments of their lives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings, Bins, Network, TaskDemand
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.template import Template
from support.enumeration import Expected
from support.moments import Moment

LARGEST_JOINT = 60_000


def random_bins(rng: np.random.Generator, tasks: np.ndarray, most: int) -> Bins:
    per_task = rng.lognormal(0.0, 1.0, len(tasks))
    if rng.random() < 0.2:
        per_task[:] = per_task[0]  # demand then depends on the number of tasks alone
    return Bins.fit(per_task * tasks, tasks, int(rng.integers(1, most + 1)))


def random_table(
    rng: np.random.Generator, shape: tuple[int, ...], own_fanout: int | None
) -> np.ndarray:
    """Rows that sum to 1, some entries 0; absent if and only if the stage's own fan-out is."""
    table = rng.dirichlet(np.full(shape[-1], 0.7), size=shape[:-1])
    zero = (rng.random(shape) < 0.1) & (table < table.max(axis=-1, keepdims=True))
    table[zero] = 0.0
    if own_fanout is not None:
        rows = np.moveaxis(table, own_fanout, 0)
        rows[0], rows[0, ..., 0] = 0.0, 1.0
        rows[1:, ..., 0] = 0.0
        rows[1:][rows[1:].sum(axis=-1) == 0] = np.eye(shape[-1])[-1]
    return np.ascontiguousarray(table / table.sum(axis=-1, keepdims=True))


def random_network(rng: np.random.Generator, stages: int) -> Network:
    demand, fanout, prompt = [], [], []
    demand_bins, fanout_bins, prompt_bins = [], [], []
    states: list[int] = []
    parents: list[tuple[int, ...]] = []
    tables: list[np.ndarray] = []

    def add(count: int, required: tuple[int, ...] = ()) -> int:
        others = [v for v in range(len(states)) if v not in required]
        free = int(rng.integers(0, 3 - len(required)))
        more = rng.permutation(others)[:free].tolist()
        row = tuple(sorted({*required, *map(int, more)}))
        own = row.index(required[0]) if required else None
        parents.append(row)
        tables.append(random_table(rng, (*(states[v] for v in row), count), own))
        states.append(count)
        return len(states) - 1

    for _ in range(stages):
        tasks = rng.integers(1, 5, 40).astype(np.float64)
        if rng.random() < 0.3:
            tasks[:] = tasks[0]
        counts = Bins.fit(tasks, tasks, int(rng.integers(1, 4)))
        varies = rng.random() < 0.5
        bins = random_bins(rng, tasks, 3)
        lengths = rng.integers(1, 5, 40).astype(np.float64)
        length = Bins.fit(lengths, tasks, int(rng.integers(1, 4)))
        fanout.append(add(len(counts)) if varies else -1)
        told = rng.random() < 0.4
        prompt.append(add(len(length), (fanout[-1],) if varies else ()) if told else -1)
        demand.append(add(len(bins), (fanout[-1],) if varies else ()))
        demand_bins.append(bins)
        fanout_bins.append(counts)
        prompt_bins.append(length)
    return Network(
        demand=np.array(demand),
        fanout=np.array(fanout),
        prompt=np.array(prompt),
        demand_bins=tuple(demand_bins),
        fanout_bins=tuple(fanout_bins),
        prompt_bins=tuple(prompt_bins),
        parents=tuple(parents),
        tables=tuple(tables),
    )


def random_template(rng: np.random.Generator, application: str, stages: int) -> Template:
    revealers = [
        frozenset(r for r in range(c) if rng.random() < 0.4) if rng.random() < 0.6 else frozenset()
        for c in range(stages)
    ]
    return Template(
        application=application,
        stages=tuple(f"{application}{c}#1" for c in range(stages)),
        kinds=tuple(Kind(int(kind)) for kind in rng.integers(0, 2, stages)),
        revealers=tuple(revealers),
        at_arrival=tuple(not row or bool(rng.random() < 0.3) for row in revealers),
        awaits=(frozenset[int](),) * stages,
    )


def random_profile(rng: np.random.Generator, applications: str = "a") -> BeliefProfile:
    networks, templates, tasks = {}, {}, {}
    for name in applications:
        stages = int(rng.integers(2, 6))
        network = random_network(rng, stages)
        while np.prod(network.states) > LARGEST_JOINT:
            network = random_network(rng, stages)
        networks[name] = network
        templates[name] = random_template(rng, name, stages)
    for name in ("", *applications):
        tasks[name] = TaskDemand(*rng.random((5, 2)))
    low = float(rng.choice([0.05, 0.0, 0.3]))
    chosen = BeliefSettings(
        reachable=int(rng.integers(0, 5)),
        structural=bool(rng.random() < 0.7),
        low=low,
        high=float(rng.choice([0.95, 0.9, max(low, 0.1)])),
    )
    return BeliefProfile(chosen, templates, networks, tasks, ())


def random_stage(
    rng: np.random.Generator, name: str, kind: Kind, parents: set[int], by: int | None
) -> Stage:
    count = int(rng.integers(1, 6))
    tasks: tuple[LLMTask | RegularTask, ...]
    if kind == Kind.LLM:
        tasks = tuple(LLMTask(*map(int, rng.integers(1, (6, 150)))) for _ in range(count))
    else:
        tasks = tuple(RegularTask(float(rng.lognormal(0, 1))) for _ in range(count))
    return Stage(name, kind, tuple(sorted(parents)), tasks, by)


def random_job(rng: np.random.Generator, template: Template) -> Job:
    """Stages of the template, most with the kinds and revealers it knows; some that it does not."""
    place: dict[int, int] = {}
    stages: list[Stage] = []
    for c, (name, kind) in enumerate(zip(template.stages, template.kinds, strict=True)):
        if rng.random() < 0.2 and not (c == len(template.stages) - 1 and not stages):
            continue
        revealers = [place[r] for r in template.revealers[c] if r in place]
        by = None
        if revealers and rng.random() < 0.8:
            by = int(rng.choice(revealers))
        parents = {p for p in range(len(stages)) if rng.random() < 0.3}
        if by is not None:
            parents.add(by)
        other = Kind(1 - kind) if rng.random() < 0.05 else kind
        place[c] = len(stages)
        stages.append(random_stage(rng, name.removesuffix("#1"), other, parents, by))
    if rng.random() < 0.2:
        kind = Kind(int(rng.integers(0, 2)))
        stages.append(random_stage(rng, "stranger", kind, set(), None))
    return Job(template.application, "job", tuple(stages))


def random_moment(rng: np.random.Generator, job: Job, eagerness: float) -> Moment:
    """Some stages complete, none before its parents; some tasks of those that could run."""
    completed: list[int] = []
    for stage in job.stages:
        count = len(stage.tasks)
        ready = all(completed[p] == len(job.stages[p].tasks) for p in stage.parents)
        done = count if rng.random() < eagerness else int(rng.integers(0, count))
        completed.append(done if ready else 0)
    return Moment(job, tuple(completed))


def random_case(rng: np.random.Generator) -> tuple[BeliefProfile, Moment]:
    """A network and evidence that is possible in it."""
    while True:
        profile = random_profile(rng)
        job = random_job(rng, profile.templates["a"])
        moment = random_moment(rng, job, rng.random())
        if Expected(profile, moment).joint.possible:
            return profile, moment


def history(rng: np.random.Generator, job: Job) -> list[Moment]:
    """Moments of a job from arrival to completion, task by task."""
    moments = [Moment(job, (0,) * len(job.stages))]
    while True:
        now = moments[-1]
        running = [s for s in range(len(job.stages)) if now.is_ready(s) and not now.is_complete(s)]
        if not running:
            return moments
        chosen = int(rng.choice(running))
        completed = list(now.completed)
        completed[chosen] += 1
        moments.append(replace(now, completed=tuple(completed)))
