"""Sequence sorting (predefined): the Graph-of-Thoughts operation graph of merge sort.

A list of 32, 64 or 128 numbers is split into lists of 16; each of them is sorted by five calls;
then, as long as there are several, pairs are merged (ten calls each) and the results refined (five
calls each, ten in the end). The number of calls per stage is that of Graph of Thoughts (Besta et
al., AAAI 2024; ``structures/llmcompiler_got_templates.json``: 31, 71, 151 calls in all), and so
the size shows in the stages known at arrival. No trace of it exists: tokens come from the closest
measured stages, in got_setintersection and got_keycount (sources in ``parameters.json``).
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import llm_tasks, parameters
from llmsched_gym.workload.job import Job, Kind, Stage

SIZES = (32, 64, 128)
SORTED_LENGTH = 16
CALLS_PER_SORT, CALLS_PER_MERGE, CALLS_PER_REFINE, CALLS_OF_LAST_REFINE = 5, 10, 5, 10


def operations(size: int) -> list[tuple[str, int, int]]:
    """(stage name, length of the lists it writes, number of calls) in order, for one size."""
    lists, length = size // SORTED_LENGTH, SORTED_LENGTH
    steps = [("split", size, 1), ("sort", length, lists * CALLS_PER_SORT)]
    while lists > 1:
        lists, length = lists // 2, 2 * length
        refines = CALLS_PER_REFINE if lists > 1 else CALLS_OF_LAST_REFINE
        steps += [("merge", length, lists * CALLS_PER_MERGE), ("refine", length, lists * refines)]
    return steps


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job of a random size: a chain of 4, 6 or 8 stages, all known at arrival."""
    fitted = parameters("sequence_sorting")
    constants, marginals = fitted.constants, fitted.marginals
    per_number, per_list = constants["tokens_per_number"], constants["tokens_per_list"]
    size = SIZES[int(rng.integers(len(SIZES)))]
    verbosity = float(marginals["verbosity"].many(rng.standard_normal(1))[0])

    stages: list[Stage] = []
    for name, length, calls in operations(size):
        prompt = constants[f"{name}_prompt"]
        nominal = per_list + per_number * length
        if name == "split":
            lists = length // SORTED_LENGTH
            prompt += per_number * length
            nominal = per_number * length + lists * (per_list + constants["tokens_per_key"])
        elif name == "merge":
            prompt += 2 * per_list + per_number * length
        elif name == "refine":
            prompt += nominal
        outputs = nominal * verbosity * marginals["slip"].many(rng.standard_normal(calls))
        tokens: list[int] = np.maximum(1, np.rint(outputs)).astype(np.int64).tolist()
        parents = (len(stages) - 1,) if stages else ()
        stages.append(Stage(name, Kind.LLM, parents, llm_tasks([prompt] * calls, tokens)))
    return Job("sequence_sorting", job_id, tuple(stages))
