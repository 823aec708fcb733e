"""The plan of the code: who may import whom, how large a piece may be, what users can rely on."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llmsched_gym"
ROOMS = ("workload", "cluster", "belief", "env", "agents", "evaluation")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 700, 60

# Each line of stdin is run in a process of its own that has imported nothing of ours, but for
# speed some of what ours needs.
APART = """
import importlib, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.startswith("llmsched_gym")]
for line in sys.stdin.read().splitlines():
    child = os.fork()
    if child == 0:
        try:
            exec(line)
        except BaseException as error:
            print(f"{line}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
NEEDED = ("numba", "pandas", "scipy.stats", "hydra", "matplotlib.figure", "stable_baselines3")


def python(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, input=given, capture_output=True, text=True)


def failures(lines: list[str], cwd: Path) -> list[str]:
    """What is said of the lines that fail, each of them run first in a process of its own."""
    done = python("-c", APART, *NEEDED, cwd=cwd, given="\n".join(lines))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- Who imports whom -----------------------------------------------------------------------------


def test_import_contracts() -> None:
    command = "from importlinter.cli import lint_imports_command as run; run()"
    done = python("-c", command, "--no-cache", cwd=ROOT)
    assert done.returncode == 0, done.stdout


def modules() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.slow
def test_any_module_can_be_imported_first(tmp_path: Path) -> None:
    names = list(modules())
    assert len(names) > 100
    assert failures([f"import {name}" for name in names], tmp_path) == []


@pytest.mark.slow
def test_any_room_can_be_imported_first_with_all_that_it_offers(tmp_path: Path) -> None:
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert set(ROOMS) < set(rooms)
    lines = [f"from llmsched_gym.{room} import *" for room in rooms]
    (nowhere,) = failures([*lines, "import llmsched_gym.nowhere"], tmp_path)
    assert "No module named 'llmsched_gym.nowhere'" in nowhere  # a failure is seen


# --- How large a piece may be ---------------------------------------------------------------------


def production() -> list[Path]:
    """The files of what is installed, and the two doors; links lead to them once more."""
    found = [ROOT / "evaluate.py", ROOT / "train.py"]
    for folder in (PACKAGE, ROOT / "hydra_plugins"):
        found += [path for path in folder.rglob("*.py") if not path.is_symlink()]
    return found


def test_no_file_is_too_long() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in production()
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_no_function_is_too_long() -> None:
    lines = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in production()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert len(lines) > 500
    too_long = {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION}
    assert too_long == {}


# --- What users can rely on -----------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_there(room: str) -> None:
    module = import_module(f"llmsched_gym.{room}")
    assert module.__all__
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))


def test_what_a_first_program_imports(tmp_path: Path) -> None:
    program = """
        from llmsched_gym.agents import make_policy
        from llmsched_gym.belief import BeliefSettings
        from llmsched_gym.cluster import load_cluster
        from llmsched_gym.env import LLMSchedEnv
        from llmsched_gym.evaluation import compare
        from llmsched_gym.workload import make_workload
        workload = make_workload("planning", jobs_per_application=2)
        env = LLMSchedEnv(workload, load_cluster("constant"), num_jobs=2, belief="none")
        make_policy("fcfs").act(env.reset(seed=0)[0])
        print(compare.__name__, BeliefSettings().bins)
    """
    done = python("-c", "\n".join(map(str.strip, program.splitlines())), cwd=tmp_path)
    assert (done.stderr, done.stdout) == ("", "compare 6\n")


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    program = "import json, sys, llmsched_gym; print(json.dumps(list(sys.modules)))"
    done = python("-c", program, cwd=tmp_path)
    loaded = set(json.loads(done.stdout))
    assert "gymnasium" in loaded
    assert loaded.isdisjoint({"torch", "pgmpy", "matplotlib", "pandas", "numba", "scipy", "hydra"})


@pytest.mark.parametrize("statement", ["import agents", "from agents import fcfs"])
def test_the_link_at_the_root_is_not_imported_through(statement: str) -> None:
    done = python("-c", statement, cwd=ROOT)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert (
        last == "ImportError: the policies are llmsched_gym.agents; `agents` is a link for people"
    )
    assert "During handling" not in done.stderr
