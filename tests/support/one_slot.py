"""Jobs whose mean misleads, for a cluster of one slot: times can be worked out by hand."""

from __future__ import annotations

from llmsched_gym.workload.job import Job, Kind, LLMTask, Stage

TOKENS_PER_SECOND = 50  # of the preset "constant"


def llm(name: str, seconds: float, revealed: bool = False) -> Stage:
    task = LLMTask(10, round(seconds * TOKENS_PER_SECOND))
    if revealed:
        return Stage(name, Kind.LLM, (0,), (task,), revealed_by=0)
    return Stage(name, Kind.LLM, (), (task,))


def research(name: str, long: bool) -> Job:
    """A plan of 2 s; in half of all jobs it reveals 100 s of work, in the others nothing."""
    stages = (llm("plan", 2), llm("work", 100, revealed=True)) if long else (llm("plan", 2),)
    return Job("research", name, stages)


def report(name: str) -> Job:
    """40 s, always: less than the mean of the others, 52 s."""
    return Job("report", name, (llm("write", 40),))
