"""The generators of the applications: structure, repeatability, closeness to measurements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_gym.workload.applications import (
    APPLICATIONS,
    CLASSES,
    map_reduce,
    sampling,
    sequence_sorting,
)
from llmsched_gym.workload.fitting import __main__ as calibration
from llmsched_gym.workload.fitting import comparison, estimators
from llmsched_gym.workload.fitting.measured import Measured
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask

MEASURED = {
    name: section["measured"]
    for name, section in json.loads(sampling.PARAMETERS_FILE.read_text(encoding="utf-8")).items()
    if "measured" in section
}
TOOLS = {
    "conversational": Kind.LLM,
    "depth-estimation": Kind.REGULAR,
    "image-segmentation": Kind.REGULAR,
    "image-to-image": Kind.REGULAR,
    "image-to-text": Kind.REGULAR,
    "object-detection": Kind.REGULAR,
    "summarization": Kind.LLM,
    "text-generation": Kind.LLM,
    "text-to-image": Kind.REGULAR,
    "text-to-video": Kind.REGULAR,
    "translation": Kind.LLM,
    "visual-question-answering": Kind.REGULAR,
}
STAGES: dict[str, dict[str, Kind]] = {
    "sequence_sorting": dict.fromkeys(("split", "sort", "merge", "refine"), Kind.LLM),
    "document_merging": dict.fromkeys(
        (
            *("generate1", "score1_1", "score1_2", "aggregate"),
            *("score2_1", "score2_2", "generate2", "score3_1"),
        ),
        Kind.LLM,
    ),
    "code_generation": {"code_generation": Kind.LLM, "code_execution": Kind.REGULAR},
    "web_search": {"thought": Kind.LLM, "search": Kind.REGULAR},
    "task_automation": {
        **dict.fromkeys(("task_planning", "choose_model", "response_results"), Kind.LLM),
        **TOOLS,
    },
    "parallel_function_calling": {
        "planner": Kind.LLM,
        "search": Kind.REGULAR,
        "math": Kind.LLM,
        "joiner": Kind.LLM,
    },
    "fact_checking": {
        "extract_claims": Kind.LLM,
        "generate_queries": Kind.LLM,
        "search": Kind.REGULAR,
        "verifies": Kind.LLM,
    },
    "map_reduce": dict.fromkeys(
        ("generate_summary", "collapse_summaries", "generate_final_summary"), Kind.LLM
    ),
    "tool_agent": {"llm": Kind.LLM, "tool": Kind.REGULAR},
}
PAPERS = (
    *("sequence_sorting", "document_merging", "code_generation", "web_search"),
    *("task_automation", "parallel_function_calling"),
)
every_application = pytest.mark.parametrize("application", APPLICATIONS)


def draw(application: str, seed: int, count: int = 1) -> list[Job]:
    rng = np.random.default_rng(seed)
    return [APPLICATIONS[application](rng, f"job-{index}") for index in range(count)]


@pytest.fixture(scope="module")
def generated() -> dict[str, list[Job]]:
    return comparison.generate(count=2000, seed=7)


def names(job: Job) -> list[str]:
    return [stage.name for stage in job.stages]


def prompts(job: Job, name: str) -> list[int]:
    return [
        task.prompt_tokens
        for stage in job.stages
        for task in stage.tasks
        if stage.name == name and isinstance(task, LLMTask)
    ]


# ------------------------------------------------------------------ all applications


def test_the_classes_hold_every_application_of_the_paper_once() -> None:
    assert tuple(name for row in CLASSES.values() for name in row) == PAPERS
    assert tuple(APPLICATIONS)[: len(PAPERS)] == PAPERS  # their order seeds what is drawn


@every_application
def test_the_same_generator_state_gives_the_same_jobs(application: str) -> None:
    assert draw(application, 3, 20) == draw(application, 3, 20)
    assert draw(application, 3, 20) != draw(application, 4, 20)


def test_jobs_do_not_depend_on_the_process() -> None:
    code = (
        "import numpy as np\n"
        "from llmsched_gym.workload.applications import APPLICATIONS\n"
        "for draw in APPLICATIONS.values():\n"
        "    rng = np.random.default_rng(11)\n"
        "    print([draw(rng, str(index)) for index in range(20)])\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0]


@every_application
@settings(max_examples=40)
@given(seed=st.integers(0, 2**63 - 1))
def test_jobs_are_valid_and_made_of_the_declared_stages(application: str, seed: int) -> None:
    (job,) = draw(application, seed)
    # the constructor of Job has validated it
    assert (job.application, job.job_id) == (application, "job-0")
    for index, stage in enumerate(job.stages):
        assert stage.kind == STAGES[application][stage.name]
        assert all(parent < index for parent in stage.parents)


@every_application
def test_every_declared_stage_occurs(application: str, generated: dict[str, list[Job]]) -> None:
    seen = {name for job in generated[application] for name in names(job)}
    assert seen == set(STAGES[application])


# ------------------------------------------------------------------ structure


@pytest.mark.parametrize(
    ("size", "calls"),
    [
        (32, [1, 10, 10, 10]),
        (64, [1, 20, 20, 10, 10, 10]),
        (128, [1, 40, 40, 20, 20, 10, 10, 10]),
    ],
)
def test_sorting_has_the_calls_of_graph_of_thoughts(size: int, calls: list[int]) -> None:
    assert [count for _, _, count in sequence_sorting.operations(size)] == calls


def test_sorting_mixes_three_sizes_that_are_known_at_arrival(
    generated: dict[str, list[Job]],
) -> None:
    jobs = generated["sequence_sorting"]
    sizes = Counter(sum(1 for _ in job.tasks()) for job in jobs)
    assert set(sizes) == {31, 71, 151}
    assert min(sizes.values()) > 0.3 * len(jobs)
    assert all(stage.revealed_by is None for job in jobs for stage in job.stages)


def test_document_merging_is_one_known_graph_of_105_calls(generated: dict[str, list[Job]]) -> None:
    for job in generated["document_merging"]:
        assert [len(stage.tasks) for stage in job.stages] == [2, 20, 20, 2, 20, 20, 1, 20]
        assert all(stage.revealed_by is None for stage in job.stages)


def test_code_generation_reveals_a_round_by_the_run_before_it(
    generated: dict[str, list[Job]],
) -> None:
    rounds = Counter(len(job.stages) // 2 for job in generated["code_generation"])
    assert set(rounds) == {1, 2, 5}  # nobody who failed twice was measured to stop before five
    for job in generated["code_generation"]:
        assert names(job) == ["code_generation", "code_execution"] * (len(job.stages) // 2)
        for index, stage in enumerate(job.stages):
            first_of_round = index - index % 2
            assert stage.revealed_by == (first_of_round - 1 if first_of_round else None)
            assert stage.parents == ((index - 1,) if index else ())
        growing = prompts(job, "code_generation")
        assert growing == sorted(set(growing))


def test_web_search_reveals_a_search_and_a_thought_by_the_thought_before(
    generated: dict[str, list[Job]],
) -> None:
    lengths = set()
    for job in generated["web_search"]:
        lengths.add(len(job.stages))
        assert names(job) == ["thought", *["search", "thought"] * (len(job.stages) // 2)]
        for index, stage in enumerate(job.stages):
            last_thought = index - 2 + index % 2
            assert stage.revealed_by == (last_thought if index else None)
            assert stage.parents == ((index - 1,) if index else ())
        growing = prompts(job, "thought")
        assert growing == sorted(set(growing))
    assert min(lengths) == 3
    assert max(lengths) <= 57


def test_task_automation_reveals_its_tools_by_the_plan(generated: dict[str, list[Job]]) -> None:
    joins = 0
    for job in generated["task_automation"]:
        assert job.stages[0].name == "task_planning"
        assert job.stages[-1].name == "response_results"
        assert job.stages[0].revealed_by is job.stages[-1].revealed_by is None
        tools = job.stages[1:-1]
        assert all(stage.revealed_by == 0 for stage in tools)
        used = {parent for stage in tools for parent in stage.parents}
        leaves = {index for index in range(1, len(job.stages) - 1) if index not in used}
        assert set(job.stages[-1].parents) == leaves
        assert max(Counter(name for name in names(job) if name != "choose_model").values()) == 1
        joins += any(len(stage.parents) == 2 for stage in tools)
        for index, stage in enumerate(job.stages):
            if stage.name == "choose_model":
                users = [other.name for other in job.stages if index in other.parents]
                assert users in (["depth-estimation"], ["object-detection"])
            if stage.name in ("depth-estimation", "object-detection"):
                assert [job.stages[parent].name for parent in stage.parents] == ["choose_model"]
    assert joins > 0


def test_parallel_function_calling_reveals_its_fan_out_by_the_planner(
    generated: dict[str, list[Job]],
) -> None:
    for job in generated["parallel_function_calling"]:
        planner, search, math, joiner = job.stages
        assert (planner.revealed_by, joiner.revealed_by) == (None, None)
        assert (search.revealed_by, math.revealed_by) == (0, 0)
        assert (search.parents, math.parents, joiner.parents) == ((0,), (1,), (2,))
        assert len(search.tasks) == len(math.tasks)
        assert 2 <= len(math.tasks) <= 5


def test_fact_checking_reveals_its_claims_by_the_first_stage(
    generated: dict[str, list[Job]],
) -> None:
    for job in generated["fact_checking"]:
        plan, queries, search, verdicts = job.stages
        assert (plan.revealed_by, search.revealed_by) == (None, None)
        assert (queries.revealed_by, verdicts.revealed_by) == (0, 0)
        assert (queries.parents, search.parents, verdicts.parents) == ((0,), (1,), (2,))
        assert len(search.tasks) == 1
        assert 1 <= len(queries.tasks) == len(verdicts.tasks) <= 11


def test_map_reduce_collapses_summaries_until_they_keep_the_limit(
    generated: dict[str, list[Job]],
) -> None:
    constants = sampling.parameters("map_reduce").constants
    rounds = Counter(len(job.stages) - 2 for job in generated["map_reduce"])
    assert set(rounds) <= set(range(constants["rounds"] + 1))
    assert min(rounds[0], rounds[2]) > 0
    assert rounds.most_common(1)[0][0] == 1
    for job in generated["map_reduce"]:
        first, *collapses, final = job.stages
        assert (first.revealed_by, final.revealed_by) == (None, None)
        assert final.parents == (len(collapses),)
        assert [stage.revealed_by for stage in collapses] == list(range(len(collapses)))
        for before, stage in zip(job.stages, collapses, strict=False):
            written = [task.output_tokens for task in before.tasks if isinstance(task, LLMTask)]
            assert sum(written) > constants["limit"]
            read = sum(task.prompt_tokens for task in stage.tasks if isinstance(task, LLMTask))
            assert read == sum(written) + len(stage.tasks) * constants["collapse_summaries"]
        left = sum(task.output_tokens for task in job.stages[-2].tasks if isinstance(task, LLMTask))
        assert left <= constants["limit"] or len(collapses) == constants["rounds"]


def test_summaries_are_packed_in_their_order() -> None:
    assert map_reduce.packed([3, 4, 5, 9, 1, 12, 1], 10) == [7, 5, 10, 12, 1]
    assert map_reduce.packed([3], 10) == [3]


def test_a_tool_agent_reveals_a_tool_and_a_call_by_the_call_before(
    generated: dict[str, list[Job]],
) -> None:
    for job in generated["tool_agent"]:
        assert names(job) == ["llm", *["tool", "llm"] * (len(job.stages) // 2)]
        assert 3 <= len(job.stages) <= 59
        growing = prompts(job, "llm")
        assert growing == sorted(set(growing))
        assert {task for stage in job.stages[1::2] for task in stage.tasks} == {RegularTask(0.5)}


# ------------------------------------------------------------------ against what was measured


@pytest.mark.parametrize(
    "quantity",
    [row for row in comparison.QUANTITIES if row.name in MEASURED[row.application]["quantities"]],
    ids=lambda row: f"{row.application}-{row.name}",
)
def test_quantiles_are_those_measured(
    quantity: comparison.Quantity, generated: dict[str, list[Job]]
) -> None:
    # The distribution functions differ by at most 0.12 at the measured quantiles, the means by 10 %
    # (the heavy tail of code generation: 7 of 115 jobs hold most of its prompt tokens).
    known = MEASURED[quantity.application]["quantities"][quantity.name]
    drawn = comparison.numbers(quantity, generated[quantity.application])
    for level, value in zip(comparison.LEVELS, known["quantiles"], strict=True):
        margin = 1e-4 * abs(value)  # quantiles are recorded with five digits
        below, up_to = (drawn < value - margin).mean(), (drawn <= value + margin).mean()
        assert below - 0.12 <= level <= up_to + 0.12
    assert drawn.mean() == pytest.approx(known["mean"], rel=0.1)


@pytest.mark.parametrize("dependence", comparison.DEPENDENCES, ids=lambda row: row.key)
def test_rank_correlations_are_those_measured(
    dependence: comparison.Dependence, generated: dict[str, list[Job]]
) -> None:
    known = MEASURED[dependence.application]["rank_correlations"]
    rho = comparison.rank_correlation(dependence, generated[dependence.application])
    expected = known.get(dependence.key)
    assert (rho is None) == (expected is None)
    if expected is not None:
        assert rho == pytest.approx(expected, abs=0.15)


def test_the_plan_tells_the_number_of_tools(generated: dict[str, list[Job]]) -> None:
    by_tools: dict[int, list[int]] = {}
    for job in generated["task_automation"]:
        (plan,) = job.stages[0].tasks
        assert isinstance(plan, LLMTask)
        tools = sum(name in TOOLS for name in names(job))
        by_tools.setdefault(tools, []).append(plan.output_tokens)
    medians = [float(np.median(by_tools[tools])) for tools in (2, 3, 4)]
    assert medians[0] < 0.8 * medians[1] < 0.8 * medians[2]


def test_every_parameter_names_its_source() -> None:
    contents = json.loads(sampling.PARAMETERS_FILE.read_text(encoding="utf-8"))
    for section in contents.values():
        for kind in ("marginals", "counts", "choices", "constants"):
            for entry in section.get(kind, {}).values():
                assert "traces/" in entry["source"] or "structures/" in entry["source"]


# ------------------------------------------------------------------ drawing and fitting


def test_a_marginal_interpolates_its_knots_and_stops_at_the_outer_ones() -> None:
    marginal = sampling.Marginal([-1.0, 0.0, 2.0], [10.0, 20.0, 60.0])
    assert [marginal.tokens(z) for z in (-9, -1, -0.5, 0, 0.5, 2, 9)] == [
        10,
        10,
        15,
        20,
        30,
        60,
        60,
    ]
    assert marginal.seconds(np.array([0.1234])) == [22.468]
    assert sampling.Marginal([0.0], [0.2]).tokens(0.0) == 1  # no task is empty
    assert sampling.Marginal([0.0], [0.2]).many_tokens(np.zeros(2), least=0) == [0, 0]


def test_a_count_has_the_fitted_frequencies() -> None:
    fitted = estimators.count({2: 21, 3: 31, 4: 31, 5: 30}, "traces/x")
    count = sampling.Count(fitted["values"], fitted["z"])
    drawn = Counter(count.at(z) for z in np.random.default_rng(0).standard_normal(40_000))
    for value, n in {2: 21, 3: 31, 4: 31, 5: 30}.items():
        assert drawn[value] / 40_000 == pytest.approx(n / 113, abs=0.01)


def test_a_choice_has_its_weights_and_leaves_out_what_is_used() -> None:
    rng = np.random.default_rng(0)
    choice = sampling.Choice({"a": 0.2, "b": 0.3, "c": 0.5})
    drawn = Counter(choice.draw(rng, without=("a",)) for _ in range(20_000))
    assert set(drawn) == {"b", "c"}
    assert drawn["b"] / 20_000 == pytest.approx(0.375, abs=0.015)
    assert choice.draw(rng, without=("a", "b", "c")) is None


def test_a_copula_draws_the_given_correlations() -> None:
    correlation = [[1.0, 0.7, -0.3], [0.7, 1.0, 0.2], [-0.3, 0.2, 1.0]]
    copula = sampling.Copula(("x", "y", "z"), correlation)
    assert np.array([row + [0.0] * (3 - len(row)) for row in copula.factor]) == pytest.approx(
        np.linalg.cholesky(np.array(correlation))
    )
    rng = np.random.default_rng(0)
    scores = np.array([list(copula.draw(rng).values()) for _ in range(20_000)])
    assert np.corrcoef(scores.T) == pytest.approx(np.array(correlation), abs=0.03)
    assert scores.std(axis=0) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("shared", [0.0, 0.4, 1.0])
def test_fitting_recovers_the_shared_variance_of_tasks(shared: float) -> None:
    rng = np.random.default_rng(1)
    groups = [
        np.exp(sampling.around(rng, float(rng.standard_normal()), shared, 6)).tolist()
        for _ in range(1500)
    ]
    assert estimators.shared_variance(groups) == pytest.approx(shared, abs=0.05)


def test_fitting_recovers_the_correlation_of_job_levels_behind_noisy_tasks() -> None:
    copula = sampling.Copula(("one", "many"), [[1.0, 0.8], [0.8, 1.0]])
    rng = np.random.default_rng(2)
    columns: dict[str, list[list[float]]] = {"one": [], "many": []}
    for _ in range(3000):
        level = copula.draw(rng)
        columns["one"].append([np.exp(level["one"])])
        columns["many"].append(sampling.around(rng, level["many"], 0.5, 3).tolist())
    fitted = estimators.copula(columns, "traces/x")["correlation"]
    assert fitted[0][1] == pytest.approx(0.8, abs=0.05)


def test_correlations_of_too_few_jobs_count_as_none() -> None:
    column = [[float(value)] for value in range(7)]
    assert estimators.copula({"a": column, "b": column}, "traces/x")["correlation"][0][1] == 0


def test_knots_are_quantiles_within_the_measured_range() -> None:
    values = np.random.default_rng(3).lognormal(size=500)
    knots = estimators.marginal([values.tolist()], "traces/x")
    assert len(knots["values"]) == 13
    assert knots["z"][6] == 0
    assert knots["values"][6] == pytest.approx(np.median(values), rel=1e-4)
    assert (knots["values"][0], knots["values"][-1]) == pytest.approx(
        (values.min(), values.max()), rel=1e-4
    )
    assert knots["z"] == sorted(knots["z"])


# ------------------------------------------------------------------ calibration


def test_fitting_again_reproduces_the_parameters(shared: Path) -> None:
    contents = calibration.parameters(Measured(shared))
    assert calibration.dump(contents) == sampling.PARAMETERS_FILE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_calibration_rewrites_the_page_as_it_is(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = calibration.ROOT / "docs" / "workloads.md"
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / page.name).write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(sampling, "PARAMETERS_FILE", tmp_path / "parameters.json")
    try:
        assert calibration.main(["--shared", str(shared), "--docs", str(docs)]) == 0
    finally:
        sampling.parameters.cache_clear()
    assert (docs / page.name).read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    for picture in ("workload_arrivals.png", "workload_calibration.png", "workload_demand.png"):
        assert (docs / "images" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--shared"),
        (["--shared", "{tmp}/nowhere"], "nowhere"),
        (["--shared", "{tmp}", "--speed", "3"], "--speed"),
    ],
)
def test_bad_arguments_end_with_one_line_and_nothing_written(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sampling, "PARAMETERS_FILE", tmp_path / "parameters.json")
    try:
        status = calibration.main([part.format(tmp=tmp_path) for part in arguments])
    except SystemExit as exit_:
        status = exit_.code  # type: ignore[assignment]
    errors = capsys.readouterr().err
    assert status == 2
    assert said in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("traces/hugginggpt.jsonl", "{}\n", "hugginggpt.jsonl:1"),
        ("structures/taskbench_graphs.jsonl", '{"src": 1}\n', "taskbench_graphs.jsonl:1"),
        ("structures/llmcompiler_got_templates.json", "{}", "llmcompiler"),
        ("structures/llmcompiler_got_templates.json", "not json", "not JSON"),
        ("arrivals/azure23_code.csv", "TIMESTAMP\nsoon\n", "azure23_code.csv:2"),
    ],
)
def test_malformed_measurements_are_named(
    name: str,
    text: str,
    said: str,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "shared"
    for folder in ("traces", "agent_traces", "structures", "arrivals"):
        (broken / folder).mkdir(parents=True)
        for file in (shared / folder).iterdir():
            if str(file).endswith(name):
                (broken / name).write_text(text, encoding="utf-8")
            else:
                (broken / folder / file.name).symlink_to(file)
    target = tmp_path / "parameters.json"
    monkeypatch.setattr(sampling, "PARAMETERS_FILE", target)
    assert calibration.main(["--shared", str(broken)]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == 1
    assert not target.exists()
