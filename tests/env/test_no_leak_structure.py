"""Two jobs that look the same give the same observation, whatever graph each of them hides.

A random job is played to a random moment. Then another one is made that looks the same up to that
moment, and has other stages where something is hidden: other reveals, other parents, other places
in the order of the job, other tasks. The same decisions must lead to the same observations, bit
for bit, from the arrival to that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.arrivals import Burst
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import InvalidJob, Job, Kind, LLMTask, RegularTask, Stage, Task
from llmsched_gym.workload.mixes import Workload
from support.strategies import NAMES, job_lists, jobs, llm, tool

LONG = 400  # tokens, or seconds: longer than any episode here lasts


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beliefs of odd jobs stay out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


class Moment:
    """What is known of a job, by numbers of its stages."""

    def __init__(self, job: Job, completed_tasks: Sequence[int]) -> None:
        self.job = job
        self.completed_tasks = completed_tasks
        self.complete = {
            i for i, stage in enumerate(job.stages) if completed_tasks[i] == len(stage.tasks)
        }
        self.visible = [
            i
            for i, stage in enumerate(job.stages)
            if stage.revealed_by is None or stage.revealed_by in self.complete
        ]

    def seen_as(self, index: int) -> int:
        """The stage if visible, else the visible one that its reveal waits for."""
        while index not in self.visible:
            revealer = self.job.stages[index].revealed_by
            assert revealer is not None
            index = revealer
        return index

    def seen_parents(self, index: int) -> set[int]:
        return {self.seen_as(parent) for parent in self.job.stages[index].parents}


def other_job(rng: np.random.Generator, moment: Moment) -> Job:
    """A job that looks the same up to this moment, with something else hidden."""
    job, unfinished = moment.job, [i for i in moment.visible if i not in moment.complete]
    order = _random_order(rng, moment)
    parents: dict[Any, set[Any]] = {}
    hidden: list[tuple[str, int]] = []  # names, and who reveals them
    for index in moment.visible:
        parents[index] = set()
        for seen in moment.seen_parents(index):
            way = rng.integers(3) if seen in unfinished else 0
            via = [f"h{len(hidden) + k}" for k in range(way)]
            for name in via:  # hidden parents, that wait for what else comes before this stage
                hidden.append((name, seen))
                before = order[: order.index(index)]
                more = [other for other in before if rng.random() < 0.4]
                parents[name] = {seen, *more}
            parents[index] |= set(via) or {seen}
    for revealer in unfinished:  # some that nothing visible waits for
        if rng.random() < 0.5:
            parents[f"h{len(hidden)}"] = {revealer}
            hidden.append((f"h{len(hidden)}", revealer))
    keys: list[Any] = list(moment.visible)
    for name, _ in hidden:
        keys.insert(int(rng.integers(len(keys) + 1)), name)
    place = {key: number for number, key in enumerate(keys)}
    revealer_of = dict(hidden)
    stages = []
    for key in keys:
        stage = _hidden_stage(rng) if key in revealer_of else _seen_stage(rng, moment, key)
        by = revealer_of.get(key, stage.revealed_by)
        row = rng.permutation([place[parent] for parent in parents[key]]).tolist()
        stages.append(
            replace(stage, parents=tuple(row), revealed_by=None if by is None else place[by])
        )
    return replace(job, stages=tuple(stages))


def _random_order(rng: np.random.Generator, moment: Moment) -> list[int]:
    """A random topological order of the visible graph."""
    order: list[int] = []
    while len(order) < len(moment.visible):
        free = [i for i in moment.visible if i not in order and moment.seen_parents(i) <= {*order}]
        order.append(int(rng.choice(free)))
    return order


def _hidden_stage(rng: np.random.Generator) -> Stage:
    make = llm if rng.random() < 0.5 else tool
    return make(str(rng.choice(NAMES)), tasks=int(rng.integers(1, 4)))


def _seen_stage(rng: np.random.Generator, moment: Moment, index: int) -> Stage:
    """The stage, with other values where they are not known yet."""
    stage = moment.job.stages[index]
    ready = moment.complete.issuperset(stage.parents)
    done = moment.completed_tasks[index]
    tasks: list[Task] = list(stage.tasks)
    for k in range(done, len(tasks)):
        task = tasks[k]
        if isinstance(task, LLMTask):
            prompt = task.prompt_tokens if ready else int(rng.integers(1, 60))
            tasks[k] = LLMTask(prompt, task.output_tokens if ready else int(rng.integers(1, LONG)))
        elif not ready:
            tasks[k] = RegularTask(float(rng.uniform(0, 5)))
    return replace(stage, tasks=tuple(tasks))


def play(job: Job, beside: Job, past: list[Job], belief: str, rng: np.random.Generator) -> Any:
    """A random part of an episode: the actions, the observations, and the tasks completed."""
    env = environment(job, beside, past, belief)
    seen, actions, over = [env.reset(seed=0)[0]], [], False
    for _ in range(int(rng.integers(0, 12))):
        action = int(rng.choice(np.flatnonzero(seen[-1]["action_mask"])))
        observation, _, over, *_ = env.step(action)
        if over:
            break
        actions.append(action)
        seen.append(observation)
    return actions, seen, env.state.stages["completed_tasks"].tolist()


def environment(job: Job, beside: Job, past: list[Job], belief: str) -> LLMSchedEnv:
    """One job is played; the other one is in the bank, so that sizes and limits are the same."""
    longest = Job("a", "longest", (Stage("x", Kind.LLM, (), (LLMTask(1, LONG),)),))
    bank = JobBank.from_jobs([job, replace(beside, job_id="beside"), longest])
    workload = Workload("odd", bank, JobBank.from_jobs(past), Burst(), replay=True)
    return LLMSchedEnv(
        workload,
        "constant",
        num_jobs=1,
        belief=belief,
        belief_settings=BeliefSettings(min_jobs=2, bins=2),
        arrival_rate=1.0,
    )


def check(job: Job, past: list[Job], belief: str, seed: int) -> None:
    past = [*past, replace(job, job_id="alike")]
    *_, completed = play(job, job, past, belief, np.random.default_rng(seed))
    try:
        other = other_job(np.random.default_rng(seed), Moment(job, completed))
    except InvalidJob:  # where its revealer was above a stage by what was hidden alone
        reject()
    actions, seen, _ = play(job, other, past, belief, np.random.default_rng(seed))
    env = environment(other, job, past, belief)
    observations = [env.reset(seed=0)[0], *(env.step(action)[0] for action in actions)]
    for step, (mine, theirs) in enumerate(zip(seen, observations, strict=True)):
        for key in mine:
            assert mine[key].tobytes() == theirs[key].tobytes(), f"step {step}: {key}"


@given(jobs(max_stages=7, max_tasks=2, applications="a"), st.integers(0, 10**6))
@settings(max_examples=60, derandomize=True)
def test_what_a_job_hides_is_not_in_the_rows(job: Job, seed: int) -> None:
    check(job, [], "none", seed)


@pytest.mark.slow
@given(jobs(max_stages=8, max_tasks=3, applications="a"), st.integers(0, 10**6))
@settings(max_examples=2000, derandomize=True)
def test_what_a_job_hides_is_not_in_the_rows_of_thousands(job: Job, seed: int) -> None:
    check(job, [], "none", seed)


@pytest.mark.slow
@pytest.mark.parametrize("belief", ["prior", "bayes"])
@given(
    jobs(max_stages=7, max_tasks=2, applications="a"),
    job_lists(max_size=6, applications="a"),
    st.integers(0, 10**6),
)
@settings(max_examples=25, derandomize=True)
def test_nor_is_it_believed(belief: str, job: Job, past: list[Job], seed: int) -> None:
    check(job, past, belief, seed)


@pytest.mark.parametrize("with_tool", [True, False])
def test_a_join_and_a_log_stay_in_the_order_of_the_job(with_tool: bool) -> None:
    """Whether the plan will reveal a tool for the join does not change the rows before."""
    tools = (tool("tool", (0,), 0),) if with_tool else ()
    join = llm("join", (0, 3) if with_tool else (0,), tasks=2)
    job = Job("a", "job", (llm("plan"), join, llm("log", (0,), tasks=3), *tools))
    seen, _ = environment(job, job, [job], "none").reset(seed=0)
    rows = seen["stages"][seen["stage_mask"] == 1]
    waiting = [int(count) for count in rows[:, 4] if count]
    assert waiting == [1, 2, 3]
