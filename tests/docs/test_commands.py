"""Every command that a page shows is one that its program takes."""

from __future__ import annotations

import csv
import re
import runpy
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmsched_gym.agents import find_policy
from llmsched_gym.commands import evaluate, train
from support.pages import ROOT, Command, commands, text_of
from support.sampled import sampled

COMMANDS = commands()
MAINS = {
    "evaluate.py": evaluate.main,
    "llmsched-evaluate": evaluate.main,
    "train.py": train.main,
    "llmsched-train": train.main,
}
# What stands for several values in the commands that made tables.
PLACEHOLDERS = {
    **{"workload": "mixed", "workload.load": "1.3", "workload.arrivals": "burst", "episodes": "2"},
    **{"policy.epsilon": "0.1", "policy.price": "1", "policy.contenders": "true"},
    **{"experiment": "paper", "policy": "srtf"},
}
OTHERS = ("hydra/sweeper=optuna", "hydra.sweeper.")  # of a package that is not among ours


def program(command: Command) -> str:
    words = command.words
    return words[1] if words[0] == "python" and len(words) > 1 else words[0]


def ids(command: Command) -> str:
    return f"{command.page}: {command.text}"


def of(*programs: str) -> list[Command]:
    return [one for one in COMMANDS if program(one) in programs]


# --- evaluate.py and train.py ---------------------------------------------------------------------


def points(arguments: list[str]) -> list[list[str]]:
    """What a command asks for; of a sweep, each value once."""
    flags = {"-m", "--multirun"}
    if not flags & set(arguments):
        return [arguments]
    given = [one for one in arguments if one not in flags and not one.startswith(OTHERS)]
    parsed = OverridesParser.create().parse_overrides(given)
    swept = [list(one.sweep_string_iterator()) if one.is_choice_sweep() else [] for one in parsed]
    most = max(len(values) for values in swept)
    return [
        [
            f"{one.get_key_element()}={values[min(k, len(values) - 1)]}" if values else text
            for one, values, text in zip(parsed, swept, given, strict=True)
            if not one.is_interval_sweep()
        ]
        for k in range(most or 1)
    ]


def replaced(argument: str) -> str:
    """With a value in place of what stands for several."""
    name, equals, value = argument.partition("=")
    if equals and re.fullmatch(r"[A-Z]|[A-Z]{4,}", value):
        return f"{name}={PLACEHOLDERS[name]}"
    return argument


@sampled("command", of(*MAINS), every=6, ids=ids)
def test_options_and_choices_are_there(run_main: Callable[..., Any], command: Command) -> None:
    main = MAINS[program(command)]
    arguments = command.words[command.words.index(program(command)) + 1 :]
    if arguments in (["--help"], ["--version"]):
        assert run_main(main, *arguments)[0] == 0
        return
    for point in points(list(map(replaced, arguments))):
        code, out, err = run_main(main, "--cfg=job", *point)
        assert (code, err) == (0, ""), point
        check_policies(yaml.safe_load(out))


def check_policies(settings: dict[str, Any]) -> None:
    """That the policies are there which are no choice of a group, but members of lists."""
    for one in settings.get("baselines", ()):
        find_policy(one["name"] if isinstance(one, dict) else one)
    experiment = settings.get("experiment")
    if experiment is not None:
        kinds = {"suite": {"scenarios"}, "changes": {"workloads"}}
        where = next((kinds[kind] for kind in kinds if kind in experiment), {"workloads", "loads"})
        assert set(experiment) >= {"policies", *where}


ELSEWHERE = ("docs/bring_your_jobs.md", "docs/bring_your_own.md")  # run by tests of their own
SMALL = ("episodes=1", "num_jobs=4", "processes=1", "output_dir=out")


def needs_nothing(command: Command) -> bool:
    """Whether it can be played at once: no files of one's own, no servers, no hours."""
    given = dict(word.partition("=")[::2] for word in command.words)
    files = [
        value
        for name, value in given.items()
        if name.endswith((".path", ".checkpoint")) and not re.fullmatch(r"sample|\w+_\w+", value)
    ]
    others = {"-m", "--help", "--cfg", "experiment", "backend"} & given.keys()
    generic = any(replaced(word) != word for word in command.words) or "W_" in command.text
    mine = str(given.get("cluster", "")).endswith(".yaml")
    return not (files or others or generic or mine or command.page in ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [one for one in of("evaluate.py", "llmsched-evaluate") if needs_nothing(one)],
    ids=ids,
)
def test_evaluations_are_played(run_main: Callable[..., Any], command: Command) -> None:
    arguments = command.words[command.words.index(program(command)) + 1 :]
    code, _, err = run_main(evaluate.main, *arguments, *SMALL)
    assert code == 0, err
    assert Path("out/summary.json").is_file()
    with Path("out/episodes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert 0 < float(row["bound_s"]) <= float(row["mean_jct_s"])


# --- other programs -------------------------------------------------------------------------------


class Read(Exception):
    """The arguments were read."""


def read_by(module: str, arguments: list[str]) -> None:
    """Have a module read its arguments, and do no more."""
    parse = ArgumentParser.parse_known_args

    def stop(self: ArgumentParser, given: Any = None, namespace: Any = None) -> None:
        _, rest = parse(self, given, namespace)
        raise AssertionError(f"unknown: {rest}") if rest else Read

    run = runpy.run_path if module.endswith(".py") else runpy.run_module
    with (
        mock.patch.object(ArgumentParser, "parse_known_args", stop),
        mock.patch.object(sys, "argv", [module, *arguments]),
        pytest.raises(Read),
    ):
        run(module, run_name="__main__")


@pytest.mark.parametrize(
    "command",
    [one for one in of("-m") if one.words[2].startswith("llmsched_gym.")],
    ids=ids,
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_modules_read_their_arguments(command: Command) -> None:
    read_by(command.words[2], command.words[3:])


SCRIPTS = [one for one in COMMANDS if re.match(r"(benchmarks|examples)/", program(one))]


@pytest.mark.slow
@pytest.mark.parametrize("command", SCRIPTS, ids=ids)
def test_scripts_read_their_arguments(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    script = program(command)
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    monkeypatch.chdir(ROOT)
    read_by(script, command.words[2:])


def test_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for one in of("make") for word in one.words[1:]}
    assert named <= targets
    assert {"test", "evaluate"} <= named


def test_extras_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        extra
        for one in of("pip")
        for listed in re.findall(r"\[([\w,]+)\]", one.text)
        for extra in listed.split(",")
    ]
    assert named
    assert set(named) <= set(project["optional-dependencies"])


# --- as shells read them --------------------------------------------------------------------------


def test_what_shells_expand_is_quoted() -> None:
    helps = [(ROOT / f"llmsched_gym/configs/{n}.yaml").read_text() for n in ("evaluate", "train")]
    shown = [
        Command("help", line.strip())
        for text in helps
        for line in re.findall(r"^ {8}(python .*)$", text, re.MULTILINE)
    ]
    assert len(shown) >= 10
    bare = [one.text for one in [*COMMANDS, *shown] if re.search(r"[\[\]{}*?]", one.unquoted)]
    assert bare == []


def test_commands_are_found() -> None:
    pages = {one.page for one in COMMANDS}
    assert len(COMMANDS) > 100
    assert pages >= {"README.md", "docs/training.md", "docs/bring_your_own.md", "docs/testbed.md"}
    assert "python evaluate.py" in text_of("README.md")
