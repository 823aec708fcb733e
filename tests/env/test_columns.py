"""Every number of an observation worked out by hand, in the order of the documented columns.

A task of n output tokens takes 0.02 n s alone: 20 ms for its prompt and its first token, 20 ms for
each other token, 30 ms where two sequences decode together. What happens:

- 0 s: the agent arrives; two tasks of its plan (11 and 101 tokens) and one of look (0.5 s) start.
- 0.32 s: the first one ends, after 20 ms and 10 times 30 ms; the third of plan (39 tokens) starts.
- 0.5 s: the first one of look ends; the second (1.5 s) starts.
- 0.75 s: the chat arrives. A third job would at 100 s.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmsched_gym.cluster.latency import LatencyProfile
from llmsched_gym.cluster.preset import Cluster
from llmsched_gym.env.features import CLUSTER_FEATURES, JOB_FEATURES, STAGE_FEATURES
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import Workload

Observation = dict[str, NDArray[Any]]

LATENCY = LatencyProfile(
    "by hand", a=10.0, c=10.0, d=0.0, p0=20.0, e=0.0, f=0.0, g=0.0, kv_capacity_tokens=10_000
)
CLUSTER = Cluster("by hand", LATENCY, engines=1, max_batch=3, regular_executors=2)
PLAN, LOOK = 0, 2  # rows of the observation; row 1 is the placeholder of what the plan reveals


class Fixed:
    """Arrivals at these times."""

    def draw(self, rng: np.random.Generator, count: int, rate: float) -> NDArray[np.float64]:
        return np.array([0.0, 0.75, 100.0])


def llm(name: str, parents: tuple[int, ...], *tasks: tuple[int, int]) -> Stage:
    return Stage(name, Kind.LLM, parents, tuple(LLMTask(*tokens) for tokens in tasks))


def tools(name: str, parents: tuple[int, ...], *seconds: float, by: int | None = None) -> Stage:
    return Stage(name, Kind.REGULAR, parents, tuple(map(RegularTask, seconds)), revealed_by=by)


def past() -> list[Job]:
    """Two runs of each application.

    - plan takes 4 or 12 s, look 2 or 6 s, write 1 s, and the tool 8 s if there is one
    - answer takes 1 or 9 s
    """
    with_tool = (
        llm("plan", (), *[(25, 50)] * 4),
        tools("look", (), 1.0, 1.0),
        tools("tool", (0,), 8.0, by=0),
        llm("write", (0, 1, 2), (500, 50)),
    )
    without = (
        llm("plan", (), *[(25, 150)] * 4),
        tools("look", (), 3.0, 3.0),
        llm("write", (0, 1), (500, 50)),
    )
    return [
        Job("agent", "with a tool", with_tool),
        Job("agent", "without", without),
        Job("chat", "short", (llm("answer", (), (7, 50)),)),
        Job("chat", "long", (llm("answer", (), (7, 450)),)),
    ]


def evaluated() -> list[Job]:
    agent = (
        llm("plan", (), (10, 11), (20, 101), (30, 39), (40, 49)),
        tools("look", (), 0.5, 1.5),
        tools("tool", (0,), 8.0, by=0),
        llm("write", (0, 1, 2), (500, 50)),
    )
    chat = Job("chat", "second", (llm("answer", (), (7, 50)),))
    return [Job("agent", "first", agent), chat, Job("agent", "last", agent)]


def make(**options: Any) -> LLMSchedEnv:
    bank, known = (JobBank.from_jobs(jobs()) for jobs in (evaluated, past))
    workload = Workload("by hand", bank, known, Fixed(), replay=True)
    return LLMSchedEnv(workload, CLUSTER, num_jobs=3, strict=True, **options)


def moments(**options: Any) -> list[Observation]:
    """What is seen at 0 s before anything runs, at 0.32 s with two of plan, and at 0.75 s."""
    env = make(**options)
    wait = env.max_stages
    seen = [env.reset(seed=0)[0]]
    for actions in ((PLAN, PLAN, LOOK, wait, PLAN), (wait, LOOK, wait)):
        for action in actions:
            observation = env.step(action)[0]
        seen.append(observation)
    return seen


@pytest.fixture(scope="module")
def seen() -> list[Observation]:
    return moments(belief="bayes")


def approximately(rows: list[list[float]]) -> Any:
    return pytest.approx(np.array(rows), rel=1e-6)


def all_differ(*tables: list[list[float]]) -> bool:
    """Whether no two columns are alike, so that these rows tell them from each other."""
    columns = list(zip(*(row for table in tables for row in table), strict=True))
    return len(set(columns)) == len(columns)


def work(tokens: int) -> float:
    """Engine work of a task: three sequences share the 10 ms of an iteration, none a prefill."""
    return 0.02 + (tokens - 1) * (0.01 / 3 + 0.01)


PLAN_WORK = (4 * work(50) + 4 * work(150)) / 2
WRITE_WORK = work(50)
CHAT_WORK = (work(50) + work(450)) / 2

# kind: LLM, regular, placeholder | ready | tasks: waiting, running, completed | prompt tokens
# | descendants | presence | demand | entropy | uncertainty reduction | work
STAGES: tuple[list[list[float]], ...] = (
    [
        # plan: 10 + 20 + 30 + 40 tokens of prompts; the placeholder and write wait for it; 4 or
        # 12 s are one bit; it tells whether there is a tool (one bit) of 0 to 8 s
        [1, 0, 0, 1, 4, 0, 0, 100, 2, 1.0, 8.0, 1, 8, PLAN_WORK],
        # one tool in two jobs, of 8 s; write waits for it
        [0, 0, 1, 0, 0, 0, 0, 0, 1, 0.5, 4.0, 1, 0, 4.0],
        # look: 2 or 6 s, and reveals nothing
        [0, 1, 0, 1, 2, 0, 0, 0, 1, 1.0, 4.0, 1, 0, 4.0],
        # write: not ready, so its prompt is not told; always 1 s
        [1, 0, 0, 0, 1, 0, 0, 0, 0, 1.0, 1.0, 0, 0, WRITE_WORK],
    ],
    [
        # one task of four is complete: 6 s remain, times 1.5 for a batch of two
        [1, 0, 0, 1, 1, 2, 1, 100, 2, 1.0, 9.0, 1, 8, PLAN_WORK * 3 / 4],
        [0, 0, 1, 0, 0, 0, 0, 0, 1, 0.5, 4.0, 1, 0, 4.0],
        [0, 1, 0, 1, 1, 1, 0, 0, 1, 1.0, 4.0, 1, 0, 4.0],
        [1, 0, 0, 0, 1, 0, 0, 0, 0, 1.0, 1.5, 0, 0, WRITE_WORK],
    ],
    [
        [1, 0, 0, 1, 1, 2, 1, 100, 2, 1.0, 9.0, 1, 8, PLAN_WORK * 3 / 4],
        [0, 0, 1, 0, 0, 0, 0, 0, 1, 0.5, 4.0, 1, 0, 4.0],
        # one task of two is complete: 2 s remain, tools are not slowed down
        [0, 1, 0, 1, 0, 1, 1, 0, 1, 1.0, 2.0, 1, 0, 2.0],
        [1, 0, 0, 0, 1, 0, 0, 0, 0, 1.0, 1.5, 0, 0, WRITE_WORK],
        # answer: 1 or 9 s, on average 5 s, times 1.5
        [1, 0, 0, 1, 1, 0, 0, 7, 0, 1.0, 7.5, 1, 0, CHAT_WORK],
    ],
)

# At arrival a state that no past job had weighs 0.01 jobs, here the absence of all but the tool.
TWO_VALUES, ONE_VALUE = 2.02 / 2.03, 2.01 / 2.02  # present in both past jobs
AGENT_S = TWO_VALUES * (8 + 4) + ONE_VALUE * 1 + 4
CHAT_S = TWO_VALUES * 5
AGENT_WORK = (
    PLAN_WORK + WRITE_WORK,
    8,
    TWO_VALUES * PLAN_WORK + ONE_VALUE * WRITE_WORK,
    TWO_VALUES * 4 + 4,
)

# application | age | tasks: waiting, running, completed | attained | demand at arrival | demand
# | its deviation, low and high end | its LLM part | Gittins index
# | work: of engines, of executors, and both at arrival
JOBS: tuple[list[list[float]], ...] = (
    # 8 + 4 + 4 + 1 s. They deviate by 4 (plan), 2 (look), 4 (tool) and 0 s, independently: 6 s.
    # At least 4 + 2 + 0 + 1, at most 12 + 6 + 8 + 1 s. Serving to the end is best.
    [[0, 0, 6, 0, 0, 0, AGENT_S, 17, 6, 7, 27, 9, 17, *AGENT_WORK]],
    # Three tasks have run for 0.32 s. LLM: 6 + 1 s, of 3 + 1 to 9 + 1, deviation 3, all times 1.5.
    [
        [
            *(0, 0.32, 2, 3, 1, 0.96, AGENT_S, 18.5, sqrt(4.5**2 + 20), 8, 29, 10.5, 18.5),
            *(PLAN_WORK * 3 / 4 + WRITE_WORK, 8, *AGENT_WORK[2:]),
        ]
    ],
    [
        # 0.32 + 0.75 + 0.43 s of plan, 0.5 + 0.25 s of look, of which 2 (1 to 3) s remain
        [
            *(0, 0.75, 1, 3, 2, 2.25, AGENT_S, 16.5, sqrt(4.5**2 + 17), 7, 26, 10.5, 16.5),
            *(PLAN_WORK * 3 / 4 + WRITE_WORK, 6, *AGENT_WORK[2:]),
        ],
        # 1 or 9 s, alike likely, times 1.5. Served for 1 s it is over in half of all cases, which
        # is one completion per 2 s instead of 5.
        [
            *(1, 0, 1, 0, 0, 0, CHAT_S, 7.5, 6, 1.5, 13.5, 7.5, 3),
            *(CHAT_WORK, 0, TWO_VALUES * CHAT_WORK, 0),
        ],
    ],
)

# time | jobs: in the system, not shown, to arrive | slots, free | executors, free | slowdown
CLUSTERS: tuple[list[float], ...] = (
    [0, 1, 0, 2, 3, 3, 2, 2, 1],
    [0.32, 1, 0, 2, 3, 1, 2, 1, 1.5],
    [0.75, 2, 0, 1, 3, 1, 2, 1, 1.5],
)
NOT_SHOWN: list[float] = [0.75, 2, 1, 1, 3, 1, 2, 1, 1.5]  # in tables of one job


def test_stage_rows(seen: list[Observation]) -> None:
    assert all_differ(*STAGES)
    assert len(STAGES[0][0]) == len(STAGE_FEATURES)
    for observation, rows in zip(seen, STAGES, strict=True):
        used = observation["stage_mask"] == 1
        assert observation["stages"][used] == approximately(rows)
        assert not observation["stages"][~used].any()
    assert seen[-1]["stage_job"][:5].tolist() == [0, 0, 0, 0, 1]


def test_job_rows(seen: list[Observation]) -> None:
    assert all_differ(*JOBS)
    assert len(JOBS[0][0]) == len(JOB_FEATURES)
    for observation, rows in zip(seen, JOBS, strict=True):
        used = observation["job_mask"] == 1
        assert observation["jobs"][used] == approximately(rows)
        assert not observation["jobs"][~used].any()


def test_cluster_entries(seen: list[Observation]) -> None:
    assert all_differ([*CLUSTERS, NOT_SHOWN])
    assert len(NOT_SHOWN) == len(CLUSTER_FEATURES)
    for observation, entries in zip(seen, CLUSTERS, strict=True):
        assert observation["cluster"] == pytest.approx(entries)
    one_job = moments(belief="bayes", max_jobs=1)[-1]
    assert one_job["cluster"] == pytest.approx(NOT_SHOWN)
    assert one_job["jobs"] == approximately(JOBS[-1][:1])
    assert one_job["stages"] == approximately(STAGES[-1][:4])


def test_without_a_belief_its_columns_are_zero() -> None:
    for observation, stages, jobs in zip(moments(belief="none"), STAGES, JOBS, strict=True):
        of_stages = np.array(stages)
        of_stages[:, 9:] = 0
        assert observation["stages"][: len(stages)] == approximately(of_stages.tolist())
        of_jobs = np.array(jobs)
        of_jobs[:, 6:] = 0
        assert observation["jobs"][: len(jobs)] == approximately(of_jobs.tolist())


def test_the_truth_of_the_oracle() -> None:
    """Plan takes 4 s, and its first task took 0.22; look 0.5 + 1.5, the tool 8, write 1 s."""
    seen = moments(belief="oracle")[-1]
    stages = np.array(STAGES[-1])
    stages[:, 9] = 1.0  # the tool exists
    stages[:, 10] = [1.5 * 4 * 3 / 4, 8.0, 2.0 / 2, 1.5, 1.5]  # what remains by number of tasks
    stages[:, 11:13] = 0.0
    plan = [work(tokens) for tokens in (11, 101, 39, 49)]
    stages[:, 13] = [sum(plan) * 3 / 4, 8.0, 2.0 / 2, WRITE_WORK, work(50)]
    assert seen["stages"][:5] == approximately(stages.tolist())
    llm_s = 1.5 * (4 - 0.22 + 1)  # here what remains is told by task
    remain = llm_s + 1.5 + 8
    agent = [0, 0.75, 1, 3, 2, 2.25, 15, remain, 0, remain, remain, llm_s, remain]
    agent += [sum(plan[1:]) + WRITE_WORK, 9.5, sum(plan) + WRITE_WORK, 10]
    chat = [1, 0, 1, 0, 0, 0, 1, 1.5, 0, 1.5, 1.5, 1.5, 1.5, work(50), 0, work(50), 0]
    assert seen["jobs"][:2] == approximately([agent, chat])
