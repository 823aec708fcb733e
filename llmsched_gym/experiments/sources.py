"""The code that cells depend on: ours, and what policies from elsewhere import."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import llmsched_gym
from llmsched_gym.agents.base import find_policy

PACKAGE = Path(llmsched_gym.__file__).parent
SUFFIXES = (".py", ".yaml", ".json", ".safetensors")  # of what results depend on
WITHOUT = (  # what does not change what is played
    *("commands", "configs", "testbed", "workload/fitting", "plotting.py"),
    *(f"evaluation/{name}.py" for name in ("comparing", "comparison", "figures", "results")),
    *(f"evaluation/{name}.py" for name in ("kept", "live", "tables", "verdict", "animation")),
    *(f"evaluation/{name}.py" for name in ("reporting", "report_page", "report_figures")),
    *(f"experiments/{name}.py" for name in ("run", "tables", "figures", "sources")),
    *(f"experiments/{name}.py" for name in ("scores", "leaderboard", "rankings")),
)
INSTALLED = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}


def fingerprint(policies: Iterable[str]) -> str:
    """Of all that is run when a cell is played, and of the libraries that it computes with.

    Of policies from elsewhere (``module:Class``) the files count that :func:`sources` finds. What
    else they read, such as data files, nobody can know.
    """
    digest = hashlib.sha256(platform.python_version().encode())
    for library in ("numba", "numpy", "pgmpy", "scipy", "torch"):
        with suppress(PackageNotFoundError):  # torch is not needed by most policies
            digest.update(f"{library} {version(library)}\n".encode())
    without = [PACKAGE / name for name in WITHOUT]
    modules = {find_policy(policy).__module__ for policy in policies}
    files = set(sources(name for name in modules if not name.startswith("llmsched_gym.")))
    for path in PACKAGE.rglob("*"):
        if path.suffix in SUFFIXES and not any(path.is_relative_to(part) for part in without):
            files.add(path)
    for path in sorted(files):
        digest.update(f"{path.name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sources(modules: Iterable[str]) -> Iterator[Path]:
    """The files of modules and of all that they import, wherever in them, and so on.

    Without this package, the standard library and other packages that are installed, whose files
    seldom change; and without what only an expression names, as in ``import_module(name)``.
    """
    waiting, seen = list(modules), set[str]()
    own = {name.partition(".")[0] for name in waiting}
    while waiting:
        name = waiting.pop()
        top, _, _ = name.partition(".")
        if (
            name in seen
            or top in sys.stdlib_module_names
            or (top not in own and _installed(_file(_spec(top))))
        ):
            continue
        seen.add(name)
        waiting.extend(filter(None, [name.rpartition(".")[0]]))  # its package runs first
        spec = _spec(name)
        path = _file(spec)
        if spec is None or path is None or (top not in own and _installed(path)):
            continue
        yield path
        if path.suffix == ".py":
            waiting.extend(_imported(path, spec))


def _spec(name: str) -> ModuleSpec | None:
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    with suppress(Exception):  # not there, or not importable: then it has not been run either
        return importlib.util.find_spec(name)
    return None


def _file(spec: ModuleSpec | None) -> Path | None:
    """Of a module; packages without a file of their own have none."""
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    return path if path.is_file() else None


def _installed(path: Path | None) -> bool:
    if path is None:
        return False
    parts = {"site-packages", "dist-packages"}
    return not parts.isdisjoint(path.parts) or any(
        path.is_relative_to(folder) for folder in (*INSTALLED, PACKAGE)
    )


def _imported(path: Path, spec: ModuleSpec) -> Iterator[str]:
    """The names of the modules that a file imports, and some that are names in modules."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            with suppress(ImportError):  # beyond the top
                module = importlib.util.resolve_name(module, spec.parent)
                yield module
                yield from (f"{module}.{one.name}" for one in node.names)
