"""One decorator for all compiled functions, and how what it compiles is kept on disk.

Numba keeps what it has compiled on disk and compiles anew when the file of a function changes, but
it does not look at the files that the function calls into or takes constants from. So a *stamp* of
all of these is part of the name under which a function is kept.

It believes whatever it finds there, too, and gives up where it cannot write. Here a damaged file is
compiled anew and replaced, a disk that is full or read-only only costs time, both with one line on
stderr, and files lie where nobody else can write: in ``NUMBA_CACHE_DIR`` if that is set, else in
``__pycache__`` beside the code if that belongs to the user alone, else in the user's cache
directory.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import pickle
import stat
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numba
from numba.core import caching

from llmsched_gym.notes import note

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, **options: Any) -> F:
    """Compile with numba: without the GIL, kept on disk if any cache directory is writable.

    A read-only installation without a cache directory compiles anew in each process. ``options``
    are further options of ``numba.njit``.
    """
    config: Any = numba.config
    checked = ".checked" if config.BOUNDSCHECK else ""
    function.__qualname__ += f".{stamp(function.__module__)}{checked}"  # names numba's files
    dispatcher: Any = numba.njit(nogil=True, **options)(function)
    if not config.DISABLE_JIT:
        try:
            dispatcher._cache = _Cache(function)
        except (OSError, RuntimeError) as error:  # numba: "no locator available"
            _not_kept(error)
    return dispatcher  # type: ignore[no-any-return]


# For functions that allocate nothing: without reference counts, and inlined where they are called.
kernel = partial(compiled, _nrt=False)
inlined = partial(compiled, _nrt=False, forceinline=True)


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether compiled code of a function, as it is now, is on disk; or nothing is compiled."""
    if not hasattr(function, "py_func"):  # NUMBA_DISABLE_JIT
        return True
    kept: Any = getattr(function, "_cache", None)
    return isinstance(kept, _Cache) and os.path.exists(kept._cache_file._index_path)


@cache
def stamp(module: str) -> str:
    """A digest of a module's file, of all files of its package that it imports, in turn too, and of
    numba's version.
    """
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=6)
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


# --- on disk --------------------------------------------------------------------------------------


# Older versions of numba begin these names with "_".
_PLACES: dict[str, Any] = {
    place.__name__.lstrip("_"): place for place in caching.CacheImpl._locator_classes
}


_InTreeBase: Any = _PLACES["InTreeCacheLocator"]
_UserWideBase: Any = _PLACES["UserWideCacheLocator"]


class _InTree(_InTreeBase):  # type: ignore[misc]
    """``__pycache__`` beside the code, if nobody but the user can write there."""

    def ensure_cache_path(self) -> None:
        super().ensure_cache_path()
        if not _is_private(self.get_cache_path()):
            raise PermissionError("others can write there")


class _UserWide(_UserWideBase):  # type: ignore[misc]
    """A folder in the user's cache directory that is closed to others."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        from platformdirs import user_cache_dir

        super().__init__(function, path)
        self._own = os.path.join(user_cache_dir("llmsched-gym"), "numba")
        self._cache_path = os.path.join(self._own, self.get_suitable_cache_subpath(path))

    def ensure_cache_path(self) -> None:
        os.makedirs(self._own, mode=0o700, exist_ok=True)
        if not _is_private(self._own):
            raise PermissionError("others can write there")
        super().ensure_cache_path()


def _is_private(folder: str) -> bool:
    """Whether a folder belongs to the user, and nobody else can write to it."""
    if not hasattr(os, "geteuid"):  # other systems have no such bits
        return True
    found = os.lstat(folder)
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class _Results(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: ClassVar[list[Any]] = [  # type: ignore[misc]
        _PLACES["UserProvidedCacheLocator"],
        _InTree,
        _UserWide,
        _PLACES["IPythonCacheLocator"],
    ]


class _Files(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Files that begin with a checksum of the rest."""

    def _dump(self, what: Any) -> bytes:
        content: bytes = super()._dump(what)
        return _checksum(content) + content

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                if pickle.load(file) != self._version:
                    return {}
                stamp, overloads = _checked(file.read())
        except FileNotFoundError:
            return {}
        except Exception as error:  # whatever pickle makes of damaged bytes
            _damaged(self._index_path, error)
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            return _checked(file.read())


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _checked(content: bytes) -> Any:
    if content[:16] != _checksum(content[16:]):
        raise ValueError("wrong checksum")
    return pickle.loads(content[16:])


def _not_kept(why: object) -> None:
    note("compiled code", f"compiled code is not kept, the next process compiles anew: {why}")


def _damaged(path: str, error: Exception) -> None:
    why = f"{type(error).__name__}: {error}"
    note("damaged code", f"{path}: compiled code is damaged there, compiling anew ({why})")


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's, but what goes wrong with files costs time and no run."""

    _impl_class = _Results

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = None  # it is in the name, if there is a file
        if _file(function.__module__) is None:
            stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except Exception as error:
            _damaged(self._cache_file._index_path, error)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        except OSError as error:
            _not_kept(f"{self._cache_path}: {error.strerror or error}")
