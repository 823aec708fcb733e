"""Parametrised tests of which the quick suite plays some."""

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(
    names: str | tuple[str, ...], cases: Iterable[Any], every: int = 3, **options: Any
) -> pytest.MarkDecorator:
    """``pytest.mark.parametrize``, but most cases are in the slow suite.

    In the quick one are the first and each ``every``-th after it.
    """
    several = not isinstance(names, str)
    given = [
        pytest.param(*(case if several else [case]), marks=[pytest.mark.slow] if n % every else [])
        for n, case in enumerate(cases)
    ]
    return pytest.mark.parametrize(names, given, **options)
