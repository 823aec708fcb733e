"""Importing what users name as ``module:object``."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from llmsched_gym.errors import raised


def import_for(what: str, module: str) -> ModuleType:
    """The module of a user, looked for as Python does, and in the working directory.

    Parameters
    ----------
    what : it is for, as errors call it, such as ``"policy mine:Mine"``.
    module : its name.

    Raises
    ------
    ValueError
        if there is none.
    PolicyError
        for what it raises.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except (ModuleNotFoundError, TypeError, ValueError) as error:  # also "", ".relative"
        raise ValueError(f"{what}: cannot import {module!r}: {error}") from error
    except BaseException as error:
        raise raised(f"{what}: cannot import {module!r}", error) from error
