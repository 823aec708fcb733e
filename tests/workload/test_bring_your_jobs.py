"""docs/bring_your_jobs.md: its example and its commands, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmsched_gym.workload import convert, validate
from llmsched_gym.workload.importers.formats import FORMATS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring_your_jobs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
SPANS, JOBS = (text for kind, text in BLOCKS if kind == "json")
(TOLD,) = (text for kind, text in BLOCKS if kind == "text")
COMMANDS = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
MODULES = {"convert": convert.main, "validate": validate.main}
SMALL = ("policy=fcfs", "baselines=[]", "episodes=1", "num_jobs=4", "processes=1", "belief=prior")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the spans of the page, as the current one."""
    (tmp_path / "spans.jsonl").write_text(SPANS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["spans.jsonl", "-o", "jobs.jsonl"]) == 0
    assert capsys.readouterr().out == TOLD
    assert (folder / "jobs.jsonl").read_text() == JOBS


def test_the_commands_of_the_room(folder: Path) -> None:
    """In their order, for each needs what the ones before wrote."""
    ours = [line for line in COMMANDS if line.startswith("python -m llmsched_gym.workload.")]
    assert len(ours) == 3
    for line in ours:
        _, _, module, *arguments = shlex.split(line)
        assert MODULES[module.rpartition(".")[2]](arguments) == 0
    assert {path.name for path in folder.iterdir()} == {
        *("spans.jsonl", "jobs.jsonl", "jobs.png", "sample.png")
    }


@pytest.mark.slow
def test_the_commands_that_evaluate(folder: Path) -> None:
    """On the file of the page with enough jobs to split, and on the sample."""
    traces = [SPANS.replace("5b8efff798038103d269b633813fc60c", f"{i:032x}") for i in range(30)]
    (folder / "spans.jsonl").write_text("".join(traces))
    assert convert.main(["spans.jsonl", "-o", "jobs.jsonl"]) == 0
    lines = [line for line in COMMANDS if line.startswith("python evaluate.py")]
    assert len(lines) == 2
    for number, line in enumerate(
        (*lines, "python evaluate.py workload=traces workload.path=spans.jsonl")
    ):
        arguments = shlex.split(line)[2:]
        script = str(ROOT / "evaluate.py")
        done = subprocess.run(
            [sys.executable, script, *arguments, *SMALL, f"output_dir={number}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "read as opentelemetry: 30 jobs" in done.stdout + done.stderr


def test_the_table_names_all_formats() -> None:
    named = re.findall(r"^\| `(\w[\w-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(FORMATS)


def test_the_example_is_json() -> None:
    assert len([json.loads(line) for line in SPANS.splitlines()]) == 3
