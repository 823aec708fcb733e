"""Jobs stopped at a moment: which tasks are complete, and what that shows of the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmsched_gym.belief.inference import compile_profile, update
from llmsched_gym.belief.networks import (
    BAYES,
    GITTINS,
    REDUCTION,
    Beliefs,
    Networks,
    new_beliefs,
)
from llmsched_gym.belief.profile import BeliefProfile, BeliefSettings, Bins, Network, TaskDemand
from llmsched_gym.belief.work import WorkRates
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.cluster.state import EVIDENCE, ClusterState, new_state
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.template import Template, TemplateTable, template_table

CLUSTER = load_cluster("constant")  # a task of o output tokens takes 0.02 o seconds


@dataclass(frozen=True)
class Moment:
    """A job, its stages with parents before children, and how many tasks of each are complete.

    Attributes
    ----------
    names : canonical names of the stages; default ``name#1``.
    """

    job: Job
    completed: tuple[int, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            names = tuple(f"{stage.name}#1" for stage in self.job.stages)
            object.__setattr__(self, "names", names)

    def is_complete(self, stage: int) -> bool:
        return self.completed[stage] == len(self.job.stages[stage].tasks)

    def is_visible(self, stage: int) -> bool:
        revealer = self.job.stages[stage].revealed_by
        return revealer is None or self.is_complete(revealer)

    def is_ready(self, stage: int) -> bool:
        return all(map(self.is_complete, self.job.stages[stage].parents))

    def demand_s(self, stage: int) -> float:
        return sum(
            task.output_tokens * 0.02 if isinstance(task, LLMTask) else task.duration_s
            for task in self.job.stages[stage].tasks
        )

    def prompt_tokens(self, stage: int) -> float:
        """Of a task of the stage, on average."""
        tasks = self.job.stages[stage].tasks
        return sum(t.prompt_tokens for t in tasks if isinstance(t, LLMTask)) / len(tasks)


class Believer:
    """Moments of some jobs in one cluster, and what is believed of them.

    Parameters
    ----------
    profile : what past jobs taught.
    moments : one of each job; nothing is shown yet.
    mode : of ``inference.update``.
    cluster : default ``CLUSTER``.
    rates : of ``inference.compile_profile``.
    """

    def __init__(
        self,
        profile: BeliefProfile,
        moments: Sequence[Moment],
        mode: int = BAYES,
        cluster: Cluster = CLUSTER,
        rates: Mapping[str, WorkRates] | None = None,
    ) -> None:
        bank = JobBank.from_jobs(moment.job for moment in moments)
        self.mode = mode
        self.applications = bank.applications
        self.templates: TemplateTable = template_table(bank.applications, profile.templates)
        self.networks: Networks = compile_profile(profile, bank.applications, rates)
        self.beliefs: Beliefs = new_beliefs(len(moments), self.networks)
        canonical = [row for moment in moments for row in self._canonical(profile, moment)]
        self.state: ClusterState = new_state(
            bank,
            range(len(moments)),
            np.zeros(len(moments)),
            cluster,
            np.array(canonical, np.int64),
        )

    def _canonical(self, profile: BeliefProfile, moment: Moment) -> list[int]:
        application = moment.job.application
        base = int(self.templates.first[self.applications.index(application)])
        names = profile.templates[application].stages if application in profile.templates else ()
        row = {name: base + c for c, name in enumerate(names)}
        return [row.get(name, -1) for name in moment.names]

    def show(self, job: int, moment: Moment, changed: int = EVIDENCE) -> None:
        """Put a job at a moment and list it as changed."""
        first, state = int(self.state.jobs["first_stage"][job]), self.state
        for number in range(len(moment.job.stages)):
            stage = state.stages[first + number]
            stage["completed_tasks"] = stage["started_tasks"] = moment.completed[number]
            stage["visible"] = moment.is_visible(number)
            parents = moment.job.stages[number].parents
            stage["unfinished_parents"] = sum(not moment.is_complete(p) for p in parents)
        state.jobs["changed"][job] = changed
        state.changed[state.clock["changed"][0]] = job
        state.clock["changed"][0] += 1

    def update(self) -> Beliefs:
        """Update the beliefs about the jobs that changed."""
        state = self.state
        wanted = GITTINS | REDUCTION
        update(state, self.templates, self.networks, self.beliefs, self.mode, wanted)
        state.jobs["changed"][:] = 0
        state.clock["changed"][0] = 0
        return self.beliefs


def believe(
    profile: BeliefProfile,
    moment: Moment,
    mode: int = BAYES,
    rates: Mapping[str, WorkRates] | None = None,
) -> Beliefs:
    """What is believed of a lone job at a moment."""
    believer = Believer(profile, [moment], mode, rates=rates)
    believer.show(0, moment)
    return believer.update()


# --- By hand ----------------------------------------------------------------------------------


def steps(*seconds: float, tasks: float = 1.0) -> Bins:
    """A state "absent" and one for each of some values that never vary."""
    value = np.array([0.0, *seconds])
    return Bins(value, value, value, np.array([0.0, *[tasks] * len(seconds)]), np.zeros(len(value)))


def independent(demand_bins: Sequence[Bins], **settings: float) -> BeliefProfile:
    """An application "app" of stages "a", "b", ... with one task each, all states equally likely.

    All stages are regular, known at arrival and independent of each other.
    """
    count = len(demand_bins)
    template = Template(
        application="app",
        stages=tuple(f"{name}#1" for name in "abcdefgh"[:count]),
        kinds=(Kind.REGULAR,) * count,
        revealers=(frozenset[int](),) * count,
        at_arrival=(True,) * count,
        awaits=(frozenset[int](),) * count,
    )
    network = Network(
        demand=np.arange(count),
        fanout=np.full(count, -1),
        prompt=np.full(count, -1),
        demand_bins=tuple(demand_bins),
        fanout_bins=(steps(1.0),) * count,
        prompt_bins=(steps(1.0),) * count,
        parents=((),) * count,
        tables=tuple(np.full(len(bins), 1 / len(bins)) for bins in demand_bins),
    )
    tasks = TaskDemand(np.ones(2), np.ones(2), np.zeros(2), np.full(2, 2.0), np.full(2, 5.0))
    return BeliefProfile(
        settings=BeliefSettings(**settings),  # type: ignore[arg-type]
        templates={"app": template},
        networks={"app": network},
        tasks={"": tasks, "app": tasks},
        notes=(),
    )


def revised(
    profile: BeliefProfile,
    tables: dict[int, tuple[tuple[int, ...], object]] | None = None,
    revealers: dict[int, set[int]] | None = None,
    kinds: dict[int, Kind] | None = None,
) -> BeliefProfile:
    """The same with other (parents, table) of some variables, revealers or kinds of some stages."""
    network, template = profile.networks["app"], profile.templates["app"]
    parents, numbers = list(network.parents), list(network.tables)
    for variable, (row, table) in (tables or {}).items():
        parents[variable], numbers[variable] = row, np.array(table, np.float64)
    shown, kind = list(template.revealers), list(template.kinds)
    for stage, rows in (revealers or {}).items():
        shown[stage] = frozenset(rows)
    for stage, other in (kinds or {}).items():
        kind[stage] = other
    network = replace(network, parents=tuple(parents), tables=tuple(numbers))
    template = replace(template, revealers=tuple(shown), kinds=tuple(kind))
    return replace(profile, networks={"app": network}, templates={"app": template})


def with_prompt(
    profile: BeliefProfile, tokens: Sequence[float], tells: int, table: object
) -> BeliefProfile:
    """Stage "a" gets a prompt of one of some lengths, or none, all equally likely.

    It is the first variable, and the only parent of the demand of stage ``tells``.
    """
    network = profile.networks["app"]
    count, states = len(network.demand), len(tokens) + 1
    parents = [tuple(parent + 1 for parent in row) for row in network.parents]
    tables = list(network.tables)
    parents[tells], tables[tells] = (0,), np.array(table, np.float64)
    network = replace(
        network,
        demand=network.demand + 1,
        prompt=np.array([0, *[-1] * (count - 1)]),
        prompt_bins=(steps(*tokens), *network.prompt_bins[1:]),
        parents=((), *parents),
        tables=(np.full(states, 1 / states), *tables),
    )
    return replace(profile, networks={"app": network})


def stage(
    name: str,
    *parents: int,
    seconds: Sequence[float] = (1.0,),
    by: int | None = None,
    kind: Kind = Kind.REGULAR,
    prompt: int = 1,
) -> Stage:
    """A stage with a task for each of some times (of an LLM stage: whole multiples of 0.02 s)."""
    tasks: tuple[LLMTask | RegularTask, ...] = tuple(map(RegularTask, seconds))
    if kind == Kind.LLM:
        tasks = tuple(LLMTask(prompt, round(time / 0.02)) for time in seconds)
    return Stage(name, kind, parents, tasks, by)


def moment(*stages: Stage, completed: Sequence[int] = (), application: str = "app") -> Moment:
    """A job of these stages; tasks not mentioned in ``completed`` are not complete."""
    rest = [0] * (len(stages) - len(completed))
    return Moment(Job(application, "job", stages), (*completed, *rest))
