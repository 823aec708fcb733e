"""One decorator for all compiled functions.

Numba keeps what it has compiled on disk and compiles anew when the file of a function changes, but
it does not look at the files that the function calls into or takes constants from. So a *stamp* of
all of these is part of the name under which a function is kept.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, **options: Any) -> F:
    """Compile with numba: without the GIL, kept on disk if any cache directory is writable.

    A read-only installation without a cache directory compiles anew in each process. ``options``
    are further options of ``numba.njit``.
    """
    function.__qualname__ += f".{stamp(function.__module__)}"  # numba names its files by it
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)  # type: ignore[return-value]
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return numba.njit(nogil=True, **options)(function)  # type: ignore[return-value]


# For functions that allocate nothing: without reference counts, and inlined where they are called.
kernel = partial(compiled, _nrt=False)
inlined = partial(compiled, _nrt=False, forceinline=True)


@cache
def stamp(module: str) -> str:
    """A digest of a module's file and of all files of its package that it imports, in turn too."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(_files(module, {})):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(module: str, found: dict[str, Path]) -> set[Path]:
    """The files of a module and of all that it imports from its package."""
    path = None if module in found else _file(module)
    if path is not None:
        found[module] = path
        for other in _imported(path, module.partition(".")[0]):
            _files(other, found)
    return set(found.values())


@cache
def _imported(path: Path, package: str) -> tuple[str, ...]:
    """The modules of a package that a file may import; some of these names are no modules."""
    return tuple(
        name
        for node in ast.walk(ast.parse(path.read_bytes()))
        for name in _names(node)
        if name.partition(".")[0] == package
    )


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _file(module: str) -> Path | None:
    """The source of a module, None if there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a name in a module; __main__ of a prompt
        return None
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None
