"""What versions are declared is what the tests run with."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TESTED = (
    "commands",
    "distributed",
    "report",
    "test",
    "testbed",
    "train",
)  # the extras that `make test-oldest` installs


def constraints(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pins = (line.split("==") for line in lines if "==" in line)
    return {plain(package): version for package, version in pins}


def plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def declared(extras: Sequence[str] = TESTED) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return {plain(one.name): one for one in found if one.name != project["name"]}


def test_the_lower_bounds_are_the_oldest_versions_tested() -> None:
    pins = constraints("constraints-oldest.txt")
    for name, one in declared().items():
        assert str(one.specifier) == f">={pins[name]}", name


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_the_versions_tested_are_allowed(name: str) -> None:
    pins = constraints(name)
    for package, one in declared().items():
        assert one.specifier.contains(Version(pins[package]), prereleases=True), package


def test_the_newest_clients_are_tested() -> None:
    """In ``make test``, and not with the oldest versions of the rest."""
    pins = constraints("constraints.txt")
    for package, one in declared(["clients"]).items():
        assert one.specifier.contains(Version(pins[package])), package
