"""What GitHub runs is what .ci/run runs: the same targets of the Makefile."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def jobs() -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["jobs"]
    return found


def test_it_makes_all_that_has_to_hold() -> None:
    made = set()
    for job in jobs().values():
        matrix = job["strategy"]["matrix"]
        for step in job["steps"]:
            target = step.get("run", "").removeprefix("make ")
            made |= set(matrix["target"] if "matrix.target" in target else [target])
    asked = re.findall(r"^make (\S+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert made - {""} == set(asked)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(asked) <= set(targets)


def test_pythons_are_allowed_and_actions_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert all(
        f"{python}.0" in allowed for python in jobs()["quick"]["strategy"]["matrix"]["python"]
    )
    used = [step["uses"] for job in jobs().values() for step in job["steps"] if "uses" in step]
    assert len(used) == 4
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", one) for one in used)


def test_the_notebooks_are_among_what_is_slow() -> None:
    assert "pytest.mark.slow" in (ROOT / "tests/notebooks/test_notebooks.py").read_text()
