"""OpenTelemetry spans with the attributes of OpenInference (Arize Phoenix).

https://arize-ai.github.io/openinference/spec/. Spans of one trace that have no
``openinference.span.kind`` are read as OpenTelemetry's own conventions say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llmsched_gym.workload.importers import opentelemetry
from llmsched_gym.workload.importers.otlp import RawSpan, attribute_keys, raw_spans
from llmsched_gym.workload.importers.records import Record, text
from llmsched_gym.workload.importers.spans import Role, Span, jobs_of_spans
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.job import Job

KIND = "openinference.span.kind"
ROLES = {
    "LLM": Role.CALL,
    **dict.fromkeys(("TOOL", "RETRIEVER", "RERANKER", "EMBEDDING", "GUARDRAIL"), Role.TOOL),
    **dict.fromkeys(("EVALUATOR", "DECISION"), Role.TOOL),
}  # all others hold spans: AGENT, CHAIN, PROMPT, UNKNOWN
PROMPT = ("llm.token_count.prompt", *opentelemetry.PROMPT)
OUTPUT = ("llm.token_count.completion", *opentelemetry.OUTPUT)


def recognises(value: dict[str, Any]) -> bool:
    """Whether a record is of this format."""
    return KIND in attribute_keys(value)


def jobs(records: Iterable[Record], tally: Tally) -> Iterator[Job]:
    """One job for each trace."""
    spans = (_span(raw) for raw in raw_spans(records, tally))
    return jobs_of_spans(spans, tally, "openinference")


def _span(raw: RawSpan) -> Span:
    span = opentelemetry.span(raw)
    kind = text(raw.attributes.get(KIND))
    if kind is not None:
        span.role = ROLES.get(kind.upper(), Role.WRAPPER)
        named = raw.attributes.get("tool.name") if span.role == Role.TOOL else None
        span.name = text(named) or raw.name
    span.prompt_tokens = opentelemetry.tokens(raw.attributes, PROMPT)
    span.output_tokens = opentelemetry.tokens(raw.attributes, OUTPUT)
    return span
