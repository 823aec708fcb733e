"""Map-reduce (predefined fan-out): the parts of a text are summarised, then their summaries.

LangChain's map-reduce summary, fitted to ``traces/langchain_mapreduce.jsonl``: generate_summary has
a task for each part, all known at arrival. While the summaries together exceed a limit, they are
packed in their order into groups that keep it, and each group is collapsed into one; whether there
is such a round, the stage before it reveals. The final summary reads what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmsched_gym.workload.applications.sampling import Parameters, around, llm_tasks, parameters
from llmsched_gym.workload.job import Job, Kind, Stage


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: generate_summary, rounds of collapse_summaries (none to four), the final summary."""
    fitted = parameters("map_reduce")
    marginals, shared, constants = fitted.marginals, fitted.shared, fitted.constants
    level = fitted.copula.draw(rng)
    parts = marginals["parts"].tokens(level["parts"])
    read, sizes = (
        marginals[name].many_tokens(around(rng, level[name], shared[name], parts))
        for name in ("prompt", "summary")
    )
    stages = [Stage("generate_summary", Kind.LLM, (), llm_tasks(read, sizes))]
    for _ in range(constants["rounds"]):
        if sum(sizes) <= constants["limit"]:
            break
        groups = packed(sizes, constants["limit"])
        sizes = _collapsed(rng, fitted, groups, level["collapsed"])
        last = len(stages) - 1
        tasks = llm_tasks([group + constants["collapse_summaries"] for group in groups], sizes)
        stages.append(Stage("collapse_summaries", Kind.LLM, (last,), tasks, last))
    final = llm_tasks(
        [sum(sizes) + constants["generate_final_summary"]],
        [marginals["final"].tokens(level["final"])],
    )
    stages.append(Stage("generate_final_summary", Kind.LLM, (len(stages) - 1,), final))
    return Job("map_reduce", job_id, tuple(stages))


def packed(sizes: Sequence[int], limit: int) -> list[int]:
    """The tokens of groups of neighbours that keep a limit, unless one alone exceeds it."""
    groups = [sizes[0]]
    for size in sizes[1:]:
        if groups[-1] + size <= limit:
            groups[-1] += size
        else:
            groups.append(size)
    return groups


def _collapsed(
    rng: np.random.Generator, fitted: Parameters, groups: Sequence[int], level: float
) -> list[int]:
    """Output tokens of each group: of a small one, less than half the limit, a share of it."""
    score = around(rng, level, fitted.shared["collapsed"], len(groups))
    outputs = fitted.marginals["collapsed"].many_tokens(score)
    shares = fitted.marginals["share_kept"].many(score).tolist()
    half = fitted.constants["limit"] / 2
    return [
        output if group >= half else max(1, round(share * group))
        for group, output, share in zip(groups, outputs, shares, strict=True)
    ]
