"""Document merging (predefined): the Graph-of-Thoughts graph that was measured, 105 LLM calls.

Two merged texts are generated, each scored by 20 calls; two aggregates of them, each scored again;
one last text, scored. Structure and lengths: ``traces/got_docmerge.jsonl``. A prompt is made
of what it holds (the documents, the texts so far), as in the trace. Correlations are fitted to the
first two stages alone: in the later ones a response cache repeats texts.
"""

from __future__ import annotations

import math

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

    texts = around(rng, level["text"], shared["text"], 5)
    first = marginals["generate1"].many_tokens(texts[:2])
    aggregated = marginals["aggregate"].many_tokens(texts[2:4])
    last = marginals["generate2"].many_tokens(texts[4:])

    def score(text: int) -> tuple[LLMTask, ...]:
        # Scores of one text agree with each other more than with the job's other scores.
        rest = (shared["score"] - shared["score_of_job"]) / (1.0 - shared["score_of_job"])
        of_text = float(around(rng, level["score"], shared["score_of_job"], 1)[0])
        of_job = math.sqrt(shared["score_of_job"]) * level["score"]
        noise = around(rng, 0.0, rest, SCORES_PER_TEXT)
        z = of_text + (noise * math.sqrt(1.0 - shared["score_of_job"]) + of_job - of_text) * 0
        return llm_tasks(
            [max(1, documents + text + extra["score_prompt"])] * SCORES_PER_TEXT,
            marginals["score"].many_tokens(z),
        )

    raise NotImplementedError
