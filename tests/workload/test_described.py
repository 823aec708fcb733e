"""Applications in a few lines: what jobs they make, and a line for all that is wrong in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.env.scheduling import LLMSchedEnv
from llmsched_gym.workload.described import (
    KINDS,
    Described,
    DescriptionError,
    read_description,
)
from llmsched_gym.workload.job import Job, Kind, LLMTask
from llmsched_gym.workload.mixes import make_workload

EXAMPLE = Path(__file__).parents[2] / "examples" / "rag_agent.yaml"
LLM: dict[str, Any] = {"llm": "think", "prompt_tokens": 100, "output_tokens": 20}
TOOL: dict[str, Any] = {"tool": "look", "seconds": 0.5}


def described(*stages: dict[str, Any], **more: Any) -> Described:
    return read_description({"application": "mine", "stages": list(stages), **more})


def jobs(made: Described, count: int = 300) -> list[Job]:
    return list(made.jobs(1, 0, "past", count))


def names(job: Job) -> list[str]:
    return [stage.name for stage in job.stages]


def parents(job: Job) -> list[tuple[int, ...]]:
    return [stage.parents for stage in job.stages]


def revealers(job: Job) -> list[int | None]:
    return [stage.revealed_by for stage in job.stages]


# --- what they make -------------------------------------------------------------------------------


def test_stages_wait_for_those_above_or_those_that_are_named() -> None:
    (job,) = jobs(
        described(
            LLM,
            TOOL,
            {**TOOL, "tool": "beside", "parents": ["think"]},
            {**TOOL, "tool": "first", "parents": []},
            {**LLM, "llm": "answer", "parents": ["look", "beside"]},
        ),
        1,
    )
    assert names(job) == ["think", "look", "beside", "first", "answer"]
    assert parents(job) == [(), (0,), (0,), (), (1, 2)]
    assert revealers(job) == [None] * 5
    assert [stage.kind for stage in job.stages[:2]] == [Kind.LLM, Kind.REGULAR]
    assert job.stages[0].tasks == (LLMTask(100, 20),)


def test_each_round_of_a_loop_is_revealed_by_the_one_before() -> None:
    loop = {"loop": "again", "again": 0.5, "most": 4, "stages": [LLM, TOOL]}
    made = jobs(described({**TOOL, "tool": "start"}, loop, {**LLM, "llm": "end"}), 2000)
    rounds = np.array([names(job).count("look") for job in made])
    assert np.bincount(rounds)[1:] / 2000 == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8], abs=0.03)
    job = made[int(np.flatnonzero(rounds == 3)[0])]
    assert names(job) == ["start", *["think", "look"] * 3, "end"]
    assert parents(job) == [(), (0,), (1,), (2,), (3,), (4,), (5,), (6,)]
    assert revealers(job) == [None, None, None, 2, 2, 4, 4, None]


def test_a_loop_may_have_no_round() -> None:
    loop = {"loop": "again", "again": 0.3, "most": 1, "least": 0, "stages": [TOOL]}
    made = jobs(described(LLM, loop, {**LLM, "llm": "end"}), 2000)
    some = [job for job in made if len(job.stages) == 3]
    assert len(some) / 2000 == pytest.approx(0.3, abs=0.03)
    assert {tuple(revealers(job)) for job in some} == {(None, 0, None)}
    none = [job for job in made if len(job.stages) == 2]
    assert len(none) + len(some) == 2000
    assert {tuple(parents(job)) for job in none} == {((), (0,))}


@pytest.mark.parametrize("order", ["parallel", "sequence"])
def test_a_plan_reveals_stages(order: str) -> None:
    plan = {
        "plan": "tools",
        "count": {"choice": {0: 0.25, 3: 0.75}},
        "of": [{**TOOL, "weight": 3}, {**LLM, "llm": "sub"}],
        "order": order,
    }
    made = jobs(described(LLM, plan, {**LLM, "llm": "end"}), 2000)
    some = [job for job in made if len(job.stages) == 5]
    assert len(some) / 2000 == pytest.approx(0.75, abs=0.03)
    chosen = [name for job in some for name in names(job)[1:4]]
    assert chosen.count("look") / len(chosen) == pytest.approx(0.75, abs=0.03)
    wanted = (
        [(), (0,), (0,), (0,), (1, 2, 3)] if order == "parallel" else [(), (0,), (1,), (2,), (3,)]
    )
    for job in some:
        assert parents(job) == wanted
        assert revealers(job) == [None, 0, 0, 0, None]
    assert {tuple(parents(job)) for job in made if len(job.stages) == 2} == {((), (0,))}


def test_amounts() -> None:
    made = jobs(
        described(
            {
                "llm": "think",
                "tasks": {"uniform": [1, 3]},
                "prompt_tokens": {"choice": [10, 20]},
                "output_tokens": {"lognormal": {"median": 100, "sigma": 0.5, "most": 150}},
            },
            {"tool": "look", "seconds": {"uniform": [1, 2.5]}},
        ),
        3000,
    )
    tasks = [task for job in made for task in job.stages[0].tasks if isinstance(task, LLMTask)]
    counts = np.bincount([len(job.stages[0].tasks) for job in made])
    assert counts[1:] / 3000 == pytest.approx([1 / 3] * 3, abs=0.03)
    prompts = np.array([task.prompt_tokens for task in tasks])
    assert {*prompts.tolist()} == {10, 20}
    assert (prompts == 10).mean() == pytest.approx(0.5, abs=0.03)
    outputs = np.array([task.output_tokens for task in tasks])
    assert np.median(outputs) == pytest.approx(100, rel=0.05)
    assert outputs.max() == 150
    assert np.percentile(outputs, 16) == pytest.approx(100 * np.exp(-0.5), rel=0.05)
    seconds = np.array([job.stages[1].tasks[0].duration_s for job in made])  # type: ignore[union-attr]
    assert (seconds.min(), seconds.max()) == pytest.approx((1, 2.5), abs=0.01)
    assert seconds.mean() == pytest.approx(1.75, abs=0.03)


def test_size_is_of_a_job() -> None:
    made = jobs(
        described(
            {**LLM, "sized": True},
            {**TOOL, "sized": True, "tasks": 2},
            {**TOOL, "tool": "other"},
            size={"choice": [1, 4]},
        )
    )
    shown = {
        (job.stages[0].tasks[0], tuple(t.duration_s for s in job.stages[1:] for t in s.tasks))  # type: ignore[union-attr]
        for job in made
    }
    assert shown == {(LLMTask(100, 20), (0.5, 0.5, 0.5)), (LLMTask(400, 80), (2.0, 2.0, 0.5))}


def test_one_seed_determines_past_and_evaluated_jobs() -> None:
    content = yaml.safe_load(EXAMPLE.read_text())
    one, same = (make_workload(EXAMPLE, jobs_per_application=50) for _ in range(2))
    named = make_workload("described", path=str(EXAMPLE), jobs_per_application=50)
    python = make_workload(content, jobs_per_application=50)
    for other in (same, named, python):
        assert (other.name, len(other.bank), len(other.past)) == ("rag_agent", 50, 50)
        np.testing.assert_array_equal(other.bank.output_tokens, one.bank.output_tokens)
        np.testing.assert_array_equal(other.past.output_tokens, one.past.output_tokens)
    differs = make_workload({**content, "seed": 1}, jobs_per_application=50)
    assert not np.array_equal(differs.bank.output_tokens, one.bank.output_tokens)
    assert not np.array_equal(one.past.output_tokens, one.bank.output_tokens)
    assert not {*one.past.job_ids} & {*one.bank.job_ids}


# --- what is refused ------------------------------------------------------------------------------

PLAN = {"plan": "tools", "count": 2, "of": [TOOL]}
LOOP = {"loop": "again", "again": 0.5, "most": 3, "stages": [TOOL]}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({}, "application: missing"),
        ({"application": "a"}, "stages: missing"),
        ({"application": "a", "stages": []}, r"stages: \[\] is not a list of stages"),
        ({"application": "", "stages": [LLM]}, "application: empty name"),
        ({"application": "a", "stages": [LLM], "sede": 1}, "sede: unknown field; valid: appl"),
        ({"application": "a", "stages": [LLM], "seed": -1}, "seed: -1 is not a whole number"),
        (
            {"application": "a", "stages": [LLM], "size": "big"},
            "size: 'big' is not a number from 0",
        ),
        ([3], r"stages\[0\]: needs a name under one of llm or tool or loop or plan, once"),
        ([{**LLM, "tool": "x"}], r"stages\[0\]: needs a name under one of"),
        ([{**LLM, "llm": "a#1"}], r"stages\[0\].llm: 'a#1' contains \"#\""),
        ([{**LLM, "llm": 3}], r"stages\[0\].llm: 3 is not text"),
        ([LLM, LLM], r"stages\[1\].llm: the name 'think' is there twice"),
        ([{"llm": "x", "prompt_tokens": 3}], r"stages\[0\].output_tokens: missing"),
        ([{**LLM, "seconds": 1}], r"stages\[0\].seconds: unknown field; valid: llm, prompt"),
        ([{**LLM, "output_tokens": 0}], r"output_tokens: 0 is not a whole number, 1 to"),
        ([{**LLM, "output_tokens": 1.5}], r"output_tokens: 1.5 is not a whole number"),
        ([{**LLM, "tasks": 1001}], r"tasks: 1001 is not a whole number, 1 to 1000"),
        ([{**TOOL, "seconds": -1}], r"seconds: -1 is not a number from 0 to 4e\+06"),
        ([{**TOOL, "seconds": "1e-3"}], r"seconds: '1e-3' .*\(YAML: 1.0e-3, not 1e-3\)"),
        ([{**TOOL, "seconds": float("nan")}], r"seconds: nan is not a number"),
        ([{**TOOL, "sized": 1}], r"sized: 1 is neither true nor false"),
        ([{**TOOL, "weight": 1}], r"weight: unknown field"),
        ([{**TOOL, "seconds": {"normal": 1}}], r"is neither a number nor one of uniform, logn"),
        ([{**TOOL, "seconds": {"uniform": [2, 1]}}], r"seconds.uniform: 2.0 is above 1.0"),
        ([{**TOOL, "seconds": {"uniform": 2}}], r"uniform: 2 is not a pair \[least, most\]"),
        ([{**TOOL, "seconds": {"lognormal": {"median": 1}}}], r"lognormal.sigma: missing"),
        (
            [{**TOOL, "seconds": {"lognormal": {"median": 1, "sigma": -1}}}],
            r"stages\[0\].seconds.lognormal.sigma: -1 is not a number from 0 to 5",
        ),
        ([{**TOOL, "seconds": {"choice": {1: 0}}}], r"choice: no weight is above 0"),
        ([{**TOOL, "seconds": {"choice": []}}], r"choice: \[\] is neither a list nor weights"),
        ([{**TOOL, "parents": ["think"]}], r"parents: 'think' is not above it .*: there is none"),
        ([LLM, {**TOOL, "parents": "think"}], r"parents: 'think' is not a list of names"),
        ([PLAN], r"stages\[0\].parents: a plan is revealed by the end of one stage or loop"),
        ([LLM, {**PLAN, "of": []}], r"stages\[1\].of: \[\] is not a list of stages"),
        ([LLM, {**PLAN, "of": [LOOP]}], r"of\[0\]: needs a name under one of llm or tool"),
        ([LLM, {**PLAN, "order": "random"}], r"order: 'random', choose from parallel, sequence"),
        ([LLM, {**PLAN, "count": 101}], r"count: 101 is not a whole number, 0 to 100"),
        ([LLM, PLAN, {**LOOP, "stages": [{**TOOL, "tool": "x"}], "least": 0}], r"no round is reve"),
        ([{**LOOP, "again": 1.5}], r"again: 1.5 is not a number from 0 to 1"),
        ([{**LOOP, "most": 0}], r"most: 0 is not a whole number, 1 to 500"),
        ([{**LOOP, "least": 4}], r"least: 4 is not a whole number, 0 to 3"),
        ([LLM, {**LOOP, "stages": [{**TOOL, "tool": "a"}, PLAN]}], r"its last one reveals whether"),
        (
            [{**LOOP, "most": 500, "stages": [{**LOOP, "loop": "in", "most": 9}, LLM]}],
            r"stages: a job could have 5000 stages, more than 4000",
        ),
        (
            [{**LOOP, "most": 50, "stages": [{**TOOL, "tasks": 500}]}],
            r"stages: a job could have 25000 tasks, more than 20000",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(content: Any, what: str) -> None:
    whole = {"application": "a", "stages": content} if isinstance(content, list) else content
    with pytest.raises(DescriptionError, match=f"^workload: .*{what}") as raised:
        read_description(whole)
    assert "\n" not in str(raised.value)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, what in (
        ("application: a\nstages: [\n", "line 3: "),
        ("- 1\n", r"description: \[1\] is not a mapping"),
        ("", "description: None is not a mapping"),
        ("application: a\nstages:\n  - tool: t\n    seconds: 1e-3\n", r"stages\[0\].seconds: "),
        ("a: !!python/object:x {}\n", "line 1: "),
        ("\0", "YAML: "),
    ):
        file.write_text(text)
        with pytest.raises(DescriptionError, match=f"^{file}: {what}") as raised:
            make_workload(file)
        assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match="^path: no such file: "):
        make_workload(str(tmp_path / "none.yaml"))
    with pytest.raises(DescriptionError, match=": a folder, not a file"):
        make_workload("described", path=tmp_path)
    with pytest.raises(ValueError, match="^path: workload=described needs a YAML file"):
        make_workload("described")
    with pytest.raises(ValueError, match="^replay: only workload=traces takes it, not described"):
        make_workload(EXAMPLE, replay=True)
    with pytest.raises(ValueError, match="^path: given twice"):
        make_workload({"application": "a"}, path="b.yaml")


# --- anything at all ------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-1, 5), st.floats(0, 3), st.sampled_from([None, "x", 10**30]))
WHOLE = st.integers(1, 3)
AMOUNTS = st.one_of(
    WHOLE,
    NUMBERS,
    st.builds(lambda a, b: {"uniform": [min(a, b), max(a, b)]}, WHOLE, WHOLE),
    st.builds(lambda a, b: {"lognormal": {"median": a, "sigma": b}}, WHOLE, st.floats(0, 2)),
    st.builds(lambda a: {"choice": a}, st.dictionaries(WHOLE, st.floats(0.1, 1), min_size=1)),
)
GOOD = st.one_of(
    WHOLE,
    st.builds(lambda a, b: {"uniform": [min(a, b), max(a, b)]}, WHOLE, WHOLE),
    st.builds(
        lambda a, b: {"lognormal": {"median": a, "sigma": b, "most": 9}}, WHOLE, st.floats(0, 2)
    ),
    st.builds(lambda a: {"choice": a}, st.dictionaries(WHOLE, st.floats(0.1, 1), min_size=1)),
)


@st.composite
def stages(draw: st.DrawFn, amounts: Any, used: list[int], deep: int = 2) -> list[dict[str, Any]]:
    """A list of stages, each with a name of its own."""
    made: list[dict[str, Any]] = []
    some: st.SearchStrategy[Any] = st.booleans()
    for _ in range(draw(st.integers(1, 4))):
        kinds = KINDS if deep else KINDS[:2]
        kind = draw(st.sampled_from(kinds if made else kinds[:3]))
        one = draw(node(kind, amounts, used, deep))
        above = [next(iter(other.values())) for other in made]
        if kind != "plan" and draw(some):
            one["parents"] = [name for name in above if draw(some)]
        made.append(one)
    return made


@st.composite
def node(draw: st.DrawFn, kind: str, amounts: Any, used: list[int], deep: int) -> dict[str, Any]:
    used.append(0)
    one: dict[str, Any] = {kind: f"{kind}{len(used)}"}
    if kind == "llm":
        one |= {"prompt_tokens": draw(amounts), "output_tokens": draw(amounts)}
    elif kind == "tool":
        one |= {"seconds": draw(amounts)}
    elif kind == "plan":
        kinds = draw(st.lists(st.sampled_from(KINDS[:2]), min_size=1, max_size=2))
        one |= {"count": draw(amounts), "of": [draw(node(k, amounts, used, 0)) for k in kinds]}
        one["order"] = draw(st.sampled_from(["parallel", "sequence"]))
        return one
    else:
        one |= {"again": draw(st.sampled_from([0, 0.5, 1])), "most": draw(st.integers(1, 3))}
        return one | {"stages": draw(stages(amounts, used, deep - 1))}
    more = draw(st.sampled_from([{}, {"sized": True}, {"tasks": draw(amounts)}]))
    return one | more


@st.composite
def descriptions(draw: st.DrawFn, amounts: Any) -> dict[str, Any]:
    return {
        "application": "any",
        "size": draw(st.sampled_from([1, {"uniform": [0.5, 2]}])),
        "stages": draw(stages(amounts, [])),
    }


def refusal(content: dict[str, Any]) -> str | None:
    """Why a description is refused, None if it is not."""
    try:
        read_description(content)
    except DescriptionError as error:
        return str(error)
    return None


@given(descriptions(AMOUNTS))
@settings(max_examples=300, deadline=None)
def test_any_description_is_refused_in_one_line_or_makes_jobs(content: dict[str, Any]) -> None:
    before = copy.deepcopy(content)
    why = refusal(content)
    assert content == before
    if why is None:
        assert len(jobs(read_description(content), 5)) == 5
    else:
        assert "\n" not in why
        assert why.startswith("workload: ")


@given(descriptions(GOOD), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_any_description_plays(content: dict[str, Any], seed: int) -> None:
    why = refusal(content)
    if why is not None:
        assert "reveal" in why  # a plan after a plan, a loop that ends with one
        return
    workload = make_workload(content, jobs_per_application=8)
    env = LLMSchedEnv(workload, num_jobs=4, arrival_rate=1.0, belief="prior", reward="slowdown")
    observation, _ = env.reset(seed=seed)
    rng, over = np.random.default_rng(seed), False
    while not over:
        action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
        observation, _, over, _, info = env.step(action)
    assert info["jobs_completed"] == 4


def test_the_example_plays() -> None:
    env = LLMSchedEnv(EXAMPLE, num_jobs=5)  # type: ignore[arg-type]
    observation, info = env.reset(seed=0)
    over = False
    while not over:
        action = int(np.argmax(observation["action_mask"]))
        observation, _, over, _, info = env.step(action)
    assert info["application_jct_s"].keys() == {"rag_agent"}
