"""Sequence sorting (predefined): the Graph-of-Thoughts operation graph of merge sort.

A list of 32, 64 or 128 numbers is split into lists of 16; every list is sorted five times over,
pairs are merged ten times over, and each merged list is refined (five times; the last ten times).
The number of calls per stage is that of Graph of Thoughts (Besta et al., AAAI 2024,
``structures/llmcompiler_got_templates.json``: 31, 71 and 151 calls); the size shows in the stages
known at arrival. There is no trace of it: tokens come from the closest measured
stages, got_setintersection and got_keycount (see the sources in ``parameters.json``).
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import FloatArray, llm_tasks, parameters
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage

SIZES = (32, 64, 128)
SORTED_LENGTH = 16
CALLS_PER_SORT, CALLS_PER_MERGE, CALLS_PER_REFINE, CALLS_OF_LAST_REFINE = 5, 10, 5, 10


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: split, sort, then (merge, refine) once per doubling of the list length."""
    fitted = parameters("sequence_sorting")
    constants = fitted.constants
    size = SIZES[int(rng.integers(len(SIZES)))]
    verbosity = float(fitted.marginals["verbosity"].many(rng.standard_normal(1))[0])

    def list_tokens(length: int) -> int:
        return int(constants["list_tokens"] + constants["tokens_per_number"] * length)

    def outputs(nominal: float, count: int) -> list[int]:
        slips: FloatArray = fitted.marginals["slip"].many(rng.standard_normal(count))
        rounded: list[int] = np.rint(nominal * verbosity * slips).astype(np.int64).tolist()
        return [max(1, tokens) for tokens in rounded]

    lists = size // SORTED_LENGTH
    split_prompt = constants["split_prompt_of_128"] - constants["tokens_per_number"] * (128 - size)
    split_output = lists * (list_tokens(SORTED_LENGTH) + constants["key_tokens"])
    tasks: list[tuple[str, tuple[LLMTask, ...]]] = [
        ("split", llm_tasks([int(split_prompt)], outputs(split_output, 1)))
    ]

    def add(name: str, prompt: int, length: int, count: int) -> None:
        tasks.append((name, llm_tasks([prompt] * count, outputs(list_tokens(length), count))))

    add("sort", constants["examples_prompt"], SORTED_LENGTH, lists * CALLS_PER_SORT)
    length = SORTED_LENGTH
    while lists > 1:
        merge_prompt = constants["merge_prompt"] + 2 * list_tokens(length)
        lists, length = lists // 2, 2 * length
        add("merge", merge_prompt, length, lists * CALLS_PER_MERGE)
        refine_prompt = constants["examples_prompt"] + list_tokens(length)
        calls = CALLS_PER_REFINE if lists > 1 else CALLS_OF_LAST_REFINE
        add("refine", refine_prompt, length, lists * calls)
    stages = tuple(
        Stage(name, Kind.LLM, (index - 1,) if index else (), stage_tasks)
        for index, (name, stage_tasks) in enumerate(tasks)
    )
    return Job("sequence_sorting", job_id, stages)
