"""Observations of Langfuse: from its API (camel case), its exports to a bucket (snake case).

https://langfuse.com/docs/api-and-data-platform. A record is an observation, a page of them
(``data``) or a trace that holds its ``observations``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from llmsched_gym.workload.importers.records import Record, text, time_ns, whole
from llmsched_gym.workload.importers.spans import Role, Span, jobs_of_spans
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Job

ROLES = {
    "GENERATION": Role.CALL,
    "SPAN": Role.LEAF,  # before there were types for tools, these were spans
    **dict.fromkeys(("TOOL", "RETRIEVER", "EMBEDDING", "GUARDRAIL", "EVALUATOR"), Role.TOOL),
    **dict.fromkeys(("AGENT", "CHAIN", "EVENT"), Role.WRAPPER),
}
PARENT = ("parentObservationId", "parent_observation_id")
USAGE = ("usageDetails", "usage_details", "usage")
PROMPT = ("input", "promptTokens", "prompt_tokens", "input_tokens")
OUTPUT = ("output", "completionTokens", "completion_tokens", "output_tokens")


def recognises(value: dict[str, Any]) -> bool:
    """Whether a record is of this format."""
    return any(_is_observation(one) for one, _ in _observations(value))


def jobs(records: Iterable[Record], tally: Tally) -> Iterator[Job]:
    """One job for each trace."""
    return jobs_of_spans(_spans(records, tally), tally, "langfuse")


def _spans(records: Iterable[Record], tally: Tally) -> Iterator[Span]:
    for place, value in records:
        for observation, program in _observations(value):
            if _is_observation(observation):
                yield _span(observation, program, place)
            else:
                tally.skipped.add("an object that is no observation", place)


def _observations(value: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The observations of a record, and the name of their trace where the record says it."""
    traces = value.get("data")
    for one in traces if isinstance(traces, list) else [value]:
        if not isinstance(one, dict):
            continue
        held = one.get("observations")
        if isinstance(held, list) and any(isinstance(row, dict) for row in held):
            for row in held:
                if isinstance(row, dict):
                    yield {"traceId": one.get("id"), **row}, text(one.get("name"))
        else:
            yield one, None


def _is_observation(value: dict[str, Any]) -> bool:
    known = str(value.get("type")).upper() in ROLES
    return known and text(value.get("id")) is not None and _of(value, "trace") is not None


def _of(value: dict[str, Any], what: str) -> str | None:
    return text(value.get(f"{what}Id")) or text(value.get(f"{what}_id"))


def _span(value: dict[str, Any], program: str | None, place: str) -> Span:
    role = ROLES[str(value["type"]).upper()]
    prompt, output = _tokens(value)
    if role == Role.LEAF and prompt and output:
        role = Role.CALL  # usage was logged on a plain span
    return Span(
        trace=_of(value, "trace") or "",
        id=text(value["id"]) or "",
        parent=next((found for key in PARENT if (found := text(value.get(key)))), None),
        name=text(value.get("name")) or str(value["type"]).lower(),
        role=role,
        start=time_ns(value.get("startTime", value.get("start_time"))),
        end=time_ns(value.get("endTime", value.get("end_time"))),
        prompt_tokens=prompt,
        output_tokens=output,
        program=program or text(value.get("traceName")) or text(value.get("trace_name")),
        place=place,
    )


def _tokens(value: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens read and written: of the usage, all of its kinds of input and output together."""
    for usage in (*(_as_object(value.get(key)) for key in USAGE), value):
        found = {
            key: count for key, of in usage.items() if (count := whole(of)) is not None and count
        }
        if usage is not value and any(key in found for key in ("input", "output")):
            # its kinds add up: what "input_cached_tokens" counts is not in "input" once more
            return _sum(found, "input"), _sum(found, "output")
        prompt = next((found[key] for key in PROMPT[1:] if key in found), None)
        output = next((found[key] for key in OUTPUT[1:] if key in found), None)
        if prompt or output:
            return prompt, output
    return None, None


def _sum(found: dict[str, int], what: str) -> int:
    return sum(count for key, count in found.items() if what in key.split("_"))


def _as_object(value: Any) -> dict[str, Any]:
    """The value, which a CSV file holds as a text."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
