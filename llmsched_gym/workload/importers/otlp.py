"""Spans as OpenTelemetry writes them, whatever their attributes mean.

- OTLP in JSON, as the collector's file exporter and OTLP over HTTP write it: ``resourceSpans``
  with ``scopeSpans`` (``instrumentationLibrarySpans`` until 2022), attributes as a list of keys
  with typed values, whole numbers as texts, times in nanoseconds.
- One span an object, as the console exporters of the SDKs and Arize Phoenix write it: ``context``
  with ``trace_id`` and ``span_id``, ``parent_id``, attributes as an object, dates as ISO texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from llmsched_gym.workload.importers.records import Record, inner, text, time_ns, unix_nano
from llmsched_gym.workload.importers.tally import Tally

PAGES = ("data", "spans")  # keys under which some put many spans in one object
_VALUES = ("stringValue", "intValue", "doubleValue", "boolValue")


class RawSpan(NamedTuple):
    """A span; times in nanoseconds, None where they are missing. ``service`` made it."""

    trace: str
    id: str
    parent: str | None
    name: str
    start: int | None
    end: int | None
    attributes: dict[str, Any]
    service: str | None
    place: str


def raw_spans(records: Iterable[Record], tally: Tally) -> Iterator[RawSpan]:
    """All spans of all records, in their order."""
    for place, value in records:
        resources = _first_list(value, "resourceSpans", "resource_spans")
        if resources is not None:
            for resource in resources:
                yield from _of_resource(resource, place, tally)
            continue
        pages = [page for key in PAGES if isinstance(page := value.get(key), list)]
        for flat in pages[0] if pages else [value]:
            yield from _flat(flat, place, tally)


def attribute_keys(value: dict[str, Any]) -> Iterator[str]:
    """The keys of all attributes in a record, to tell formats apart."""
    for raw in raw_spans([Record("", value)], Tally()):
        yield from raw.attributes


def is_spans(value: dict[str, Any]) -> bool:
    """Whether a record is of this kind."""
    if _first_list(value, "resourceSpans", "resource_spans") is not None:
        return True
    return any(True for _ in raw_spans([Record("", value)], Tally()))


def _of_resource(resource: Any, place: str, tally: Tally) -> Iterator[RawSpan]:
    attributes = _attributes(inner(resource, "resource", "attributes"))
    service = text(attributes.get("service.name"))
    if service is not None and service.startswith("unknown_service"):
        service = None
    scopes = _first_list(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans")
    for scope in scopes or []:
        for span in _first_list(scope, "spans") or []:
            trace = text(_either(span, "traceId", "trace_id"))
            number = text(_either(span, "spanId", "span_id"))
            if trace is None or number is None:
                tally.skipped.add("a span without traceId or spanId", place)
                continue
            yield RawSpan(
                trace=trace,
                id=number,
                parent=text(_either(span, "parentSpanId", "parent_span_id")),
                name=text(span.get("name")) or "span",
                start=unix_nano(_either(span, "startTimeUnixNano", "start_time_unix_nano")),
                end=unix_nano(_either(span, "endTimeUnixNano", "end_time_unix_nano")),
                attributes=_attributes(span.get("attributes")),
                service=service,
                place=place,
            )


def _flat(span: Any, place: str, tally: Tally) -> Iterator[RawSpan]:
    if not isinstance(span, dict):
        return
    context = {
        key: inner(span, "context", key) or span.get(f"context.{key}") or span.get(key)
        for key in ("trace_id", "span_id")
    }
    trace = text(context["trace_id"] or span.get("traceId"))
    number = text(context["span_id"] or span.get("spanId"))
    attributes = _attributes(span.get("attributes"))
    attributes |= {
        key.removeprefix("attributes."): value
        for key, value in span.items()
        if key.startswith("attributes.") and value is not None
    }
    if trace is None or number is None or not (attributes or "span_kind" in span):
        tally.skipped.add("an object that is no span", place)
        return
    if text(span.get("span_kind")) and "openinference.span.kind" not in attributes:
        attributes["openinference.span.kind"] = span["span_kind"]  # Phoenix has it outside
    resource = _attributes(inner(span, "resource", "attributes"))
    yield RawSpan(
        trace=trace,
        id=number,
        parent=text(_either(span, "parent_id", "parentId", "parentSpanId", "parent_span_id")),
        name=text(span.get("name")) or "span",
        start=time_ns(_either(span, "start_time", "startTime", "startTimeUnixNano")),
        end=time_ns(_either(span, "end_time", "endTime", "endTimeUnixNano")),
        attributes=attributes,
        service=text(resource.get("service.name")),
        place=place,
    )


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes as one flat object with dotted keys."""
    if isinstance(value, dict):
        return dict(_dotted(value))
    attributes = {}
    for pair in value if isinstance(value, list) else []:
        key = inner(pair, "key")
        if isinstance(key, str):
            typed = inner(pair, "value")
            found = next((typed[name] for name in _VALUES if inner(typed, name) is not None), None)
            attributes[key] = found
    return attributes


def _dotted(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    stack = [(prefix, value)]
    while stack:
        before, level = stack.pop()
        for key, held in level.items():
            if isinstance(held, dict):
                stack.append((f"{before}{key}.", held))
            else:
                yield f"{before}{key}", held


def _first_list(value: Any, *keys: str) -> list[Any] | None:
    return next((found for key in keys if isinstance(found := inner(value, key), list)), None)


def _either(value: Any, *keys: str) -> Any:
    """What is under the first of these keys that says something."""
    return next((found for key in keys if (found := inner(value, key)) not in (None, "")), None)
