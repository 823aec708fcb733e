"""What the commands evaluate.py and train.py share: settings, and a line for each error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from configs import register_groups
from episodes import InputError, interrupted, one_line
from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.latency import Cluster, load_cluster
from llmsched_gym.workload.mixes import Workload, make_workload

FLAGS = ("--help", "-h", "--multirun", "-m", "--config-dir=PATH")

# --- settings -------------------------------------------------------------------------------------


def named_settings(config: DictConfig) -> dict[str, Any]:
    """The configuration as a plain dictionary."""
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def check_names(settings: Mapping[str, Any], valid: Sequence[str]) -> None:
    """ValueError if there are settings that are not valid, as ``+name=value`` makes them."""
    for name in sorted(settings.keys() - set(valid)):
        raise ValueError(f"unknown option {name!r}; valid here: {', '.join(valid)}")


def whole(settings: Mapping[str, Any], name: str, least: int = 1, optional: bool = False) -> Any:
    """The whole number that a setting is, or None if it may be; else ValueError."""
    value = settings.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: {value!r} is not a whole number of at least {least}")
    return value


def options(
    settings: Mapping[str, Any], group: str, choices: Mapping[str, Any], more: bool = False
) -> dict[str, Any]:
    """The options of a group, none missing and none unknown, unless there may be ``more``."""
    given = settings.get(group)
    if not isinstance(given, dict) or given.get("name") not in choices:
        raise ValueError(f"{group}: choose from {', '.join(sorted(choices))}")
    known: Any = OmegaConf.to_container(OmegaConf.create(choices[given["name"]]))
    unknown = sorted(given.keys() - known.keys())
    if unknown and not more:
        raise ValueError(f"unknown option '{group}.{unknown[0]}'; valid here: {', '.join(known)}")
    return known | given


def output_folder(settings: Mapping[str, Any]) -> Path:
    """The folder that ``output_dir`` names."""
    name = settings.get("output_dir")
    if not isinstance(name, str) or not name:
        raise ValueError("output_dir: it needs the name of a folder")
    return Path(name)


def workload_of(
    name: str, load: float, arrival_rate: float | None, **given: Any
) -> tuple[Workload, float, float | None]:
    """The workload that the options of its group name, its load and its arrival rate."""
    return make_workload(name, **given), load, arrival_rate


def cluster_of(name: str, path: str | None = None, **sizes: int | None) -> Cluster:
    """The cluster that the options of its group name."""
    given = {size: value for size, value in sizes.items() if value is not None}
    return load_cluster(name if path is None else Path(path), **given)


def belief_of(name: str, **given: Any) -> tuple[str, BeliefSettings]:
    """The belief that the options of its group name, and its settings."""
    return name, BeliefSettings(**given)


# --- running a command ----------------------------------------------------------------------------


def run(
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
