"""OpenTelemetry spans with the attributes of the GenAI semantic conventions.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ (in development). Of tokens the names before
version 1.27, ``prompt_tokens`` and ``completion_tokens``, are read as well, and of kinds of spans
those of OpenLLMetry, ``traceloop.span.kind`` and ``llm.request.type``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llmsched_gym.workload.importers.otlp import RawSpan, attribute_keys, raw_spans
from llmsched_gym.workload.importers.records import Record, text, whole
from llmsched_gym.workload.importers.spans import Role, Span, jobs_of_spans
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Job

PREFIXES = ("gen_ai.", "traceloop.", "llm.request.type")
CALLS = frozenset({"chat", "text_completion", "generate_content", "completion"})
TOOLS = frozenset({"execute_tool", "embeddings", "retrieval", "tool", "embedding", "rerank"})
PROMPT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")


def recognises(value: dict[str, Any]) -> bool:
    """Whether a record is of this format."""
    if "resourceSpans" in value or "resource_spans" in value:
        return True
    return any(key.startswith(PREFIXES) for key in attribute_keys(value))


def jobs(records: Iterable[Record], tally: Tally) -> Iterator[Job]:
    """One job for each trace."""
    spans = (span(raw) for raw in raw_spans(records, tally))
    return jobs_of_spans(spans, tally, "opentelemetry")


def span(raw: RawSpan) -> Span:
    """What a span stands for, by its attributes."""
    attributes = raw.attributes
    role, name = _role(attributes), raw.name
    if role == Role.TOOL:
        name = text(attributes.get("gen_ai.tool.name")) or name
    elif role == Role.WRAPPER:
        name = text(attributes.get("gen_ai.agent.name")) or name
    return Span(
        trace=raw.trace,
        id=raw.id,
        parent=raw.parent,
        name=name,
        role=role,
        start=raw.start,
        end=raw.end,
        prompt_tokens=tokens(attributes, PROMPT),
        output_tokens=tokens(attributes, OUTPUT),
        program=raw.service,
        place=raw.place,
    )


def _role(attributes: dict[str, Any]) -> Role:
    """By the operation; where none is named, what has token counts is a call."""
    operation = text(attributes.get("gen_ai.operation.name"))
    if operation is None:
        operation = text(attributes.get("traceloop.span.kind"))
    if operation is None:
        operation = text(attributes.get("llm.request.type"))
    if operation is None:
        if any(key in attributes for key in (*PROMPT, *OUTPUT)):
            return Role.CALL
        return Role.TOOL if "gen_ai.tool.name" in attributes else Role.WRAPPER
    if operation in CALLS:
        return Role.CALL
    return Role.TOOL if operation in TOOLS else Role.WRAPPER


def tokens(attributes: dict[str, Any], keys: Iterable[str]) -> int | None:
    """The number under the first of these keys that has one."""
    found = (whole(attributes.get(key)) for key in keys)
    return next((count for count in found if count is not None), None)
