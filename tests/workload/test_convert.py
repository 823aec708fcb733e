"""``python -m llmsched_gym.workload.convert``: whole files and one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmsched_gym.workload import convert, read_traces, sample_path
from support.imports import otlp, otlp_span

CALL = otlp_span(1, "chat", 0, 1, gen_ai__usage__input_tokens=5, gen_ai__usage__output_tokens=2)
LOST = otlp_span(2, "chat", 2, 3, 9, gen_ai__operation__name="chat")
TOOL = otlp_span(3, "run", 2, 4, gen_ai__tool__name="bash")


@pytest.fixture
def spans(tmp_path: Path) -> Path:
    file = tmp_path / "spans.jsonl"
    file.write_text(json.dumps(otlp(CALL, LOST, TOOL, service="shop")))
    return file


def test_it_writes_jobs_and_tells_what_it_did(
    spans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = spans.with_name("jobs.jsonl")
    assert convert.main([str(spans), "-o", str(written)]) == 0
    (job,) = read_traces(written)
    assert (job.application, len(job.stages)) == ("shop", 2)
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "opentelemetry: 1 jobs, 2 stages, 1 LLM calls, 1 tool runs from 3 records",
        f"left out: 1 x a call without token counts (first {spans}:1)",
        f"mended: 1 x a parent that is not there: taken as none (first {spans}:1)",
        "guessed: 1 x what a stage waits for: from times and from what holds it "
        f"(first {spans}:1); 1 x stages revealed by the LLM stage before them (first {spans}:1)",
        "applications: shop (1)",
        f"{written}: written; python evaluate.py workload=traces workload.path={written}",
    ]
    assert told.err == ""


def test_into_a_folder_compressed_and_under_another_name(spans: Path, tmp_path: Path) -> None:
    assert convert.main([str(spans), "-o", f"{tmp_path}/jobs/"]) == 0
    assert len(read_traces(tmp_path / "jobs" / "spans.jobs.jsonl")) == 1
    assert convert.main([str(spans), "-o", f"{tmp_path}/jobs"]) == 0  # it exists
    packed = tmp_path / "jobs.jsonl.gz"
    arguments = ["--application", "mine", "--format", "openinference"]
    assert convert.main([str(spans), "-o", str(packed), *arguments]) == 0
    assert packed.read_bytes()[:2] == b"\x1f\x8b"
    assert read_traces(packed)[0].application == "mine"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no.jsonl"], "no.jsonl: no such file or folder"),
        (["README"], "README: no format is recognised, choose from openinference, opentelemetry, "),
        (["spans.jsonl", "--format", "opentelemetri"], "(did you mean 'opentelemetry'?)"),
        (
            ["spans.jsonl", "--format", "langfuse"],
            "spans.jsonl: no job comes out, read as langfuse",
        ),
        (["spans.jsonl", "--application", ""], "application: empty name"),
        ([str(sample_path())], "is in our format already"),
        (["spans.jsonl", "-o", "no/jobs.jsonl"], "no: no such folder"),
        (["spans.jsonl", "-o", "spans.jsonl"], "--output: spans.jsonl is what is read"),
        (["spans.jsonl", "--fromat", "azure"], "unknown '--fromat' (did you mean '--format'?)"),
        ([], "the following arguments are required: path"),
    ],
)
def test_bad_input_is_one_line(
    spans: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.chdir(spans.parent)
    Path("README").write_text("hello")
    before = {path: path.read_bytes() for path in spans.parent.iterdir()}
    try:
        code = convert.main([*(["-o", "jobs.jsonl"] if "-o" not in arguments else []), *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = capsys.readouterr()
    assert code == 2
    assert told.out == ""
    assert why in told.err
    assert len(told.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in spans.parent.iterdir()} == before


def test_a_file_that_is_there_stays_where_nothing_comes_out(spans: Path) -> None:
    written = spans.with_name("jobs.jsonl")
    written.write_text("mine")
    spans.write_text(json.dumps(otlp(LOST)))
    assert convert.main([str(spans), "-o", str(written)]) == 2
    assert written.read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="no pipes that close")
def test_who_reads_the_first_line_only_sees_no_traceback(spans: Path) -> None:
    command = [sys.executable, "-m", "llmsched_gym.workload.convert", str(spans)]
    with subprocess.Popen(
        [*command, "-o", str(spans.with_name("jobs.jsonl"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert len(read_traces(spans.with_name("jobs.jsonl"))) == 1
