"""The rivals of LLMSched: who is chosen and why, by hand and against definitions in loops."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_gym.agents.base import POLICIES, Policy, PriorityPolicy, make_policy
from llmsched_gym.cluster.preset import load_cluster
from llmsched_gym.env.features import CLUSTER, JOB, STAGE
from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.arrivals import Burst
from llmsched_gym.workload.bank import JobBank
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.mixes import Workload
from support.observations import Observation, connected, observation, random_graph, stacked

RIVALS = ("argus", "carbyne", "critical_path", "las", "topological_uncertainty", "weighted_fair")
DETERMINED = [name for name in sorted(POLICIES) if name != "random"]
ALWAYS_EXPLORES = {"llmsched": {"epsilon": 1.0}, "llmsched_priced": {"epsilon": 1.0}}  # no coin
TOKENS_PER_SECOND = 50  # of the preset "constant"


def chosen(name: str, seen: Observation, **options: float) -> int:
    action = make_policy(name, **options).act(seen)
    batch = np.asarray(make_policy(name, **options).act(stacked([seen, seen])))
    assert batch.tolist() == [action, action]
    return int(np.asarray(action))


# On observations made by hand


def test_argus_runs_the_stage_that_most_others_wait_for() -> None:
    stages: list[dict[str, Any]] = [{"job": 0, "descendants": 1}, {"job": 1, "descendants": 3}]
    stages += [{"job": 1, "descendants": 4, "legal": 0}, {"job": 2, "descendants": 3}]
    assert chosen("argus", observation([{}] * 3, stages)) == 1, "as many as row 3, arrived first"


def test_las_runs_the_job_that_has_used_least() -> None:
    jobs = [{"attained_s": 9}, {"attained_s": 2}, {"attained_s": 2}, {"attained_s": 1}]
    stages = [{"job": job, "legal": job < 3} for job in range(4)]
    assert chosen("las", observation(jobs, stages)) == 1, "as much as job 2, arrived first"


def test_critical_path_looks_down_the_graph_and_behind_placeholders() -> None:
    # Row 0 -> 1, 2 -> 3 -> 4 of job 0; row 5 of job 1. Rows 0, 2 and 5 can run.
    demands = (20, 1, 2, 10, 15, 26)
    stages: list[dict[str, Any]] = [
        {"job": int(row == 5), "demand_s": demand, "legal": row in (0, 2, 5)}
        for row, demand in enumerate(demands)
    ]
    stages[4]["is_dynamic"] = 1
    seen = connected(observation([{}] * 2, stages), [(0, 1), (2, 3), (3, 4)])
    assert chosen("critical_path", seen) == 2, "2 + 10 + 15 is above 26 and above 20 + 1"
    seen["stages"][4, STAGE["demand_s"]] = 13
    assert chosen("critical_path", seen) == 5


def test_topological_uncertainty_is_the_entropy_of_placeholders_below() -> None:
    # Row 0 -> placeholder 1; row 2 -> 3 -> placeholder 4, 2 -> placeholder 5; row 6 alone.
    entropies = (0, 2, 9, 9, 1.5, 1, 9)
    stages = [
        {
            "job": min(row // 2, 1),
            "entropy_bits": bits,
            "is_dynamic": row in (1, 4, 5),
            "legal": row in (0, 2, 6),
        }
        for row, bits in enumerate(entropies)
    ]
    edges = [(0, 1), (2, 3), (3, 4), (2, 5)]
    seen = connected(observation([{}] * 2, stages), edges)
    assert chosen("topological_uncertainty", seen) == 0, "2 bits hidden; durations do not count"
    seen = connected(seen, [*edges, (4, 5)])
    assert chosen("topological_uncertainty", seen) == 2, "1.5 and then 1 bits"
    seen["stages"][:, STAGE["is_dynamic"]] = 0
    assert chosen("topological_uncertainty", seen) == 0, "nothing hidden: by arrival"


def shared(alpha: float, work: Sequence[float], slots: int, tasks: float = math.inf) -> list[int]:
    """Who gets how many of the slots when they are given away one by one."""
    running = [0] * len(work)
    for _ in range(slots):
        jobs = [{"demand_s": w, "running_tasks": n} for w, n in zip(work, running, strict=True)]
        stages = [{"job": job, "legal": running[job] < tasks} for job in range(len(work))]
        running[chosen("weighted_fair", observation(jobs, stages), alpha=alpha)] += 1
    return running


@pytest.mark.parametrize(
    ("alpha", "slots"),
    [
        (0, [7, 7, 7]),
        (1, [3, 6, 12]),  # as 10 : 20 : 40
        (-1, [12, 6, 3]),
        (-2, [16, 4, 1]),
        (-9, [21, 0, 0]),  # as 2 ** 9 and more to 1
    ],
)
def test_weighted_fair_shares_by_a_power_of_the_work(alpha: float, slots: list[int]) -> None:
    assert shared(alpha, (10, 20, 40), 21) == slots


def test_weighted_fair_conserves_work_and_shares_what_is_left() -> None:
    # -1: shares of 1/10, 1/20, 1/40. Jobs have 3 tasks each: all of them run.
    assert shared(-1, (10, 20, 40), 9, tasks=3) == [3, 3, 3]
    assert shared(-9, (10, 20, 40), 5, tasks=3) == [3, 2, 0]


def test_weighted_fair_counts_what_a_job_has_used_as_its_work() -> None:
    jobs = [{"attained_s": 50, "demand_s": 10}, {"demand_s": 40}]
    seen = observation(jobs, [{"job": 0}, {"job": 1}])
    assert chosen("weighted_fair", seen, alpha=-1) == 1
    assert chosen("weighted_fair", seen, alpha=1) == 0


@given(st.integers(0, 2**32 - 1))
def test_weighted_fair_without_weights_is_fair(seed: int) -> None:
    seen = random_graph(np.random.default_rng(seed))
    assert chosen("weighted_fair", seen, alpha=0) == chosen("fair", seen)


@pytest.mark.parametrize("alpha", ["much", math.nan, math.inf, None])
def test_weighted_fair_wants_a_finite_exponent(alpha: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^policy weighted_fair: alpha: .* is not a finite number$"
    ):
        make_policy("weighted_fair", alpha=alpha)


def carbyne_case(held: Sequence[int], demands: Sequence[float], llm_slots: int) -> Observation:
    """Jobs with one ready LLM stage each, of which some tasks run."""
    jobs = [{"demand_s": demand} for demand in demands]
    stages = [
        {"job": job, "is_llm": 1, "ready": 1, "waiting_tasks": 9, "running_tasks": held[job]}
        for job in range(len(held))
    ]
    seen = observation(jobs, stages)
    seen["cluster"][CLUSTER["llm_slots"]] = llm_slots
    return seen


@pytest.mark.parametrize(
    ("held", "demands", "slots", "row", "why"),
    [
        ((3, 2, 3), (5, 9, 1), 12, 1, "all are below their share of 4, job 1 has the fewest"),
        ((2, 2, 3), (5, 9, 1), 12, 0, "jobs 0 and 1 have the fewest, job 0 is closer to the end"),
        ((4, 4, 3), (5, 1, 9), 12, 2, "only job 2 is below its share"),
        ((4, 4, 4), (5, 9, 1), 12, 2, "nobody is: a leftover, for the job closest to its end"),
        ((0, 1, 1), (9, 5, 1), 2, 0, "a share of 2/3 is one slot to who has none"),
    ],
)
def test_carbyne_fills_fair_shares_and_then_the_shortest_job(
    held: tuple[int, ...], demands: tuple[float, ...], slots: int, row: int, why: str
) -> None:
    assert chosen("carbyne", carbyne_case(held, demands, slots)) == row, why


def test_carbyne_shares_each_kind_of_executor_among_those_who_can_use_it() -> None:
    jobs = [{"demand_s": 1}, {"demand_s": 9}, {"demand_s": 5}]
    stages: list[dict[str, Any]] = [
        {"job": 0, "is_llm": 1, "ready": 1, "waiting_tasks": 9, "running_tasks": 2},
        {"job": 1, "is_llm": 1, "ready": 1, "waiting_tasks": 9, "running_tasks": 1},
        {"job": 2, "is_llm": 1, "ready": 0, "waiting_tasks": 9, "legal": 0},
        {"job": 2, "is_regular": 1, "ready": 1, "running_tasks": 3, "legal": 0},
    ]
    seen = observation(jobs, stages)
    seen["cluster"][CLUSTER["llm_slots"]] = 4
    seen["cluster"][CLUSTER["regular_executors"]] = 3
    assert chosen("carbyne", seen) == 1, "job 2 cannot use an LLM slot: the share is 2"
    seen["stages"][2, STAGE["ready"]] = 1
    seen["cluster"][CLUSTER["llm_slots"]] = 3
    assert chosen("carbyne", seen) == 0, "it can now: the share is 1, and 0 is closest to its end"


def carbyne_by_hand(seen: Observation) -> int:
    """The definition in loops."""
    count = int(seen["stage_mask"].sum())
    stage = [
        {name: float(seen["stages"][row, c]) for name, c in STAGE.items()} for row in range(count)
    ]
    job = seen["stage_job"][:count].tolist()
    demand = seen["jobs"][:, JOB["demand_s"]]
    edges = seen["edges"][seen["edge_mask"] != 0].tolist()

    def tasks(row: int) -> float:
        return stage[row]["running_tasks"] + stage[row]["waiting_tasks"]

    def share(row: int) -> float:
        if stage[row]["is_dynamic"]:
            return 0
        kind, slots = (
            ("is_llm", "llm_slots") if stage[row]["is_llm"] else ("is_regular", "regular_executors")
        )
        users = {
            job[r]
            for r in range(count)
            if stage[r][kind]
            and stage[r]["running_tasks"] + stage[r]["ready"] * stage[r]["waiting_tasks"] > 0
        }
        return float(seen["cluster"][CLUSTER[slots]]) / max(len(users), 1)

    def held(row: int) -> float:
        kind = "is_llm" if stage[row]["is_llm"] else "is_regular"
        same = [r for r in range(count) if job[r] == job[row] and stage[r][kind]]
        return sum(stage[r]["running_tasks"] for r in same)

    def duration(row: int) -> float:
        return stage[row]["demand_s"] / max(1, min(tasks(row), share(row)))

    def path(row: int) -> float:
        return duration(row) + max((path(b) for a, b in edges if a == row), default=0)

    def needed(row: int) -> bool:
        ready = [r for r in range(count) if job[r] == job[row] and stage[r]["ready"]]
        longest = max(path(r) for r in ready)
        critical = [r for r in ready if path(r) == longest]
        if row in critical:
            return True
        return path(row) > longest - max(duration(r) for r in critical)

    def order(row: int) -> tuple[float, ...]:
        entitled = held(row) < share(row) and needed(row)
        return (not entitled, held(row) if entitled else 0, demand[job[row]], row)

    legal = [row for row in range(count) if seen["action_mask"][row]]
    return min(legal, key=order) if legal else len(seen["action_mask"]) - 1


@given(st.integers(0, 2**32 - 1))
def test_carbyne_is_its_definition(seed: int) -> None:
    seen = random_graph(np.random.default_rng(seed))
    assert chosen("carbyne", seen) == carbyne_by_hand(seen)


# On clusters made by hand


def llm(
    name: str, seconds: float, *parents: int, tasks: int = 1, revealed_by: int | None = None
) -> Stage:
    work = (LLMTask(10, round(seconds * TOKENS_PER_SECOND)),) * tasks
    return Stage(name, Kind.LLM, parents, work, revealed_by)


def tool(name: str, seconds: float, *parents: int) -> Stage:
    return Stage(name, Kind.REGULAR, parents, (RegularTask(seconds),))


def completions(
    jobs: Sequence[tuple[Stage, ...]],
    name: str,
    past: Sequence[tuple[Stage, ...]] | None = None,
    slots: int = 1,
    tools: int = 1,
    **options: float,
) -> list[float]:
    """When the jobs complete that all arrive at time 0, each of an application of its own.

    Past jobs are the same, 30 of each, or those given, of the last application.
    """
    applications = [f"application {number}" for number in range(len(jobs))]
    alike = list(zip(applications, jobs, strict=True))
    if past is not None:
        alike = alike[:-1] + [(applications[-1], stages) for stages in past]
    old = [Job(app, f"{k} {n}", stages) for n in range(30) for k, (app, stages) in enumerate(alike)]
    new = [Job(app, "new", stages) for app, stages in zip(applications, jobs, strict=True)]
    bank, before = JobBank.from_jobs(new), JobBank.from_jobs(old)
    workload = Workload("by_hand", bank, before, Burst(), replay=True)
    cluster = load_cluster("constant", engines=1, max_batch=slots, regular_executors=tools)
    env = LLMSchedEnv(workload, cluster, num_jobs=len(jobs), strict=True)
    return played(env, make_policy(name, **options))["completion_s"].tolist()


def played(env: LLMSchedEnv, policy: Policy, seed: int = 0) -> dict[str, Any]:
    seen, _ = env.reset(seed=seed)
    policy.reset(seed)
    over = False
    while not over:
        seen, _, over, _, _ = env.step(int(np.asarray(policy.act(seen))))
    return env.job_table()


def test_argus_prefers_the_chain() -> None:
    # The first two of the chain have something below them, the third has nothing: then arrival.
    jobs = [(llm("lone", 10),), (llm("a", 2), llm("b", 2, 0), llm("c", 2, 1))]
    assert completions(jobs, "argus") == pytest.approx([14, 16])
    assert completions(jobs, "fcfs") == pytest.approx([10, 16])


def test_las_finds_the_short_job_unknowing() -> None:
    # Both have used nothing: the long job's first stage; then the short one has used less, always.
    long = tuple(llm("step", 5, *range(number)[-1:]) for number in range(4))
    short = (llm("a", 1), llm("b", 1, 0))
    assert completions([long, short], "las") == pytest.approx([22, 7])
    assert completions([long, short], "fcfs") == pytest.approx([20, 22])


def test_critical_path_starts_the_long_branch_first() -> None:
    # a (2) beside b (3) -> tool (10), one slot of each kind.
    job = (llm("a", 2), llm("b", 3), tool("c", 10, 1))
    assert completions([job], "critical_path") == pytest.approx([13])
    assert completions([job], "fcfs") == pytest.approx([15])


def test_topological_uncertainty_runs_plans_first() -> None:
    # Research: a plan that reveals 100 s of work or nothing. The report has 40 s, as always. The
    # plan first (2 s); then nothing is hidden and the report arrived first.
    plan, work = llm("plan", 2), llm("work", 100, 0, revealed_by=0)
    jobs = [(llm("write", 40),), (plan, work)]
    past = [(plan, work), (plan,)]
    assert completions(jobs, "topological_uncertainty", past) == pytest.approx([42, 142])
    jobs[1] = (plan, llm("work", 100, 0))  # known at arrival: nothing is hidden
    assert completions(jobs, "topological_uncertainty") == pytest.approx([40, 142])


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (1, [50, 40]),  # 140 s : 40 s of work, slots 3 : 1, until the narrow job is done
        (0, [50, 20]),  # 2 : 2
        (-1, [50, 20]),  # 1 : 3 while it has three tasks, then 3 : 1
        (-3, [50, 10]),  # 0 : 4
    ],
)
def test_weighted_fair_divides_the_slots(alpha: float, expected: list[float]) -> None:
    jobs = [(llm("wide", 10, tasks=14),), (llm("narrow", 10, tasks=4),)]
    assert completions(jobs, "weighted_fair", slots=4, alpha=alpha) == pytest.approx(expected)


def test_carbyne_yields_what_does_not_delay_the_job() -> None:
    # The first job has two tools of 10 s in a row beside an LLM stage of 2 s, which can wait, and
    # lets the second one's 8 s go first. It ends at 21 s with or without that.
    patient = (llm("aside", 2), tool("b", 10), tool("c", 10, 1), tool("join", 1, 0, 2))
    other = (llm("a", 8), tool("b", 40, 0))
    assert completions([patient, other], "carbyne", tools=2) == pytest.approx([21, 48])
    assert completions([patient, other], "srtf", tools=2) == pytest.approx([21, 50])


# In general


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(POLICIES)))
def test_no_policy_does_what_is_illegal(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    members = [random_graph(rng) for _ in range(int(rng.integers(1, 5)))]
    policy = make_policy(name)
    policy.reset(seed)
    singles = [int(np.asarray(policy.act(member))) for member in members]
    policy.reset(seed)
    batch = np.asarray(policy.act(stacked(members))).tolist()
    for actions in (singles, batch):
        for member, action in zip(members, actions, strict=True):
            waits = action == len(member["action_mask"]) - 1
            assert member["action_mask"][action]
            if isinstance(policy, PriorityPolicy):
                assert waits != member["action_mask"][:-1].any(), "it waits only if it must"


@given(st.integers(0, 2**32 - 1), st.sampled_from(DETERMINED))
def test_a_batch_is_chosen_as_its_members_are(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    members = [random_graph(rng) for _ in range(6)]
    policy = make_policy(name, **ALWAYS_EXPLORES.get(name, {}))
    expected = [policy.act(member) for member in members]
    batch = stacked(members)
    assert np.asarray(policy.act(batch)).tolist() == expected
    two = {key: table.reshape(2, 3, *table.shape[1:]) for key, table in batch.items()}
    assert np.asarray(policy.act(two)).tolist() == [expected[:3], expected[3:]]


@pytest.mark.parametrize("name", RIVALS)
def test_where_there_is_nothing_to_run_it_waits(name: str) -> None:
    assert chosen(name, observation([], [])) == 12
    assert chosen(name, observation([{}], [{"job": 0, "legal": 0}])) == 12


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_one_job_alone_is_completed(name: str) -> None:
    env = LLMSchedEnv("mixed", num_jobs=1, strict=True)
    for seed in range(4):
        assert np.isfinite(played(env, make_policy(name), seed)["jct_s"]).all()


@pytest.mark.parametrize("name", RIVALS)
def test_without_a_belief_it_still_completes_all_jobs(name: str) -> None:
    env = LLMSchedEnv("planning", num_jobs=20, load=2.0, belief="none", strict=True)
    assert np.isfinite(played(env, make_policy(name))["jct_s"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_many_jobs_are_completed(name: str) -> None:
    env = LLMSchedEnv("mixed", num_jobs=300, load=2.0, strict=True)
    assert np.isfinite(played(env, make_policy(name))["jct_s"]).all()


def test_those_that_read_expected_demands_say_so() -> None:
    needs = {name for name in RIVALS if make_policy(name).needs_belief}
    assert needs == set(RIVALS) - {"argus", "las"}
