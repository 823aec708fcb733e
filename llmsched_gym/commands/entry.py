"""What the commands share: Hydra's flags, and a line for each error."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from llmsched_gym import __version__
from llmsched_gym.commands import naming  # noqa: F401 (what configs/*.yaml name folders by)
from llmsched_gym.commands.groups import register_groups
from llmsched_gym.errors import (
    InputError,
    Interrupted,
    PolicyError,
    interrupted,
    nearest,
    one_line,
    printable,
)
from llmsched_gym.processes import WorkerDied

PATHS = ("path", "checkpoint", "output_dir")  # what names of options that are paths end with
OF_SERVERS = ("backend", "testbed")  # options that not every command has
COMPLETION = ("--shell-completion", "-sc")
FLAGS = ("--help", "-h", "--version", "--multirun", "-m", "--config-dir=PATH", "--cfg job")
SHOWN = ("job", "hydra", "all")  # configurations that --cfg prints


def run_command(
    program: str,
    command: Callable[[], Any],
    choices: Mapping[str, Mapping[str, Any]],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a function that Hydra decorated with these arguments, by default the process's own.

    Exits with code 2 and one line on stderr for bad input, where HYDRA_FULL_ERROR=1 in the
    environment adds the traceback; with code 1 and one line where a policy raises something, its
    traceback under it, or a process is killed that played episodes; and with code 130 and one line
    after Ctrl-C and SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):  # names may have signs that the terminal has not
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = _joined(sys.argv[1:] if argv is None else list(argv))
    arguments.sort(key=lambda argument: not argument.startswith("-"))  # argparse: flags first
    global _full_errors
    _full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    for argument in arguments:
        if argument.startswith("-") and not _is_flag(argument):
            _fail(program, InputError(f"unknown flag {argument!r}, choose from {', '.join(FLAGS)}"))
    if "--version" in arguments:
        print(f"llmsched-gym {__version__}")
        return
    sweep = "-m" in arguments or "--multirun" in arguments
    arguments = [part for one in arguments for part in cluster_of_file(one)]
    arguments = [path_as_text(one, sweep) for one in arguments if one != "experiment=null"]
    for group, options in choices.items():
        if f"{group}=null" in arguments:
            _fail(program, InputError(f"{group}: choose from {', '.join(sorted(options))}"))
    sys.argv = [sys.argv[0], *arguments]
    register_groups(choices)
    try:
        with _ended_by_signals():
            command()
            sys.stdout.flush()
    except BrokenPipeError:
        _end_quietly()
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
    except BrokenPipeError:
        _end_quietly()
    except PolicyError as error:
        print(f"{program}: {error}\n{error.details}", end="", file=sys.stderr)
        sys.exit(1)
    except WorkerDied as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except MemoryError as error:
        print(f"{program}: this machine has not the memory: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # a bug, maybe in custom code; Hydra would cut its traceback
        if interrupted(error):
            raise KeyboardInterrupt from None
        traceback.print_exc()
        sys.exit(1)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C, and SIGTERM, by which most clusters end jobs, interrupt what is done inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: Any) -> None:
        raise Interrupted

    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def cluster_of_file(argument: str) -> list[str]:
    """``cluster=mine.yaml`` is short for ``cluster=custom cluster.path=mine.yaml``."""
    name, _, value = argument.partition("=")
    if name == "cluster" and all(one.endswith((".yaml", ".yml")) for one in value.split(",")):
        return ["cluster=custom", f"cluster.path={value}"]
    return [argument]


def path_as_text(argument: str, sweep: bool) -> str:
    """An argument as Hydra reads it, where it names a path.

    Hydra's grammar has no ``~`` and few signs beyond ASCII letters, and takes ``007`` for a number.
    What it would not read as a text is quoted for it; in a sweep, each of the paths between commas.
    """
    name, equals, value = argument.partition("=")
    if not equals or not name.rpartition(".")[2].endswith(PATHS) or _is_text(argument, sweep):
        return argument
    paths = value.split(",") if sweep else [value]
    quoted = ",".join("'" + path.replace("\\'", "'").replace("'", "\\'") + "'" for path in paths)
    return f"{name}={quoted}"


def _is_text(argument: str, sweep: bool) -> bool:
    """Whether Hydra reads the value of an override as a text or nothing; in a sweep, several."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    if override.is_sweep_override():
        return sweep
    return not isinstance(override.value(), int | float | list | dict)


_full_errors = False


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments, ``--cfg job`` as one."""
    joined: list[str] = []
    for one in arguments:
        if joined and joined[-1] == "--cfg" and not one.startswith("-"):
            joined[-1] = f"--cfg={one}"
        else:
            joined.append(one)
    return joined


def _is_flag(argument: str) -> bool:
    flag, _, value = argument.partition("=")
    return (
        argument in (*FLAGS, *COMPLETION)
        or (flag == "--cfg" and value in SHOWN)
        or (flag == "--config-dir" and bool(value))
    )


def _end_quietly() -> NoReturn:
    """What reads the output, such as ``| head``, has read enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _fail(program: str, error: Exception) -> NoReturn:
    if _full_errors:
        traceback.print_exception(error)
    print(f"{program}: {printable(tell(error))}", file=sys.stderr)
    sys.exit(2)


def tell(error: Exception) -> str:
    """The message of an error in one line, for those of Hydra with the valid choices."""
    cause = error.__cause__ or error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        choices = f", choose from {', '.join(error.options)}" if error.options else ""
        return f"{group}: unknown {name!r}{nearest(name, error.options or ())}{choices}"
    if isinstance(error, OverrideParseException):
        why = one_line(Exception(error.message.splitlines()[0]))
        form = f"{error.override!r} is not of the form name=value: {why}"
        hint = """; quote values with other signs than letters, digits and ._/:-: 'name="value"'"""
        return form + (hint if "=" in str(error.override) else "")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        names = [str(key) for key in cause.parent_node or () if key != "hydra"]
        hint = nearest(str(cause.full_key).rpartition(".")[2], names)
        servers = cause.full_key in OF_SERVERS
        where = ", which only evaluate.py backend=testbed has" if servers else ""
        return f"unknown option {cause.full_key!r}{where}{hint}; valid here: {', '.join(names)}"
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key or 'configuration'}: {str(cause.msg).splitlines()[0]}"
    return one_line(error)
