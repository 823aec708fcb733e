"""From the settings of a command to what they name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmsched_gym.belief.profile import BeliefSettings
from llmsched_gym.cluster.preset import Cluster, load_cluster
from llmsched_gym.errors import nearest, printable
from llmsched_gym.settings import home
from llmsched_gym.workload.mixes import Workload, make_workload

CALIBRATED = "calibrated"  # the cluster that is measured before servers are played on
Options = dict[str, Any]  # of a group, its name among them


def named_settings(config: DictConfig) -> dict[str, Any]:
    """The configuration as a plain dictionary."""
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def logged_settings(config: DictConfig) -> dict[str, Any]:
    """The configuration to be kept and shown: a text that is taken from elsewhere is only named.

    So what ``${oc.env:WANDB_API_KEY}`` stands for stays where it is.
    """

    def named(given: Any, resolved: Any) -> Any:
        if isinstance(resolved, dict) and isinstance(given, dict):
            return {str(key): named(given.get(key), value) for key, value in resolved.items()}
        if isinstance(resolved, list) and isinstance(given, list):
            return [named(*pair) for pair in zip(given, resolved, strict=True)]
        return resolved if isinstance(resolved, int | float | None) else given

    found: dict[str, Any] = named(OmegaConf.to_container(config), named_settings(config))
    return found


def options(group: str, given: Any, choices: Mapping[str, Any], more: bool = False) -> Options:
    """The options of a group, none missing and none unknown, unless there may be ``more``."""
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or name not in choices:
        said = f"unknown {name!r}{nearest(name, choices)}, " if isinstance(name, str) else ""
        raise ValueError(f"{group}: {said}choose from {', '.join(sorted(choices))}")
    known: Any = OmegaConf.to_container(OmegaConf.create(choices[name]))
    unknown = sorted(given.keys() - known.keys())
    if unknown and not more:
        hint = nearest(unknown[0], known)
        valid = ", ".join(known)
        raise ValueError(f"unknown option '{group}.{unknown[0]}'{hint}; valid here: {valid}")
    return {key: at_home(value) for key, value in (known | given).items()}


def at_home(value: Any) -> Any:
    """Of options only paths begin with ~/."""
    return str(home(value)) if isinstance(value, str) and value.startswith("~") else value


def environment(
    workload: Any, cluster: Any, belief: Any, choices: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The arguments of the environment that the groups name; None is no cluster yet."""
    belief, belief_settings = belief_of(**options("belief", belief, choices["belief"]))
    workload, load, rate = workload_of(**options("workload", workload, choices["workload"]))
    made = {"workload": workload, "load": load, "arrival_rate": rate}
    made |= {"belief": belief, "belief_settings": belief_settings}
    if cluster is not None:
        made["cluster"] = cluster_of(**options("cluster", cluster, choices["cluster"]))
    return made


def workload_of(
    name: str, load: float, arrival_rate: float | None, **given: Any
) -> tuple[Workload, float, float | None]:
    """The workload that the options of its group name, its load and its arrival rate."""
    return make_workload(name, **given), load, arrival_rate


def cluster_of(name: str, path: str | None = None, **changes: Any) -> Cluster:
    """The cluster that the options of its group name."""
    given = {option: value for option, value in changes.items() if value is not None}
    if name == CALIBRATED:
        raise ValueError(f"cluster: {name} is what backend=testbed measures, choose another")
    return load_cluster(name if path is None else Path(path), **given)


def belief_of(name: str, **given: Any) -> tuple[str, BeliefSettings]:
    """The belief that the options of its group name, and its settings."""
    return name, BeliefSettings(**given)


# --- settings that results are kept with ----------------------------------------------------------


def check_written(settings: Any, name: str = "") -> None:
    """ValueError, before the work, for a setting that a summary cannot hold: JSON knows no inf."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            check_written(value, f"{name}.{key}".lstrip("."))
    elif isinstance(settings, list):
        for value in settings:
            check_written(value, name)
    elif isinstance(settings, float) and not math.isfinite(settings):
        raise ValueError(f"{name}: {settings} is not a finite number")
    elif not isinstance(settings, str | int | float | None):
        raise ValueError(f"{name}: {settings!r} is neither a text nor a number")


def check_replaceable(folder: Path, settings: Any, file: str = "summary.json") -> None:
    """ValueError if a folder holds results that were made with other settings.

    ``summary.json`` there tells, or another file.
    """
    path = folder / file
    try:
        made = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (FileNotFoundError, NotADirectoryError):
        return
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(
            f"output_dir: {path} is not of these commands; choose another output_dir, or "
            "overwrite=true replaces it"
        ) from None
    for difference in _differences(made, json.loads(json.dumps(settings))):
        raise ValueError(
            f"output_dir: {folder} holds results made {difference}; choose another output_dir, or "
            "overwrite=true replaces them"
        )


def _differences(made: Any, given: Any, name: str = "") -> Iterator[str]:
    if isinstance(made, dict) and isinstance(given, dict):
        for key in sorted(made.keys() | given.keys()):
            inner = f"{name}.{key}".lstrip(".")
            if key not in made:
                yield f"without {inner}"
            elif key not in given:
                yield f"with {inner}={_short(made[key])}"
            else:
                yield from _differences(made[key], given[key], inner)
    elif made != given or type(made) is not type(given):
        yield f"with {name}={_short(made)}, not {_short(given)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return printable(text if len(text) <= 60 else f"{text[:57]}...").replace("\n", " ")
