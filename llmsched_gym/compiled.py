"""One decorator for all compiled functions."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, **options: Any) -> F:
    """Compile with numba: without the GIL, kept on disk if any cache directory is writable.

    A read-only installation without a cache directory compiles anew in each process. ``options``
    are further options of ``numba.njit``.
    """
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)  # type: ignore[return-value]
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return numba.njit(nogil=True, **options)(function)  # type: ignore[return-value]


def sources(*modules: ModuleType) -> str:
    """A digest of the modules' sources: another one after any edit."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()
