"""What stands between a command line and Hydra."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from llmsched_gym import __version__, notes
from llmsched_gym.commands import evaluate, progress, train
from llmsched_gym.commands.entry import cluster_of_file, path_as_text

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str, str]]
PLAIN = st.characters(exclude_characters="\\$'\"", exclude_categories=["Cs"])


def read(argument: str) -> Any:
    return OverridesParser.create().parse_override(argument).value()


def is_path(text: str) -> bool:
    """Whether Hydra does not take a text for nothing: it cuts blanks, and knows null and NULL."""
    return text == text.strip(" \t") and text.lower() != "null"


@given(st.text(PLAIN, min_size=1).filter(is_path))
@example("~/jobs.jsonl")
@example("ünï.jsonl")
@example("a=b.jsonl")
@example("007")
@example("1e5")
@example("true")
@example("{a}[1](2).jsonl")
@example("a,b")
@example("my jobs, and more.jsonl")
def test_a_path_is_read_as_it_is(path: str) -> None:
    argument = path_as_text(f"workload.path={path}", sweep=False)
    assert str(read(argument)) == path
    assert path_as_text(argument, sweep=False) == argument


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("it's", "it's"),
        ("'quoted, as told'", "quoted, as told"),
        ('"ü"', "ü"),
        ("null", None),
        ("", ""),
        ("${oc.env:HOME}/x", "${oc.env:HOME}/x"),
        (r"C:\jobs\a.jsonl", r"C:\jobs\a.jsonl"),
    ],
)
def test_what_hydra_reads_is_left_to_it(value: str, expected: str | None) -> None:
    assert read(path_as_text(f"output_dir={value}", sweep=False)) == expected


def test_other_options_are_left_alone_and_sweeps_split() -> None:
    for argument in ("seed=007", "baselines=[a,b]", "policy=[", "episodes", "-m"):
        assert path_as_text(argument, sweep=True) == argument
    assert path_as_text("workload.path=a,b", sweep=True) == "workload.path=a,b"
    assert path_as_text("workload.path=~/ü,~/b", sweep=True) == "workload.path='~/ü','~/b'"
    assert path_as_text("policy.checkpoint=~/a", sweep=False) == "policy.checkpoint='~/a'"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("workload.name=ünï", "quote values with other signs than letters, digits and ._/:-: "),
        ("policy=null", "policy: choose from argus, "),
        ("cluster=null", "cluster: choose from a100_"),
        ("policy=[a]", "policy: unknown 'a'"),
        ("policy.name=[a]", "policy: choose from argus, "),
        ("policy={a:1}", "unknown option 'policy.a'; valid here: name, "),
        ("baselines=[[a]]", "baselines: ['a'] is not of a list such as [fcfs,fair] or [{name: "),
        ("baselines={a:1}", "baselines: "),
        ("policy.epsilon=[0.1]", "policy llmsched: epsilon: [0.1] is not a number"),
        ("seed={a:1}", "seed: {'a': 1} is not a whole number"),
        ("overwrite=5", "overwrite: 5 is neither true nor false"),
        ("num_jobs=99999999999999999999", "num_jobs: 99999999999999999999 is above 1000000"),
        ("output_dir='a\0b'", "output_dir: it needs the name of a folder"),
        ("episodes=\x1b[31m", "\\x1b[31m"),
    ],
)
def test_what_is_no_value_ends_with_one_line(
    run_main: Command, argument: str, message: str
) -> None:
    code, out, err = run_main(evaluate.main, "output_dir=out", argument)
    assert (code, out) == (2, "")
    assert err.startswith("evaluate.py: ")
    assert err.count("\n") == 1
    assert message in err
    assert "\x1b" not in err
    assert not list(Path().iterdir())


def test_no_experiment_is_the_default(run_main: Command) -> None:
    tiny = ("policy=fcfs", "baselines=[]", "episodes=1", "num_jobs=4", "processes=1")
    jobs = ("workload=task_automation", "workload.jobs_per_application=40", "output_dir=~/out")
    assert run_main(evaluate.main, *tiny, *jobs, "experiment=null")[0] == 0


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_cluster_in_a_file_is_named_like_a_preset() -> None:
    assert cluster_of_file("cluster=my/mine.yaml") == [
        "cluster=custom",
        "cluster.path=my/mine.yaml",
    ]
    assert cluster_of_file("cluster=a.yaml,b.yml")[1] == "cluster.path=a.yaml,b.yml"
    for other in ("cluster=constant", "cluster=constant,a.yaml", "cluster.path=a.yaml", "policy=a"):
        assert cluster_of_file(other) == [other]


def run_in_process(
    command: str, tmp_path: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("python", sys.executable)],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    for flags in ("--help", "--cfg job", "--help | head -1"):
        done = run_in_process(f"python {ROOT}/evaluate.py {flags} | true", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_options_and_choices() -> None:
    """As docs/experiments.md says, and as bash calls it after a TAB."""
    script = f"""
    PATH={Path(sys.executable).parent}:$PATH
    eval "$(python evaluate.py -sc install=bash)"
    complete -p python
    for line in "policy=ll" "workload=pl" "policy.eps"; do
        COMP_LINE="python evaluate.py $line"
        COMP_POINT=${{#COMP_LINE}} COMP_WORDS=($COMP_LINE) COMP_CWORD=2 COMPREPLY=()
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
    done
    """
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    registered, policies, workloads, options = done.stdout.splitlines()
    assert registered == "complete -o default -o nospace -F hydra_bash_completion python"
    assert "policy=llmsched" in policies.split()
    assert (workloads, options) == ("workload=planning", "policy.epsilon=")


@pytest.mark.parametrize("main", [evaluate.main, train.main])
def test_version_and_configuration(run_main: Command, main: Callable[..., None]) -> None:
    assert run_main(main, "--version") == (0, f"llmsched-gym {__version__}\n", "")
    code, out, err = run_main(main, "workload.load=2", "--cfg", "job")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["workload"]["load"] == 2
    assert run_main(main, "--cfg=job", "workload.load=2")[1] == out
    assert not list(Path().iterdir())


def test_compiling_is_told_once_and_only_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMSCHED_QUIET", "0")
    monkeypatch.setattr(notes, "_told", set())
    monkeypatch.setattr(progress, "is_kept", lambda _function: True)
    progress.tell_of_compiling()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "is_kept", lambda _function: False)
    for _ in range(2):
        progress.tell_of_compiling()
    assert capsys.readouterr().err == "llmsched_gym: compiling, once, about a minute\n"
    monkeypatch.setenv("LLMSCHED_QUIET", "1")
    monkeypatch.setattr(notes, "_told", set())
    progress.tell_of_compiling()
    assert capsys.readouterr().err == ""


def test_how_far_it_is_is_told_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notes, "EVERY_S", 0.01)

    def told(wanted: bool) -> list[str]:
        with notes.counted(50, "episodes", wanted) as count:
            for _ in range(3):
                count()
            time.sleep(0.5)
        return capsys.readouterr().err.splitlines()

    assert told(wanted=True) == []
    monkeypatch.setenv("LLMSCHED_QUIET", "")
    assert told(wanted=True)[-1] == "3 of 50 episodes"
    assert told(wanted=False) == []


def test_what_goes_on_is_told_at_once_and_the_inner_of_two_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notes, "EVERY_S", 0.02)
    monkeypatch.setenv("LLMSCHED_QUIET", "")
    with progress.reading("reading"):
        assert capsys.readouterr().err == "reading\n"
        with notes.counted(2, "cells"):
            time.sleep(0.2)
            inner = capsys.readouterr().err.splitlines()
        time.sleep(0.2)
    outer = capsys.readouterr().err.splitlines()
    assert set(inner) == {"0 of 2 cells"}
    assert "reading: 0 s" in outer
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_processes_do_not_compile_what_nobody_has_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played: list[str] = []
    for kept in (True, False):
        monkeypatch.setattr(progress, "is_kept", lambda _function, kept=kept: kept)
        progress.compile_first(lambda: played.append("once"))
    assert played == ["once"]
