"""OpenTelemetry spans, with the attributes of the GenAI conventions and of OpenInference."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmsched_gym.workload.job import Kind, LLMTask
from support.imports import BEGIN, imported_lines, jobs_of, otlp, otlp_span, rows


def chat(number: int, start: float, end: float | None, parent: int, **more: Any) -> dict[str, Any]:
    tokens = {"gen_ai__usage__input_tokens": 100 + number, "gen_ai__usage__output_tokens": number}
    return otlp_span(
        number,
        *("chat gpt-4o", start, end, parent),
        **({"gen_ai__operation__name": "chat"} | tokens | more),
    )


def tool(number: int, start: float, end: float, parent: int, name: str) -> dict[str, Any]:
    return otlp_span(
        number,
        *(f"execute_tool {name}", start, end, parent),
        gen_ai__operation__name="execute_tool",
        gen_ai__tool__name=name,
    )


AGENT = otlp_span(
    1,
    *("invoke_agent travel", 0, 20),
    gen_ai__operation__name="invoke_agent",
    gen_ai__agent__name="travel",
    gen_ai__usage__input_tokens=999,  # of all its calls
    gen_ai__usage__output_tokens=99,
)
FAN_OUT = [
    AGENT,
    chat(2, 0, 2, 1),
    tool(3, 2.5, 4, 1, "weather"),
    tool(4, 2.5, 5, 1, "weather"),
    tool(5, 2.5, 3, 1, "flights"),
    chat(6, 6, 8.5, 1),
]


def test_a_fan_out(tmp_path: Path) -> None:
    imported = imported_lines([otlp(*FAN_OUT)], tmp_path)
    assert imported.format == "opentelemetry"
    (job,) = imported.jobs
    assert (job.application, job.job_id, job.arrival_s) == ("travel", f"{1:032x}", BEGIN)
    assert rows(job) == [
        ("chat gpt-4o", "llm", set(), None, [(102, 2)]),
        ("flights", "regular", {"chat gpt-4o"}, "chat gpt-4o", [0.5]),
        ("weather", "regular", {"chat gpt-4o"}, "chat gpt-4o", [1.5, 2.5]),
        ("chat gpt-4o", "llm", {"flights", "weather"}, "chat gpt-4o", [(106, 6)]),
    ]
    assert imported.summary() == (
        "opentelemetry: 1 jobs, 4 stages, 2 LLM calls, 3 tool runs from 6 records"
    )


def test_any_order_and_any_lines(tmp_path: Path) -> None:
    (whole,) = imported_lines([otlp(*FAN_OUT)], tmp_path).jobs
    lines = [otlp(span) for span in FAN_OUT]
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        assert imported_lines(lines, tmp_path).jobs == [whole]


def test_jobs_come_in_the_order_of_their_arrival() -> None:
    lines = [otlp(chat(2, when, when + 1, 0) | {"traceId": f"{when}"}) for when in (5, 3, 9)]
    jobs, tally = jobs_of("opentelemetry", lines)
    assert [job.job_id for job in jobs] == ["3", "5", "9"]
    assert tally.mended.counts == {"a parent that is not there: taken as none": 3}


def test_numbers_may_be_numbers_or_texts_or_doubles() -> None:
    for value in ({"intValue": "7"}, {"intValue": 7}, {"doubleValue": 7.0}, {"stringValue": "7"}):
        span = chat(2, 0, 1, 0)
        span["attributes"][-1]["value"] = value
        ((job,), _) = jobs_of("opentelemetry", [otlp(span)])
        assert job.stages[0].tasks == (LLMTask(102, 7),)


def test_names_of_earlier_versions() -> None:
    old = otlp_span(
        2,
        *("openai.chat", 0, 1),
        llm__request__type="chat",
        gen_ai__usage__prompt_tokens=30,
        gen_ai__usage__completion_tokens=4,
    )
    step = otlp_span(3, "lookup.tool", 2, 3, traceloop__span__kind="tool")
    line = otlp(old, step)
    line["resourceSpans"][0]["instrumentationLibrarySpans"] = line["resourceSpans"][0].pop(
        "scopeSpans"
    )
    ((job,), _) = jobs_of("opentelemetry", [line])
    assert rows(job) == [
        ("openai.chat", "llm", set(), None, [(30, 4)]),
        ("lookup.tool", "regular", {"openai.chat"}, "openai.chat", [1.0]),
    ]


def test_what_has_tokens_but_no_operation_is_a_call() -> None:
    span = chat(2, 0, 1, 0)
    span["attributes"] = span["attributes"][1:]
    ((job,), _) = jobs_of("opentelemetry", [otlp(span, service="shop")])
    assert job.stages[0].kind == Kind.LLM
    assert job.application == "shop"


def test_the_service_is_no_name_if_it_is_unknown() -> None:
    ((job,), _) = jobs_of("opentelemetry", [otlp(chat(2, 0, 1, 0), service="unknown_service:py")])
    assert job.application == "opentelemetry"


def test_calls_without_tokens_and_unfinished_spans_are_counted(tmp_path: Path) -> None:
    without = otlp_span(7, "chat gpt-4o", 9, 10, 1, gen_ai__operation__name="chat")
    unfinished = chat(8, 9, None, 1)
    imported = imported_lines([otlp(*FAN_OUT, without, unfinished)], tmp_path)
    assert sum(len(stage.tasks) for stage in imported.jobs[0].stages) == 5
    assert imported.tally.skipped.counts == {
        "a call without token counts": 1,
        "an unfinished call": 1,
    }
    assert imported.tally.skipped.places["an unfinished call"].endswith("spans.jsonl:1")


def test_other_spans_of_a_service_are_no_stages() -> None:
    spans = [
        otlp_span(1, "POST /ask", 0, 9, http__method="POST"),
        otlp_span(2, "SELECT", 1, 2, 1, db__system="postgresql"),
        chat(3, 2, 3, 1),
    ]
    ((job,), _) = jobs_of("opentelemetry", [otlp(*spans)])
    assert job.application == "POST /ask"
    assert [stage.name for stage in job.stages] == ["chat gpt-4o"]


def console(span: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    """A span as the console exporter of OpenTelemetry's Python SDK writes it."""
    return {
        "name": span["name"],
        "context": {"trace_id": f"0x{span['traceId']}", "span_id": f"0x{span['spanId']}"},
        "kind": "SpanKind.CLIENT",
        "parent_id": f"0x{span['parentSpanId']}" if span["parentSpanId"] else None,
        "start_time": "2023-11-14T22:13:20.500000Z",
        "end_time": "2023-11-14T22:13:22.750000Z",
        "attributes": attributes,
        "resource": {"attributes": {"service.name": "shop"}},
    }


