"""From measured jobs to the parameters of the generators: one function per application.

Each entry of the result names the trace it comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from llmsched_gym.workload.fitting.estimators import (
    Groups,
    Section,
    choice,
    constant,
    copula,
    count,
    marginal,
    shared_variance,
)
from llmsched_gym.workload.fitting.measured import FILES, Measured, outputs, prompts, seconds
from llmsched_gym.workload.job import Job, Kind, Stage

LEAST_JOBS_FOR_TOOL = 5
NO_TOOLS = ("task_planning", "choose_model", "response_results")  # of HuggingGPT


def fit(measured: Measured) -> dict[str, Section]:
    """The contents of ``parameters.json``, without the measured statistics."""
    return {name: fit_section(measured) for name, fit_section in SECTIONS.items()}


def _median(values: Iterable[float]) -> int:
    return round(float(np.median(list(values))))


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


def fit_react(trace: str, thought: str, action: str) -> Callable[[Measured], Section]:
    """One kind of session: number and tokens of thoughts, what searches return, their seconds."""

    def fit_session(measured: Measured) -> Section:
        thoughts = measured.stages(trace, thought)
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
        return _loop(columns, ("later", "result", "seconds"), FILES[trace].as_posix())

    return fit_session


def fit_task_automation(measured: Measured) -> Section:
    """Tools, their order, tokens and seconds (HuggingGPT); their dependencies (TaskBench plans)."""
    source = "traces/hugginggpt.jsonl"
    jobs = measured.jobs["hugginggpt"]
    names = Counter(stage.name for job in jobs for stage in job.stages)
    tools = sorted(
        name for name, n in names.items() if n >= LEAST_JOBS_FOR_TOOL and name not in NO_TOOLS
    )
    number = [sum(stage.name not in NO_TOOLS for stage in job.stages) for job in jobs]
    following, positions, chosen = _tools_of_plans(jobs, number, tools)
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
        "marginals": _stage_marginals(measured, (*NO_TOOLS, *tools), source),
        "copula": copula(columns, source),
    }


def _tools_of_plans(
    jobs: Sequence[Job], number: Sequence[int], tools: Sequence[str]
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]], set[str]]:
    """Which tools follow which, on how many a tool depends, and which need a model chosen first."""
    following: dict[str, Counter[str]] = {}
    positions: dict[str, Counter[str]] = {}
    chosen: set[str] = set()
    for job, size in zip(jobs, number, strict=True):
        place: dict[int, int] = {}  # stage -> number of the tool, in the order of the plan
        for index, stage in enumerate(job.stages):
            if stage.name in NO_TOOLS:
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
    return following, positions, chosen


def _stage_marginals(measured: Measured, names: Sequence[str], source: str) -> Section:
    """Of the seconds of tools, and of the tokens of LLM calls."""
    marginals = {}
    for name in names:
        stages = measured.stages("hugginggpt", name)
        if any(stage.kind == Kind.REGULAR for group in stages for stage in group):
            column = [seconds(group) for group in stages]
            marginals[f"{name}_seconds"] = marginal(column, f"{source}: seconds of {name}")
        else:
            for what, values in (("prompt", prompts), ("output", outputs)):
                column = [values(group) for group in stages]
                marginals[f"{name}_{what}"] = marginal(column, f"{source}: {what} of {name}")
    return marginals


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


def fit_fact_checking(measured: Measured) -> Section:
    """Claims, and the tokens of every stage, tied to the prompt that is there at arrival."""
    source = "traces/factool_kbqa.jsonl"
    plans, queries, searches, verdicts = (
        measured.stages("factool_kbqa", name)
        for name in ("extract_claims", "generate_queries", "search", "verifies")
    )
    claims = [len(group[0].tasks) for group in verdicts]
    columns: dict[str, Groups] = {
        "prompt": [prompts(group) for group in plans],
        "claims": [[n] for n in claims],
        "plan": [outputs(group) for group in plans],
        "query_prompt": [prompts(group) for group in queries],
        "query_output": [outputs(group) for group in queries],
        "seconds": [seconds(group) for group in searches],
        "verdict_prompt": [prompts(group) for group in verdicts],
        "verdict_output": [outputs(group) for group in verdicts],
    }
    drawn = {name: groups for name, groups in columns.items() if name != "claims"}
    repeated = [name for name in columns if name.startswith(("query", "verdict"))]
    return {
        "counts": {"claims": count(Counter(claims), f"{source}: claims of a text")},
        "marginals": {
            name: marginal(groups, f"{source}: {name}") for name, groups in drawn.items()
        },
        "shared": {name: shared_variance(columns[name]) for name in repeated},
        "copula": copula(columns, source),
    }


def fit_map_reduce(measured: Measured) -> Section:
    """Parts, their summaries, the limit above which these are collapsed, what becomes of them."""
    source, jobs = "traces/langchain_mapreduce.jsonl", measured.jobs["langchain_mapreduce"]
    parts = [job.stages[0] for job in jobs]
    rounds = measured.stages("langchain_mapreduce", "collapse_summaries")
    limit = int(
        max(
            sum(outputs([part]))
            for part, job in zip(parts, jobs, strict=True)
            if len(job.stages) == 2
        )
    )
    added = {
        name: _median(
            (sum(prompts([after])) - sum(outputs([before]))) / len(after.tasks)
            for job in jobs
            for before, after in pairwise(job.stages)
            if after.name == name
        )
        for name in ("collapse_summaries", "generate_final_summary")
    }
    groups = [  # of first rounds: a few jobs that write too much go through all the others
        list(zip(prompts(row[:1]), outputs(row[:1]), strict=True)) for row in rounds
    ]
    columns: dict[str, Groups] = {
        "parts": [[len(part.tasks)] for part in parts],
        "prompt": [prompts([part]) for part in parts],
        "summary": [outputs([part]) for part in parts],
        "collapsed": [[o for p, o in row if p >= limit / 2] for row in groups],
        "final": [outputs(job.stages[-1:]) for job in jobs],
    }
    small = [
        [o / (p - added["collapse_summaries"]) for p, o in row if p < limit / 2] for row in groups
    ]
    return {
        "constants": {
            "limit": constant(limit, f"{source}: most tokens of summaries that were not collapsed"),
            "rounds": constant(max(map(len, rounds)), f"{source}: most rounds of one job"),
            **{
                name: constant(
                    value, f"{source}: median prompt of {name} less the summaries in it, per task"
                )
                for name, value in added.items()
            },
        },
        "marginals": {
            **{name: marginal(values, f"{source}: {name}") for name, values in columns.items()},
            "share_kept": marginal(
                small, f"{source}: output of collapse_summaries over what it reads, below limit / 2"
            ),
        },
        "shared": {
            name: shared_variance(columns[name]) for name in ("prompt", "summary", "collapsed")
        },
        "copula": copula(columns, source),
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
    "web_search_short": fit_react("react_fever", "thought", "search"),
    "web_search_long": fit_react("react_alfw", "thought", "env_step"),
    "task_automation": fit_task_automation,
    "parallel_function_calling": fit_parallel_function_calling,
    "fact_checking": fit_fact_checking,
    "map_reduce": fit_map_reduce,
    "tool_agent": fit_react("tau_airline", "llm", "tool"),
}
