"""From measured jobs to the parameters of the generators: one function per application.

Every parameter is a quantile, a share of a variance, a correlation of normal scores, a frequency or
a median; each entry of the result names the trace it comes from. The method is that of
:mod:`llmsched_gym.workload.applications.sampling`, read backwards.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from llmsched_gym.workload.applications.sampling import FloatArray
from llmsched_gym.workload.applications.sequence_sorting import SIZES
from llmsched_gym.workload.job import Kind, LLMTask, RegularTask, Stage
from llmsched_gym.workload.traces import read_traces

# One entry per job, the values of its tasks in it (none, one or several).
Groups = Sequence[Sequence[float]]
Section = dict[str, Any]

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
LEVELS_OF_FEW = (0.25, 0.5, 0.75)
MANY, FEW = 20, 8
LEAST_JOBS_FOR_CORRELATION, LEAST_SHARE_FOR_CORRELATION = 8, 0.05
LEAST_JOBS_FOR_TOOL = 5
TRACES = (
    "code_feedback",
    "factool_kbqa",
    "factool_math",
    "got_docmerge",
    "got_keycount",
    "got_setintersection",
    "hugginggpt",
    "react_alfw",
    "react_fever",
)
TEMPLATES_FILE = Path("structures/llmcompiler_got_templates.json")
GRAPHS_FILE = Path("structures/taskbench_graphs.jsonl")
PROMPT_FIELD = "planner_prompt_file_tokens_total(gpt_prompts.py, planner+output few-shots)"


class Measured:
    """The measured jobs and structures of the shared folder.

    Raises
    ------
    FileNotFoundError
        if one of the files is not there; the message names it.
    ValueError
        if one of them cannot be read; the message names the file (and line).
    """

    def __init__(self, shared: Path) -> None:
        self.jobs = {name: read_traces(shared / "traces" / f"{name}.jsonl") for name in TRACES}
        templates = shared / TEMPLATES_FILE
        record = _record(f"{templates}", templates.read_text(encoding="utf-8"))
        try:
            questions = record["llmcompiler"]["parallelqa"]
            self.branches = {int(size): int(n) for size, n in questions["branch_hist"].items()}
            self.planner_prompt = round(questions[PROMPT_FIELD] + questions["question_tokens_mean"])
            calls = record["graph_of_thoughts"]["total_calls"]
            self.sorting_calls = {size: int(calls[f"sorting_{size:03d}_got"]) for size in SIZES}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{templates}: missing or malformed field: {error}") from None
        graphs = shared / GRAPHS_FILE
        self.graphs: list[dict[str, Any]] = []
        for number, line in enumerate(graphs.read_text(encoding="utf-8").splitlines(), 1):
            graph = _record(f"{graphs}:{number}", line)
            if not {"src", "dom", "n", "edges"} <= graph.keys():
                raise ValueError(f"{graphs}:{number}: src, dom, n and edges expected")
            self.graphs.append(graph)

    def stages(self, trace: str, name: str) -> list[list[Stage]]:
        """Per job of a trace, its stages of that name."""
        return [[stage for stage in job.stages if stage.name == name] for job in self.jobs[trace]]


def _record(where: str, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: an object expected")
    return record


def fit(measured: Measured) -> dict[str, Section]:
    """The contents of ``parameters.json``, without the measured statistics."""
    return {name: fit_section(measured) for name, fit_section in SECTIONS.items()}


# ------------------------------------------------------------------ values of stages


def prompts(stages: Iterable[Stage]) -> list[float]:
    """Prompt tokens of all LLM tasks."""
    return [t.prompt_tokens for s in stages for t in s.tasks if isinstance(t, LLMTask)]


def outputs(stages: Iterable[Stage]) -> list[float]:
    """Output tokens of all LLM tasks."""
    return [t.output_tokens for s in stages for t in s.tasks if isinstance(t, LLMTask)]


def seconds(stages: Iterable[Stage]) -> list[float]:
    """Durations of all regular tasks."""
    return [t.duration_s for s in stages for t in s.tasks if isinstance(t, RegularTask)]


# ------------------------------------------------------------------ estimators


def marginal(groups: Groups, source: str) -> Section:
    """Quantile knots over the pooled values; the extremes stand at levels 1/2n and 1 - 1/2n."""
    values = _pooled(groups)
    n = len(values)
    inner = LEVELS if n >= MANY else LEVELS_OF_FEW if n >= FEW else (0.5,)
    levels = (0.5 / n, *(level for level in inner if 0.5 / n < level < 1 - 0.5 / n), 1 - 0.5 / n)
    knots = np.quantile(values, (0.0, *levels[1:-1], 1.0))
    return {
        "z": [round(NormalDist().inv_cdf(level), 4) for level in levels],
        "values": [_rounded(value) for value in knots],
        "n": n,
        "source": source,
    }


def count(values: Mapping[int, int], source: str) -> Section:
    """A histogram of a small number, as thresholds of its normal score."""
    total = sum(values.values())
    below = np.cumsum([values[value] for value in sorted(values)])[:-1] / total
    return {
        "values": sorted(values),
        "z": [round(NormalDist().inv_cdf(float(level)), 4) for level in below],
        "n": total,
        "source": source,
    }


def choice(frequencies: Mapping[str, float], source: str) -> Section:
    """Relative frequencies of labels."""
    total = sum(frequencies.values())
    weights = {label: round(frequencies[label] / total, 4) for label in sorted(frequencies)}
    return {"weights": weights, "n": round(total), "source": source}


def constant(value: Any, source: str) -> Section:
    """A number (or a list) that does not vary."""
    return {"value": value, "source": source}


def shared_variance(groups: Groups) -> float:
    """Correlation of the normal scores of two tasks of one job (intraclass), 0 to 1."""
    products = pairs = 0.0
    for z in _scores(groups):
        products += z.sum() ** 2 - (z**2).sum()
        pairs += len(z) * (len(z) - 1)
    return round(float(min(1.0, max(0.0, products / pairs))), 3) if pairs else 1.0


def copula(columns: Mapping[str, Groups], source: str) -> Section:
    """Correlations between the job levels of several quantities.

    For each pair the covariance of the jobs' mean scores, divided by the part of the standard
    deviation that tasks of one job share. Independent by definition: a pair seen in fewer than 8
    jobs; a quantity whose tasks share less than 0.05 of their variance, as it has no job level.
    """
    names = list(columns)
    means, share = {}, {}
    for name in names:
        means[name] = np.array([z.mean() if len(z) else np.nan for z in _scores(columns[name])])
        share[name] = shared_variance(columns[name])
    matrix = np.eye(len(names))
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            both = ~np.isnan(means[first]) & ~np.isnan(means[second])
            if (
                both.sum() < LEAST_JOBS_FOR_CORRELATION
                or min(share[first], share[second]) < LEAST_SHARE_FOR_CORRELATION
            ):
                continue
            covariance = np.cov(means[first][both], means[second][both])[0, 1]
            matrix[i, j] = matrix[j, i] = covariance / np.sqrt(share[first] * share[second])
    return {"names": names, "correlation": _positive_definite(matrix), "source": source}


def _pooled(groups: Groups) -> FloatArray:
    return np.array([value for group in groups for value in group], np.float64)


def _scores(groups: Groups) -> list[FloatArray]:
    """Normal scores of the pooled values (mean 0, variance 1), per job."""
    values = _pooled(groups)
    levels = (rankdata(values) - 0.5) / len(values)
    scores = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
    deviation = scores.std()
    if deviation > 0:
        scores /= deviation
    return np.split(scores, np.cumsum([len(group) for group in groups])[:-1])


def _positive_definite(matrix: NDArray[np.float64]) -> list[list[float]]:
    """The nearest usable correlation matrix: no eigenvalue below 0.02, ones on the diagonal."""
    limited = np.clip(matrix, -0.97, 0.97)
    np.fill_diagonal(limited, 1.0)
    values, vectors = np.linalg.eigh(limited)
    fixed = vectors @ np.diag(np.maximum(values, 0.02)) @ vectors.T
    scale = np.sqrt(np.diag(fixed))
    fixed = fixed / scale[:, None] / scale[None, :]
    return [[round(float(value), 3) + 0.0 for value in row] for row in fixed]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _median(values: Iterable[float]) -> int:
    return round(float(np.median(list(values))))


# ------------------------------------------------------------------ applications


def fit_sequence_sorting(measured: Measured) -> Section:
    """Token arithmetic of number lists (set intersection); how lengths stray (keyword counting)."""
    sets, counting = "traces/got_setintersection.jsonl", "traces/got_keycount.jsonl"
    splits = measured.stages("got_setintersection", "split")
    intersections = measured.stages("got_setintersection", "intersect_1")
    unions = measured.stages("got_setintersection", "aggregate_1")
    split_output = _median(value for group in splits for value in outputs(group))
    per_number, per_list = 3, 1
    lists = 128 // 16
    split_prompt = _median(value for group in splits for value in prompts(group))
    merge_prompt = _median(
        p - o for group in unions for p, o in zip(prompts(group), outputs(group), strict=True)
    )
    key_tokens = (split_output - 128 * per_number) / lists - per_list
    examples = _median(value for group in intersections for value in prompts(group))
    copies = measured.stages("got_keycount", "split")
    copied = np.array([value for group in copies for value in outputs(group)])
    slips = []
    for job in measured.jobs["got_keycount"]:
        for stage in job.stages:
            if stage.name.startswith("count_"):
                tokens = np.array(outputs([stage]))
                slips.append((tokens / tokens.mean()).tolist())
    return {
        "constants": {
            "tokens_per_number": constant(
                per_number, f"{sets}: every list of k numbers has 1 + 3k output tokens"
            ),
            "tokens_per_list": constant(per_list, f"{sets}: as tokens_per_number"),
            "tokens_per_key": constant(
                key_tokens, f"{sets}: split writes 128 numbers in 8 named lists"
            ),
            "split_prompt": constant(
                split_prompt - 128 * per_number, f"{sets}: prompt of split less its 128 numbers"
            ),
            "sort_prompt": constant(examples, f"{sets}: prompt with examples of intersect"),
            "merge_prompt": constant(
                merge_prompt - per_list,
                f"{sets}: prompt of aggregate less the two lists it unites",
            ),
            "refine_prompt": constant(
                examples, f"{sets}: prompt with examples of intersect; no refine step was measured"
            ),
        },
        "marginals": {
            "verbosity": marginal(
                [(copied / copied.mean()).tolist()],
                f"{counting}: output tokens of split (it copies its text) over their mean",
            ),
            "slip": marginal(
                slips, f"{counting}: output tokens of count_* over the mean of the stage in its job"
            ),
        },
    }


def fit_document_merging(measured: Measured) -> Section:
    """Lengths of all stages; correlations of the stages before the cache starts to repeat."""
    source = "traces/got_docmerge.jsonl"
    written = {
        name: [outputs(group) for group in measured.stages("got_docmerge", name)]
        for name in ("generate1", "aggregate", "generate2")
    }
    documents = [prompts(group)[:1] for group in measured.stages("got_docmerge", "generate1")]
    scores = {
        name: [outputs(group) for group in measured.stages("got_docmerge", name)]
        for name in ("score1_1", "score1_2", "score2_1", "score2_2", "score3_1")
    }
    fresh = [len(set(texts)) == 2 for texts in written["generate1"]]  # two different texts
    texts = [
        group if new else group[:1] for group, new in zip(written["generate1"], fresh, strict=True)
    ]
    within = shared_variance(scores["score1_1"])
    both = [
        [float(np.mean(first)), float(np.mean(second))]
        for first, second, new in zip(scores["score1_1"], scores["score1_2"], fresh, strict=True)
        if new
    ]
    extra: dict[str, list[float]] = {"score": [], "aggregate": [], "generate2": []}
    for job in measured.jobs["got_docmerge"]:
        stage = {stage.name: stage for stage in job.stages}
        docs, made = prompts([stage["generate1"]])[0], outputs([stage["generate1"]])
        extra["score"].append(prompts([stage["score1_1"]])[0] - docs - made[0])
        extra["aggregate"].append(prompts([stage["aggregate"]])[0] - docs - sum(made))
        left = [prompts([stage["generate2"]])[0] - docs - o for o in outputs([stage["aggregate"]])]
        extra["generate2"].append(min(left, key=abs))
    return {
        "constants": {
            f"{name}_prompt": constant(
                _median(values), f"{source}: median prompt of {name} less documents and texts in it"
            )
            for name, values in extra.items()
        },
        "marginals": {
            "documents": marginal(documents, f"{source}: prompt of generate1"),
            **{
                name: marginal(groups, f"{source}: output of {name}")
                for name, groups in written.items()
            },
            "score": marginal(
                [group for groups in scores.values() for group in groups],
                f"{source}: output of score*",
            ),
        },
        "shared": {
            "text": shared_variance(texts),
            "score": within,
            "score_of_texts": shared_variance(both),
        },
        "copula": copula(
            {"documents": documents, "text": texts, "score": scores["score1_1"]},
            f"{source}: generate1 and score1_1 only (a cache repeats later texts)",
        ),
    }


def fit_code_generation(measured: Measured) -> Section:
    """Rounds, growth of the prompt by program and error message, seconds of a run."""
    source = "traces/code_feedback.jsonl"
    calls = measured.stages("code_feedback", "code_generation")
    rounds = np.array([len(group) for group in calls])
    again = [
        round(float((rounds > number).sum() / (rounds >= number).sum()), 4)
        for number in range(1, rounds.max())
    ]
    columns: dict[str, Groups] = {
        "prompt": [prompts(group)[:1] for group in calls],
        "output": [outputs(group)[:1] for group in calls],
        "retry": [outputs(group)[1:] for group in calls],
        "feedback": [_growth(group) for group in calls],
        "seconds": [seconds(group) for group in measured.stages("code_feedback", "code_execution")],
    }
    return {
        "constants": {
            "again": constant(again, f"{source}: share of jobs that go on after round 1, 2, ...")
        },
        **_loop(columns, ("retry", "feedback", "seconds"), source),
    }


def fit_web_search(measured: Measured) -> Section:
    """The share of long sessions."""
    long, short = len(measured.jobs["react_alfw"]), len(measured.jobs["react_fever"])
    return {
        "constants": {
            "long_sessions": constant(
                round(long / (long + short), 4),
                f"{long} jobs of traces/react_alfw.jsonl, {short} of traces/react_fever.jsonl",
            )
        }
    }


def fit_react(trace: str, action: str) -> Callable[[Measured], Section]:
    """One kind of session: number and tokens of thoughts, what searches return, their seconds."""

    def fit_session(measured: Measured) -> Section:
        thoughts = measured.stages(trace, "thought")
        searches = measured.stages(trace, action)
        columns: dict[str, Groups] = {
            "thoughts": [[len(group)] for group in thoughts],
            "prompt": [prompts(group)[:1] for group in thoughts],
            "first": [outputs(group)[:1] for group in thoughts],
            "second": [outputs(group)[1:2] for group in thoughts],
            "later": [outputs(group)[2:] for group in thoughts],
            "result": [_growth(group) for group in thoughts],
            "seconds": [seconds(group) for group in searches],
        }
        return _loop(columns, ("later", "result", "seconds"), f"traces/{trace}.jsonl")

    return fit_session


def fit_task_automation(measured: Measured) -> Section:
    """Tools, their order, tokens and seconds (HuggingGPT); their dependencies (TaskBench plans)."""
    source = "traces/hugginggpt.jsonl"
    jobs = measured.jobs["hugginggpt"]
    names = Counter(stage.name for job in jobs for stage in job.stages)
    fixed = ("task_planning", "choose_model", "response_results")
    tools = sorted(
        name for name, n in names.items() if n >= LEAST_JOBS_FOR_TOOL and name not in fixed
    )
    number = [sum(stage.name not in fixed for stage in job.stages) for job in jobs]
    following: dict[str, Counter[str]] = {}
    positions: dict[str, Counter[str]] = {}
    chosen: set[str] = set()
    for job, size in zip(jobs, number, strict=True):
        place: dict[int, int] = {}  # stage -> number of the tool, in the order of the plan
        for index, stage in enumerate(job.stages):
            if stage.name in fixed:
                continue
            before = stage.parents[0]
            if job.stages[before].name == "choose_model":
                chosen.add(stage.name)
                before = job.stages[before].parents[0]
            place[index] = len(place)
            after = f"after_{job.stages[before].name}" if before in place else _first(size)
            if stage.name in tools:
                following.setdefault(after, Counter())[stage.name] += 1
            if place[index]:
                needs = [place[before]] if before in place else []
                _count_dependence(positions, needs, place[index], size)
    marginals = {}
    for name in (*fixed, *tools):
        stages = measured.stages("hugginggpt", name)
        if any(stage.kind == Kind.REGULAR for group in stages for stage in group):
            column = [seconds(group) for group in stages]
            marginals[f"{name}_seconds"] = marginal(column, f"{source}: seconds of {name}")
        else:
            for what, values in (("prompt", prompts), ("output", outputs)):
                column = [values(group) for group in stages]
                marginals[f"{name}_{what}"] = marginal(column, f"{source}: {what} of {name}")
    plans = measured.stages("hugginggpt", "task_planning")
    answers = measured.stages("hugginggpt", "response_results")
    columns: dict[str, Groups] = {
        "tools": [[n] for n in number],
        "plan_prompt": [prompts(group) for group in plans],
        "plan_output": [outputs(group) for group in plans],
        "response_prompt": [prompts(group) for group in answers],
        "response_output": [outputs(group) for group in answers],
    }
    return {
        "counts": {"tools": count(Counter(number), f"{source}: tools of a job")},
        "constants": {
            "choose_model_before": constant(
                sorted(chosen), f"{source}: tools that always follow choose_model"
            )
        },
        "choices": {
            **{
                key: choice(
                    counter, f"{source}: earlier tools needed (both: taskbench_graphs.jsonl)"
                )
                for key, counter in _with_joins(positions, measured.graphs).items()
            },
            **{
                key: choice(counter, f"{source}: types of tools, by the tool whose result they use")
                for key, counter in sorted(following.items())
                if key.removeprefix("after_") in tools or key.startswith("first_")
            },
            "any_tool": choice({name: names[name] for name in tools}, f"{source}: all tools"),
        },
        "marginals": marginals,
        "copula": copula(columns, source),
    }


def fit_parallel_function_calling(measured: Measured) -> Section:
    """Fan-out and planner prompt of LLMCompiler; tokens and seconds of the closest stages."""
    structure = "structures/llmcompiler_got_templates.json: llmcompiler.parallelqa"
    kbqa, math = "traces/factool_kbqa.jsonl", "traces/factool_math.jsonl"
    plans = [outputs(group)[0] for group in measured.stages("factool_kbqa", "extract_claims")]
    verdicts = measured.stages("factool_kbqa", "verifies")
    claims = [len(group[0].tasks) for group in verdicts]
    bare = min(value for group in verdicts for value in prompts(group))
    queries = measured.stages("factool_math", "generate_queries")
    searches = [seconds(group) for group in measured.stages("react_fever", "search")]
    columns: dict[str, Groups] = {
        "branches": [[n] for n in claims],
        "tokens_per_call": [[plan / n] for plan, n in zip(plans, claims, strict=True)],
        "evidence": [[value - bare for value in prompts(group)] for group in verdicts],
        "joiner_output": [outputs(group) for group in verdicts],
    }
    return {
        "counts": {"branches": count(measured.branches, f"{structure}.branch_hist")},
        "constants": {
            "planner_prompt": constant(
                measured.planner_prompt, f"{structure}: prompt file and mean question"
            ),
            "joiner_prompt": constant(
                int(bare), f"{kbqa}: smallest prompt of verifies (instructions and question)"
            ),
        },
        "marginals": {
            "tokens_per_call": marginal(
                columns["tokens_per_call"], f"{kbqa}: output of extract_claims per claim"
            ),
            "search_seconds": marginal(searches, "traces/react_fever.jsonl: seconds of search"),
            "math_prompt": marginal(
                [prompts(group) for group in queries], f"{math}: prompt of generate_queries"
            ),
            "math_output": marginal(
                [outputs(group) for group in queries], f"{math}: output of generate_queries"
            ),
            "evidence": marginal(
                columns["evidence"], f"{kbqa}: prompt of verifies above its smallest one"
            ),
            "joiner_output": marginal(columns["joiner_output"], f"{kbqa}: output of verifies"),
        },
        "shared": {
            "math_prompt": shared_variance([prompts(group) for group in queries]),
            "math_output": shared_variance([outputs(group) for group in queries]),
            "evidence": shared_variance(columns["evidence"]),
        },
        "copula": copula(columns, f"{kbqa}: claims, tokens per claim, evidence, verdict"),
    }


def _loop(columns: Mapping[str, Groups], repeated: Sequence[str], source: str) -> Section:
    """Marginals and copula of the columns of a loop, shared variance of those drawn every round."""
    return {
        "marginals": {
            name: marginal(groups, f"{source}: {name}") for name, groups in columns.items()
        },
        "shared": {name: shared_variance(columns[name]) for name in repeated},
        "copula": copula(columns, source),
    }


def _growth(calls: Sequence[Stage]) -> list[float]:
    """Tokens that a prompt gains over the previous prompt and its output."""
    before, written = prompts(calls), outputs(calls)
    return [after - p - o for after, p, o in zip(before[1:], before, written, strict=False)]


def _first(size: int) -> str:
    return f"first_of_{min(size, 3)}"


def _count_dependence(
    positions: dict[str, Counter[str]], needs: Sequence[int], number: int, size: int
) -> None:
    """Count how tool ``number`` (from 0) of a job of ``size`` tools depends on earlier ones."""
    others = [tool for tool in needs if tool != number - 1]
    if number - 1 in needs:
        kind = "both" if others else "previous"
    else:
        kind = "earlier" if others else "none"
    key = f"tool_{min(number + 1, 3)}_of_{min(size, 4)}"
    positions.setdefault(key, Counter())[kind] += 1


def _with_joins(
    positions: Mapping[str, Counter[str]], graphs: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Measured dependences, and tools that need two others as often as in the plans of TaskBench.

    Only LLM-made plans for Hugging Face tools, in the order of their dependencies, count.
    """
    planned: dict[str, Counter[str]] = {}
    for graph in graphs:
        if not graph["src"].startswith("taskbench_plan_") or graph["dom"] != "huggingface":
            continue
        if any(tool > user for tool, user in graph["edges"]):
            continue
        for number in range(1, graph["n"]):
            needs = [tool for tool, user in graph["edges"] if user == number]
            _count_dependence(planned, needs, number, graph["n"])
    joined: dict[str, dict[str, float]] = {}
    for key, counter in sorted(positions.items()):
        joins, others = planned[key]["both"], planned[key].total() - planned[key]["both"]
        joined[key] = dict(counter)
        if joins:
            joined[key]["both"] = counter.total() * joins / others
    return joined


SECTIONS: dict[str, Callable[[Measured], Section]] = {
    "sequence_sorting": fit_sequence_sorting,
    "document_merging": fit_document_merging,
    "code_generation": fit_code_generation,
    "web_search": fit_web_search,
    "web_search_short": fit_react("react_fever", "search"),
    "web_search_long": fit_react("react_alfw", "env_step"),
    "task_automation": fit_task_automation,
    "parallel_function_calling": fit_parallel_function_calling,
}
