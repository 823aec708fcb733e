"""Fact checking (planning): claims are taken from a text, searched for, and judged one by one.

FacTool (Chern et al., 2023), fitted to ``traces/factool_kbqa.jsonl``: extract_claims, whose prompt
holds the text, reveals the number of claims b; then b queries, one search for all, b verdicts. The
prompt is visible at arrival, and its length tells b, the plan's tokens and so most of the demand.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import around, llm_tasks, parameters, regular_tasks
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: extract_claims, generate_queries [b tasks], search, verifies [b tasks]."""
    fitted = parameters("fact_checking")
    marginals, shared = fitted.marginals, fitted.shared
    level = fitted.copula.draw(rng)
    claims = fitted.counts["claims"].at(level["claims"])

    def tokens(name: str) -> list[int]:
        return marginals[name].many_tokens(around(rng, level[name], shared[name], claims))

    plan = LLMTask(
        marginals["prompt"].tokens(level["prompt"]), marginals["plan"].tokens(level["plan"])
    )
    queries = llm_tasks(tokens("query_prompt"), tokens("query_output"))
    search = regular_tasks(marginals["seconds"].seconds(np.array([level["seconds"]])))
    verdicts = llm_tasks(tokens("verdict_prompt"), tokens("verdict_output"))
    stages = (
        Stage("extract_claims", Kind.LLM, (), (plan,)),
        Stage("generate_queries", Kind.LLM, (0,), queries, 0),
        Stage("search", Kind.REGULAR, (1,), search, None, "search"),
        Stage("verifies", Kind.LLM, (2,), verdicts, 0),
    )
    return Job("fact_checking", job_id, stages)
