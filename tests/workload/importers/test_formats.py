"""Which format a file is of, and one clear line for all that cannot be imported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmsched_gym.workload import import_traces, read_traces, sample_path, write_traces
from llmsched_gym.workload.importers.formats import FORMATS, recognised
from llmsched_gym.workload.importers.records import Record
from llmsched_gym.workload.importers.tally import Tally
from llmsched_gym.workload.lines import TraceError
from llmsched_gym.workload.traces import load_traces
from support.imports import jobs_of, otlp, otlp_span

CALL = otlp_span(1, "chat", 0, 1, gen_ai__usage__input_tokens=5, gen_ai__usage__output_tokens=2)
MOONCAKE = {"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": []}


def saved(file: Path, *values: Any) -> Path:
    file.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return file


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no format is recognised, choose from openinference, "),
        ("hello\n", "no format is recognised"),
        ('{"prompt": "hi"}\n', "no format is recognised"),
        ('{"type": "SPAN"}\n', "no format is recognised"),
        (json.dumps(otlp()), "no job comes out, read as opentelemetry: it has no record of this"),
        (json.dumps(otlp({"name": "x"})), "1 x a span without traceId or spanId (first "),
        (sample_path().read_text(), "is in our format already, take it as workload.path"),
    ],
)
def test_what_is_not_of_a_known_format(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError, match=re.escape(why)) as error:
        import_traces(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_other_mistakes(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.jsonl", otlp(CALL))
    with pytest.raises(ValueError, match="format: unknown 'langfus' .did you mean 'langfuse'"):
        import_traces(file, "langfus")
    with pytest.raises(ValueError, match="application: empty name"):
        import_traces(file, application="")
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl: no such file or folder"):
        import_traces(tmp_path / "no.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"empty: no file \*\.jsonl, .*\*\.csv in this folder"):
        import_traces(tmp_path / "empty")
    with pytest.raises(TraceError, match=r"a\.jsonl: no job comes out, read as vidur: "):
        import_traces(file, "vidur")
    saved(tmp_path / "b.jsonl", MOONCAKE)
    with pytest.raises(TraceError, match="several formats, mooncake and opentelemetry: give one"):
        import_traces(tmp_path)
    assert len(import_traces(tmp_path, "mooncake").jobs) == 1


def test_the_first_records_that_say_nothing_do_not_matter(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.jsonl", {"comment": 1}, MOONCAKE)
    assert recognised(file) == "mooncake"
    assert recognised(saved(tmp_path / "b.jsonl", {"comment": 1})) is None


# --- On the fly -----------------------------------------------------------------------------------


def test_files_of_other_tools_are_read_as_traces(tmp_path: Path) -> None:
    file = saved(tmp_path / "spans.jsonl", otlp(CALL), otlp())
    traces = load_traces(file)
    assert traces.jobs == import_traces(file).jobs
    assert traces.numbers == [0]
    assert traces.notes == (
        f"traces: {file} read as opentelemetry: 1 jobs, 1 stages, 1 LLM calls, 0 tool runs from "
        "1 records",
    )
    write_traces(tmp_path / "jobs.jsonl", traces.jobs)
    assert read_traces(tmp_path / "jobs.jsonl") == traces.jobs


def test_files_of_one_tool_are_read_together_beside_ours(tmp_path: Path) -> None:
    """Spans of one trace may lie in files that a collector rotated."""
    later = otlp_span(
        2, "chat", 2, 3, gen_ai__usage__input_tokens=9, gen_ai__usage__output_tokens=9
    )
    saved(tmp_path / "a.jsonl", otlp(CALL))
    (tmp_path / "b.jsonl").write_bytes(sample_path().read_bytes())
    saved(tmp_path / "c.jsonl", otlp(later))
    traces = load_traces(tmp_path)
    assert len(traces.jobs) == 41
    assert len(traces.jobs[0].stages) == 2
    assert traces.numbers == list(range(41))
    assert traces.notes[0].startswith(f"traces: {tmp_path / 'a.jsonl'} and 1 more read as open")


def test_a_folder_without_json_lines_may_hold_other_files(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(TraceError, match=r"no \*\.jsonl file in this folder"):
        load_traces(tmp_path)
    run = {"trajectory": [{"response": "hello", "action": "ls"}]}
    (tmp_path / "django-1.traj").write_text(json.dumps(run, indent=1))
    (job,) = load_traces(tmp_path).jobs
    assert job.job_id == "django-1"


def test_an_import_from_which_nothing_comes_is_one_line(tmp_path: Path) -> None:
    file = saved(tmp_path / "spans.jsonl", otlp(otlp_span(1, "GET", 0, 1)))
    for on_bad_job in ("error", "skip"):
        with pytest.raises(TraceError, match="1 x a trace without a call or tool"):
            load_traces(file, on_bad_job)


# --- Any input ------------------------------------------------------------------------------------

KEYS = (
    *("traceId", "trace_id", "spanId", "id", "parentSpanId", "parent_run_id", "context", "name"),
    *("type", "run_type", "startTimeUnixNano", "endTimeUnixNano", "startTime", "end_time", "data"),
    *("attributes", "usage", "usageDetails", "prompt_tokens", "completion_tokens", "input", "key"),
    *("output", "trajectory", "response", "action", "info", "model_stats", "tokens_sent", "value"),
    *("resourceSpans", "scopeSpans", "spans", "resource", "intValue", "observations", "runs"),
    *("gen_ai.usage.input_tokens", "openinference.span.kind", "child_runs", "outputs", "query"),
    *("timestamp", "input_length", "output_length", "TIMESTAMP", "ContextTokens", "history"),
)
LEAVES = st.sampled_from(
    (
        *(None, True, 0, 1, 3, -1, 1.5, 2**70, 1_700_000_000, "", "1", "2", "x\n#"),
        *("llm", "tool", "LLM", "GENERATION", "SPAN", "gen_ai.tool.name"),
        *("1700000000000000000", "2024-05-29T13:46:00Z"),
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=20,
)
RECORDS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=7), max_size=4)


@given(values=RECORDS)
def test_any_records_are_jobs_or_counted(values: list[dict[str, Any]]) -> None:
    for name, one in FORMATS.items():
        for value in values:
            assert one.recognises(value) in (True, False)
        jobs, tally = jobs_of(name, values)  # a Job checks itself
        assert jobs or tally.skipped or not tally.read
        assert all("\n" not in note for note in tally.notes())


def _edited(value: Any, draw: st.DrawFn) -> Any:
    """The value with a few parts replaced, or left out."""
    if isinstance(value, dict):
        kept = {key: _edited(one, draw) for key, one in value.items()}
        return {key: one for key, one in kept.items() if draw(st.integers(0, 30))}
    if isinstance(value, list):
        return [_edited(one, draw) for one in value]
    return value if draw(st.integers(0, 20)) else draw(LEAVES)


@st.composite
def spans(draw: st.DrawFn) -> list[Any]:
    """Lines of OTLP that were good before something happened to them."""
    lines = []
    for number in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 9))
        kind = draw(st.sampled_from(["chat", "execute_tool", "invoke_agent"]))
        span = otlp_span(
            number,
            *(kind, start, start + draw(st.integers(-1, 3)), draw(st.none() | st.integers(0, 5))),
            trace=draw(st.integers(0, 1)),
            gen_ai__operation__name=kind,
            gen_ai__usage__input_tokens=5,
            gen_ai__usage__output_tokens=draw(st.integers(0, 3)),
        )
        lines.append(_edited(otlp(span), draw))
    return lines


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=RECORDS | spans())
def test_any_json_lines_are_jobs_or_one_line(tmp_path: Path, values: list[Any]) -> None:
    file = saved(tmp_path / "any.jsonl", *values)
    traces, message = None, ""
    try:
        traces = load_traces(file)
    except TraceError as error:
        message = str(error)
    assert "\n" not in message
    if traces is None:
        return
    write_traces(tmp_path / "jobs.jsonl", traces.jobs)
    assert read_traces(tmp_path / "jobs.jsonl") == traces.jobs
    assert all("\n" not in note for note in traces.notes)


def test_importers_are_pure() -> None:
    """The same records give the same jobs, and stay as they were."""
    value = otlp(CALL)
    before = json.dumps(value)
    for _ in range(2):
        records = [Record("a:1", value)]
        (job,) = FORMATS["opentelemetry"].jobs(records, Tally())
        assert len(job.stages) == 1
    assert json.dumps(value) == before
