"""Document merging (predefined): the Graph-of-Thoughts graph that was measured, 105 LLM calls.

Two merged texts are generated and scored by 20 calls each; two aggregates are made of them and
scored; one last text is written and scored. Structure and lengths: ``traces/got_docmerge.jsonl``.
A prompt is made of what it holds (the documents, the texts so far), as in the trace. Correlations
are fitted to the first three stages: in the later ones a response cache repeats texts.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import around, llm_tasks, parameters
from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage

SCORES_PER_TEXT = 20


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: eight stages, one after the other, all known at arrival."""
    fitted = parameters("document_merging")
    marginals, shared, extra = fitted.marginals, fitted.shared, fitted.constants
    level = fitted.copula.draw(rng)
    documents = marginals["documents"].tokens(level["documents"])
    text_scores = around(rng, level["text"], shared["text"], 5)
    generated = marginals["generate1"].many_tokens(text_scores[:2])
    aggregated = marginals["aggregate"].many_tokens(text_scores[2:4])
    last = marginals["generate2"].many_tokens(text_scores[4:])
    score_levels = around(rng, level["score"], shared["score_of_texts"], 5)

    def prompt(extra_tokens: int, *texts: int) -> int:
        return max(1, documents + sum(texts) + extra_tokens)

    def score(number: int, text: int) -> tuple[LLMTask, ...]:
        outputs = around(rng, score_levels[number], shared["score"], SCORES_PER_TEXT)
        prompts = [prompt(extra["score_prompt"], text)] * SCORES_PER_TEXT
        return llm_tasks(prompts, marginals["score"].many_tokens(outputs))

    tasks = (
        ("generate1", llm_tasks([documents] * 2, generated)),
        ("score1_1", score(0, generated[0])),
        ("score1_2", score(1, generated[1])),
        ("aggregate", llm_tasks([prompt(extra["aggregate_prompt"], *generated)] * 2, aggregated)),
        ("score2_1", score(2, aggregated[0])),
        ("score2_2", score(3, aggregated[1])),
        ("generate2", llm_tasks([prompt(extra["generate2_prompt"], aggregated[0])], last)),
        ("score3_1", score(4, last[0])),
    )
    stages = tuple(
        Stage(name, Kind.LLM, (index - 1,) if index else (), stage_tasks)
        for index, (name, stage_tasks) in enumerate(tasks)
    )
    return Job("document_merging", job_id, stages)
