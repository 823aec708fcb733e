"""Whether two nested things are the same."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_same(ours: Any, theirs: Any) -> None:
    """The same keys, types and numbers, whatever the nesting."""
    kind = getattr(getattr(theirs, "dtype", None), "kind", "")
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            check_same(ours[key], theirs[key])
    elif isinstance(theirs, (tuple, list)) or kind == "O":
        for mine, other in zip(ours, theirs, strict=True):
            check_same(mine, other)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        np.testing.assert_equal(ours, theirs)
