"""Every program that a page shows runs: the blocks of a page in their order, as in a notebook."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from support.pages import PAGES, ROOT, programs

PROGRAMS = {page: programs(page) for page in PAGES if programs(page)}
ELSEWHERE = {  # pages whose programs have a test of their own
    "docs/pictures.md": "tests/rendering/test_docs.py",
    "docs/bring_your_own.md": "tests/env/test_bring_your_own.py",
}
NEED = {  # pages whose programs need what is not there
    "docs/testbed.md": "two servers, and what was written when they were played on",
    "docs/fidelity.md": "the log of an episode on a server, and its profile",
}
RUN = """
import json, sys

if __name__ == "__main__":
    names = {"__name__": "__main__"}
    page, blocks = json.load(open(sys.argv[1]))
    for line, text, file in blocks:
        if file is not None:
            with open(file, "w") as saved:
                saved.write(text)
        exec(compile("\\n" * (line - 1) + text, page, "exec"), names)
"""


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(PROGRAMS.keys() - ELSEWHERE.keys() - NEED.keys()))
def test_programs_run(page: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "blocks.json").write_text(json.dumps([page, PROGRAMS[page]]))
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "run.py", "blocks.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PROGRAMS)
def test_what_programs_import_is_there(page: str) -> None:
    for program in PROGRAMS[page]:
        for node in ast.walk(ast.parse(program.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmsched_gym"):
                module = import_module(node.module or "")
                missing = [one.name for one in node.names if not hasattr(module, one.name)]
                assert missing == [], f"{page}:{program.line + node.lineno - 1}"


def test_pages_with_tests_of_their_own_are_there() -> None:
    assert PROGRAMS.keys() >= ELSEWHERE.keys() | NEED.keys()
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_programs_are_found() -> None:
    assert sum(map(len, PROGRAMS.values())) > 30
    assert {one.file for one in PROGRAMS["README.md"]} == {None, "youngest.py"}
