"""Parallel function calling (planning): a planner calls b searches and b calculations at once.

The graph of LLMCompiler's ParallelQA (Kim et al., ICML 2024): planner -> b x (search -> math LLM)
-> joiner, with its measured histogram of b and its planner prompt
(``structures/llmcompiler_got_templates.json``). The b branches are the parallel tasks of two
stages, so b is a fan-out that the planner reveals. No trace of it exists: tokens and seconds come
from the closest measured stages (sources in ``parameters.json``), the dependence of the plan's
length on b from factool_kbqa, whose first stage reveals how many claims are checked.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import around, llm_tasks, parameters, regular_tasks
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: planner, search [b tasks] and math [b tasks] it reveals, joiner."""
    fitted = parameters("parallel_function_calling")
    marginals, shared = fitted.marginals, fitted.shared
    level = fitted.copula.draw(rng)
    branches = fitted.counts["branches"].at(level["branches"])
    per_call = float(marginals["tokens_per_call"].many(np.array([level["tokens_per_call"]]))[0])
    plan = LLMTask(fitted.constants["planner_prompt"], max(1, round(2 * branches * per_call)))
    seconds = marginals["search_seconds"].seconds(rng.standard_normal(branches))
    math_level = float(rng.standard_normal())
    math_prompts = marginals["math_prompt"].many_tokens(
        around(rng, float(rng.standard_normal()), shared["math_prompt"], branches)
    )
    math_outputs = marginals["math_output"].many_tokens(
        around(rng, math_level, shared["math_output"], branches)
    )
    evidence = marginals["evidence"].many_tokens(
        around(rng, level["evidence"], shared["evidence"], branches), least=0
    )
    answer = LLMTask(
        fitted.constants["joiner_prompt"] + sum(evidence),
        marginals["joiner_output"].tokens(level["joiner_output"]),
    )
    stages = (
        Stage("planner", Kind.LLM, (), (plan,)),
        Stage("search", Kind.REGULAR, (0,), regular_tasks(seconds), 0, "search"),
        Stage("math", Kind.LLM, (1,), llm_tasks(math_prompts, math_outputs), 0),
        Stage("joiner", Kind.LLM, (2,), (answer,)),
    )
    return Job("parallel_function_calling", job_id, stages)
