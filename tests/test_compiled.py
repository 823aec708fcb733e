"""What is kept on disk is compiled anew when anything changes that it depends on, and only then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONSTANTS = "STEP = {}\n"
CALLED = """
from llmsched_gym.compiled import compiled
from pkg.constants import STEP

@compiled
def answer():
    return {} * STEP
"""
CALLER = """
from llmsched_gym.compiled import compiled
from pkg.called import answer

@compiled
def ask():
    return answer() + 1
"""
ASK = """
from pkg.caller import ask
print(ask(), sum(ask.stats.cache_hits.values()))
"""

# Writes one byte more into each file of a folder in turn: which change the stamp of which module?
STAMPS = """
import json, sys
from pathlib import Path
import llmsched_gym
from llmsched_gym.compiled import stamp

def stamps():
    stamp.cache_clear()
    return [stamp(module) for module in modules]

folder, modules = Path(sys.argv[1]), sys.argv[2:]
before = stamps()
changed = {module: [] for module in modules}
for path in sorted(folder.rglob("*.py")):
    content = path.read_bytes()
    path.write_bytes(content + b"#")
    for module, old, new in zip(modules, before, stamps()):
        if old != new:
            changed[module].append(path.relative_to(folder).as_posix())
    path.write_bytes(content)
assert stamps() == before
print(json.dumps([llmsched_gym.__file__, changed]))
"""


def run(program: str, *arguments: str, cwd: Path, **variables: str) -> tuple[str, str]:
    """What a program writes to stdout and stderr."""
    command = [sys.executable, "-B", "-c", program, *arguments]  # -B: edits may be of one second
    path = os.pathsep.join((str(cwd), str(ROOT)))
    environment = os.environ | {"PYTHONPATH": path} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def python(program: str, *arguments: str, cwd: Path) -> str:
    return run(program, *arguments, cwd=cwd)[0]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Compiled functions of two files, one of which calls the other's."""
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "constants.py").write_text(CONSTANTS.format(1))
    (package / "called.py").write_text(CALLED.format(10))
    (package / "caller.py").write_text(CALLER)
    return package


def stamped(folder: Path, *modules: str) -> tuple[Path, dict[str, set[str]]]:
    """Where our package is imported from, and by module which files are part of its stamp."""
    where, changed = json.loads(python(STAMPS, str(folder), *modules, cwd=folder.parent))
    return Path(where), {module: set(names) for module, names in changed.items()}


@pytest.mark.slow
def test_an_edit_is_seen_at_once_wherever_it_is(tmp_path: Path, package: Path) -> None:
    def asked() -> tuple[int, bool]:
        """The answer, and whether it was compiled before."""
        answer, hits = map(int, python(ASK, cwd=tmp_path).split())
        return answer, hits > 0

    assert asked() == (11, False)
    (package / "constants.py").write_text(CONSTANTS.format(2))
    assert asked() == (21, False)
    assert asked() == (21, True)
    (package / "called.py").write_text(CALLED.format(30))
    assert asked() == (61, False)
    assert asked() == (61, True)
    (package / "called.py").write_text(CALLED.format(10))
    assert asked() == (21, True)  # as it was: still there


def test_every_way_to_import_counts(tmp_path: Path) -> None:
    callers = {
        "names": "from pkg.called import answer",
        "module": "from pkg import called",
        "dotted": "import pkg.called",
        "renamed": "import pkg.called as other",
        "inside": "def ask():\n    from pkg.called import answer",
        "alone": "import json",
    }
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "constants.py").write_text("STEP = 1\n")
    (package / "called.py").write_text("from pkg.constants import STEP\nanswer = STEP\n")
    for name, text in callers.items():
        (package / f"{name}.py").write_text(f"{text}\n")
    _, files = stamped(package, *(f"pkg.{name}" for name in callers))
    below = {"called.py", "constants.py"}
    for name in callers:
        expected = {f"{name}.py"} | (below if name != "alone" else set())
        assert files[f"pkg.{name}"] - {"__init__.py"} == expected, name


