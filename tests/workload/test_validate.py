"""``python -m llmsched_gym.workload.validate``: a table, a picture, and where problems are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from llmsched_gym.workload import Job, LLMTask, RegularTask, Stage, validate, write_traces
from llmsched_gym.workload.job import Kind
from support.imports import otlp, otlp_span


def job(number: int, application: str = "chat", arrival_s: float | None = None) -> Job:
    call = Stage("ask", Kind.LLM, (), (LLMTask(1000 * number, 20),))
    tools = Stage("run", Kind.REGULAR, (0,), (RegularTask(1.5),) * number, 0)
    return Job(application, f"{number}", (call, tools), arrival_s)


def saved(file: Path, *jobs: Job) -> str:
    write_traces(file, jobs)
    return str(file)


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_table_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(1, arrival_s=1.7e9), job(2, arrival_s=1.7e9 + 10), job(3, "[red]other", 1.7e9 + 30)]
    path = saved(tmp_path / "jobs.jsonl", *jobs)
    assert validate.main([path]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = words(told.out)
    for row in (
        [
            "application",
            "jobs",
            "graphs",
            "stages",
            "calls",
            "tools",
            "prompt",
            "output",
            "tool",
            "s",
        ],
        ["chat", "2", "2", "2", "1", "1.5", "1,500", "20", "2.25"],
        ["most", "2", "1", "2", "2,000", "20", "3"],
        ["[red]other", "1", "1", "2", "1", "3", "3,000", "20", "4.5"],
        ["all", "3", "2", "1", "2", "2,000", "20", "3"],
        ["most", "2", "1", "3", "3,000", "20", "4.5"],
    ):
        assert row in lines
    assert "50% of the stages are known when their job arrives" in told.out
    assert f"largest call: 3,020 tokens read and written, of 3 ({path}:3);" in told.out
    assert "arrivals: 3 of 3 recorded, 0.0667 jobs/s over 30.0 s, coefficient of var" in told.out
    table = told.out.split("median:\n")[1].split("graphs: ")[0]
    assert max(map(len, table.splitlines())) <= 80


def test_problems_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jobs.jsonl"
    saved(path, job(1), job(2))
    good = path.read_text()
    path.write_text(good.replace('"prompt_tokens":2000', '"prompt_tokens":0') + "{}\nnot json\n")
    assert validate.main([str(path)]) == 1
    out = capsys.readouterr().out
    for line in (
        f"{path}:2: stages[0].tasks[0].prompt_tokens: 0 is not between 1 and 2147483647",
        f"{path}:3: app: missing",
        f"{path}:4: JSON: Expecting value (column 1)",
    ):
        assert line in out.splitlines()
    assert "1 jobs; of a job" in out
    assert "arrivals: none recorded" in out

    path.write_text("{}\n" * 25)
    assert validate.main([str(path)]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "... and 5 more"
    assert "application" not in out


def test_files_of_other_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spans.jsonl"
    call = otlp_span(1, "chat", 0, 1, gen_ai__usage__input_tokens=5, gen_ai__usage__output_tokens=2)
    path.write_text(json.dumps(otlp(call)))
    assert validate.main([str(path)]) == 0
    assert f"traces: {path} read as opentelemetry: 1 jobs" in capsys.readouterr().out


def test_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the sample, of jobs without arrivals, and with names that are no formulas."""
    figure = tmp_path / "picture.png"
    nameless = saved(tmp_path / "jobs.jsonl", job(1, "_$x^{$"), job(2, "b"))
    for path in ("sample", nameless):
        assert validate.main([path, "--figure", str(figure)]) == 0
        with Image.open(figure) as picture:
            assert picture.size[0] == 1500
            assert len(set(picture.convert("L").tobytes())) > 20
        figure.unlink()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no.jsonl"], "no.jsonl: no such file or folder"),
        (["."], "no *.jsonl file in this folder"),
        (["sample", "--figure", "picture.svg"], "--figure: picture.svg does not end with .png"),
        (["sample", "--figure", "no/picture.png"], "--figure: no: no such folder"),
        (["sample", "--figur", "x.png", "--fig"], "expected one argument"),
        (
            ["sample", "--picture", "x.png"],
            "unknown '--picture' (did you mean '--figure'?), choose",
        ),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = validate.main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert why in told.err
    assert len(told.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
