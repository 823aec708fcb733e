"""What the commands share: Hydra's flags, and a line for each error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from llmsched_gym.commands.groups import register_groups
from llmsched_gym.errors import InputError, interrupted, one_line

FLAGS = ("--help", "-h", "--multirun", "-m", "--config-dir=PATH")


def run_command(
    program: str,
    command: Callable[[], Any],
    choices: Mapping[str, Mapping[str, Any]],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a function that Hydra decorated with these arguments, by default the process's own.

    Exits with code 2 and one line on stderr for bad input, where HYDRA_FULL_ERROR=1 in the
    environment adds the traceback; and with code 130 and one line after Ctrl-C.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    arguments.sort(key=lambda argument: not argument.startswith("-"))  # argparse: flags first
    global _full_errors
    _full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    for argument in arguments:
        if argument.startswith("-") and not _is_flag(argument):
            _fail(program, InputError(f"unknown flag {argument!r}, choose from {', '.join(FLAGS)}"))
    sys.argv = [sys.argv[0], *arguments]
    register_groups(choices)
    try:
        command()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        _fail(program, error)
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "no results are written"
        print(f"{program}: interrupted, {what}", file=sys.stderr)
        sys.exit(130)


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Inside of the function that Hydra decorated: what is raised within is told and ends it."""
    try:
        yield
    except (InputError, OmegaConfBaseException) as error:
        _fail(program, error)
    except Exception as error:  # a bug, maybe in custom code; Hydra would cut its traceback
        if interrupted(error):
            raise KeyboardInterrupt from None
        traceback.print_exc()
        sys.exit(1)


_full_errors = False


def _is_flag(argument: str) -> bool:
    return argument in FLAGS or argument.startswith("--config-dir=")


def _fail(program: str, error: Exception) -> NoReturn:
    if _full_errors:
        traceback.print_exception(error)
    print(f"{program}: {tell(error)}", file=sys.stderr)
    sys.exit(2)


def tell(error: Exception) -> str:
    """The message of an error in one line, for those of Hydra with the valid choices."""
    cause = error.__cause__ or error
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}: unknown {name!r}, choose from {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not of the form name=value: {error.message.splitlines()[0]}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        valid = ", ".join(str(key) for key in cause.parent_node or () if key != "hydra")
        return f"unknown option {cause.full_key!r}; valid here: {valid}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key or 'configuration'}: {str(cause.msg).splitlines()[0]}"
    return one_line(error)