@pytest.mark.slow
def test_kernels_depend_on_all_that_they_call_and_read(tmp_path: Path) -> None:
    package = tmp_path / "llmsched_gym"
    only_code = shutil.ignore_patterns("__pycache__", "checkpoints")
    shutil.copytree(ROOT / "llmsched_gym", package, ignore=only_code)
    kernels = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "from llmsched_gym.compiled import" in path.read_text()
    }
    of_environment = {name for name in kernels if name.startswith(("cluster/", "belief/", "env/"))}
    assert {"cluster/engines.py", "belief/inference.py", "env/observation.py"} < of_environment
    module = {
        name: f"llmsched_gym.{name.removesuffix('.py').replace('/', '.')}" for name in kernels
    }
    where, files = stamped(package, *module.values())
    assert where.parent == package
    for name in kernels:
        assert {name, "compiled.py"} <= files[module[name]]
    constants = {
        "cluster/ticks.py",
        "cluster/state.py",
        "belief/networks.py",
        "env/features.py",
        "workload/job.py",
    }
    everything = files["llmsched_gym.env.advance"]
    drawn = {"cluster/timeline.py"}  # pictures of what has happened, when they are asked for
    assert everything >= (of_environment - drawn) | constants
    others = ("agents/", "evaluation/", "experiments/", "commands/")  # a policy may be edited
    assert not [name for name in everything if name.startswith(others)]


# --- what is on disk may be anything --------------------------------------------------------------


def ask(package: Path, before: str = "", **variables: str) -> tuple[bool, str]:
    """Whether what was asked had been compiled before, and what stands on stderr."""
    out, err = run(before + ASK, cwd=package.parent, **variables)
    answer, hits = map(int, out.split())
    assert answer == 11
    return hits > 0, err


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def turn(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [("nbi", lambda _: b"\x80garbage" * 20), ("nbi", cut), ("nbc", turn), ("nbc", lambda _: b"")],
)
def test_damaged_files_are_replaced(
    package: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    ask(package)
    files = list(package.glob(f"__pycache__/*.{suffix}"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    compiled_before, err = ask(package)
    assert not compiled_before
    assert "compiled code is damaged there, compiling anew" in err
    assert err.count("\n") == 1
    assert ask(package) == (True, "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_full_disk_costs_only_time(package: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    for _ in range(2):
        compiled_before, err = ask(package, full)
        assert not compiled_before
        assert "compiled code is not kept, the next process compiles anew: " in err
        assert err.count("\n") == 1
    assert not list(package.glob("**/*.tmp.*"))
    ask(package)
    assert ask(package, full) == (True, "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="folders have other rights")
def test_nothing_is_kept_where_others_can_write(package: Path, tmp_path: Path) -> None:
    cache = package / "__pycache__"
    cache.mkdir()
    cache.chmod(0o777)
    home = {"XDG_CACHE_HOME": str(tmp_path / "home"), "HOME": str(tmp_path / "home")}
    assert ask(package, **home) == (False, "")
    assert ask(package, **home) == (True, "")
    assert not list(cache.iterdir())
    (own,) = (tmp_path / "home").rglob("numba")
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    compiled_before, err = ask(package, **home)
    assert not compiled_before
    assert "compiled code is not kept" in err
    chosen = tmp_path / "chosen"
    assert ask(package, NUMBA_CACHE_DIR=str(chosen)) == (False, "")
    assert ask(package, NUMBA_CACHE_DIR=str(chosen)) == (True, "")


def test_what_is_on_disk_is_known(tmp_path: Path, package: Path) -> None:
    ask = "from llmsched_gym.compiled import is_kept\nfrom pkg.caller import ask\n"
    assert python(ask + "print(is_kept(ask), ask(), is_kept(ask))", cwd=tmp_path) == (
        "False 11 True\n"
    )
    assert python(ask + "print(is_kept(ask))", cwd=tmp_path) == "True\n"
    (package / "constants.py").write_text(CONSTANTS.format(2))
    assert python(ask + "print(is_kept(ask))", cwd=tmp_path) == "False\n"
    told, _ = run(ask + "print(is_kept(ask))", cwd=tmp_path, NUMBA_DISABLE_JIT="1")
    assert told == "True\n"
