"""Code generation with execution feedback (chain-like): write, run, and if it fails write again.

Round by round: an LLM call writes a program, a container runs it; its failure reveals the next
round, whose prompt holds everything before it. Fitted to ``traces/code_feedback.jsonl``.
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import around, parameters
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job of one to five rounds; each is revealed by the run before it."""
    fitted = parameters("code_generation")
    marginals, shared = fitted.marginals, fitted.shared
    rounds = 1
    for again in fitted.constants["again"]:
        if rng.random() >= again:
            break
        rounds += 1
    level = fitted.copula.draw(rng)
    retries = around(rng, level["retry"], shared["retry"], rounds - 1)
    outputs = [
        marginals["output"].tokens(level["output"]),
        *marginals["retry"].many_tokens(retries),
    ]
    errors = around(rng, level["feedback"], shared["feedback"], rounds - 1)
    feedback = marginals["feedback"].many_tokens(errors)
    runs = around(rng, level["seconds"], shared["seconds"], rounds)
    seconds = marginals["seconds"].seconds(runs)

    prompt = marginals["prompt"].tokens(level["prompt"])
    stages: list[Stage] = []
    for index in range(rounds):
        failed = len(stages) - 1 if index else None
        parents = () if failed is None else (failed,)
        call = LLMTask(prompt, outputs[index])
        stages.append(Stage("code_generation", Kind.LLM, parents, (call,), failed))
        run = RegularTask(seconds[index])
        written = (len(stages) - 1,)
        stages.append(Stage("code_execution", Kind.REGULAR, written, (run,), failed, "docker"))
        if index + 1 < rounds:
            prompt += outputs[index] + feedback[index]
    return Job("code_generation", job_id, tuple(stages))
