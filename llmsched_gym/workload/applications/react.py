"""Sessions in ReAct style: think, act, think again; what web search and tool agents share."""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import Parameters, around
from llmsched_gym.workload.job import Kind, LLMTask, RegularTask, Stage


def session(
    rng: np.random.Generator, fitted: Parameters, thought: str, action: str, resource: str | None
) -> tuple[Stage, ...]:
    """The stages of one session: a thought, then pairs (action, thought) revealed by the last one.

    Prompts hold everything before them. ``thought`` and ``action`` are the names of the stages,
    ``resource`` is what actions run on; ``fitted`` has the marginals of
    :func:`llmsched_gym.workload.fitting.applications.fit_react`.
    """
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
    actions = around(rng, level["seconds"], shared["seconds"], thoughts - 1)
    seconds = marginals["seconds"].seconds(actions)

    prompt = marginals["prompt"].tokens(level["prompt"])
    stages = [Stage(thought, Kind.LLM, (), (LLMTask(prompt, outputs[0]),))]
    for index in range(thoughts - 1):
        last = len(stages) - 1
        prompt += outputs[index] + results[index]
        run = RegularTask(seconds[index])
        stages.append(Stage(action, Kind.REGULAR, (last,), (run,), last, resource))
        call = LLMTask(prompt, outputs[index + 1])
        stages.append(Stage(thought, Kind.LLM, (last + 1,), (call,), last))
    return tuple(stages)