def test_the_console_exporter(tmp_path: Path) -> None:
    """Which writes each span over many lines."""
    import json

    spans = [
        console(
            otlp_span(1, "chat", 0, 1),
            **{"gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 3},
        ),
        console(otlp_span(2, "run", 0, 1, 1), **{"gen_ai.tool.name": "bash"}),
    ]
    file = tmp_path / "console.json"
    file.write_text("\n".join(json.dumps(span, indent=4) for span in spans))
    from llmsched_gym.workload import import_traces

    imported = import_traces(file)
    (job,) = imported.jobs
    assert imported.format == "opentelemetry"
    assert (job.application, job.arrival_s) == ("shop", BEGIN + 0.5)
    assert rows(job) == [
        ("chat", "llm", set(), None, [(12, 3)]),
        ("bash", "regular", {"chat"}, "chat", [2.25]),
    ]


# --- OpenInference --------------------------------------------------------------------------------


def inference(
    number: int, kind: str, name: str, start: float, end: float, parent: int | None, **more: Any
) -> dict[str, Any]:
    return otlp_span(number, name, start, end, parent, openinference__span__kind=kind, **more)


RAG = [
    inference(1, "CHAIN", "query", 0, 9, None),
    inference(2, "EMBEDDING", "embed", 0, 1, 1, llm__token_count__prompt=7),
    inference(3, "RETRIEVER", "retrieve", 1, 2, 1),
    inference(
        *(4, "LLM", "ChatCompletion", 3, 5, 1),
        llm__token_count__prompt=500,
        llm__token_count__completion=40,
        llm__token_count__total=540,
    ),
    inference(5, "TOOL", "FunctionTool", 6, 8, 1, tool__name="lookup"),
]
RAG_ROWS = [
    ("embed", "regular", set(), None, [1.0]),
    ("retrieve", "regular", {"embed"}, None, [1.0]),
    ("ChatCompletion", "llm", {"retrieve"}, None, [(500, 40)]),
    ("lookup", "regular", {"ChatCompletion"}, "ChatCompletion", [2.0]),
]


def test_openinference(tmp_path: Path) -> None:
    imported = imported_lines([otlp(span) for span in reversed(RAG)], tmp_path)
    assert imported.format == "openinference"
    (job,) = imported.jobs
    assert job.application == "query"
    assert rows(job) == RAG_ROWS


def test_openinference_beside_other_conventions() -> None:
    """Two libraries may trace one program, even one call."""
    spans = [
        *RAG,
        chat(6, 3.5, 4.5, 4, gen_ai__usage__input_tokens=501, gen_ai__usage__output_tokens=40),
    ]
    ((job,), tally) = jobs_of("openinference", [otlp(*spans)])
    assert [row[0] for row in rows(job)] == ["embed", "retrieve", "chat gpt-4o", "lookup"]
    assert tally.mended.counts == {"a call recorded twice, one in the other: the inner": 1}


@pytest.mark.parametrize("nested", [True, False])
def test_phoenix(tmp_path: Path, nested: bool) -> None:
    """Flat columns of its data frames, or objects of its API."""
    values = []
    for span, kind in zip(RAG, ("CHAIN", "EMBEDDING", "RETRIEVER", "LLM", "TOOL"), strict=True):
        start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        value: dict[str, Any] = {
            "name": span["name"],
            "span_kind": kind,
            "parent_id": span["parentSpanId"] or None,
            "start_time": start // 10**6,
            "end_time": end // 10**6,
        }
        ids = {"trace_id": span["traceId"], "span_id": span["spanId"]}
        count = {"prompt": 500, "completion": 40} if kind == "LLM" else {}
        name = {"tool": {"name": "lookup"}} if kind == "TOOL" else {}
        if nested:
            value |= {"context": ids, "attributes": {"llm": {"token_count": count}, **name}}
        else:
            value |= {f"context.{key}": one for key, one in ids.items()}
            value |= {f"attributes.llm.token_count.{key}": one for key, one in count.items()}
            value |= {"attributes.tool.name": "lookup"} if name else {}
        values.append(value)
    imported = imported_lines([{"data": values, "next_cursor": None}], tmp_path)
    assert imported.format == "openinference"
    assert rows(imported.jobs[0]) == RAG_ROWS
