"""What stands between a command line and Hydra."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from llmsched_gym.commands import evaluate
from llmsched_gym.commands.entry import cluster_of_file, path_as_text

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
