"""Web search in ReAct style (chain-like): think, search, think again, until the answer is found.

Each thought reveals whether a search and another thought follow, as in
``traces/react_fever.jsonl``. Two kinds of session in the proportion in which they were measured:
short ones (fact checking, one or two searches of seconds: react_fever) and long ones (up to 28
steps of a fraction of a second: react_alfw, where a step of a text environment stands for
reading on; the step after its last thought is left out, so that both end with a thought).
Prompts hold everything before them.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import around, parameters
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: a thought, then (search, thought) pairs, each pair revealed by the last thought."""
    long = rng.random() < parameters("web_search").constants["long_sessions"]
    fitted = parameters("web_search_long" if long else "web_search_short")
    marginals, shared = fitted.marginals, fitted.shared
    level = fitted.copula.draw(rng)
    thoughts = marginals["thoughts"].tokens(level["thoughts"], least=2)
    later = around(rng, level["later"], shared["later"], thoughts - 2)
    outputs = [
        marginals["first"].tokens(level["first"]),
        marginals["second"].tokens(level["second"]),
        *marginals["later"].many_tokens(later),
    ]
    found = around(rng, level["result"], shared["result"], thoughts - 1)
    results = marginals["result"].many_tokens(found)
    searches = around(rng, level["seconds"], shared["seconds"], thoughts - 1)
    seconds = marginals["seconds"].seconds(searches)

    prompt = marginals["prompt"].tokens(level["prompt"])
    stages = [Stage("thought", Kind.LLM, (), (LLMTask(prompt, outputs[0]),))]
    for index in range(thoughts - 1):
        last = len(stages) - 1
        prompt += outputs[index] + results[index]
        search = RegularTask(seconds[index])
        stages.append(Stage("search", Kind.REGULAR, (last,), (search,), last, "search"))
        thought = LLMTask(prompt, outputs[index + 1])
        stages.append(Stage("thought", Kind.LLM, (last + 1,), (thought,), last))
    return Job("web_search", job_id, tuple(stages))
