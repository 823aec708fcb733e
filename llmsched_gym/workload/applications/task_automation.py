"""Task automation (planning): a plan reveals which tools run, in which order, on whose results.

HuggingGPT (Shen et al., NeurIPS 2023). The plan's length tells the number of tools; tools follow
each other by type (a picture is segmented, then questions are asked about it); some need an LLM
call that chooses a model first; some are LLM calls themselves. The last stage, known at arrival,
answers from the results. Number, types and dependencies of the tools, tokens and seconds are those
of ``traces/hugginggpt.jsonl``; that a tool may need two others comes from the plans of two LLMs for
TaskBench's Hugging Face tools (``structures/taskbench_graphs.jsonl``, ``taskbench_plan_*``).
"""

from __future__ import annotations

import numpy as np

from llmsched_gym.workload.applications.sampling import Parameters, parameters
from llmsched_gym.workload.job import Job, Kind, LLMTask, RegularTask, Stage


def draw(rng: np.random.Generator, job_id: str) -> Job:
    """One job: task_planning, the tools it reveals (named by type), response_results."""
    fitted = parameters("task_automation")
    level = fitted.copula.draw(rng)
    plan = _llm_task(fitted, "task_planning", level["plan_prompt"], level["plan_output"])
    stages = [Stage("task_planning", Kind.LLM, (), (plan,))]
    count = fitted.counts["tools"].at(level["tools"])
    depends_on = _dependencies(rng, fitted, count)
    types = _types(rng, fitted, depends_on)
    place: list[int] = []
    for tool, before in zip(types, depends_on, strict=True):
        parents = tuple(place[number] for number in before) or (0,)
        if tool in fitted.constants["choose_model_before"]:
            choice = _llm_task(fitted, "choose_model", *rng.standard_normal(2).tolist())
            stages.append(Stage("choose_model", Kind.LLM, parents, (choice,), 0))
            parents = (len(stages) - 1,)
        stages.append(_tool(rng, fitted, tool, parents))
        place.append(len(stages) - 1)
    used = {number for before in depends_on for number in before}
    leaves = tuple(place[number] for number in range(count) if number not in used)
    answer = _llm_task(
        fitted, "response_results", level["response_prompt"], level["response_output"]
    )
    stages.append(Stage("response_results", Kind.LLM, leaves, (answer,)))
    return Job("task_automation", job_id, tuple(stages))


def _dependencies(
    rng: np.random.Generator, fitted: Parameters, count: int
) -> list[tuple[int, ...]]:
    """For each tool the earlier tools it needs: the previous one, another one, both or none."""
    rows: list[tuple[int, ...]] = [()]
    for number in range(1, count):
        kind = fitted.choices[f"tool_{min(number + 1, 3)}_of_{min(count, 4)}"].draw(rng)
        needs: tuple[int, ...] = ()
        if kind in ("earlier", "both"):
            needs += (int(rng.integers(number - 1)),)
        if kind in ("previous", "both"):
            needs += (number - 1,)
        rows.append(needs)
    return rows


def _types(
    rng: np.random.Generator, fitted: Parameters, depends_on: list[tuple[int, ...]]
) -> list[str]:
    """A type for each tool, given the type of the last tool it needs; none is used twice."""
    types: list[str] = []
    for before in depends_on:
        after = f"after_{types[before[-1]]}" if before else f"first_of_{min(len(depends_on), 3)}"
        usual, any_tool = fitted.choices.get(after), fitted.choices["any_tool"]
        tool = usual.draw(rng, without=types) if usual else None
        tool = tool or any_tool.draw(rng, without=types)
        assert tool is not None  # there are more types than tools in a job
        types.append(tool)
    return types


def _tool(
    rng: np.random.Generator, fitted: Parameters, tool: str, parents: tuple[int, ...]
) -> Stage:
    z = rng.standard_normal(2)
    if f"{tool}_seconds" in fitted.marginals:
        run = RegularTask(fitted.marginals[f"{tool}_seconds"].seconds(z[:1])[0])
        return Stage(tool, Kind.REGULAR, parents, (run,), 0, "dnn")
    call = _llm_task(fitted, tool, *z.tolist())
    return Stage(tool, Kind.LLM, parents, (call,), 0)


def _llm_task(fitted: Parameters, stage: str, prompt_z: float, output_z: float) -> LLMTask:
    return LLMTask(
        fitted.marginals[f"{stage}_prompt"].tokens(prompt_z),
        fitted.marginals[f"{stage}_output"].tokens(output_z),
    )
