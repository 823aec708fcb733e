"""The measured jobs and structures that generators are fitted to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmsched_gym.workload.applications.sequence_sorting import SIZES
from llmsched_gym.workload.job import LLMTask, RegularTask, Stage
from llmsched_gym.workload.traces import read_traces

TRACES = (
    "code_feedback",
    "factool_kbqa",
    "factool_math",
    "got_docmerge",
    "got_keycount",
    "got_setintersection",
    "hugginggpt",
    "langchain_mapreduce",
    "react_alfw",
    "react_fever",
)
AGENT_TRACES = ("tau_airline",)
FILES = {
    **{name: Path(f"traces/{name}.jsonl") for name in TRACES},
    **{name: Path(f"agent_traces/{name}.jsonl") for name in AGENT_TRACES},
}
TEMPLATES_FILE = Path("structures/llmcompiler_got_templates.json")
GRAPHS_FILE = Path("structures/taskbench_graphs.jsonl")
PROMPT_FIELD = "planner_prompt_file_tokens_total(gpt_prompts.py, planner+output few-shots)"


class Measured:
    """The measured jobs and structures of the shared folder.

    Raises
    ------
    FileNotFoundError
        if one of the files is not there; the message names it.
    ValueError
        if one of them cannot be read; the message names the file (and line).
    """

    def __init__(self, shared: Path) -> None:
        self.jobs = {name: read_traces(shared / file) for name, file in FILES.items()}
        templates = shared / TEMPLATES_FILE
        record = _record(f"{templates}", templates.read_text(encoding="utf-8"))
        try:
            questions = record["llmcompiler"]["parallelqa"]
            self.branches = {int(size): int(n) for size, n in questions["branch_hist"].items()}
            self.planner_prompt = round(questions[PROMPT_FIELD] + questions["question_tokens_mean"])
            calls = record["graph_of_thoughts"]["total_calls"]
            self.sorting_calls = {size: int(calls[f"sorting_{size:03d}_got"]) for size in SIZES}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{templates}: missing or malformed field: {error}") from None
        graphs = shared / GRAPHS_FILE
        self.graphs: list[dict[str, Any]] = []
        for number, line in enumerate(graphs.read_text(encoding="utf-8").splitlines(), 1):
            graph = _record(f"{graphs}:{number}", line)
            if not {"src", "dom", "n", "edges"} <= graph.keys():
                raise ValueError(f"{graphs}:{number}: src, dom, n and edges expected")
            self.graphs.append(graph)

    def stages(self, trace: str, name: str) -> list[list[Stage]]:
        """Per job of a trace, its stages of that name."""
        return [[stage for stage in job.stages if stage.name == name] for job in self.jobs[trace]]


def _record(where: str, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: an object expected")
    return record


# --- Values of stages -----------------------------------------------------------------------------


def prompts(stages: Iterable[Stage]) -> list[float]:
    """Prompt tokens of all LLM tasks."""
    return [t.prompt_tokens for s in stages for t in s.tasks if isinstance(t, LLMTask)]


def outputs(stages: Iterable[Stage]) -> list[float]:
    """Output tokens of all LLM tasks."""
    return [t.output_tokens for s in stages for t in s.tasks if isinstance(t, LLMTask)]


def seconds(stages: Iterable[Stage]) -> list[float]:
    """Durations of all regular tasks."""
    return [t.duration_s for s in stages for t in s.tasks if isinstance(t, RegularTask)]
