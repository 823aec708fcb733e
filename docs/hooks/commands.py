"""The page of the commands: every option with its default, its choices and what it is.

Names, defaults and choices are those that ``--help`` shows. What an option is stands beside it in
the code: in a comment, or in the docstring of the class that takes it.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from importlib.resources import files as resources
from pathlib import Path
from typing import Any
from unittest import mock

from docstrings import code, meanings, plain, sections, table
from omegaconf import OmegaConf

from llmsched_gym.agents import POLICIES
from llmsched_gym.agents.learning.registry import LEARNERS
from llmsched_gym.belief import BeliefSettings
from llmsched_gym.commands.groups import groups, training_groups
from llmsched_gym.env import SCENARIOS

COMMANDS = {"evaluate": groups, "train": training_groups}
MODULES = (
    *("workload.convert", "workload.validate", "cluster.calibration", "testbed.serve"),
    *("testbed.calibrate", "workload.fitting", "experiments.leaderboard"),
)
_OPTION = re.compile(r"( *)(\w+):(?: ([^#]*?))?(?:\s+# (.*))?$")
WIDTH = 88  # columns of what --help prints
Shown = tuple[str, str, str]  # an option, its default and what it is


class _Found(Exception):
    """Carries the parser of a module out of it."""


def page() -> str:
    """The page in Markdown."""
    lines = [
        "# Commands",
        "",
        "`python evaluate.py` and `python train.py` of a checkout are `llmsched-evaluate` and",
        "`llmsched-train` of an installed package. Options are given as `name=value`; values with",
        "brackets or braces are quoted for the shell: `'baselines=[fcfs,sjf]'`.",
        "",
    ]
    shown: set[str] = set()
    for name, choices in COMMANDS.items():
        options = _config(f"{name}.yaml").partition("\nhydra:")[0]
        lines += [f"## {name}.py", "", *_options(commented(options))]
        for group, nodes in choices().items():
            if group not in shown:
                lines += _group(group, nodes)
        both = ", ".join(f"[`{group}`](#{group})" for group in choices() if group in shown)
        lines += [f"And as above: {both}.", ""] if both else []
        shown |= choices().keys()
    lines += ["## Experiments and presets", "", "What `NAME=CHOICE` sets, as YAML.", ""]
    configs = Path(str(resources("llmsched_gym.configs")))
    for path in sorted(configs.glob("*/*.yaml")):
        file = path.relative_to(configs)
        lines += [f"### {file.parent}={file.stem}", "", "```yaml", _config(str(file)), "```", ""]
    lines += ["## Modules", ""]
    for name in MODULES:
        lines += [f"### {name}", "", "```text", usage(name), "```", ""]
    return "\n".join(lines)


def commented(text: str) -> list[Shown]:
    """The options that lines of YAML or fields of a dataclass are, with the comments at them."""
    found: list[Shown] = []
    before: list[str] = []
    inside = ""
    for line in text.splitlines():
        option = _OPTION.match(re.sub(r"^  - (?=.* # )", "", line))  # groups with a comment, too
        if line.startswith("# "):
            before.append(line[2:])
            continue
        if option and not option[3]:
            inside = f"{option[2]}."
        elif option:
            name = (inside if option[1] else "") + option[2]
            found.append((name, option[3], option[4] or " ".join(before)))
        before = []
    return found


def comments(options: type[Any]) -> dict[str, str]:
    """What the comments at the fields of a dataclass and its bases say."""
    found: dict[str, str] = {}
    for base in reversed(options.__mro__):
        if is_dataclass(base):
            source = textwrap.dedent(inspect.getsource(base).partition("\n")[2])
            fields = textwrap.dedent(source.partition("\n")[2])
            found |= {name: said for name, _, said in commented(fields)}
    return found


def usage(module: str) -> str:
    """What ``python -m llmsched_gym.MODULE --help`` prints."""

    def stop(parser: ArgumentParser, *_: Any) -> None:
        parser.prog = f"python -m llmsched_gym.{module}"
        raise _Found(parser.format_help())

    run = import_module(f"llmsched_gym.{module}")
    run = run if hasattr(run, "main") else import_module(f"{run.__name__}.__main__")
    with (
        mock.patch.object(ArgumentParser, "parse_known_args", stop),
        mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH)}),
    ):
        try:
            run.main([])
        except _Found as found:
            return str(found).strip()
    raise ValueError(f"{module} reads no arguments")


def _config(name: str) -> str:
    return resources("llmsched_gym.configs").joinpath(name).read_text(encoding="utf-8").strip()


def _options(rows: list[Shown]) -> list[str]:
    shown = [(code(name), code(default), plain(said)) for name, default, said in rows]
    return table(("option", "default", "what"), shown)


def _group(group: str, nodes: Mapping[str, Any]) -> Iterator[str]:
    """The choices of a group: those with the same options in one table."""
    yield from (f"### {group}", "")
    if group == "scenario":  # its choices set options of the other groups
        yield from table(
            ("scenario", "what it tests"), ((f"`{n}`", one.tests) for n, one in SCENARIOS.items())
        )
        yield from ("What each sets is in [The suite](../suite.md).", "")
        return
    if group == "policy":
        first = {n: sections(made.__doc__)[""].split("\n\n")[0] for n, made in POLICIES.items()}
        yield from table(("policy", "what"), ((f"`{n}`", plain(said)) for n, said in first.items()))
    alike: dict[str, list[str]] = {}
    for choice, node in nodes.items():
        alike.setdefault(json.dumps(_rows(group, choice, node)), []).append(choice)
    for rows, choices in alike.items():
        if rows != "[]" or group != "policy":
            yield from (", ".join(f"`{group}={choice}`" for choice in choices), "")
        if rows != "[]":
            yield from _options(json.loads(rows))


def _rows(group: str, choice: str, node: Any) -> list[Shown]:
    said = _said(group, choice, node)
    if group == "backend":  # its choices stand beside the other groups
        group, node = "testbed", node.get("testbed", {})
        said = comments(type(node))
    given: Any = OmegaConf.to_container(OmegaConf.create(node))
    return [
        (f"{group}.{name}", _value(default), said.get(name, ""))
        for name, default in given.items()
        if name != "name"
    ]


def _said(group: str, choice: str, node: Any) -> dict[str, str]:
    """What the options of a choice are."""
    if choice == "custom" and not is_dataclass(node):
        alike = meanings(LEARNERS["ppo"].options) if group == "agent" else {}
        return alike | {"path": "module:Class, whose own options are given with a +"}
    if group == "policy":
        return meanings(POLICIES[choice])
    if group == "agent":
        inherited = (meanings(one) for one in reversed(LEARNERS[choice].options.__mro__[:-1]))
        return {name: said for options in inherited for name, said in options.items()}
    if group == "belief":
        return meanings(BeliefSettings)
    return comments(type(node)) if is_dataclass(node) else {}


def _value(default: Any) -> str:
    return "required" if default == "???" else json.dumps(default).strip('"')
