"""Trajectories of SWE-agent, ``<instance>.traj``: rounds of an LLM call and a command.

https://swe-agent.com/latest/usage/trajectories/. The tokens of single calls are not recorded; those
of all calls together are (``info.model_stats``), and are shared out by the number of characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

from llmsched_gym.workload.importers.records import Record, inner, number, whole
from llmsched_gym.workload.importers.spans import clean_name
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import InvalidJob, Job, Kind, LLMTask, RegularTask, Stage

APPLICATION = "swe-agent"
CHARACTERS = 4  # of a token, where no total is recorded


def recognises(value: dict[str, Any]) -> bool:
    """Whether a record is of this format."""
    steps = _list(value.get("trajectory"))
    return any(inner(step, "response") is not None for step in steps)


def jobs(records: Iterable[Record], tally: Tally) -> Iterator[Job]:
    """One job for each trajectory, named by its file."""
    for place, value in records:
        tally.read += 1
        steps = [step for step in _list(value.get("trajectory")) if isinstance(step, dict)]
        steps = [step for step in steps if _size(step.get("response"))]  # else no call was made
        if not steps:
            tally.skipped.add("a trajectory without a response", place)
            continue
        stem = PurePath(place.rpartition(":")[0]).name
        stem = re.sub(r"(\.traj|\.jsonl?)?(\.gz)?$", "", stem, flags=re.IGNORECASE)
        try:
            yield Job(
                application=APPLICATION,
                job_id=clean_name(stem, "job_id", tally, place),
                stages=tuple(_stages(steps, _calls(value, steps, tally, place), tally, place)),
                source=place,
            )
        except InvalidJob as error:
            tally.skipped.add(f"a job that breaks a rule: {error}", place)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _calls(
    value: dict[str, Any], steps: list[dict[str, Any]], tally: Tally, place: str
) -> list[LLMTask]:
    """The tokens of each call, in proportion to its characters."""
    stats = inner(value, "info", "model_stats")
    written = [_size(step.get("response")) for step in steps]
    read = _prompts(value, steps)
    tally.guessed.add("tokens of a call: from its characters", place, len(steps))
    shared = (
        _shared(sizes, whole(inner(stats, key)))
        for sizes, key in ((read, "tokens_sent"), (written, "tokens_received"))
    )
    return [LLMTask(prompt, output) for prompt, output in zip(*shared, strict=True)]


def _shared(sizes: list[int], total: int | None) -> list[int]:
    """Tokens in proportion to characters, at least one; they add up to the total if it is known."""
    if not total:
        return [max(1, round(size / CHARACTERS)) for size in sizes]
    characters = sum(sizes) or 1
    return [max(1, round(total * size / characters)) for size in sizes]


def _prompts(value: dict[str, Any], steps: list[dict[str, Any]]) -> list[int]:
    """Characters that each call read: of its messages, or else of all that came before."""
    queries = [_list(step.get("query")) or _list(step.get("messages")) for step in steps]
    if all(queries):
        return [sum(_size(inner(one, "content")) for one in query) for query in queries]
    before = 0
    for message in _list(value.get("history")):
        demonstration = bool(inner(message, "is_demo"))
        if inner(message, "role") == "assistant" and not demonstration:
            break
        before += _size(inner(message, "content"))
    sizes = []
    for step in steps:
        sizes.append(max(1, before))
        before += _size(step.get("response")) + _size(step.get("observation"))
    return sizes


def _size(value: Any) -> int:
    """Characters of a text, or of the texts of a message in parts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_size(inner(part, "text")) for part in value)
    return 0


def _stages(
    steps: list[dict[str, Any]], calls: list[LLMTask], tally: Tally, place: str
) -> Iterator[Stage]:
    """Each call, then its command; all that follows a call is revealed by it."""
    last: int | None = None
    revealer: int | None = None
    count = 0
    for step, call in zip(steps, calls, strict=True):
        yield Stage("step", Kind.LLM, () if last is None else (last,), (call,), revealer)
        revealer = last = count
        count += 1
        command = _command(step.get("action"))
        if command is None:
            continue
        seconds = number(step.get("execution_time"))
        if seconds is None or seconds < 0:
            tally.mended.add("a command without execution_time: taken as 0 s", place)
            seconds = 0.0
        name = clean_name(command, "stage", tally, place)
        yield Stage(name, Kind.REGULAR, (last,), (RegularTask(seconds),), revealer, "shell")
        last = count
        count += 1


def _command(action: Any) -> str | None:
    """The program that an action runs: its first word, behind ``cd ... &&`` and settings."""
    if not isinstance(action, str):
        return None
    text = re.sub(r"^(\s*(cd\s+\S+\s*(&&|;)|\w+=\S*\s))*", "", action).strip()
    words = (text or action).split()
    return PurePath(words[0]).name or words[0] if words else None
