"""Nine applications, six of them LLMSched's (Zhu et al., ICDCS 2025), fitted to measured jobs.

``APPLICATIONS[name](rng, job_id)`` draws one job. The same generator state gives the same job on
any machine. Parameters, with the source of each, are in ``parameters.json``;
``docs/workloads.md`` compares what is drawn with what was measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmsched_gym.workload.applications import (
    code_generation,
    document_merging,
    fact_checking,
    map_reduce,
    parallel_function_calling,
    sequence_sorting,
    task_automation,
    tool_agent,
    web_search,
)
from llmsched_gym.workload.job import Job

APPLICATIONS: dict[str, Callable[[np.random.Generator, str], Job]] = {
    "sequence_sorting": sequence_sorting.draw,
    "document_merging": document_merging.draw,
    "code_generation": code_generation.draw,
    "web_search": web_search.draw,
    "task_automation": task_automation.draw,
    "parallel_function_calling": parallel_function_calling.draw,
    "fact_checking": fact_checking.draw,  # new ones at the end: the order seeds what is drawn
    "map_reduce": map_reduce.draw,
    "tool_agent": tool_agent.draw,
}

# Of the paper's six applications.
CLASSES: dict[str, tuple[str, ...]] = {
    "predefined": ("sequence_sorting", "document_merging"),
    "chain_like": ("code_generation", "web_search"),
    "planning": ("task_automation", "parallel_function_calling"),
}
